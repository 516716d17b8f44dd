#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Generates src/gen from the contract with ts-proto, and src/gen/service_config.ts; checked in. Needs `npm ci` first.
# Usage: generate.sh [OUTPUT]
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
root=$(dirname -- "$(dirname -- "$here")")
output=${1:-$here/src/gen}
venv=$(sh "$root/proto/tools.sh")
common=$("$root/.venv/bin/python" -c 'import google.rpc, pathlib; print(pathlib.Path(list(google.rpc.__path__)[0]).parents[1])')

rm -rf -- "$output"
mkdir -p -- "$output"
cd -- "$root/proto"
"$venv/bin/python" -m grpc_tools.protoc --proto_path=. --proto_path="$common" \
    --plugin=protoc-gen-ts_proto="$here/node_modules/.bin/protoc-gen-ts_proto" --ts_proto_out="$output" \
    --ts_proto_opt=env=node,forceLong=bigint,outputServices=grpc-js,esModuleInterop=true,importSuffix=.js \
    --ts_proto_opt=outputJsonMethods=false,useOptionals=messages,removeEnumPrefix=false,annotateFilesWithVersion=false \
    virtblock/v1/*.proto google/rpc/status.proto google/rpc/error_details.proto
"$root/.venv/bin/python" -c '
from virtblock.client.channel import service_config
print("// SPDX-License-Identifier: Apache-2.0")
print("/** What gRPC repeats by itself: reads, and starts, which carry a request_id. */")
print(f"export const SERVICE_CONFIG = {service_config()!r};")' >"$output/service_config.ts"
