/* SPDX-License-Identifier: Apache-2.0 */
/* Owns: see qcow2_packing.h. */
#include "qcow2_packing.h"

#include "qcow2.h"

#define HOST_OFFSET_BITS_MAX 56u

void vb_packing_start(struct vb_packing *packing, uint32_t cluster_bits, uint64_t start_bytes)
{
	*packing = (struct vb_packing){
		.cluster_bits = cluster_bits,
		.end_bytes = start_bytes,
		.open_bytes = start_bytes,
		.open_end_bytes = start_bytes,
	};
}

uint64_t vb_packing_take_plain(struct vb_packing *packing, uint64_t cluster_count)
{
	uint64_t offset_bytes = packing->end_bytes;

	packing->end_bytes += cluster_count << packing->cluster_bits;
	return offset_bytes;
}

/* Moves the open place behind the compressed clusters that fit there together, one behind the other. */
static size_t fill_open(struct vb_packing *packing, const uint32_t *lengths, size_t count)
{
	uint64_t mask = (1ull << packing->cluster_bits) - 1;
	bool is_last = packing->open_end_bytes == packing->end_bytes;   /* nothing but new clusters follows */
	size_t placed = 0;

	for (; placed < count; placed++) {
		uint64_t start_bytes = packing->open_bytes, stop_bytes = start_bytes + lengths[placed];
		bool crosses = (stop_bytes - 1) >> packing->cluster_bits != start_bytes >> packing->cluster_bits;

		if ((!is_last && stop_bytes > packing->open_end_bytes) || packing->open_count == VB_QCOW2_REFCOUNT_MAX)
			break;
		packing->open_count = crosses ? 1 : packing->open_count + 1;
		if ((stop_bytes & mask) == 0)
			packing->open_count = 0;
		packing->open_bytes = stop_bytes;
	}
	packing->open_end_bytes = (packing->open_bytes + mask) & ~mask;
	if (packing->end_bytes < packing->open_end_bytes)
		packing->end_bytes = packing->open_end_bytes;
	return placed;
}

uint64_t vb_packing_take_compressed(struct vb_packing *packing, const uint32_t *lengths, size_t count, size_t *placed)
{
	uint64_t offset_bytes = packing->open_bytes;

	*placed = fill_open(packing, lengths, count);
	if (*placed > 0)
		return offset_bytes;
	offset_bytes = packing->end_bytes;
	vb_packing_start(packing, packing->cluster_bits, offset_bytes);
	*placed = fill_open(packing, lengths, count);
	return offset_bytes;
}

uint64_t vb_packing_entry(uint32_t cluster_bits, uint64_t offset_bytes, uint32_t length_bytes)
{
	uint32_t offset_bits = 62 - (cluster_bits - 8);
	uint32_t usable_bits = offset_bits < HOST_OFFSET_BITS_MAX ? offset_bits : HOST_OFFSET_BITS_MAX;
	uint64_t end_bytes = offset_bytes + length_bytes;
	uint64_t more_sectors = (end_bytes - 1) / VB_QCOW2_COMPRESSED_SECTOR_BYTES - offset_bytes / VB_QCOW2_COMPRESSED_SECTOR_BYTES;

	if (end_bytes > 1ull << usable_bits)
		return 0;
	return VB_QCOW2_COMPRESSED | more_sectors << offset_bits | offset_bytes;
}
