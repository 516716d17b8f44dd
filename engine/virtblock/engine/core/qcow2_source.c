/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns: the guest-to-host map of a qcow2 image: the L1 table, read and checked at open, and the walk over L2 entries.
 *
 * Invariants: L2 tables are read in windows of at most 64 KiB, in the order of the guest, and only where the L1 table has one, so a walk
 * costs memory for one window and time for the tables that exist. What an entry may say is decided in one place (classify).
 * An entry that leads outside the file is refused, by qemu-img check's rule: a cluster must start before the end of the file; it may
 * end behind it (the last one may be short), and reads as zeros there.
 * With extended L2 entries a cluster's subclusters are looked at one bit of the entry's bitmap each, and a run may start and end at any.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "layer.h"
#include "sys.h"
#include "zero.h"

#define WINDOW_BYTES (64u * 1024)

struct vb_qcow2_layer {
	struct vb_qcow2_header header;
	uint64_t *l2_offsets;          /* per L1 slot: offset of its L2 table in the file, 0: none */
	uint64_t file_end_bytes;       /* in whole sectors, as QEMU sees a file */
	uint64_t data_end_bytes;       /* the same of the file that holds the data */
	bool has_data_file;            /* an external one, in which every byte lies at its guest offset */
	uint32_t entry_bytes;          /* of an L2 entry: 8, or 16 if extended */
};

/* What one L2 entry says of a place; values above the extent kinds are refusals. */
enum verdict {
	UNALLOCATED = VB_EXTENT_UNALLOCATED,
	ZERO = VB_EXTENT_ZERO,
	DATA = VB_EXTENT_DATA,
	COMPRESSED = VB_EXTENT_COMPRESSED,
	BAD_RESERVED,
	BAD_ALIGNMENT,
	BAD_VERSION,
	BAD_END,
	BAD_CONTRADICTION,
	BAD_NO_CLUSTER,
	BAD_COMPRESSED_BITMAP,
	BAD_COMPRESSED_OUTSIDE,
	BAD_GUEST_OFFSET,
};

struct entry {
	enum verdict verdict;
	uint32_t host_length_bytes;   /* COMPRESSED */
	uint64_t host_offset_bytes;   /* of the cluster */
	uint32_t end_bytes;           /* where in the cluster the verdict ends */
};

static struct entry classify_compressed(const struct vb_qcow2_layer *qcow2, uint64_t word)
{
	struct entry entry = { .verdict = COMPRESSED, .end_bytes = qcow2->header.cluster_size_bytes };

	vb_qcow2_compressed_location(qcow2->header.cluster_bits, word, &entry.host_offset_bytes, &entry.host_length_bytes);
	if (qcow2->has_data_file)
		entry.verdict = BAD_COMPRESSED_OUTSIDE;
	else if (entry.host_offset_bytes >= qcow2->file_end_bytes)
		entry.verdict = BAD_END;
	return entry;
}

static inline struct entry classify_standard(const struct vb_qcow2_layer *qcow2, uint64_t word)
{
	struct entry entry = { .verdict = UNALLOCATED, .end_bytes = qcow2->header.cluster_size_bytes };

	/* Only a data file has guest data at offset 0, and all that it has is marked COPIED. */
	if ((word & ~VB_QCOW2_COPIED) == 0 && (word == 0 || !qcow2->has_data_file))
		return entry;
	if ((word & VB_QCOW2_COMPRESSED) != 0)
		return classify_compressed(qcow2, word);
	entry.host_offset_bytes = word & VB_QCOW2_OFFSET_MASK;
	if ((word & VB_QCOW2_L2_RESERVED_MASK) != 0)
		entry.verdict = BAD_RESERVED;
	else if ((entry.host_offset_bytes & (qcow2->header.cluster_size_bytes - 1)) != 0)
		entry.verdict = BAD_ALIGNMENT;
	else if ((word & VB_QCOW2_ZERO) != 0)
		entry.verdict = qcow2->header.version == 2 ? BAD_VERSION : ZERO;
	else
		entry.verdict = entry.host_offset_bytes >= qcow2->data_end_bytes ? BAD_END : DATA;
	return entry;
}

/* What of an extended entry does not depend on the subcluster; UNALLOCATED: nothing is wrong. */
static inline enum verdict check_extended(const struct vb_qcow2_layer *qcow2, uint64_t word, uint32_t allocated, uint32_t zero)
{
	uint64_t offset_bytes = word & VB_QCOW2_OFFSET_MASK;

	if ((word & (VB_QCOW2_L2_RESERVED_MASK | VB_QCOW2_ZERO)) != 0)
		return BAD_RESERVED;
	if ((offset_bytes & (qcow2->header.cluster_size_bytes - 1)) != 0)
		return BAD_ALIGNMENT;
	if ((allocated & zero) != 0)
		return BAD_CONTRADICTION;
	if (offset_bytes == 0 && allocated != 0 && !(qcow2->has_data_file && (word & VB_QCOW2_COPIED) != 0))
		return BAD_NO_CLUSTER;
	return allocated != 0 && offset_bytes >= qcow2->data_end_bytes ? BAD_END : UNALLOCATED;
}

static inline struct entry classify_extended(const struct vb_qcow2_layer *qcow2, uint64_t word, uint64_t bitmap, uint32_t within_bytes)
{
	uint32_t subcluster_bits = qcow2->header.cluster_bits - (uint32_t)__builtin_ctz(VB_QCOW2_SUBCLUSTER_COUNT);
	uint32_t allocated = (uint32_t)bitmap, zero = (uint32_t)(bitmap >> 32), first = within_bytes >> subcluster_bits, same;
	struct entry entry = { .end_bytes = qcow2->header.cluster_size_bytes };

	if ((word & VB_QCOW2_COMPRESSED) != 0) {
		entry = classify_compressed(qcow2, word);
		if (bitmap != 0)
			entry.verdict = BAD_COMPRESSED_BITMAP;
		return entry;
	}
	entry.verdict = check_extended(qcow2, word, allocated, zero);
	if (entry.verdict != UNALLOCATED)
		return entry;
	entry.host_offset_bytes = word & VB_QCOW2_OFFSET_MASK;
	entry.verdict = (allocated >> first & 1) != 0 ? DATA : (zero >> first & 1) != 0 ? ZERO : UNALLOCATED;
	same = entry.verdict == DATA ? allocated : entry.verdict == ZERO ? zero : ~(allocated | zero);
	entry.end_bytes = (first + (uint32_t)__builtin_ctzll(~(uint64_t)(same >> first))) << subcluster_bits;
	return entry;
}

/* What the entry in the file's bytes `at` says from `within_bytes` of its cluster on. */
static inline struct entry classify(const struct vb_qcow2_layer *qcow2, const uint8_t *at, uint32_t within_bytes)
{
	if (qcow2->entry_bytes == 8)
		return classify_standard(qcow2, vb_load_be64(at));
	return classify_extended(qcow2, vb_load_be64(at), vb_load_be64(at + 8), within_bytes);
}

static const char *refusal_reason(enum verdict verdict)
{
	switch (verdict) {
	case BAD_RESERVED:
		return "has reserved bits set";
	case BAD_ALIGNMENT:
		return "is not aligned to the cluster size";
	case BAD_VERSION:
		return "is a zero cluster, which version 2 does not have";
	case BAD_CONTRADICTION:
		return "has subclusters that are both allocated and zero";
	case BAD_NO_CLUSTER:
		return "has allocated subclusters, but no cluster for them";
	case BAD_COMPRESSED_BITMAP:
		return "is a compressed cluster with a subcluster bitmap";
	case BAD_COMPRESSED_OUTSIDE:
		return "is a compressed cluster in an image with an external data file";
	case BAD_GUEST_OFFSET:
		return "does not name the same offset in the external data file";
	default:
		return "starts beyond the end of the file: the image is truncated";
	}
}

static int refuse_entry(const struct vb_layer *layer, enum verdict verdict, const uint8_t *entry, uint64_t at_bytes, uint64_t guest_bytes,
			struct vb_error *error)
{
	char bitmap[48] = "";

	if (vb_qcow2_has_extended_l2(&layer->qcow2->header))
		snprintf(bitmap, sizeof(bitmap), " (bitmap 0x%016llx)", (unsigned long long)vb_load_be64(entry + 8));
	return vb_fail(error, VB_ERROR_FORMAT, 0, layer->file.path, (int64_t)at_bytes,
		       "The L2 entry 0x%016llx%s for guest offset %llu %s (the file ends at %llu)", (unsigned long long)vb_load_be64(entry),
		       bitmap, (unsigned long long)guest_bytes, refusal_reason(verdict),
		       (unsigned long long)vb_layer_data_file(layer)->size_bytes);
}

static int check_l1_entry(const struct vb_layer *layer, uint32_t index, uint64_t word, struct vb_error *error)
{
	const struct vb_qcow2_header *header = &layer->qcow2->header;
	uint64_t offset_bytes = word & VB_QCOW2_OFFSET_MASK, table_bytes = header->cluster_size_bytes;
	const char *reason;

	if ((word & VB_QCOW2_L1_RESERVED_MASK) != 0)
		reason = "has reserved bits set";
	else if (offset_bytes % table_bytes != 0)
		reason = "is not aligned to the cluster size";
	else if (offset_bytes != 0 && (offset_bytes > layer->file.size_bytes || table_bytes > layer->file.size_bytes - offset_bytes))
		reason = "names a table beyond the end of the file: the image is truncated";
	else
		return 0;
	return vb_fail(error, VB_ERROR_FORMAT, 0, layer->file.path, (int64_t)(header->l1_offset_bytes + index * 8ull),
		       "The L1 entry 0x%016llx for guest offset %llu %s (the file ends at %llu)", (unsigned long long)word,
		       (unsigned long long)(index * vb_qcow2_table_span_bytes(header)), reason,
		       (unsigned long long)layer->file.size_bytes);
}

static int read_l1(struct vb_layer *layer, struct vb_error *error)
{
	struct vb_qcow2_layer *qcow2 = layer->qcow2;
	uint32_t count = qcow2->header.l1_needed;

	qcow2->l2_offsets = malloc(count * sizeof(uint64_t) + 1);
	if (qcow2->l2_offsets == NULL)
		return vb_fail(error, VB_ERROR_MEMORY, ENOMEM, layer->file.path, -1, "Out of memory for an L1 table of %u entries", count);
	if (vb_pread_exact(layer->file.fd, layer->file.path, qcow2->l2_offsets, count * sizeof(uint64_t),
			   qcow2->header.l1_offset_bytes, error) < 0)
		return -1;
	for (uint32_t i = 0; i < count; i++) {
		uint64_t word = vb_load_be64(&qcow2->l2_offsets[i]);

		if (check_l1_entry(layer, i, word, error) < 0)
			return -1;
		qcow2->l2_offsets[i] = word & VB_QCOW2_OFFSET_MASK;
	}
	return 0;
}

static void fill_info(struct vb_layer *layer)
{
	const struct vb_qcow2_header *header = &layer->qcow2->header;
	struct vb_image_info *info = &layer->info;

	info->virtual_size_bytes = header->size_bytes;
	info->backing_path = header->backing_name[0] != '\0' ? header->backing_name : NULL;
	info->backing_format = header->backing_format[0] != '\0' ? header->backing_format : NULL;
	info->data_path = header->data_file_name[0] != '\0' ? header->data_file_name : NULL;
	info->cluster_size_bytes = header->cluster_size_bytes;
	info->version = header->version;
	info->compression = header->compression_type == VB_COMPRESSION_ZSTD ? VB_COMPRESSION_ZSTD : VB_COMPRESSION_DEFLATE;
	info->refcount_bits = 1u << header->refcount_order;
	info->snapshot_count = header->snapshot_count;
	info->incompatible_features = header->incompatible_features;
	info->compatible_features = header->compatible_features;
	info->autoclear_features = header->autoclear_features;
	info->has_compressed = true;
}

static int qcow2_open(struct vb_layer *layer, struct vb_error *error)
{
	layer->qcow2 = calloc(1, sizeof(*layer->qcow2));
	if (layer->qcow2 == NULL)
		return vb_fail(error, VB_ERROR_MEMORY, ENOMEM, layer->file.path, -1, "Out of memory for a qcow2 image");
	layer->qcow2->file_end_bytes = (layer->file.size_bytes + 511) & ~511ull;
	if (vb_qcow2_header_read(&layer->file, &layer->qcow2->header, error) < 0 || read_l1(layer, error) < 0)
		return -1;
	layer->qcow2->has_data_file = layer->qcow2->header.data_file_name[0] != '\0';
	/* Without its data file the image is only looked at. */
	layer->qcow2->data_end_bytes = layer->qcow2->has_data_file ? UINT64_MAX : layer->qcow2->file_end_bytes;
	layer->qcow2->entry_bytes = vb_qcow2_l2_entry_bytes(&layer->qcow2->header);
	fill_info(layer);
	return 0;
}

void vb_qcow2_use_data_file(struct vb_layer *layer, struct vb_file *data_file)
{
	layer->data_file = *data_file;
	*data_file = (struct vb_file){ .fd = -1, .folder_fd = -1 };
	layer->qcow2->data_end_bytes = (layer->data_file.size_bytes + 511) & ~511ull;
}

static void qcow2_close(struct vb_layer *layer)
{
	if (layer->qcow2 == NULL)
		return;
	free(layer->qcow2->l2_offsets);
	free(layer->qcow2);
	layer->qcow2 = NULL;
}

/* How much to read at once from the table of `slot`: the rest of the table, or, where tables are smaller than a window and lie one behind the
 * other as a linear writer puts them, several. */
static size_t window_length(const struct vb_qcow2_layer *qcow2, uint32_t slot, uint64_t at_bytes)
{
	uint64_t table_bytes = qcow2->header.cluster_size_bytes, end_bytes = qcow2->l2_offsets[slot] + table_bytes;

	while (end_bytes - at_bytes < WINDOW_BYTES && slot + 1 < qcow2->header.l1_needed && qcow2->l2_offsets[slot + 1] == end_bytes) {
		end_bytes += table_bytes;
		slot++;
	}
	return end_bytes - at_bytes < WINDOW_BYTES ? (size_t)(end_bytes - at_bytes) : WINDOW_BYTES;
}

/* The L2 entries from `index` of the table of `slot` on, and how many of that table are at hand. */
static const uint8_t *load_entries(struct vb_layer_cursor *cursor, uint32_t slot, uint64_t index, uint64_t *count, struct vb_error *error)
{
	const struct vb_layer *layer = cursor->layer;
	const struct vb_qcow2_layer *qcow2 = layer->qcow2;
	uint64_t table_bytes = qcow2->l2_offsets[slot], at_bytes = table_bytes + index * qcow2->entry_bytes, end_bytes;

	if (cursor->window == NULL)
		cursor->window = malloc(WINDOW_BYTES);
	if (cursor->window == NULL) {
		vb_fail(error, VB_ERROR_MEMORY, ENOMEM, layer->file.path, -1, "Out of memory for L2 entries");
		return NULL;
	}
	if (at_bytes < cursor->window_offset_bytes || at_bytes >= cursor->window_offset_bytes + cursor->window_length) {
		size_t length = window_length(qcow2, slot, at_bytes);

		cursor->window_length = 0;
		if (cursor->cancelled != NULL && __atomic_load_n(cursor->cancelled, __ATOMIC_RELAXED)) {
			vb_fail(error, VB_ERROR_CANCELLED, ECANCELED, layer->file.path, -1, "Cancelled while planning");
			return NULL;
		}
		if (vb_pread_exact(layer->file.fd, layer->file.path, cursor->window, length, at_bytes, error) < 0)
			return NULL;
		cursor->window_offset_bytes = at_bytes;
		cursor->window_length = length;
	}
	end_bytes = cursor->window_offset_bytes + cursor->window_length;
	if (end_bytes > table_bytes + qcow2->header.cluster_size_bytes)
		end_bytes = table_bytes + qcow2->header.cluster_size_bytes;
	*count = (end_bytes - at_bytes) / qcow2->entry_bytes;
	return cursor->window + (at_bytes - cursor->window_offset_bytes);
}

/* How many words from the first on are zero; whole cache lines at a time. */
static uint64_t count_zero_words(const uint8_t *words, uint64_t count)
{
	uint64_t run = 0;

	while (count - run >= 64 && vb_is_zero(words + run * 8, 512))
		run += 64;
	while (run < count && vb_load_be64(words + run * 8) == 0)
		run++;
	return run;
}

/* How far it goes on as `entry`, which is what the first of the entries says, began: same verdict, and data without a break in the file.
 * In bytes from the start of the first cluster. */
static uint64_t find_run_end(const struct vb_qcow2_layer *qcow2, const uint8_t *entries, uint64_t count, struct entry entry)
{
	uint32_t bits = qcow2->header.cluster_bits, word_count = qcow2->entry_bytes / 8;
	uint64_t end_bytes = entry.end_bytes, run = 1;

	if (entry.verdict == COMPRESSED)
		return end_bytes;
	while (end_bytes == run << bits && run < count) {
		struct entry next;

		if (entry.verdict == UNALLOCATED) {
			run += count_zero_words(entries + run * qcow2->entry_bytes, (count - run) * word_count) / word_count;
			end_bytes = run << bits;
			if (run == count)
				break;
		}
		next = classify(qcow2, entries + run * qcow2->entry_bytes, 0);
		if (next.verdict != entry.verdict)
			break;
		if (entry.verdict == DATA && next.host_offset_bytes != entry.host_offset_bytes + end_bytes)
			break;
		end_bytes += next.end_bytes;
		run++;
	}
	return end_bytes;
}

/* A piece of the map that one window shows. `goes_on`: the window's end ended it, or an absent table's. */
struct piece {
	struct entry entry;
	uint64_t end_bytes;
	bool goes_on;
};

static struct piece absent_piece(const struct vb_qcow2_layer *qcow2, uint32_t slot, uint64_t end_bytes)
{
	uint64_t span_bytes = vb_qcow2_table_span_bytes(&qcow2->header);
	uint32_t end_slot = (uint32_t)((end_bytes + span_bytes - 1) / span_bytes);
	struct piece piece = { .entry.verdict = UNALLOCATED, .goes_on = true };

	do {
		slot++;
	} while (slot < end_slot && qcow2->l2_offsets[slot] == 0);
	piece.end_bytes = slot * span_bytes;
	return piece;
}

static int find_piece(struct vb_layer_cursor *cursor, uint64_t start_bytes, uint64_t end_bytes, struct piece *piece,
		      struct vb_error *error)
{
	const struct vb_qcow2_layer *qcow2 = cursor->layer->qcow2;
	uint32_t bits = qcow2->header.cluster_bits, mask = qcow2->header.cluster_size_bytes - 1;
	uint32_t slot = (uint32_t)(start_bytes / vb_qcow2_table_span_bytes(&qcow2->header));
	uint64_t cluster = start_bytes >> bits, end_cluster = ((end_bytes - 1) >> bits) + 1, count = 0, run_bytes;
	uint64_t index = cluster & (qcow2->header.cluster_size_bytes / qcow2->entry_bytes - 1);
	const uint8_t *entries;

	if (qcow2->l2_offsets[slot] == 0) {
		*piece = absent_piece(qcow2, slot, end_bytes);
		return 0;
	}
	entries = load_entries(cursor, slot, index, &count, error);
	if (entries == NULL)
		return -1;
	if (count > end_cluster - cluster)
		count = end_cluster - cluster;
	piece->entry = classify(qcow2, entries, (uint32_t)start_bytes & mask);
	/* A run goes on without a break in the file, so that its first cluster answers for all. */
	if (qcow2->has_data_file && piece->entry.verdict == DATA && piece->entry.host_offset_bytes != cluster << bits)
		piece->entry.verdict = BAD_GUEST_OFFSET;
	if (piece->entry.verdict > COMPRESSED)
		return refuse_entry(cursor->layer, piece->entry.verdict, entries, qcow2->l2_offsets[slot] + index * qcow2->entry_bytes,
				    start_bytes, error);
	run_bytes = find_run_end(qcow2, entries, count, piece->entry);
	piece->end_bytes = (cluster << bits) + run_bytes;
	piece->goes_on = run_bytes == count << bits && piece->entry.verdict != COMPRESSED;
	return 0;
}

static int qcow2_next(struct vb_layer_cursor *cursor, uint64_t start_bytes, uint64_t end_bytes, struct vb_extent *extent,
		      struct vb_error *error)
{
	uint64_t mask = cursor->layer->qcow2->header.cluster_size_bytes - 1;
	struct piece first = { 0 }, piece;

	if (find_piece(cursor, start_bytes, end_bytes, &first, error) < 0)
		return -1;
	piece = first;
	while (piece.goes_on && piece.end_bytes < end_bytes) {
		uint64_t from_bytes = piece.end_bytes, contiguous_bytes;

		if (find_piece(cursor, from_bytes, end_bytes, &piece, error) < 0)
			return -1;
		contiguous_bytes = first.entry.host_offset_bytes + (from_bytes - (start_bytes & ~mask));
		if (piece.entry.verdict != first.entry.verdict ||
		    (first.entry.verdict == DATA && piece.entry.host_offset_bytes != contiguous_bytes)) {
			piece.end_bytes = from_bytes;
			break;
		}
	}
	extent->start_bytes = start_bytes;
	extent->length_bytes = (piece.end_bytes < end_bytes ? piece.end_bytes : end_bytes) - start_bytes;
	extent->kind = (uint8_t)first.entry.verdict;
	extent->host_offset_bytes = first.entry.host_offset_bytes;
	extent->host_length_bytes = first.entry.host_length_bytes;
	if (first.entry.verdict == DATA)
		extent->host_offset_bytes += start_bytes & mask;
	else if (first.entry.verdict != COMPRESSED)
		extent->host_offset_bytes = 0;
	return 0;
}

const struct vb_format_ops vb_qcow2_ops = { .open = qcow2_open, .close = qcow2_close, .next = qcow2_next };
