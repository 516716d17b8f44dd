#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Owns build/proto-venv, the pinned tools of the contract. Makes it when it is missing or requirements.txt has changed, and prints
# its folder. A venv without the stamp is incomplete and is made again.
set -eu

proto_dir=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
venv_dir=$(dirname -- "$proto_dir")/build/proto-venv
stamp=$venv_dir/requirements.txt

if ! cmp -s "$proto_dir/requirements.txt" "$stamp"; then
    rm -rf -- "$venv_dir"
    # grpcio-tools 1.62 has wheels up to Python 3.12.
    python=${PYTHON:-$(command -v python3.11 || command -v python3.12 || command -v python3)}
    "$python" -m venv "$venv_dir" >&2
    "$venv_dir/bin/python" -m pip install --quiet --disable-pip-version-check -r "$proto_dir/requirements.txt" >&2
    cp -- "$proto_dir/requirements.txt" "$stamp"
fi
printf '%s\n' "$venv_dir"
