/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The in-place writer. The input: eight bytes that choose up to three changes and the role, then a qcow2 file, which is the destination.
 * Demanded: whatever the image claims, a destination that was published can be opened again and reads what was written to it last; one
 * that was not published after a change never opens as a good image.
 */
#include <string.h>

#include "destination.h"
#include "memory_files.h"
#include "oracle.h"
#include "qcow2.h"

#define CONTROL_BYTES 8u
#define CHANGES 3u
#define CHANGE_BYTES_MAX (64u * 1024)
#define CLUSTERS_MAX 65536u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
extern const size_t mutate_skip_bytes;
const size_t mutate_skip_bytes = CONTROL_BYTES;

struct change {
	uint64_t start_bytes;
	uint64_t length_bytes;
	uint8_t value;   /* of each byte; 0: made zero by zero() */
};

/* What a range of the disk was given last; the changes are looked through from the last to the first. */
static uint8_t expected_value(const struct change *changes, size_t count, uint64_t offset_bytes)
{
	while (count-- > 0) {
		if (offset_bytes >= changes[count].start_bytes && offset_bytes - changes[count].start_bytes < changes[count].length_bytes)
			return changes[count].value;
	}
	abort();
}

/* Whole clusters within the disk, or up to its end. */
static struct change choose_change(const struct vb_writer *writer, uint8_t where, uint8_t what)
{
	uint64_t unit_bytes = writer->unit_bytes, size_bytes = writer->spec.virtual_size_bytes;
	uint64_t unit_count = (size_bytes + unit_bytes - 1) / unit_bytes;
	uint64_t most = CHANGE_BYTES_MAX / unit_bytes > 0 ? CHANGE_BYTES_MAX / unit_bytes : 1;
	/* Half of the places count from the end of the disk. */
	uint64_t first = where & 128 ? unit_count - 1 - (where & 127) % unit_count : where % unit_count;
	uint64_t count = 1 + (what >> 2) % 8;
	struct change change = { .start_bytes = first * unit_bytes, .value = what & 1 ? 0 : (uint8_t)(what | 2) };

	if (count > most)
		count = most;
	change.length_bytes = count * unit_bytes;
	if (change.length_bytes > size_bytes - change.start_bytes)
		change.length_bytes = size_bytes - change.start_bytes;
	return change;
}

static int apply(struct vb_writer *writer, const struct change *change, struct vb_error *error)
{
	int result;
	uint8_t *bytes;

	if (change->value == 0)
		return writer->ops->zero(writer, change->start_bytes, change->length_bytes, error);
	bytes = malloc(change->length_bytes);
	REQUIRE(bytes != NULL);
	memset(bytes, change->value, change->length_bytes);
	result = writer->ops->write(writer, change->start_bytes, bytes, change->length_bytes, error);
	free(bytes);
	return result;
}

struct check {
	struct vb_reader *reader;
	const struct change *changes;
	size_t change_count;
};

static int check_extent(void *opaque, const struct vb_extent *extent, struct vb_error *error)
{
	const struct check *check = opaque;
	uint8_t *bytes = calloc(1, extent->length_bytes);

	REQUIRE(bytes != NULL && extent->kind != VB_EXTENT_COMPRESSED);
	if (extent->kind == VB_EXTENT_DATA)
		REQUIRE(vb_reader_read(check->reader, extent, 0, bytes, extent->length_bytes, error) == 0);
	for (uint64_t at = 0; at < extent->length_bytes; at++)
		REQUIRE(bytes[at] == expected_value(check->changes, check->change_count, extent->start_bytes + at));
	free(bytes);
	return 0;
}

static void require_content(const struct change *changes, size_t change_count)
{
	struct vb_error error = { 0 };
	struct vb_chain *chain = memory_files_chain(true, &error);
	struct check check = { .changes = changes, .change_count = change_count };

	REQUIRE(chain != NULL);
	check.reader = vb_reader_new(chain, &error);
	REQUIRE(check.reader != NULL);
	for (size_t index = 0; index < change_count; index++)
		REQUIRE(vb_layer_map(vb_chain_layer(chain, 0), changes[index].start_bytes, changes[index].length_bytes, check_extent, &check,
				     &error) == 0);
	vb_reader_free(check.reader);
	vb_chain_close(chain);
}

/* What broke off must not look complete. */
static void require_unfinished(void)
{
	struct vb_error error = { 0 };

	REQUIRE(memory_files_chain(true, &error) == NULL);
	require_refusal(&error);
}

static void change_image(struct vb_writer *writer, const uint8_t *control, enum vb_existing_role role)
{
	struct change changes[CHANGES];
	size_t change_count = 0, wanted_count = 1 + control[0] % CHANGES;
	struct vb_error error = { 0 };
	int result = writer->ops->prepare(writer, NULL, &error);

	for (size_t index = 0; result == 0 && index < wanted_count && writer->spec.virtual_size_bytes > 0; index++) {
		changes[index] = choose_change(writer, control[1 + 2 * index], control[2 + 2 * index]);
		result = apply(writer, &changes[index], &error);
		change_count++;
	}
	if (result == 0)
		result = writer->ops->publish(writer, &error);
	REQUIRE((result == 0) == writer->published);
	writer->ops->close(writer);
	if (result == 0)
		require_content(changes, change_count);
	else
		require_refusal(&error);
	if (result != 0 && role == VB_EXISTING_DESTINATION)
		require_unfinished();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct vb_destination_spec spec = { .path = MEMORY_IMAGE_PATH, .format = VB_FORMAT_QCOW2, .reuse = true, .durable = true };
	enum vb_existing_role role;
	struct vb_error error = { 0 };
	struct vb_writer *writer;
	struct vb_file file;

	if (size < CONTROL_BYTES + VB_QCOW2_HEADER_BYTES_V2)
		return 0;
	role = data[CONTROL_BYTES - 1] & 1 ? VB_EXISTING_IMAGE : VB_EXISTING_DESTINATION;
	spec.virtual_size_bytes = vb_load_be64(data + CONTROL_BYTES + VB_QCOW2_AT_SIZE);
	memory_files_start(data + CONTROL_BYTES, size - CONTROL_BYTES);
	file = memory_files_open();
	writer = vb_qcow2_inplace_writer_open(&file, &spec, role, &error);
	if (writer == NULL)
		require_refusal(&error);
	else if (writer->spec.virtual_size_bytes / writer->unit_bytes > CLUSTERS_MAX)
		writer->ops->close(writer);
	else
		change_image(writer, data, role);
	memory_files_end();
	return 0;
}
