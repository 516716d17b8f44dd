// SPDX-License-Identifier: Apache-2.0
// Made by clients/cpp/generate.py from proto/virtblock/v1. Do not edit.
#pragma once

#include <cstdint>

#include "virtblock/v1/libvirt_enums.pb.h"

namespace virtblock {

// ErrorNumber, with libvirt's numbers; the contract's comments say what each means.
using v1::ErrorNumber;
using v1::ERR_OK;
using v1::ERR_INTERNAL_ERROR;
using v1::ERR_NO_MEMORY;
using v1::ERR_NO_SUPPORT;
using v1::ERR_UNKNOWN_HOST;
using v1::ERR_NO_CONNECT;
using v1::ERR_INVALID_CONN;
using v1::ERR_INVALID_DOMAIN;
using v1::ERR_INVALID_ARG;
using v1::ERR_OPERATION_FAILED;
using v1::ERR_GET_FAILED;
using v1::ERR_POST_FAILED;
using v1::ERR_HTTP_ERROR;
using v1::ERR_SEXPR_SERIAL;
using v1::ERR_NO_XEN;
using v1::ERR_XEN_CALL;
using v1::ERR_OS_TYPE;
using v1::ERR_NO_KERNEL;
using v1::ERR_NO_ROOT;
using v1::ERR_NO_SOURCE;
using v1::ERR_NO_TARGET;
using v1::ERR_NO_NAME;
using v1::ERR_NO_OS;
using v1::ERR_NO_DEVICE;
using v1::ERR_NO_XENSTORE;
using v1::ERR_DRIVER_FULL;
using v1::ERR_CALL_FAILED;
using v1::ERR_XML_ERROR;
using v1::ERR_DOM_EXIST;
using v1::ERR_OPERATION_DENIED;
using v1::ERR_OPEN_FAILED;
using v1::ERR_READ_FAILED;
using v1::ERR_PARSE_FAILED;
using v1::ERR_CONF_SYNTAX;
using v1::ERR_WRITE_FAILED;
using v1::ERR_XML_DETAIL;
using v1::ERR_INVALID_NETWORK;
using v1::ERR_NETWORK_EXIST;
using v1::ERR_SYSTEM_ERROR;
using v1::ERR_RPC;
using v1::ERR_GNUTLS_ERROR;
using v1::WAR_NO_NETWORK;
using v1::ERR_NO_DOMAIN;
using v1::ERR_NO_NETWORK;
using v1::ERR_INVALID_MAC;
using v1::ERR_AUTH_FAILED;
using v1::ERR_INVALID_STORAGE_POOL;
using v1::ERR_INVALID_STORAGE_VOL;
using v1::WAR_NO_STORAGE;
using v1::ERR_NO_STORAGE_POOL;
using v1::ERR_NO_STORAGE_VOL;
using v1::WAR_NO_NODE;
using v1::ERR_INVALID_NODE_DEVICE;
using v1::ERR_NO_NODE_DEVICE;
using v1::ERR_NO_SECURITY_MODEL;
using v1::ERR_OPERATION_INVALID;
using v1::WAR_NO_INTERFACE;
using v1::ERR_NO_INTERFACE;
using v1::ERR_INVALID_INTERFACE;
using v1::ERR_MULTIPLE_INTERFACES;
using v1::WAR_NO_NWFILTER;
using v1::ERR_INVALID_NWFILTER;
using v1::ERR_NO_NWFILTER;
using v1::ERR_BUILD_FIREWALL;
using v1::WAR_NO_SECRET;
using v1::ERR_INVALID_SECRET;
using v1::ERR_NO_SECRET;
using v1::ERR_CONFIG_UNSUPPORTED;
using v1::ERR_OPERATION_TIMEOUT;
using v1::ERR_MIGRATE_PERSIST_FAILED;
using v1::ERR_HOOK_SCRIPT_FAILED;
using v1::ERR_INVALID_DOMAIN_SNAPSHOT;
using v1::ERR_NO_DOMAIN_SNAPSHOT;
using v1::ERR_INVALID_STREAM;
using v1::ERR_ARGUMENT_UNSUPPORTED;
using v1::ERR_STORAGE_PROBE_FAILED;
using v1::ERR_STORAGE_POOL_BUILT;
using v1::ERR_SNAPSHOT_REVERT_RISKY;
using v1::ERR_OPERATION_ABORTED;
using v1::ERR_AUTH_CANCELLED;
using v1::ERR_NO_DOMAIN_METADATA;
using v1::ERR_MIGRATE_UNSAFE;
using v1::ERR_OVERFLOW;
using v1::ERR_BLOCK_COPY_ACTIVE;
using v1::ERR_OPERATION_UNSUPPORTED;
using v1::ERR_SSH;
using v1::ERR_AGENT_UNRESPONSIVE;
using v1::ERR_RESOURCE_BUSY;
using v1::ERR_ACCESS_DENIED;
using v1::ERR_DBUS_SERVICE;
using v1::ERR_STORAGE_VOL_EXIST;
using v1::ERR_CPU_INCOMPATIBLE;
using v1::ERR_XML_INVALID_SCHEMA;
using v1::ERR_MIGRATE_FINISH_OK;
using v1::ERR_AUTH_UNAVAILABLE;
using v1::ERR_NO_SERVER;
using v1::ERR_NO_CLIENT;
using v1::ERR_AGENT_UNSYNCED;
using v1::ERR_LIBSSH;
using v1::ERR_DEVICE_MISSING;
using v1::ERR_INVALID_NWFILTER_BINDING;
using v1::ERR_NO_NWFILTER_BINDING;
using v1::ERR_INVALID_DOMAIN_CHECKPOINT;
using v1::ERR_NO_DOMAIN_CHECKPOINT;
using v1::ERR_NO_DOMAIN_BACKUP;
using v1::ERR_INVALID_NETWORK_PORT;
using v1::ERR_NETWORK_PORT_EXIST;
using v1::ERR_NO_NETWORK_PORT;
using v1::ERR_NO_HOSTNAME;
using v1::ERR_CHECKPOINT_INCONSISTENT;
using v1::ERR_MULTIPLE_DOMAINS;

// ErrorLevel, with libvirt's numbers; the contract's comments say what each means.
using v1::ErrorLevel;
using v1::ERR_NONE;
using v1::ERR_WARNING;
using v1::ERR_ERROR;

// ErrorDomain, with libvirt's numbers; the contract's comments say what each means.
using v1::ErrorDomain;
using v1::FROM_NONE;
using v1::FROM_XEN;
using v1::FROM_XEND;
using v1::FROM_XENSTORE;
using v1::FROM_SEXPR;
using v1::FROM_XML;
using v1::FROM_DOM;
using v1::FROM_RPC;
using v1::FROM_PROXY;
using v1::FROM_CONF;
using v1::FROM_QEMU;
using v1::FROM_NET;
using v1::FROM_TEST;
using v1::FROM_REMOTE;
using v1::FROM_OPENVZ;
using v1::FROM_XENXM;
using v1::FROM_STATS_LINUX;
using v1::FROM_LXC;
using v1::FROM_STORAGE;
using v1::FROM_NETWORK;
using v1::FROM_DOMAIN;
using v1::FROM_UML;
using v1::FROM_NODEDEV;
using v1::FROM_XEN_INOTIFY;
using v1::FROM_SECURITY;
using v1::FROM_VBOX;
using v1::FROM_INTERFACE;
using v1::FROM_ONE;
using v1::FROM_ESX;
using v1::FROM_PHYP;
using v1::FROM_SECRET;
using v1::FROM_CPU;
using v1::FROM_XENAPI;
using v1::FROM_NWFILTER;
using v1::FROM_HOOK;
using v1::FROM_DOMAIN_SNAPSHOT;
using v1::FROM_AUDIT;
using v1::FROM_SYSINFO;
using v1::FROM_STREAMS;
using v1::FROM_VMWARE;
using v1::FROM_EVENT;
using v1::FROM_LIBXL;
using v1::FROM_LOCKING;
using v1::FROM_HYPERV;
using v1::FROM_CAPABILITIES;
using v1::FROM_URI;
using v1::FROM_AUTH;
using v1::FROM_DBUS;
using v1::FROM_PARALLELS;
using v1::FROM_DEVICE;
using v1::FROM_SSH;
using v1::FROM_LOCKSPACE;
using v1::FROM_INITCTL;
using v1::FROM_IDENTITY;
using v1::FROM_CGROUP;
using v1::FROM_ACCESS;
using v1::FROM_SYSTEMD;
using v1::FROM_BHYVE;
using v1::FROM_CRYPTO;
using v1::FROM_FIREWALL;
using v1::FROM_POLKIT;
using v1::FROM_THREAD;
using v1::FROM_ADMIN;
using v1::FROM_LOGGING;
using v1::FROM_XENXL;
using v1::FROM_PERF;
using v1::FROM_LIBSSH;
using v1::FROM_RESCTRL;
using v1::FROM_FIREWALLD;
using v1::FROM_DOMAIN_CHECKPOINT;
using v1::FROM_TPM;
using v1::FROM_BPF;
using v1::FROM_CH;

// TypedParameterType, with libvirt's numbers; the contract's comments say what each means.
using v1::TypedParameterType;
using v1::TYPED_PARAM_NONE;
using v1::TYPED_PARAM_INT;
using v1::TYPED_PARAM_UINT;
using v1::TYPED_PARAM_LLONG;
using v1::TYPED_PARAM_ULLONG;
using v1::TYPED_PARAM_DOUBLE;
using v1::TYPED_PARAM_BOOLEAN;
using v1::TYPED_PARAM_STRING;

// DomainState, with libvirt's numbers; the contract's comments say what each means.
using v1::DomainState;
using v1::DOMAIN_NOSTATE;
using v1::DOMAIN_RUNNING;
using v1::DOMAIN_BLOCKED;
using v1::DOMAIN_PAUSED;
using v1::DOMAIN_SHUTDOWN;
using v1::DOMAIN_SHUTOFF;
using v1::DOMAIN_CRASHED;
using v1::DOMAIN_PMSUSPENDED;

// DomainModificationImpact, with libvirt's numbers; the contract's comments say what each means.
inline constexpr std::uint32_t DOMAIN_AFFECT_CURRENT = 0;
inline constexpr std::uint32_t DOMAIN_AFFECT_LIVE = 1;
inline constexpr std::uint32_t DOMAIN_AFFECT_CONFIG = 2;

// DomainDeviceModifyFlags, with libvirt's numbers; the contract's comments say what each means.
inline constexpr std::uint32_t DOMAIN_DEVICE_MODIFY_CURRENT = 0;
inline constexpr std::uint32_t DOMAIN_DEVICE_MODIFY_LIVE = 1;
inline constexpr std::uint32_t DOMAIN_DEVICE_MODIFY_CONFIG = 2;
inline constexpr std::uint32_t DOMAIN_DEVICE_MODIFY_FORCE = 4;

// DomainCreateFlags, with libvirt's numbers; the contract's comments say what each means.
inline constexpr std::uint32_t DOMAIN_NONE = 0;
inline constexpr std::uint32_t DOMAIN_START_PAUSED = 1;
inline constexpr std::uint32_t DOMAIN_START_AUTODESTROY = 2;
inline constexpr std::uint32_t DOMAIN_START_BYPASS_CACHE = 4;
inline constexpr std::uint32_t DOMAIN_START_FORCE_BOOT = 8;
inline constexpr std::uint32_t DOMAIN_START_VALIDATE = 16;
inline constexpr std::uint32_t DOMAIN_START_RESET_NVRAM = 32;

// DomainDestroyFlags, with libvirt's numbers; the contract's comments say what each means.
inline constexpr std::uint32_t DOMAIN_DESTROY_DEFAULT = 0;
inline constexpr std::uint32_t DOMAIN_DESTROY_GRACEFUL = 1;
inline constexpr std::uint32_t DOMAIN_DESTROY_REMOVE_LOGS = 2;

// DomainSaveRestoreFlags, with libvirt's numbers; the contract's comments say what each means.
inline constexpr std::uint32_t DOMAIN_SAVE_NONE = 0;
inline constexpr std::uint32_t DOMAIN_SAVE_BYPASS_CACHE = 1;
inline constexpr std::uint32_t DOMAIN_SAVE_RUNNING = 2;
inline constexpr std::uint32_t DOMAIN_SAVE_PAUSED = 4;
inline constexpr std::uint32_t DOMAIN_SAVE_RESET_NVRAM = 8;

// DomainXmlFlags, with libvirt's numbers; the contract's comments say what each means.
inline constexpr std::uint32_t DOMAIN_XML_NONE = 0;
inline constexpr std::uint32_t DOMAIN_XML_SECURE = 1;
inline constexpr std::uint32_t DOMAIN_XML_INACTIVE = 2;
inline constexpr std::uint32_t DOMAIN_XML_UPDATE_CPU = 4;
inline constexpr std::uint32_t DOMAIN_XML_MIGRATABLE = 8;

// BlockResizeFlags, with libvirt's numbers; the contract's comments say what each means.
inline constexpr std::uint32_t DOMAIN_BLOCK_RESIZE_NONE = 0;
inline constexpr std::uint32_t DOMAIN_BLOCK_RESIZE_BYTES = 1;

// DomainDefineFlags, with libvirt's numbers; the contract's comments say what each means.
inline constexpr std::uint32_t DOMAIN_DEFINE_NONE = 0;
inline constexpr std::uint32_t DOMAIN_DEFINE_VALIDATE = 1;

// DomainUndefineFlags, with libvirt's numbers; the contract's comments say what each means.
inline constexpr std::uint32_t DOMAIN_UNDEFINE_NONE = 0;
inline constexpr std::uint32_t DOMAIN_UNDEFINE_MANAGED_SAVE = 1;
inline constexpr std::uint32_t DOMAIN_UNDEFINE_SNAPSHOTS_METADATA = 2;
inline constexpr std::uint32_t DOMAIN_UNDEFINE_NVRAM = 4;
inline constexpr std::uint32_t DOMAIN_UNDEFINE_KEEP_NVRAM = 8;
inline constexpr std::uint32_t DOMAIN_UNDEFINE_CHECKPOINTS_METADATA = 16;
inline constexpr std::uint32_t DOMAIN_UNDEFINE_TPM = 32;
inline constexpr std::uint32_t DOMAIN_UNDEFINE_KEEP_TPM = 64;

// DomainListFlags, with libvirt's numbers; the contract's comments say what each means.
inline constexpr std::uint32_t CONNECT_LIST_DOMAINS_NONE = 0;
inline constexpr std::uint32_t CONNECT_LIST_DOMAINS_ACTIVE = 1;
inline constexpr std::uint32_t CONNECT_LIST_DOMAINS_INACTIVE = 2;
inline constexpr std::uint32_t CONNECT_LIST_DOMAINS_PERSISTENT = 4;
inline constexpr std::uint32_t CONNECT_LIST_DOMAINS_TRANSIENT = 8;
inline constexpr std::uint32_t CONNECT_LIST_DOMAINS_RUNNING = 16;
inline constexpr std::uint32_t CONNECT_LIST_DOMAINS_PAUSED = 32;
inline constexpr std::uint32_t CONNECT_LIST_DOMAINS_SHUTOFF = 64;
inline constexpr std::uint32_t CONNECT_LIST_DOMAINS_OTHER = 128;
inline constexpr std::uint32_t CONNECT_LIST_DOMAINS_MANAGEDSAVE = 256;
inline constexpr std::uint32_t CONNECT_LIST_DOMAINS_NO_MANAGEDSAVE = 512;
inline constexpr std::uint32_t CONNECT_LIST_DOMAINS_AUTOSTART = 1024;
inline constexpr std::uint32_t CONNECT_LIST_DOMAINS_NO_AUTOSTART = 2048;
inline constexpr std::uint32_t CONNECT_LIST_DOMAINS_HAS_SNAPSHOT = 4096;
inline constexpr std::uint32_t CONNECT_LIST_DOMAINS_NO_SNAPSHOT = 8192;
inline constexpr std::uint32_t CONNECT_LIST_DOMAINS_HAS_CHECKPOINT = 16384;
inline constexpr std::uint32_t CONNECT_LIST_DOMAINS_NO_CHECKPOINT = 32768;

// BlockJobType, with libvirt's numbers; the contract's comments say what each means.
using v1::BlockJobType;
using v1::DOMAIN_BLOCK_JOB_TYPE_UNKNOWN;
using v1::DOMAIN_BLOCK_JOB_TYPE_PULL;
using v1::DOMAIN_BLOCK_JOB_TYPE_COPY;
using v1::DOMAIN_BLOCK_JOB_TYPE_COMMIT;
using v1::DOMAIN_BLOCK_JOB_TYPE_ACTIVE_COMMIT;
using v1::DOMAIN_BLOCK_JOB_TYPE_BACKUP;

// BlockJobStatus, with libvirt's numbers; the contract's comments say what each means.
using v1::BlockJobStatus;
using v1::DOMAIN_BLOCK_JOB_COMPLETED;
using v1::DOMAIN_BLOCK_JOB_FAILED;
using v1::DOMAIN_BLOCK_JOB_CANCELED;
using v1::DOMAIN_BLOCK_JOB_READY;

// BlockJobAbortFlags, with libvirt's numbers; the contract's comments say what each means.
inline constexpr std::uint32_t DOMAIN_BLOCK_JOB_ABORT_NONE = 0;
inline constexpr std::uint32_t DOMAIN_BLOCK_JOB_ABORT_ASYNC = 1;
inline constexpr std::uint32_t DOMAIN_BLOCK_JOB_ABORT_PIVOT = 2;

// BlockJobInfoFlags, with libvirt's numbers; the contract's comments say what each means.
inline constexpr std::uint32_t DOMAIN_BLOCK_JOB_INFO_NONE = 0;
inline constexpr std::uint32_t DOMAIN_BLOCK_JOB_INFO_BANDWIDTH_BYTES = 1;

// BlockJobSetSpeedFlags, with libvirt's numbers; the contract's comments say what each means.
inline constexpr std::uint32_t DOMAIN_BLOCK_JOB_SPEED_NONE = 0;
inline constexpr std::uint32_t DOMAIN_BLOCK_JOB_SPEED_BANDWIDTH_BYTES = 1;

// BlockPullFlags, with libvirt's numbers; the contract's comments say what each means.
inline constexpr std::uint32_t DOMAIN_BLOCK_PULL_NONE = 0;
inline constexpr std::uint32_t DOMAIN_BLOCK_PULL_BANDWIDTH_BYTES = 64;

// BlockRebaseFlags, with libvirt's numbers; the contract's comments say what each means.
inline constexpr std::uint32_t DOMAIN_BLOCK_REBASE_NONE = 0;
inline constexpr std::uint32_t DOMAIN_BLOCK_REBASE_SHALLOW = 1;
inline constexpr std::uint32_t DOMAIN_BLOCK_REBASE_REUSE_EXT = 2;
inline constexpr std::uint32_t DOMAIN_BLOCK_REBASE_COPY_RAW = 4;
inline constexpr std::uint32_t DOMAIN_BLOCK_REBASE_COPY = 8;
inline constexpr std::uint32_t DOMAIN_BLOCK_REBASE_RELATIVE = 16;
inline constexpr std::uint32_t DOMAIN_BLOCK_REBASE_COPY_DEV = 32;
inline constexpr std::uint32_t DOMAIN_BLOCK_REBASE_BANDWIDTH_BYTES = 64;

// BlockCopyFlags, with libvirt's numbers; the contract's comments say what each means.
inline constexpr std::uint32_t DOMAIN_BLOCK_COPY_NONE = 0;
inline constexpr std::uint32_t DOMAIN_BLOCK_COPY_SHALLOW = 1;
inline constexpr std::uint32_t DOMAIN_BLOCK_COPY_REUSE_EXT = 2;
inline constexpr std::uint32_t DOMAIN_BLOCK_COPY_TRANSIENT_JOB = 4;
inline constexpr std::uint32_t DOMAIN_BLOCK_COPY_SYNCHRONOUS_WRITES = 8;
inline constexpr std::uint32_t DOMAIN_BLOCK_COPY_TARGET_ZEROED = 16;

// BlockCommitFlags, with libvirt's numbers; the contract's comments say what each means.
inline constexpr std::uint32_t DOMAIN_BLOCK_COMMIT_NONE = 0;
inline constexpr std::uint32_t DOMAIN_BLOCK_COMMIT_SHALLOW = 1;
inline constexpr std::uint32_t DOMAIN_BLOCK_COMMIT_DELETE = 2;
inline constexpr std::uint32_t DOMAIN_BLOCK_COMMIT_ACTIVE = 4;
inline constexpr std::uint32_t DOMAIN_BLOCK_COMMIT_RELATIVE = 8;
inline constexpr std::uint32_t DOMAIN_BLOCK_COMMIT_BANDWIDTH_BYTES = 16;

// DomainSnapshotCreateFlags, with libvirt's numbers; the contract's comments say what each means.
inline constexpr std::uint32_t DOMAIN_SNAPSHOT_CREATE_NONE = 0;
inline constexpr std::uint32_t DOMAIN_SNAPSHOT_CREATE_REDEFINE = 1;
inline constexpr std::uint32_t DOMAIN_SNAPSHOT_CREATE_CURRENT = 2;
inline constexpr std::uint32_t DOMAIN_SNAPSHOT_CREATE_NO_METADATA = 4;
inline constexpr std::uint32_t DOMAIN_SNAPSHOT_CREATE_HALT = 8;
inline constexpr std::uint32_t DOMAIN_SNAPSHOT_CREATE_DISK_ONLY = 16;
inline constexpr std::uint32_t DOMAIN_SNAPSHOT_CREATE_REUSE_EXT = 32;
inline constexpr std::uint32_t DOMAIN_SNAPSHOT_CREATE_QUIESCE = 64;
inline constexpr std::uint32_t DOMAIN_SNAPSHOT_CREATE_ATOMIC = 128;
inline constexpr std::uint32_t DOMAIN_SNAPSHOT_CREATE_LIVE = 256;
inline constexpr std::uint32_t DOMAIN_SNAPSHOT_CREATE_VALIDATE = 512;

// SnapshotRevertFlags, with libvirt's numbers; the contract's comments say what each means.
inline constexpr std::uint32_t DOMAIN_SNAPSHOT_REVERT_NONE = 0;
inline constexpr std::uint32_t DOMAIN_SNAPSHOT_REVERT_RUNNING = 1;
inline constexpr std::uint32_t DOMAIN_SNAPSHOT_REVERT_PAUSED = 2;
inline constexpr std::uint32_t DOMAIN_SNAPSHOT_REVERT_FORCE = 4;
inline constexpr std::uint32_t DOMAIN_SNAPSHOT_REVERT_RESET_NVRAM = 8;

// DomainEventId, with libvirt's numbers; the contract's comments say what each means.
using v1::DomainEventId;
using v1::DOMAIN_EVENT_ID_LIFECYCLE;
using v1::DOMAIN_EVENT_ID_REBOOT;
using v1::DOMAIN_EVENT_ID_RTC_CHANGE;
using v1::DOMAIN_EVENT_ID_WATCHDOG;
using v1::DOMAIN_EVENT_ID_IO_ERROR;
using v1::DOMAIN_EVENT_ID_GRAPHICS;
using v1::DOMAIN_EVENT_ID_IO_ERROR_REASON;
using v1::DOMAIN_EVENT_ID_CONTROL_ERROR;
using v1::DOMAIN_EVENT_ID_BLOCK_JOB;
using v1::DOMAIN_EVENT_ID_DISK_CHANGE;
using v1::DOMAIN_EVENT_ID_TRAY_CHANGE;
using v1::DOMAIN_EVENT_ID_PMWAKEUP;
using v1::DOMAIN_EVENT_ID_PMSUSPEND;
using v1::DOMAIN_EVENT_ID_BALLOON_CHANGE;
using v1::DOMAIN_EVENT_ID_PMSUSPEND_DISK;
using v1::DOMAIN_EVENT_ID_DEVICE_REMOVED;
using v1::DOMAIN_EVENT_ID_BLOCK_JOB_2;
using v1::DOMAIN_EVENT_ID_TUNABLE;
using v1::DOMAIN_EVENT_ID_AGENT_LIFECYCLE;
using v1::DOMAIN_EVENT_ID_DEVICE_ADDED;
using v1::DOMAIN_EVENT_ID_MIGRATION_ITERATION;
using v1::DOMAIN_EVENT_ID_JOB_COMPLETED;
using v1::DOMAIN_EVENT_ID_DEVICE_REMOVAL_FAILED;
using v1::DOMAIN_EVENT_ID_METADATA_CHANGE;
using v1::DOMAIN_EVENT_ID_BLOCK_THRESHOLD;
using v1::DOMAIN_EVENT_ID_MEMORY_FAILURE;
using v1::DOMAIN_EVENT_ID_MEMORY_DEVICE_SIZE_CHANGE;

// DomainEventType, with libvirt's numbers; the contract's comments say what each means.
using v1::DomainEventType;
using v1::DOMAIN_EVENT_DEFINED;
using v1::DOMAIN_EVENT_UNDEFINED;
using v1::DOMAIN_EVENT_STARTED;
using v1::DOMAIN_EVENT_SUSPENDED;
using v1::DOMAIN_EVENT_RESUMED;
using v1::DOMAIN_EVENT_STOPPED;
using v1::DOMAIN_EVENT_SHUTDOWN;
using v1::DOMAIN_EVENT_PMSUSPENDED;
using v1::DOMAIN_EVENT_CRASHED;

// DomainEventDefinedDetailType, with libvirt's numbers; the contract's comments say what each means.
using v1::DomainEventDefinedDetailType;
using v1::DOMAIN_EVENT_DEFINED_ADDED;
using v1::DOMAIN_EVENT_DEFINED_UPDATED;
using v1::DOMAIN_EVENT_DEFINED_RENAMED;
using v1::DOMAIN_EVENT_DEFINED_FROM_SNAPSHOT;

// DomainEventUndefinedDetailType, with libvirt's numbers; the contract's comments say what each means.
using v1::DomainEventUndefinedDetailType;
using v1::DOMAIN_EVENT_UNDEFINED_REMOVED;
using v1::DOMAIN_EVENT_UNDEFINED_RENAMED;

// DomainEventStartedDetailType, with libvirt's numbers; the contract's comments say what each means.
using v1::DomainEventStartedDetailType;
using v1::DOMAIN_EVENT_STARTED_BOOTED;
using v1::DOMAIN_EVENT_STARTED_MIGRATED;
using v1::DOMAIN_EVENT_STARTED_RESTORED;
using v1::DOMAIN_EVENT_STARTED_FROM_SNAPSHOT;
using v1::DOMAIN_EVENT_STARTED_WAKEUP;

// DomainEventSuspendedDetailType, with libvirt's numbers; the contract's comments say what each means.
using v1::DomainEventSuspendedDetailType;
using v1::DOMAIN_EVENT_SUSPENDED_PAUSED;
using v1::DOMAIN_EVENT_SUSPENDED_MIGRATED;
using v1::DOMAIN_EVENT_SUSPENDED_IOERROR;
using v1::DOMAIN_EVENT_SUSPENDED_WATCHDOG;
using v1::DOMAIN_EVENT_SUSPENDED_RESTORED;
using v1::DOMAIN_EVENT_SUSPENDED_FROM_SNAPSHOT;
using v1::DOMAIN_EVENT_SUSPENDED_API_ERROR;
using v1::DOMAIN_EVENT_SUSPENDED_POSTCOPY;
using v1::DOMAIN_EVENT_SUSPENDED_POSTCOPY_FAILED;

// DomainEventResumedDetailType, with libvirt's numbers; the contract's comments say what each means.
using v1::DomainEventResumedDetailType;
using v1::DOMAIN_EVENT_RESUMED_UNPAUSED;
using v1::DOMAIN_EVENT_RESUMED_MIGRATED;
using v1::DOMAIN_EVENT_RESUMED_FROM_SNAPSHOT;
using v1::DOMAIN_EVENT_RESUMED_POSTCOPY;
using v1::DOMAIN_EVENT_RESUMED_POSTCOPY_FAILED;

// DomainEventStoppedDetailType, with libvirt's numbers; the contract's comments say what each means.
using v1::DomainEventStoppedDetailType;
using v1::DOMAIN_EVENT_STOPPED_SHUTDOWN;
using v1::DOMAIN_EVENT_STOPPED_DESTROYED;
using v1::DOMAIN_EVENT_STOPPED_CRASHED;
using v1::DOMAIN_EVENT_STOPPED_MIGRATED;
using v1::DOMAIN_EVENT_STOPPED_SAVED;
using v1::DOMAIN_EVENT_STOPPED_FAILED;
using v1::DOMAIN_EVENT_STOPPED_FROM_SNAPSHOT;

// DomainEventShutdownDetailType, with libvirt's numbers; the contract's comments say what each means.
using v1::DomainEventShutdownDetailType;
using v1::DOMAIN_EVENT_SHUTDOWN_FINISHED;
using v1::DOMAIN_EVENT_SHUTDOWN_GUEST;
using v1::DOMAIN_EVENT_SHUTDOWN_HOST;

// DomainEventPmsuspendedDetailType, with libvirt's numbers; the contract's comments say what each means.
using v1::DomainEventPmsuspendedDetailType;
using v1::DOMAIN_EVENT_PMSUSPENDED_MEMORY;
using v1::DOMAIN_EVENT_PMSUSPENDED_DISK;

// DomainEventCrashedDetailType, with libvirt's numbers; the contract's comments say what each means.
using v1::DomainEventCrashedDetailType;
using v1::DOMAIN_EVENT_CRASHED_PANICKED;
using v1::DOMAIN_EVENT_CRASHED_CRASHLOADED;

/// Failures that libvirt cannot have, as Error::reason() tells them.
namespace reason {
/// OUT_OF_RANGE, ERR_OVERFLOW: events after the resume token are no longer all kept. Begin without a token, with a snapshot.
inline constexpr char COMPACTED[] = "COMPACTED";
/// RESOURCE_EXHAUSTED, ERR_RESOURCE_BUSY: the reader of a stream fell too far behind. Open it again with the last resume token.
inline constexpr char SLOW_READER[] = "SLOW_READER";
/// NOT_FOUND, ERR_INVALID_ARG: the server holds no job of this id. Do not retry.
inline constexpr char BLOCK_JOB_NOT_FOUND[] = "BLOCK_JOB_NOT_FOUND";
/// ALREADY_EXISTS, ERR_INVALID_ARG: the request_id was used before, with different arguments. Choose another one.
inline constexpr char REQUEST_ID_REUSED[] = "REQUEST_ID_REUSED";
}  // namespace reason

}  // namespace virtblock
