#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Checks the contract by buf: its rules (buf.yaml) and its format. Prints what is wrong and fails. Changes nothing but build/.
set -eu

proto_dir=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
venv_dir=$(sh "$proto_dir/tools.sh")

cd -- "$proto_dir"
"$venv_dir/bin/buf" lint
"$venv_dir/bin/buf" format --diff --exit-code
