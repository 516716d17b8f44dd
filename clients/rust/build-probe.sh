#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Checks the crate, its generated code too, and builds the conformance probe and the examples into target/debug.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
root=$(dirname -- "$(dirname -- "$here")")
PATH=$(sh "$here/toolchain.sh")
CARGO_TARGET_DIR=$here/target
export PATH CARGO_TARGET_DIR
fresh=$root/build/rust-generated
sh "$here/generate.sh" "$fresh"
for made in src/gen probe/src/gen; do
    diff -r "$fresh/$made" "$here/$made" || { echo "$made is stale: run clients/rust/generate.sh" >&2; exit 1; }
done
cd -- "$here"
# Some toolchains come without these two.
! cargo fmt --version >/dev/null 2>&1 || cargo fmt --all --check
cargo build --quiet --locked --workspace --bins --examples
cargo test --quiet --locked --doc
! cargo clippy --version >/dev/null 2>&1 || cargo clippy --quiet --locked --workspace --all-targets -- --deny warnings
