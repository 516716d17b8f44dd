# SPDX-License-Identifier: Apache-2.0
"""Declarations of the C core, as its headers in `core/` make them. No code: the headers hold the contracts.

Everything is `noexcept nogil`: the core knows no Python and is only called with Python's lock released.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from posix.types cimport mode_t


cdef extern from "<stdbool.h>":
    ctypedef bint c_bool "bool"


cdef extern from "error.h" nogil:
    struct vb_error:
        int kind
        int system_errno
        int64_t offset_bytes
        char path[1024]
        char message[1024]


cdef extern from "policy.h" nogil:
    struct vb_policy:
        pass

    struct vb_file:
        int fd
        char *path
        c_bool is_block_device
        uint64_t device
        uint64_t inode
        uint64_t size_bytes

    vb_policy *vb_policy_new(const char *const *folders, size_t folder_count, vb_error *error) noexcept
    void vb_policy_free(vb_policy *policy) noexcept
    int vb_policy_name_data_file(
        vb_policy *policy, const char *image_path, const char *data_path, vb_error *error
    ) noexcept
    int vb_policy_open(
        const vb_policy *policy, const char *path, int flags, mode_t mode, vb_file *file, vb_error *error
    ) noexcept
    void vb_file_close(vb_file *file) noexcept


cdef extern from "lock.h" nogil:
    enum vb_lock_role:
        VB_LOCK_NONE
        VB_LOCK_READER
        VB_LOCK_WRITER


cdef extern from "image.h" nogil:
    enum vb_format:
        VB_FORMAT_RAW
        VB_FORMAT_QCOW2

    enum vb_compression:
        VB_COMPRESSION_DEFLATE
        VB_COMPRESSION_ZSTD

    enum:
        VB_EXTENT_ZERO
        VB_EXTENT_DATA
        VB_EXTENT_COMPRESSED

    struct vb_extent:
        uint64_t start_bytes
        uint64_t length_bytes
        uint16_t layer_index
        uint8_t kind

    struct vb_image_info:
        vb_format format
        uint64_t virtual_size_bytes
        uint64_t allocated_bytes
        const char *backing_path
        const char *backing_format
        const char *data_path
        uint32_t cluster_size_bytes
        uint32_t version
        vb_compression compression
        uint32_t refcount_bits
        uint32_t snapshot_count
        uint64_t incompatible_features

    struct vb_layer:
        pass

    struct vb_chain:
        pass

    struct vb_layer_spec:
        const char *path
        vb_format format

    struct vb_reader:
        pass

    vb_layer *vb_layer_open(vb_file *file, vb_format format, vb_error *error) noexcept
    void vb_layer_close(vb_layer *layer) noexcept
    const vb_image_info *vb_layer_info(const vb_layer *layer) noexcept
    const vb_file *vb_layer_file(const vb_layer *layer) noexcept
    const vb_file *vb_layer_data_file(const vb_layer *layer) noexcept
    vb_chain *vb_chain_open(
        const vb_policy *policy,
        const vb_layer_spec *specs,
        size_t spec_count,
        c_bool terminated,
        vb_lock_role role,
        vb_error *error,
    ) noexcept
    void vb_chain_close(vb_chain *chain) noexcept
    size_t vb_chain_depth(const vb_chain *chain) noexcept
    vb_layer *vb_chain_layer(const vb_chain *chain, size_t index) noexcept
    uint64_t vb_chain_size_bytes(const vb_chain *chain) noexcept
    vb_format vb_format_probe(const vb_file *file, vb_error *error) noexcept
    vb_reader *vb_reader_new(const vb_chain *chain, vb_error *error) noexcept
    void vb_reader_free(vb_reader *reader) noexcept
    int vb_reader_read(
        vb_reader *reader, const vb_extent *extent, uint64_t skip_bytes, void *buffer, size_t length, vb_error *error
    ) noexcept


cdef extern from "plan.h" nogil:
    enum vb_plan_mode:
        VB_PLAN_FULL
        VB_PLAN_TOP

    struct vb_merge_span:
        c_bool is_commit
        size_t top_index
        size_t base_index

    struct vb_plan:
        size_t extent_count
        vb_extent *extents

    vb_plan *vb_plan_make(
        const vb_chain *chain, vb_plan_mode mode, uint32_t unit_bytes, const c_bool *cancelled, vb_error *error
    ) noexcept
    void vb_plan_free(vb_plan *plan) noexcept
    size_t vb_plan_find(const vb_plan *plan, uint64_t offset_bytes) noexcept


cdef extern from "writer.h" nogil:
    enum vb_compress:
        VB_COMPRESS_NONE
        VB_COMPRESS_ZLIB
        VB_COMPRESS_ZSTD

    enum vb_preallocation:
        VB_PREALLOCATION_OFF
        VB_PREALLOCATION_METADATA
        VB_PREALLOCATION_FALLOC
        VB_PREALLOCATION_FULL

    struct vb_destination_spec:
        const char *path
        vb_format format
        c_bool reuse
        uint64_t virtual_size_bytes
        const char *backing_path
        const char *backing_format
        uint32_t cluster_size_bytes
        vb_compress compression
        int compression_level
        c_bool extended_l2
        vb_preallocation preallocation
        c_bool durable

    struct vb_writer:
        const vb_writer_ops *ops
        vb_destination_spec spec
        uint32_t unit_bytes
        c_bool published

    struct vb_writer_ops:
        int (*write)(
            vb_writer *writer, uint64_t start_bytes, const void *buffer, size_t length, vb_error *error
        ) noexcept nogil
        int (*zero)(vb_writer *writer, uint64_t start_bytes, uint64_t length_bytes, vb_error *error) noexcept nogil
        int (*publish)(vb_writer *writer, vb_error *error) noexcept nogil
        int (*unpublish)(vb_writer *writer, vb_error *error) noexcept nogil
        void (*close)(vb_writer *writer) noexcept nogil

    vb_writer *vb_writer_open(
        const vb_policy *policy, const vb_destination_spec *spec, const vb_chain *source, vb_error *error
    ) noexcept
    uint64_t vb_writer_required_bytes(const vb_plan *plan, const vb_destination_spec *spec) noexcept
    int vb_image_create(const vb_policy *policy, const vb_destination_spec *spec, vb_error *error) noexcept
    int vb_image_resize(
        const vb_policy *policy, const char *path, vb_format format, uint64_t size_bytes, vb_error *error
    ) noexcept
    vb_writer *vb_image_open_writable(
        const vb_policy *policy, const char *path, vb_format format, vb_error *error
    ) noexcept


cdef extern from "bitmap.h" nogil:
    struct vb_bitmap:
        pass

    vb_bitmap *vb_bitmap_new(uint64_t size_bytes, uint32_t granule_bytes, vb_error *error) noexcept
    void vb_bitmap_free(vb_bitmap *bitmap) noexcept
    uint32_t vb_bitmap_granule_bytes(const vb_bitmap *bitmap) noexcept
    void vb_bitmap_set(vb_bitmap *bitmap, uint64_t start_bytes, uint64_t length_bytes) noexcept
    void vb_bitmap_clear(vb_bitmap *bitmap, uint64_t start_bytes, uint64_t length_bytes) noexcept
    c_bool vb_bitmap_get(const vb_bitmap *bitmap, uint64_t offset_bytes) noexcept
    c_bool vb_bitmap_claim(
        vb_bitmap *bitmap,
        uint64_t *cursor_bytes,
        uint64_t max_bytes,
        uint64_t align_bytes,
        uint64_t *start_bytes,
        uint64_t *length_bytes,
    ) noexcept
    void vb_bitmap_release(vb_bitmap *bitmap, uint64_t start_bytes, uint64_t length_bytes, c_bool moved) noexcept
    uint64_t vb_bitmap_dirty_bytes(const vb_bitmap *bitmap) noexcept
    uint64_t vb_bitmap_in_flight_bytes(const vb_bitmap *bitmap) noexcept
    size_t vb_bitmap_serialized_bytes(const vb_bitmap *bitmap) noexcept
    void vb_bitmap_serialize(const vb_bitmap *bitmap, uint8_t *out) noexcept
    int vb_bitmap_deserialize(vb_bitmap *bitmap, const uint8_t *data, size_t length, vb_error *error) noexcept


cdef extern from "digest_chain.h" nogil:
    enum:
        VB_DIGEST_TEXT_BYTES

    int vb_digest_chain(
        const vb_chain *chain, c_bool drop_cache, const c_bool *cancelled, char *text, vb_error *error
    ) noexcept


cdef extern from "qcow2_bitmaps.h" nogil:
    enum:
        VB_BITMAP_USABLE
        VB_BITMAP_IN_USE
        VB_BITMAP_INCONSISTENT
        VB_BITMAP_WRONG_SIZE

    struct vb_persistent_bitmap:
        char *name
        uint32_t granularity_bytes
        c_bool is_enabled
        int state
        uint64_t dirty_bytes

    struct vb_persistent_bitmaps:
        size_t count
        vb_persistent_bitmap *items

    int vb_image_list_bitmaps(
        const vb_policy *policy, const char *path, vb_persistent_bitmaps *bitmaps, vb_error *error
    ) noexcept
    void vb_persistent_bitmaps_free(vb_persistent_bitmaps *bitmaps) noexcept

    struct vb_new_bitmap:
        const char *name
        uint32_t granularity_bytes
        c_bool is_enabled

    int vb_image_add_bitmap(
        const vb_policy *policy, const char *path, const vb_new_bitmap *wanted, vb_error *error
    ) noexcept
    int vb_image_remove_bitmap(
        const vb_policy *policy, const char *path, const char *name, vb_error *error
    ) noexcept
    int vb_image_clear_bitmap(
        const vb_policy *policy, const char *path, const char *name, vb_error *error
    ) noexcept


cdef extern from "copy.h" nogil:
    enum vb_reflink:
        VB_REFLINK_AUTO
        VB_REFLINK_NEVER
        VB_REFLINK_ALWAYS

    struct vb_copy_options:
        vb_plan_mode mode
        uint64_t bandwidth_bytes_per_s
        uint32_t granule_bytes
        uint32_t lane_count
        c_bool check_space
        const char *journal_path
        c_bool journal_stays
        c_bool digest_shared
        c_bool resume
        uint32_t journal_interval_ms
        c_bool digest
        vb_reflink reflink
        const char *bitmap_name

    struct vb_copy_progress:
        int phase
        c_bool paused
        uint64_t size_bytes
        uint64_t total_bytes
        uint64_t moved_bytes
        uint64_t resumed_bytes
        uint64_t durable_bytes
        uint64_t remaining_bytes
        uint64_t read_bytes
        uint64_t written_bytes
        uint64_t stored_bytes
        uint64_t shared_bytes
        uint64_t zero_bytes
        uint64_t elapsed_ns
        uint64_t bandwidth_bytes_per_s

    struct vb_copy:
        pass

    vb_writer *vb_copy_open_destination(
        const vb_policy *policy, const vb_destination_spec *spec, const vb_chain *source,
        const vb_copy_options *options, vb_error *error,
    ) noexcept
    vb_copy *vb_copy_new(
        const vb_chain *source, vb_writer *destination, const vb_copy_options *options, vb_error *error
    ) noexcept
    int vb_copy_run(vb_copy *copy, vb_error *error) noexcept
    void vb_copy_cancel(vb_copy *copy) noexcept
    void vb_copy_keep_unfinished(vb_copy *copy, c_bool keeps) noexcept
    c_bool vb_copy_is_resumed(const vb_copy *copy) noexcept
    void vb_copy_pause(vb_copy *copy) noexcept
    void vb_copy_resume(vb_copy *copy) noexcept
    void vb_copy_set_bandwidth(vb_copy *copy, uint64_t bandwidth_bytes_per_s) noexcept
    void vb_copy_get_progress "vb_copy_progress"(const vb_copy *copy, vb_copy_progress *progress) noexcept
    void vb_copy_map(const vb_copy *copy, uint8_t *cells, size_t cell_count) noexcept
    void vb_copy_digest(const vb_copy *copy, char *text) noexcept
    void vb_copy_free(vb_copy *copy) noexcept

    int VB_CELL_TODO, VB_CELL_COPYING, VB_CELL_DONE, VB_CELL_ZERO, VB_CELL_DIRTY_AGAIN, VB_CELL_FAILED

    int vb_compare(
        const vb_chain *left,
        const vb_chain *right,
        c_bool pad,
        uint64_t *offset_bytes,
        const c_bool *cancelled,
        vb_error *error,
    ) noexcept


cdef extern from "merge.h" nogil:
    struct vb_merge_request:
        vb_merge_span span
        const char *backing_path
        c_bool durable

    struct vb_merge:
        pass

    vb_merge *vb_merge_open(
        const vb_policy *policy,
        const vb_layer_spec *specs,
        size_t spec_count,
        c_bool terminated,
        const vb_merge_request *request,
        const vb_copy_options *options,
        vb_error *error,
    ) noexcept
    int vb_merge_run(vb_merge *merge, vb_error *error) noexcept
    vb_copy *vb_merge_copy(vb_merge *merge) noexcept
    const vb_chain *vb_merge_chain(const vb_merge *merge) noexcept
    void vb_merge_close(vb_merge *merge) noexcept
