#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Generates virtblockv1, constants.go and service_config.json from the contract; they are checked in. Usage: generate.sh [OUTPUT]
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
root=$(dirname -- "$(dirname -- "$here")")
output=${1:-$here}
tools=$root/build/go-tools
venv=$(sh "$root/proto/tools.sh")

# Where the machine's own Go was too old, bootstrap.sh has put one there.
PATH=$root/.venv/bin:$PATH
GOBIN=$tools go -C "$here" install tool
rm -rf -- "$output/virtblockv1"
mkdir -p -- "$output"
cd -- "$root/proto"
"$venv/bin/python" -m grpc_tools.protoc --proto_path=. \
    --plugin=protoc-gen-go="$tools/protoc-gen-go" --plugin=protoc-gen-go-grpc="$tools/protoc-gen-go-grpc" \
    --go_out="$output" --go_opt=module=github.com/virtblock/virtblock/clients/go \
    --go-grpc_out="$output" --go-grpc_opt=module=github.com/virtblock/virtblock/clients/go \
    virtblock/v1/*.proto
"$root/.venv/bin/python" "$here/generate_constants.py" "$output"
