#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Installs what package-lock.json pins, checks the generated code, and builds the package (ESM and CommonJS) and the examples.
set -eu

cd -- "$(CDPATH='' dirname -- "$0")"
stamp=node_modules/.stamp
if ! cmp -s package-lock.json "$stamp"; then
    npm ci --no-audit --no-fund --ignore-scripts --loglevel=error
    cp package-lock.json "$stamp"
fi
fresh=../../build/typescript-generated
mkdir -p "$fresh"
fresh=$(cd "$fresh" && pwd)
sh ./generate.sh "$fresh"
diff -r "$fresh" src/gen || { echo "src/gen is stale: run clients/typescript/generate.sh" >&2; exit 1; }
npm run --silent build
node_modules/.bin/tsc -p tsconfig.examples.json
# Both kinds of module can be loaded, as a user would.
node --input-type=module -e 'import { Client } from "@virtblock/client"; new Client("/s").close()'
node --input-type=commonjs -e 'const { Client } = require("@virtblock/client"); new Client("/s").close()'
