#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Prints the PATH under which cargo and rustc are as new as Cargo.toml asks for: the caller's, else with Debian's first.
# Fails when there are none. bootstrap.sh asks it, and the scripts beside it.
set -eu

manifest=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)/Cargo.toml
oldest=$(sed -n 's/^rust-version = "1\.\([0-9]*\)"$/\1/p' "$manifest")
for path in "$PATH" "/usr/bin:$PATH"; do
    # A cargo without its rustc, as rustup leaves it before the first toolchain, answers nothing.
    found=$(PATH=$path && cargo --version >/dev/null 2>&1 && rustc --version 2>/dev/null | sed 's/^rustc 1\.\([0-9]*\)\..*/\1/') || found=0
    if [ "${found:-0}" -ge "$oldest" ]; then
        printf '%s\n' "$path"
        exit 0
    fi
done
echo "clients/rust needs cargo and rustc 1.$oldest or newer" >&2
exit 1
