#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Who may open an image beside whom: our two roles against qemu-io, qemu-img and a virtual machine. with_qemu_locks.sh BUILD_FOLDER.
set -euo pipefail
dump="$(realpath "$1")/tool_dump_chain"
hold="$(realpath "$1")/tool_hold_lock"
cd "${TEST_FOLDER:-$(mktemp -d)}"

fail() { echo "FAILED: $*"; exit 1; }

# Runs a command that holds an image open until its standard input ends; returns once it printed `sign`.
held=
start_holder() {
	local sign="$1" i
	shift
	rm -f holder.in
	mkfifo holder.in
	"$@" <holder.in >holder.log 2>&1 &
	held=$!
	exec 9>holder.in
	for ((i = 0; i < 100; i++)); do
		! grep -q -- "$sign" holder.log || return 0
		kill -0 "$held" 2>/dev/null || break
		sleep 0.05
	done
	cat holder.log
	fail "$* did not start"
}
stop_holder() {
	exec 9>&-
	kill "$held" 2>/dev/null || true
	wait "$held" 2>/dev/null || true
}
refused() {   # WORDS COMMAND...
	local words="$1"
	shift
	if "$@" </dev/null >out.log 2>&1; then fail "not refused: $*"; fi
	grep -q -- "$words" out.log || { cat out.log; fail "refused, but without \"$words\": $*"; }
}
allowed() { "$@" </dev/null >out.log 2>&1 || { cat out.log; fail "refused: $*"; }; }

for format in qcow2 raw; do
	image="image.$format"
	qemu-img create -q -f "$format" "$image" 4M
	qemu-io -f "$format" -c "write -P 5 0 1M" "$image" >/dev/null

	echo "$format: held by a writing qemu-io"
	start_holder "wrote" stdbuf -oL qemu-io -f "$format" -c "write 0 64k" -c "sleep 20000" "$image"
	refused 'kind 6: .*lock' "$dump" "$format" "$image" -
	refused 'kind 6: .*lock' "$hold" writer "$image"
	stop_holder

	echo "$format: held by a reading qemu-io"
	start_holder "read 65536" stdbuf -oL qemu-io -r -f "$format" -c "read 0 64k" -c "sleep 20000" "$image"
	allowed "$dump" "$format" "$image" ours.raw
	refused 'kind 6: .*lock' "$hold" writer "$image"
	stop_holder

	echo "$format: held by our reader"
	start_holder "held" "$hold" reader "$image"
	refused 'Failed to get "write" lock' qemu-io -f "$format" -c "write 0 64k" "$image"
	allowed qemu-io -r -f "$format" -c "read 0 64k" "$image"
	allowed qemu-img convert -f "$format" -O raw "$image" theirs.raw
	allowed "$dump" "$format" "$image" -
	refused 'kind 6: .*Failed to get shared "write" lock\|kind 6: .*Failed to get "write" lock' "$hold" writer "$image"
	stop_holder

	echo "$format: held by our writer"
	start_holder "held" "$hold" writer "$image"
	refused 'lock' qemu-io -f "$format" -c "write 0 64k" "$image"
	refused 'Failed to get "consistent read" lock\|shared "write" lock' qemu-io -r -f "$format" -c "read 0 64k" "$image"
	refused 'lock' qemu-img convert -f "$format" -O raw "$image" theirs.raw
	refused 'kind 6: .*Failed to get "consistent read" lock' "$dump" "$format" "$image" -
	refused 'kind 6' "$hold" writer "$image"
	stop_holder
	allowed qemu-io -f "$format" -c "write 0 64k" "$image"
done

# The image and its backing file, as a virtual machine holds them.
qemu-img create -q -f qcow2 -b image.qcow2 -F qcow2 overlay.qcow2
machine=(qemu-system-x86_64 -machine pc,accel=tcg -nodefaults -display none -S -monitor stdio)
for device in none virtio-blk-pci,drive=disk; do
	echo "held by a virtual machine, device $device"
	arguments=(-drive file=overlay.qcow2,if=none,format=qcow2,id=disk)
	[ "$device" = none ] || arguments+=(-device "$device")
	start_holder "(qemu)" "${machine[@]}" "${arguments[@]}"
	refused 'kind 6: .*lock' "$dump" qcow2 overlay.qcow2 -
	refused 'kind 6: .*lock' "$hold" writer overlay.qcow2
	allowed "$dump" qcow2 image.qcow2 -
	refused 'kind 6: .*lock' "$hold" writer image.qcow2
	stop_holder
	allowed "$dump" qcow2 overlay.qcow2 -
done

echo "a virtual machine does not start while we read or write its disk"
for role in reader writer; do
	start_holder "held" "$hold" "$role" overlay.qcow2
	refused 'lock' timeout 20 "${machine[@]}" -drive file=overlay.qcow2,if=none,format=qcow2,id=disk -device virtio-blk-pci,drive=disk
	stop_holder
done
start_holder "held" "$hold" writer image.qcow2
refused 'lock' timeout 20 "${machine[@]}" -drive file=overlay.qcow2,if=none,format=qcow2,id=disk -device virtio-blk-pci,drive=disk
stop_holder
