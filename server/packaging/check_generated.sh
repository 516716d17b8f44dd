#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Fails when the checked-in stubs are not what proto/virtblock/v1 generates.
set -euo pipefail
cd "$(dirname "$0")/../.."

fresh="$(mktemp -d)"
trap 'rm -rf "$fresh"' EXIT
proto/generate.sh "$fresh"
if ! diff -r -x __pycache__ "$fresh" proto/gen/python; then
    echo "proto/gen/python is not what proto/virtblock/v1 generates: run 'make proto' and commit the result" >&2
    exit 1
fi
