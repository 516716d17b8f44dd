#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Checks the module, its generated code too, and builds the conformance probe and the examples into build/probes/go.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
root=$(dirname -- "$(dirname -- "$here")")
# Where the machine's own Go was too old, bootstrap.sh has put one there.
PATH=$root/.venv/bin:$PATH
badly_formatted=$(gofmt -l "$here")
[ -z "$badly_formatted" ] || { echo "gofmt: $badly_formatted" >&2; exit 1; }
mkdir -p -- "$root/build/probes/go"
fresh=$root/build/go-generated
sh "$here/generate.sh" "$fresh"
for made in virtblockv1 constants.go service_config.json; do
    diff -r "$fresh/$made" "$here/$made" || { echo "$made is stale: run clients/go/generate.sh" >&2; exit 1; }
done
go -C "$here" vet ./...
go -C "$here" build -o "$root/build/probes/go/" ./internal/probe ./examples/...
