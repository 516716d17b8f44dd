#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Builds the fuzz targets, makes their seeds, and runs each: run.sh [SECONDS_EACH] [TARGET...]. Default: 8 seconds, all targets.
#
# Two targets run at a time. A run of a minute or more keeps the inputs that it found in build/fuzz/corpus and begins with them. A
# shorter one begins with the seeds alone and the same random number, and ends after so many inputs that a slow machine tries the
# same ones as a fast one. An input that breaks a target stays in build/fuzz, and the command that replays it is printed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

seconds_each="${1:-8}"
shift || true
out="../../build/fuzz"
scratch="$(mktemp -d)"
trap 'rm -rf "$scratch"' EXIT

case "$seconds_each" in
"" | *[!0-9]*) echo "usage: $0 [SECONDS_EACH] [TARGET...]" >&2; exit 2 ;;
esac
targets=("$@")
if [ "${#targets[@]}" -eq 0 ]; then
	for source in fuzz_*.c; do
		targets+=("${source%.c}")
	done
fi

input_limit() {
	case "$1" in
	fuzz_bitmap | fuzz_compressed | fuzz_deflate | fuzz_inflate) echo 8192 ;;
	fuzz_header) echo 32768 ;;
	*) echo 131072 ;;
	esac
}

# How many inputs a short run tries: about five seconds' work on one core.
short_run_inputs() {
	case "$1" in
	fuzz_header) echo 500000 ;;
	fuzz_inplace | fuzz_inflate) echo 20000 ;;
	fuzz_qcow2_bitmaps | fuzz_journal) echo 12000 ;;
	fuzz_refcounts) echo 8000 ;;
	fuzz_deflate) echo 2000 ;;
	*) echo 80000 ;;
	esac
}

# The quarantine of freed memory would count as the target's own.
export ASAN_OPTIONS="detect_leaks=1:quarantine_size_mb=16:allocator_may_return_null=1"
export UBSAN_OPTIONS="print_stacktrace=1"

run_one() {
	local name="$1" corpus="$scratch/$1" random=1 inputs
	inputs="$(short_run_inputs "$name")"
	if [ "$seconds_each" -ge 60 ]; then
		corpus="$out/corpus/$name"
		random=0    # another one each time
		inputs=-1   # no limit
	fi
	mkdir -p "$corpus"
	if "$out/bin/$name" -seed="$random" -runs="$inputs" -max_total_time="$seconds_each" -max_len="$(input_limit "$name")" -rss_limit_mb=256 -timeout=5 \
		-artifact_prefix="$out/$name-" -print_final_stats=1 "$corpus" "$out/seeds/$name" >"$scratch/$name.log" 2>&1; then
		printf 'fuzz  ok    %s (%s inputs, %s a second)\n' "$name" \
			"$(sed -n 's/^stat::number_of_executed_units: *//p' "$scratch/$name.log")" \
			"$(sed -n 's/^stat::average_exec_per_sec: *//p' "$scratch/$name.log")"
		return 0
	fi
	printf 'fuzz  FAIL  %s\n' "$name"
	grep -v -E '^#[0-9]+[[:space:]]+(NEW|REDUCE|pulse|RELOAD)' "$scratch/$name.log" | tail -n 60
	local input
	input="$(sed -n "s|^.*Test unit written to ||p" "$scratch/$name.log" | tail -n 1)"
	if [ -n "$input" ]; then
		printf 'replay: cd %q && %q -rss_limit_mb=256 -timeout=5 %q\n' "$PWD" "$out/bin/$name" "$input"
	fi
	return 1
}

make --no-print-directory -s -j"${JOBS:-2}" all
python3 seeds.py "$out/seeds"

failed=()
running=()
wait_for_first() {
	local name="${running[0]%% *}" pid="${running[0]##* }"
	wait "$pid" || failed+=("$name")
	running=("${running[@]:1}")
}
for name in "${targets[@]}"; do
	if [ "${#running[@]}" -ge "${JOBS:-2}" ]; then
		wait_for_first
	fi
	run_one "$name" &
	running+=("$name $!")
done
while [ "${#running[@]}" -gt 0 ]; do
	wait_for_first
done
if [ "${#failed[@]}" -gt 0 ]; then
	echo "failed: ${failed[*]}" >&2
	exit 1
fi
