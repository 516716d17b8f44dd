#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Builds the C core's tests and runs them: run.sh [plain|asan|tsan]. Without an argument: all three, tsan for what has threads.
# run.sh crash: a hundred thousand crash states and more; run.sh faults: a fault at every call. The other runs try a part of them.
# SANITIZE=address,undefined or SANITIZE=thread chooses as well. JOBS: parallel compilations (default 2).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

case "${1:-${SANITIZE:-}}" in
"") variants=(plain asan tsan) ;;
plain | asan | tsan) variants=("$1") ;;
crash | faults) variants=() ;;
*thread*) variants=(tsan) ;;
*address* | *undefined*) variants=(asan) ;;
*) echo "usage: $0 [plain|asan|tsan]" >&2; exit 2 ;;
esac

scratch="$(mktemp -d)"
trap 'rm -rf "$scratch"' EXIT
failed=()

# One test in a folder of its own; its output is shown only when it fails.
run_one() {
	local variant="$1" name="$2"
	shift 2
	local folder="$scratch/$variant $name"
	mkdir "$folder"
	local started=$SECONDS
	if TEST_FOLDER="$folder" timeout 600 "$@" >"$folder.log" 2>&1; then
		printf '%-5s ok    %s (%d s)\n' "$variant" "$name" $((SECONDS - started))
	else
		printf '%-5s FAIL  %s\n' "$variant" "$name"
		cat "$folder.log"
		failed+=("$variant/$name")
	fi
	rm -rf "$folder"
}

if [ "${#variants[@]}" -eq 0 ]; then
	make --no-print-directory -s -j"${JOBS:-2}" VARIANT=plain all
	if [ "$1" = crash ]; then
		TEST_FOLDER="$scratch" ../../../build/core-tests/plain/test_crash_states 160000
	else
		TEST_FOLDER="$scratch" ../../../build/core-tests/plain/test_fault_matrix 0
	fi
	exit
fi

export ASAN_OPTIONS="detect_leaks=1:abort_on_error=0:allocator_may_return_null=1"
export UBSAN_OPTIONS="print_stacktrace=1"
export TSAN_OPTIONS="halt_on_error=1"
for variant in "${variants[@]}"; do
	case "$variant" in
	plain) sanitize="" ;;
	asan) sanitize="address,undefined" ;;
	tsan) sanitize="thread" ;;
	esac
	make --no-print-directory -s -j"${JOBS:-2}" VARIANT="$variant" SANITIZE="$sanitize" all
	out="../../../build/core-tests/$variant"
	for source in test_*.c; do
		name="${source%.c}"
		if [ "$variant" = tsan ] && ! grep -qE '"(copy|script)\.h"|<pthread\.h>' "$source"; then
			continue
		fi
		run_one "$variant" "$name" "$out/$name"
	done
	# Against QEMU once: with the sanitizers, unless only the plain build is wanted.
	if [ "$variant" = asan ] || [ "${variants[*]}" = plain ]; then
		for script in with_qemu_*.sh; do
			run_one "$variant" "${script%.sh}" bash "$script" "$out"
		done
	fi
done
if [ "${#failed[@]}" -gt 0 ]; then
	echo "failed: ${failed[*]}" >&2
	exit 1
fi
