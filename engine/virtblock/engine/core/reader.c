/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns: one lane's reading of extents.
 *
 * Plain data goes from the file straight into the caller's buffer. A compressed cluster that is wanted whole is decoded straight into
 * it too; one that is wanted in pieces is decoded once and kept. Compressed clusters that lie one behind the other are read from
 * the file together: the read-ahead doubles as long as the next one begins where the last ended.
 * Invariants: bytes inside the file as it was at open must still be there (a shorter file is an error); bytes behind its end are zeros.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "decompress.h"
#include "layer.h"
#include "sys.h"

#define READ_AHEAD_MIN_BYTES (64u * 1024)
#define READ_AHEAD_MAX_BYTES (1024u * 1024)

struct buffer {
	uint8_t *bytes;
	size_t capacity;
};

struct vb_reader {
	const struct vb_chain *chain;
	struct vb_decompressor *decompressor;
	/* The cluster decoded last in pieces. */
	struct buffer kept;
	bool has_kept;
	uint16_t kept_layer_index;
	uint64_t kept_host_offset_bytes;
	uint32_t kept_host_length_bytes;
	/* Compressed bytes as they lie in a layer's file. */
	struct buffer input;
	uint16_t input_layer_index;
	uint64_t input_offset_bytes;
	size_t input_length;
	size_t read_ahead_bytes;
};

struct vb_reader *vb_reader_new(const struct vb_chain *chain, struct vb_error *error)
{
	struct vb_reader *reader = calloc(1, sizeof(*reader));

	if (reader != NULL)
		reader->decompressor = vb_decompressor_new();
	if (reader == NULL || reader->decompressor == NULL) {
		free(reader);
		vb_fail(error, VB_ERROR_MEMORY, ENOMEM, NULL, -1, "Out of memory for a reader");
		return NULL;
	}
	reader->chain = chain;
	return reader;
}

void vb_reader_free(struct vb_reader *reader)
{
	if (reader == NULL)
		return;
	vb_decompressor_free(reader->decompressor);
	free(reader->kept.bytes);
	free(reader->input.bytes);
	free(reader);
}

/* The content is not kept when the buffer grows. */
static int reserve(struct buffer *buffer, size_t capacity, const char *path, struct vb_error *error)
{
	uint8_t *bytes;

	/* Nothing to hold is held somewhere too: a decoder wants a place even for an input that was cut off. */
	if (buffer->bytes != NULL && buffer->capacity >= capacity)
		return 0;
	bytes = malloc(capacity + 1);
	if (bytes == NULL)
		return vb_fail(error, VB_ERROR_MEMORY, ENOMEM, path, -1, "Out of memory for a buffer of %zu bytes", capacity);
	free(buffer->bytes);
	buffer->bytes = bytes;
	buffer->capacity = capacity;
	return 0;
}

static int read_host(const struct vb_layer *layer, uint64_t offset_bytes, void *buffer, size_t length, struct vb_error *error)
{
	const struct vb_file *file = vb_layer_data_file(layer);
	uint64_t end_bytes = file->size_bytes;
	size_t inside = offset_bytes >= end_bytes ? 0 : length;

	if (inside > end_bytes - offset_bytes)
		inside = (size_t)(end_bytes - offset_bytes);
	memset((uint8_t *)buffer + inside, 0, length - inside);
	return inside == 0 ? 0 : vb_pread_exact(file->fd, file->path, buffer, inside, offset_bytes, error);
}

/* The compressed bytes of a cluster, as many as the file holds of those its entry names. */
static const uint8_t *fetch_compressed(struct vb_reader *reader, const struct vb_layer *layer, const struct vb_extent *extent,
				       size_t *length, struct vb_error *error)
{
	uint64_t offset_bytes = extent->host_offset_bytes, end_bytes = layer->file.size_bytes;
	uint64_t left_bytes = offset_bytes < end_bytes ? end_bytes - offset_bytes : 0;
	uint64_t input_end_bytes = reader->input_offset_bytes + reader->input_length;
	bool follows = reader->input_layer_index == extent->layer_index && reader->input_length > 0 &&
		       offset_bytes >= reader->input_offset_bytes && offset_bytes <= input_end_bytes;
	size_t wanted = extent->host_length_bytes < left_bytes ? extent->host_length_bytes : (size_t)left_bytes;

	*length = wanted;
	if (follows && offset_bytes + wanted <= input_end_bytes)
		return reader->input.bytes + (offset_bytes - reader->input_offset_bytes);
	if (!follows)
		reader->read_ahead_bytes = 0;
	else if (reader->read_ahead_bytes < READ_AHEAD_MAX_BYTES)
		reader->read_ahead_bytes = reader->read_ahead_bytes == 0 ? READ_AHEAD_MIN_BYTES : reader->read_ahead_bytes * 2;
	if (wanted < reader->read_ahead_bytes)
		wanted = reader->read_ahead_bytes < left_bytes ? reader->read_ahead_bytes : (size_t)left_bytes;
	reader->input_length = 0;
	if (reserve(&reader->input, wanted, layer->file.path, error) < 0 ||
	    vb_pread_exact(layer->file.fd, layer->file.path, reader->input.bytes, wanted, offset_bytes, error) < 0)
		return NULL;
	reader->input_layer_index = extent->layer_index;
	reader->input_offset_bytes = offset_bytes;
	reader->input_length = wanted;
	return reader->input.bytes;
}

static int decode(struct vb_reader *reader, const struct vb_layer *layer, const struct vb_extent *extent, void *output,
		  struct vb_error *error)
{
	size_t input_length = 0;
	const uint8_t *input = fetch_compressed(reader, layer, extent, &input_length, error);
	const char *fault;

	if (input == NULL)
		return -1;
	fault = vb_decompress(reader->decompressor, layer->info.compression, input, input_length, output,
			      layer->info.cluster_size_bytes);
	if (fault == NULL)
		return 0;
	return vb_fail(error, VB_ERROR_FORMAT, EIO, layer->file.path, (int64_t)extent->host_offset_bytes,
		       "The compressed cluster for guest offset %llu cannot be decoded: %s",
		       (unsigned long long)(extent->start_bytes & ~(uint64_t)(layer->info.cluster_size_bytes - 1)), fault);
}

static bool is_kept(const struct vb_reader *reader, const struct vb_extent *extent)
{
	return reader->has_kept && reader->kept_layer_index == extent->layer_index &&
	       reader->kept_host_offset_bytes == extent->host_offset_bytes &&
	       reader->kept_host_length_bytes == extent->host_length_bytes;
}

static int read_compressed(struct vb_reader *reader, const struct vb_layer *layer, const struct vb_extent *extent,
			   uint64_t guest_bytes, void *buffer, size_t length, struct vb_error *error)
{
	uint32_t cluster_bytes = layer->info.cluster_size_bytes;
	size_t within = (size_t)(guest_bytes & (cluster_bytes - 1));

	if (within + length > cluster_bytes)
		return vb_fail(error, VB_ERROR_INTERNAL, 0, layer->file.path, (int64_t)extent->host_offset_bytes,
			       "A read of %zu bytes reaches over a compressed cluster's end", length);
	if (length == cluster_bytes)
		return decode(reader, layer, extent, buffer, error);
	if (!is_kept(reader, extent)) {
		reader->has_kept = false;
		if (reserve(&reader->kept, cluster_bytes, layer->file.path, error) < 0 ||
		    decode(reader, layer, extent, reader->kept.bytes, error) < 0)
			return -1;
		reader->has_kept = true;
		reader->kept_layer_index = extent->layer_index;
		reader->kept_host_offset_bytes = extent->host_offset_bytes;
		reader->kept_host_length_bytes = extent->host_length_bytes;
	}
	memcpy(buffer, reader->kept.bytes + within, length);
	return 0;
}

int vb_reader_read(struct vb_reader *reader, const struct vb_extent *extent, uint64_t skip_bytes, void *buffer, size_t length,
		   struct vb_error *error)
{
	const struct vb_layer *layer = vb_chain_layer(reader->chain, extent->layer_index);

	if (layer == NULL || skip_bytes > extent->length_bytes || length > extent->length_bytes - skip_bytes)
		return vb_fail(error, VB_ERROR_INTERNAL, 0, NULL, -1, "A read of %zu bytes lies outside its extent", length);
	switch (extent->kind) {
	case VB_EXTENT_DATA:
		return read_host(layer, extent->host_offset_bytes + skip_bytes, buffer, length, error);
	case VB_EXTENT_COMPRESSED:
		return read_compressed(reader, layer, extent, extent->start_bytes + skip_bytes, buffer, length, error);
	default:
		memset(buffer, 0, length);
		return 0;
	}
}
