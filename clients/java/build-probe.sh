#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Checks the generated code, builds the package, lints it, and builds the conformance probe and the examples into build/probes/java.
# Does nothing when that was done from the same files: a probe that runs keeps its classes.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
root=$(dirname -- "$(dirname -- "$here")")
fresh=$root/build/java-generated
probes=$root/build/probes/java
cd -- "$here"
sh ./generate.sh "$fresh"
diff -r "$fresh" src/gen || { echo "src/gen is stale: run clients/java/generate.sh" >&2; exit 1; }
digest=$(find pom.xml build-probe.sh src probe examples ../../proto/virtblock -type f -exec sha256sum {} + | LC_ALL=C sort | sha256sum)
if [ "$(cat target/.stamp "$probes/.stamp" 2>/dev/null)" = "$digest
$digest" ]; then
    exit 0
fi
rm -rf -- target "$probes"
mvn --batch-mode -Dstyle.color=never --quiet --no-transfer-progress package dependency:copy-dependencies
# What protoc makes would not pass. Newer compilers than the oldest that will do may warn of more; that stops nobody.
case $(javac -version) in "javac 17."*) strict=-Werror ;; *) strict=-g ;; esac
find src probe examples -name '*.java' -exec javac -Xlint:all -Xdoclint:all,-missing "$strict" --release 17 \
    -cp 'target/classes:target/dependency/*' -d "$probes" {} +
echo "$digest" | tee target/.stamp >"$probes/.stamp"
