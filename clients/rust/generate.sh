#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Generates src/gen and probe/src/gen from the contract; they are checked in. Usage: generate.sh [OUTPUT]
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
root=$(dirname -- "$(dirname -- "$here")")
output=${1:-$here}
work=$root/build/rust-generator
venv=$(sh "$root/proto/tools.sh")
common=$("$root/.venv/bin/python" -c 'import google.rpc, pathlib; print(pathlib.Path(list(google.rpc.__path__)[0]).parents[1])')

rm -rf -- "$output/src/gen" "$output/probe/src/gen"
mkdir -p -- "$output" "$work"
output=$(cd -- "$output" && pwd)
cd -- "$root/proto"
"$venv/bin/python" -m grpc_tools.protoc --proto_path=. --proto_path="$common" \
    --include_imports --include_source_info --descriptor_set_out="$work/contract.binpb" \
    virtblock/v1/*.proto google/rpc/status.proto google/rpc/code.proto google/rpc/error_details.proto
"$root/.venv/bin/python" -c 'from virtblock.client.channel import service_config; print(service_config())' >"$work/service_config.json"
cd -- "$here"
PATH=$(sh ./toolchain.sh) CARGO_TARGET_DIR=$here/target
export PATH CARGO_TARGET_DIR
cargo run --quiet --locked --package virtblock-generator -- "$work/contract.binpb" "$work/service_config.json" "$output"
