#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Checks the contract: buf's rules (buf.yaml), buf's format, and that the checked-in Python code is what generate.sh makes of it.
# Prints what is wrong and fails. Changes nothing but build/.
set -eu

proto_dir=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
venv_dir=$(sh "$proto_dir/tools.sh")
fresh_dir=$(mktemp -d)
trap 'rm -rf -- "$fresh_dir"' EXIT
trap 'exit 1' HUP INT TERM

cd -- "$proto_dir"
"$venv_dir/bin/buf" lint
"$venv_dir/bin/buf" format --diff --exit-code
sh "$proto_dir/generate.sh" "$fresh_dir"
if ! diff -r -u -x __pycache__ "$proto_dir/gen/python" "$fresh_dir"; then
    echo "proto/gen/python is not what the .proto files say: run 'make proto' and commit the result" >&2
    exit 1
fi
