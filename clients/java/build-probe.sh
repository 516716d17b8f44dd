#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Checks the generated code, builds the package, lints it, and builds the conformance probe and the examples into build/probes/java.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
root=$(dirname -- "$(dirname -- "$here")")
fresh=$root/build/java-generated
sh "$here/generate.sh" "$fresh"
diff -r "$fresh" "$here/src/gen" || { echo "src/gen is stale: run clients/java/generate.sh" >&2; exit 1; }
cd -- "$here"
mvn --batch-mode -Dstyle.color=never --quiet --no-transfer-progress package dependency:copy-dependencies
rm -rf -- "$root/build/probes/java"
# What protoc makes would not pass. Newer compilers than the oldest that will do may warn of more; that stops nobody.
case $(javac -version) in "javac 17."*) strict=-Werror ;; *) strict=-g ;; esac
find src probe examples -name '*.java' -exec javac -Xlint:all -Xdoclint:all,-missing "$strict" --release 17 \
    -cp 'target/classes:target/dependency/*' -d "$root/build/probes/java" {} +
