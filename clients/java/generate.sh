#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Generates src/gen from the contract; it is checked in. The messages themselves are made by Maven at each build.
# Usage: generate.sh [OUTPUT]
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
output=${1:-$here/src/gen}
rm -rf -- "$output"
mkdir -p -- "$output/java/io/virtblock"
"$here/../../.venv/bin/python" "$here/generate_calls.py" "$output/java/io/virtblock"
