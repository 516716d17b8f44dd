#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Reads many images that qemu-img and qemu-io made and holds the result against qemu-img convert: with_qemu_images.sh BUILD_FOLDER.
set -euo pipefail
dump="$(realpath "$1")/tool_dump_chain"
cd "${TEST_FOLDER:-$(mktemp -d)}"

seed=7
RANDOM=$seed
image_count=0

# The same bytes as qemu-img sees, and the same again in top mode over a copy of the backing file.
same() {
	local format="$1" image="$2"
	"$dump" "$format" "$image" ours.raw >/dev/null || { echo "refused: $image"; qemu-img info "$image"; exit 1; }
	qemu-img convert -q -f "$format" -O raw "$image" theirs.raw
	if ! cmp -s ours.raw theirs.raw; then
		# QEMU rounds the size of a raw image up to a sector.
		truncate -s "$(stat -c %s theirs.raw)" ours.raw
		cmp ours.raw theirs.raw || { echo "differs: $image"; qemu-img info --backing-chain "$image"; exit 1; }
	fi
	image_count=$((image_count + 1))
}

# Top mode: the flattened backing chain, with the top's units laid over it, is the flattened whole.
same_top() {
	local image="$1" backing="$2" unit
	for unit in 512 65536 2097152; do
		qemu-img convert -q -f qcow2 -O raw "$backing" top.raw
		qemu-img convert -q -f qcow2 -O raw "$image" theirs.raw
		truncate -s "$(stat -c %s theirs.raw)" top.raw
		"$dump" --top "$unit" qcow2 "$image" top.raw >/dev/null
		cmp top.raw theirs.raw || { echo "differs in top mode, unit $unit: $image"; exit 1; }
	done
}

# Scattered writes, zero writes and discards of many lengths and alignments, from one qemu-io.
scatter() {
	local image="$1" size="$2" count="$3" commands=() i at length
	for ((i = 0; i < count; i++)); do
		at=$(((RANDOM * 32768 + RANDOM) % size / 512 * 512))
		length=$(((RANDOM % 400 + 1) * 512))
		((at + length <= size)) || length=$((size - at))
		case $((RANDOM % 6)) in
		0) commands+=(-c "write -z $at $length") ;;
		1) commands+=(-c "write -z -u $at $length") ;;
		2) commands+=(-c "discard $at $length") ;;
		*) commands+=(-c "write -P $((RANDOM % 255 + 1)) $at $length") ;;
		esac
	done
	qemu-io -f qcow2 -d unmap "${commands[@]}" "$image" >/dev/null
}

# A content that compresses, with holes and random parts.
python3 - <<'PYTHON'
import random
rng = random.Random(3)
with open("content.raw", "wb") as out:
    for i in range(48):
        out.seek(i * 131072 + 512 * rng.randrange(64))
        kind = rng.randrange(4)
        if kind == 0:
            out.write(rng.randbytes(65536))
        elif kind < 3:
            out.write((b"line %d of text " % i) * rng.randrange(1, 6000))
    out.truncate(6 * 1024 * 1024 + 512 * 5)
PYTHON

for bits in 9 10 12 14 16 18 21; do
	cluster=$((1 << bits))
	for compat in 0.10 1.1; do
		image="plain-$bits-$compat.qcow2"
		qemu-img create -q -f qcow2 -o "compat=$compat,cluster_size=$cluster" "$image" 9M
		scatter "$image" $((9 * 1024 * 1024)) 40
		same qcow2 "$image"
		qemu-img convert -q -f raw -O qcow2 -c -o "compat=$compat,cluster_size=$cluster" content.raw "zlib-$bits-$compat.qcow2"
		same qcow2 "zlib-$bits-$compat.qcow2"
		scatter "zlib-$bits-$compat.qcow2" $((6 * 1024 * 1024)) 12
		same qcow2 "zlib-$bits-$compat.qcow2"
	done
	qemu-img convert -q -f raw -O qcow2 -c -o "compression_type=zstd,cluster_size=$cluster" content.raw "zstd-$bits.qcow2"
	same qcow2 "zstd-$bits.qcow2"
	scatter "zstd-$bits.qcow2" $((6 * 1024 * 1024)) 12
	same qcow2 "zstd-$bits.qcow2"
done

for refcount_bits in 1 2 4 8 16 32 64; do
	qemu-img create -q -f qcow2 -o "refcount_bits=$refcount_bits" width.qcow2 4M
	scatter width.qcow2 $((4 * 1024 * 1024)) 10
	same qcow2 width.qcow2
done

for preallocation in metadata falloc full; do
	qemu-img create -q -f qcow2 -o "preallocation=$preallocation" preallocated.qcow2 5M
	same qcow2 preallocated.qcow2
	scatter preallocated.qcow2 $((5 * 1024 * 1024)) 10
	same qcow2 preallocated.qcow2
done

# Internal snapshots, lazy refcounts (dirty bit), a persistent bitmap: the active layer is read.
qemu-img create -q -f qcow2 -o lazy_refcounts=on feature.qcow2 4M
scatter feature.qcow2 $((4 * 1024 * 1024)) 10
qemu-img snapshot -c first feature.qcow2
scatter feature.qcow2 $((4 * 1024 * 1024)) 10
qemu-img bitmap --add feature.qcow2 changed
scatter feature.qcow2 $((4 * 1024 * 1024)) 5
same qcow2 feature.qcow2
qemu-img create -q -f qcow2 -o lazy_refcounts=on dirty.qcow2 4M
(qemu-io -f qcow2 -c "write -P 3 0 1M" -c abort dirty.qcow2 || true) >/dev/null 2>&1
qemu-img info dirty.qcow2 >/dev/null
same qcow2 dirty.qcow2
cp feature.qcow2 corrupt.qcow2
printf '\x02' | dd of=corrupt.qcow2 bs=1 seek=79 conv=notrunc status=none
qemu-img convert -q -f qcow2 -O raw corrupt.qcow2 theirs.raw
same qcow2 corrupt.qcow2

# Chains: mixed cluster sizes, sizes that grow and shrink, a raw bottom whose size is no multiple of a sector.
head -c 3000001 content.raw >bottom.raw
previous=bottom.raw
previous_format=raw
index=0
for shape in 65536:4M 512:2M 2097152:7M 4096:7M 65536:5M 1024:6M 262144:9M; do
	index=$((index + 1))
	image="chain-$index.qcow2"
	size="${shape#*:}"
	qemu-img create -q -f qcow2 -o "cluster_size=${shape%:*}" -b "$previous" -F "$previous_format" "$image" "$size"
	scatter "$image" $((${size%M} * 1024 * 1024)) 14
	same qcow2 "$image"
	[ "$previous_format" = raw ] || same_top "$image" "$previous"
	previous="$image"
	previous_format=qcow2
done

# A compressed overlay, and one under larger and smaller clusters.
qemu-img convert -q -f raw -O qcow2 -c -o cluster_size=65536 content.raw packed.qcow2
for cluster in 512 4096 65536 2097152; do
	qemu-img create -q -f qcow2 -o "cluster_size=$cluster" -b packed.qcow2 -F qcow2 over.qcow2 8M
	scatter over.qcow2 $((8 * 1024 * 1024)) 30
	same qcow2 over.qcow2
	same_top over.qcow2 packed.qcow2
done

# Deep: 70 layers.
qemu-img create -q -f qcow2 deep-0.qcow2 4M
scatter deep-0.qcow2 $((4 * 1024 * 1024)) 10
for ((i = 1; i < 70; i++)); do
	qemu-img create -q -f qcow2 -b "deep-$((i - 1)).qcow2" -F qcow2 "deep-$i.qcow2"
	((i % 7 != 0)) || scatter "deep-$i.qcow2" $((4 * 1024 * 1024)) 3
done
same qcow2 deep-69.qcow2

# Raw files of any size, with holes.
for size in 0 1 511 512 513 1000 65537 3000001; do
	head -c "$size" content.raw >odd.raw
	same raw odd.raw
done
same raw content.raw
truncate -s 5M empty.raw
same raw empty.raw
qemu-img create -q -f qcow2 nothing.qcow2 0
same qcow2 nothing.qcow2

# 16 TiB with little in it.
qemu-img create -q -f qcow2 huge.qcow2 16T
qemu-io -f qcow2 -c "write -P 1 0 64k" -c "write -P 2 8T 64k" -c "write -P 3 17592186040320 4k" huge.qcow2 >/dev/null
"$dump" qcow2 huge.qcow2 - | grep -qx '3 extents, 196608 data bytes, 0 zero bytes'

echo "$image_count images"
