#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Checks the generated headers, builds and installs the library, and builds into build/probes/cpp the conformance probe and, against
# the installed package as a user would, the examples.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
root=$(dirname -- "$(dirname -- "$here")")
output=$root/build/probes/cpp
fresh=$output/fresh
installed=$output/installed
"$root/.venv/bin/python" "$here/generate.py" "$fresh"
for made in include/virtblock/gen src/gen probe/gen; do
    diff -r "$fresh/$made" "$here/$made" || { echo "$made is stale: run clients/cpp/generate.py" >&2; exit 1; }
done

# build SOURCE FOLDER OPTION: without the optimizer, which takes longer than the cases.
build() {
    cmake -S "$1" -B "$2" "$3" -DCMAKE_CXX_FLAGS=-O0 -DCMAKE_COMPILE_WARNING_AS_ERROR=ON \
        -DCMAKE_RUNTIME_OUTPUT_DIRECTORY="$output"
    cmake --build "$2" -j2
}
build "$here" "$output/library" -DVIRTBLOCK_BUILD_PROBE=ON
rm -rf -- "$installed"
cmake --install "$output/library" --prefix "$installed"
build "$here/examples" "$output/examples" "-DCMAKE_PREFIX_PATH=$installed"
