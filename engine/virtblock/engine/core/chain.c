/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns: opening a chain: which file is the next layer, in which format, and when to refuse.
 *
 * Invariants: no file is opened whose format nobody gave, none that the policy does not allow, none twice, and every layer is locked before it
 * is read. An external data file is opened only where the caller names it and the image does too. Names in images resolve like QEMU's: relative to the folder of the name by which the image above was
 * opened, not of what a link there leads to.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "destination.h"
#include "layer.h"
#include "sys.h"

struct vb_chain {
	size_t depth;
	struct vb_layer *layers[VB_CHAIN_DEPTH_MAX];
	char *names[VB_CHAIN_DEPTH_MAX];   /* by which each was opened */
};

/* What one vb_chain_open works on. */
struct opening {
	const struct vb_policy *policy;
	enum vb_lock_role role;
	const size_t *written;       /* indexes of layers that get the writer's lock instead */
	size_t written_count;
	struct vb_chain *chain;
	struct vb_error *error;
};

static const char *lowest_path(const struct opening *opening)
{
	return opening->chain->layers[opening->chain->depth - 1]->file.path;
}

/* Passes on why a layer below the top failed, and says which image wanted it. */
static int refuse_backing(const struct opening *opening, const struct vb_error *cause)
{
	enum vb_error_kind kind = cause->kind;
	bool is_missing = kind == VB_ERROR_SYSTEM && (cause->system_errno == ENOENT || cause->system_errno == ENOTDIR);

	if (is_missing)
		return vb_fail(opening->error, VB_ERROR_BACKING, ENOENT, cause->path, -1,
			       "The backing file is missing; \"%s\" is built on it", lowest_path(opening));
	return vb_fail(opening->error, kind, cause->system_errno, cause->path, cause->offset_bytes,
		       "%s (backing file of \"%s\")", cause->message, lowest_path(opening));
}

/* The file that a name recorded in an image leads to, malloc'd. `opened`: the name by which the image was opened; `what`: it names this file. */
static char *resolve_name(const struct vb_layer *layer, const char *opened, const char *what, const char *recorded,
			  struct vb_error *error)
{
	const char *holder = layer->file.path;
	const char *slash;
	size_t folder_length, name_length;
	char *name;

	if (strncmp(recorded, "file:", 5) == 0)
		recorded += 5;
	if (recorded[strcspn(recorded, ":/")] == ':') {
		vb_fail(error, VB_ERROR_DENIED, EACCES, holder, -1, "The %s \"%s\" is named by a protocol; only files are opened", what,
			recorded);
		return NULL;
	}
	slash = strrchr(opened, '/');
	folder_length = recorded[0] == '/' || slash == NULL ? 0 : (size_t)(slash - opened) + 1;
	name_length = strlen(recorded);
	name = malloc(folder_length + name_length + 1);
	if (name == NULL) {
		vb_fail(error, VB_ERROR_MEMORY, ENOMEM, holder, -1, "Out of memory for a file's name");
		return NULL;
	}
	memcpy(name, opened, folder_length);
	memcpy(name + folder_length, recorded, name_length + 1);
	return name;
}

static char *resolve_recorded(const struct vb_chain *chain, size_t index, const char *recorded, struct vb_error *error)
{
	return resolve_name(chain->layers[index], chain->names[index], "backing file", recorded, error);
}

/* Whether the file is an image of the chain, or holds the data of one. */
static bool is_in_chain(const struct vb_chain *chain, const struct vb_file *file)
{
	for (size_t i = 0; i < chain->depth; i++) {
		if (vb_file_is_same(vb_layer_file(chain->layers[i]), file) || vb_file_is_same(vb_layer_data_file(chain->layers[i]), file))
			return true;
	}
	return false;
}

/* Fails unless the name in the image leads to this very file. */
static int check_recorded_data_file(const struct opening *opening, const struct vb_layer *layer, const char *opened,
				    const struct vb_file *data_file)
{
	char *name = resolve_name(layer, opened, "data file", layer->info.data_path, opening->error);
	struct vb_file recorded;
	bool is_same = false;
	int result;

	if (name == NULL)
		return -1;
	result = vb_policy_open(opening->policy, name, O_RDONLY, 0, &recorded, opening->error);
	free(name);
	if (result == 0) {
		is_same = vb_file_is_same(&recorded, data_file);
		vb_file_close(&recorded);
	} else if (opening->error->kind != VB_ERROR_DENIED && !vb_policy_is_missing(opening->error)) {
		return -1;
	}
	if (is_same)
		return 0;
	return vb_fail(opening->error, VB_ERROR_DENIED, EACCES, layer->file.path, -1,
		       "The image records the external data file \"%s\", which is not \"%s\"", layer->info.data_path, data_file->path);
}

/* `opened`: the name by which the layer was opened. The layer is not in the chain yet. */
static int add_data_file(const struct opening *opening, struct vb_layer *layer, const char *opened)
{
	struct vb_error cause;
	const char *named = vb_policy_find_data_file(opening->policy, &layer->file, &cause);
	struct vb_file data_file;

	if (layer->info.data_path == NULL) {
		if (named == NULL)
			return 0;
		return vb_fail(opening->error, VB_ERROR_INVALID, EINVAL, layer->file.path, -1,
			       "The image has no external data file, but \"%s\" is named as such", named);
	}
	if (named == NULL && cause.kind != VB_ERROR_NONE) {
		*opening->error = cause;
		return -1;
	}
	if (named == NULL)
		return vb_fail(opening->error, VB_ERROR_DENIED, EACCES, layer->file.path, -1,
			       "The image keeps its data in the external data file \"%s\", which is opened only where the caller names it: "
			       "by <dataStore> in the domain's definition, or --data-file",
			       layer->info.data_path);
	if (vb_policy_open(opening->policy, named, O_RDONLY, 0, &data_file, opening->error) < 0)
		return -1;
	if (check_recorded_data_file(opening, layer, opened, &data_file) == 0) {
		if (is_in_chain(opening->chain, &data_file) || vb_file_is_same(&layer->file, &data_file))
			vb_fail(opening->error, VB_ERROR_BACKING, ELOOP, data_file.path, -1,
				"The data file of \"%s\" is another part of the same chain", layer->file.path);
		else if (vb_lock_image(&data_file, opening->role, opening->error) == 0) {
			vb_qcow2_use_data_file(layer, &data_file);
			return 0;
		}
	}
	vb_file_close(&data_file);
	return -1;
}

static int check_new(const struct opening *opening, const struct vb_file *file)
{
	const struct vb_chain *chain = opening->chain;

	if (is_in_chain(chain, file))
		return vb_fail(opening->error, VB_ERROR_BACKING, ELOOP, file->path, -1,
			       "The backing chain has a loop: \"%s\" comes back to this image", lowest_path(opening));
	if (chain->depth == VB_CHAIN_DEPTH_MAX)
		return vb_fail(opening->error, VB_ERROR_BACKING, ELOOP, file->path, -1, "The backing chain is deeper than %u images",
			       VB_CHAIN_DEPTH_MAX);
	return 0;
}

static enum vb_lock_role role_of_next(const struct opening *opening)
{
	for (size_t i = 0; i < opening->written_count; i++)
		if (opening->written[i] == opening->chain->depth)
			return VB_LOCK_WRITER;
	return opening->role;
}

/* Adds the file as the lowest layer. Takes `file` and `name` over, also on failure. */
static int add_layer(struct opening *opening, struct vb_file *file, char *name, enum vb_format format)
{
	struct vb_chain *chain = opening->chain;
	struct vb_error cause = { 0 };
	struct vb_layer *layer = NULL;

	if (check_new(opening, file) < 0) {
		vb_file_close(file);
		free(name);
		return -1;
	}
	if (vb_lock_image(file, role_of_next(opening), &cause) < 0)
		vb_file_close(file);
	else
		layer = vb_layer_open(file, format, &cause);
	/* An unfinished qcow2 copy has no magic to be opened by; a raw one opens all the same. */
	if (layer != NULL && format == VB_FORMAT_RAW && vb_raw_check_finished(&layer->file, &cause) < 0) {
		vb_layer_close(layer);
		layer = NULL;
	}
	if (layer == NULL) {
		free(name);
		if (chain->depth > 0)
			return refuse_backing(opening, &cause);
		*opening->error = cause;
		return -1;
	}
	if (add_data_file(opening, layer, name) < 0) {
		vb_layer_close(layer);
		free(name);
		return -1;
	}
	chain->names[chain->depth] = name;
	chain->layers[chain->depth++] = layer;
	return 0;
}

/* Opens what the lowest layer names. */
static int open_backing(const struct opening *opening, struct vb_file *file, char **name)
{
	struct vb_error cause = { 0 };

	size_t above = opening->chain->depth - 1;

	*name = resolve_recorded(opening->chain, above, opening->chain->layers[above]->info.backing_path, opening->error);
	if (*name == NULL)
		return -1;
	if (vb_policy_open(opening->policy, *name, O_RDONLY, 0, file, &cause) < 0) {
		free(*name);
		return refuse_backing(opening, &cause);
	}
	return 0;
}

static int format_of_backing(const struct opening *opening, enum vb_format *format)
{
	const struct vb_layer *above = opening->chain->layers[opening->chain->depth - 1];
	const char *recorded = above->info.backing_format;

	if (recorded == NULL)
		return vb_fail(opening->error, VB_ERROR_BACKING_FORMAT, 0, above->file.path, -1,
			       "The format of the backing file \"%s\" is not recorded", above->info.backing_path);
	if (strcmp(recorded, "raw") == 0)
		*format = VB_FORMAT_RAW;
	else if (strcmp(recorded, "qcow2") == 0)
		*format = VB_FORMAT_QCOW2;
	else
		return vb_fail(opening->error, VB_ERROR_UNSUPPORTED, ENOTSUP, above->file.path, -1,
			       "The backing file \"%s\" has format \"%s\", which is not supported", above->info.backing_path, recorded);
	return 0;
}

/* Follows the images' own headers to the bottom. */
static int follow(struct opening *opening)
{
	for (;;) {
		const struct vb_layer *lowest = opening->chain->layers[opening->chain->depth - 1];
		enum vb_format format = VB_FORMAT_RAW;
		struct vb_file file;
		char *name;

		if (lowest->info.backing_path == NULL)
			return 0;
		if (format_of_backing(opening, &format) < 0 || open_backing(opening, &file, &name) < 0 ||
		    add_layer(opening, &file, name, format) < 0)
			return -1;
	}
}

/* The image above must name this very file, whatever the names look like. */
static int check_named(const struct opening *opening, const struct vb_file *file)
{
	const struct vb_layer *above = opening->chain->layers[opening->chain->depth - 1];
	struct vb_file named;
	bool is_same;
	char *name;

	if (above->info.backing_path == NULL)
		return vb_fail(opening->error, VB_ERROR_BACKING, 0, above->file.path, -1,
			       "The definition has \"%s\" below this image, but the image records no backing file", file->path);
	if (open_backing(opening, &named, &name) < 0)
		return -1;
	is_same = named.device == file->device && named.inode == file->inode;
	vb_file_close(&named);
	free(name);
	if (is_same)
		return 0;
	return vb_fail(opening->error, VB_ERROR_BACKING, 0, above->file.path, -1,
		       "The definition has \"%s\" below this image, but the image records \"%s\", which is another file", file->path,
		       above->info.backing_path);
}

static int add_spec(struct opening *opening, const struct vb_layer_spec *spec)
{
	struct vb_error cause = { 0 };
	struct vb_file file;
	char *name;

	if (vb_policy_open(opening->policy, spec->path, O_RDONLY, 0, &file, &cause) < 0) {
		if (opening->chain->depth > 0)
			return refuse_backing(opening, &cause);
		*opening->error = cause;
		return -1;
	}
	if (opening->chain->depth > 0 && check_named(opening, &file) < 0) {
		vb_file_close(&file);
		return -1;
	}
	name = strdup(spec->path);
	if (name == NULL) {
		vb_file_close(&file);
		return vb_fail(opening->error, VB_ERROR_MEMORY, ENOMEM, spec->path, -1, "Out of memory for a name");
	}
	return add_layer(opening, &file, name, spec->format);
}

static int open_all(struct opening *opening, const struct vb_layer_spec *specs, size_t spec_count, bool terminated)
{
	for (size_t i = 0; i < spec_count; i++) {
		if (add_spec(opening, &specs[i]) < 0)
			return -1;
	}
	return terminated ? 0 : follow(opening);
}

static struct vb_chain *open_chain(struct opening *opening, const struct vb_layer_spec *specs, size_t spec_count, bool terminated)
{
	if (spec_count == 0) {
		vb_fail(opening->error, VB_ERROR_INVALID, EINVAL, NULL, -1, "A chain needs its top image");
		return NULL;
	}
	opening->chain = calloc(1, sizeof(*opening->chain));
	if (opening->chain == NULL) {
		vb_fail(opening->error, VB_ERROR_MEMORY, ENOMEM, specs[0].path, -1, "Out of memory for a chain");
		return NULL;
	}
	if (open_all(opening, specs, spec_count, terminated) == 0)
		return opening->chain;
	vb_chain_close(opening->chain);
	return NULL;
}

struct vb_chain *vb_chain_open(const struct vb_policy *policy, const struct vb_layer_spec *specs, size_t spec_count,
			       bool terminated, enum vb_lock_role role, struct vb_error *error)
{
	struct vb_error unused;
	struct opening opening = { .policy = policy, .role = role, .error = error != NULL ? error : &unused };

	return open_chain(&opening, specs, spec_count, terminated);
}

struct vb_chain *vb_chain_open_to_merge(const struct vb_policy *policy, const struct vb_layer_spec *specs, size_t spec_count,
					bool terminated, const size_t *written, size_t written_count, struct vb_error *error)
{
	struct opening opening = { .policy = policy,
				   .role = VB_LOCK_READER,
				   .written = written,
				   .written_count = written_count,
				   .error = error };

	return open_chain(&opening, specs, spec_count, terminated);
}

int vb_chain_check_name(const struct vb_policy *policy, const struct vb_chain *chain, size_t index, const char *recorded,
			size_t below_index, struct vb_error *error)
{
	const struct vb_file *below = &chain->layers[below_index]->file;
	char *name = resolve_recorded(chain, index, recorded, error);
	struct vb_file named;
	bool is_same;
	int result;

	if (name == NULL)
		return -1;
	result = vb_policy_open(policy, name, O_RDONLY, 0, &named, error);
	free(name);
	if (result < 0)
		return -1;
	is_same = named.device == below->device && named.inode == below->inode;
	vb_file_close(&named);
	if (is_same)
		return 0;
	return vb_fail(error, VB_ERROR_INVALID, EINVAL, chain->layers[index]->file.path, -1,
		       "Recorded in this image, the name \"%s\" would lead to another file than \"%s\"", recorded, below->path);
}

void vb_chain_close(struct vb_chain *chain)
{
	if (chain == NULL)
		return;
	for (size_t i = 0; i < chain->depth; i++) {
		vb_layer_close(chain->layers[i]);
		free(chain->names[i]);
	}
	free(chain);
}

size_t vb_chain_depth(const struct vb_chain *chain)
{
	return chain->depth;
}

struct vb_layer *vb_chain_layer(const struct vb_chain *chain, size_t index)
{
	return index < chain->depth ? chain->layers[index] : NULL;
}

uint64_t vb_chain_size_bytes(const struct vb_chain *chain)
{
	return chain->layers[0]->info.virtual_size_bytes;
}
