/* SPDX-License-Identifier: Apache-2.0 */
/* Walking through the layers of a chain. Owns: see chain_walk.h. */
#include "chain_walk.h"

void vb_chain_walk_start(struct vb_chain_walk *walk, const struct vb_chain *chain, size_t end_level, const bool *cancelled)
{
	walk->chain = chain;
	walk->end_level = end_level;
	for (size_t level = 0; level < end_level; level++)
		vb_layer_cursor_start(&walk->cursors[level], vb_chain_layer(chain, level), cancelled);
}

void vb_chain_walk_end(struct vb_chain_walk *walk)
{
	for (size_t level = 0; level < walk->end_level; level++)
		vb_layer_cursor_free(&walk->cursors[level]);
}

int vb_chain_walk_ask(struct vb_chain_walk *walk, size_t level, uint64_t start_bytes, uint64_t end_bytes, struct vb_extent *extent,
		      struct vb_error *error)
{
	struct vb_layer_cursor *cursor = &walk->cursors[level];
	uint64_t size_bytes = cursor->layer->info.virtual_size_bytes;

	*extent = (struct vb_extent){ .start_bytes = start_bytes, .length_bytes = end_bytes - start_bytes, .kind = VB_EXTENT_ZERO };
	if (start_bytes >= size_bytes)
		return 0;
	return cursor->layer->ops->next(cursor, start_bytes, end_bytes < size_bytes ? end_bytes : size_bytes, extent, error);
}

int vb_chain_walk_range(struct vb_chain_walk *walk, size_t first, uint64_t start_bytes, uint64_t end_bytes, vb_chain_visitor visit,
			void *opaque, struct vb_error *error)
{
	struct vb_extent extent;
	size_t level = first;

	walk->open_ends[first] = end_bytes;
	while (start_bytes < end_bytes) {
		while (start_bytes == walk->open_ends[level])
			level--;
		if (vb_chain_walk_ask(walk, level, start_bytes, walk->open_ends[level], &extent, error) < 0)
			return -1;
		if (extent.kind == VB_EXTENT_UNALLOCATED && level + 1 < walk->end_level) {
			walk->open_ends[++level] = start_bytes + extent.length_bytes;
			continue;
		}
		start_bytes += extent.length_bytes;
		if (visit(opaque, &extent, level, error) < 0)
			return -1;
	}
	return 0;
}
