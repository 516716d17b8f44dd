// SPDX-License-Identifier: Apache-2.0
// Made by clients/cpp/generate.py from proto/virtblock/v1. Do not edit.
#pragma once

#include <cstdint>

#include "virtblock/v1/libvirt_enums.pb.h"

namespace virtblock {

/// What went wrong (virErrorNumber), in each of libvirt's own meanings.
using v1::ErrorNumber;
/// No error.
using v1::ERR_OK;
/// Something failed inside libvirt, the hypervisor or the server.
using v1::ERR_INTERNAL_ERROR;
/// Memory ran out.
using v1::ERR_NO_MEMORY;
/// The connection's driver lacks this call.
using v1::ERR_NO_SUPPORT;
/// A host name has no address.
using v1::ERR_UNKNOWN_HOST;
/// The hypervisor cannot be reached.
using v1::ERR_NO_CONNECT;
/// The connection is not a valid one.
using v1::ERR_INVALID_CONN;
/// The domain is not a valid one.
using v1::ERR_INVALID_DOMAIN;
/// An argument is wrong.
using v1::ERR_INVALID_ARG;
/// The operation was tried and failed.
using v1::ERR_OPERATION_FAILED;
/// An HTTP GET failed.
using v1::ERR_GET_FAILED;
/// An HTTP POST failed.
using v1::ERR_POST_FAILED;
/// An HTTP answer was not expected.
using v1::ERR_HTTP_ERROR;
/// An S-expression could not be written.
using v1::ERR_SEXPR_SERIAL;
/// Xen's control interface could not be opened.
using v1::ERR_NO_XEN;
/// A Xen call failed.
using v1::ERR_XEN_CALL;
/// The type of guest system is not known.
using v1::ERR_OS_TYPE;
/// The XML names no kernel.
using v1::ERR_NO_KERNEL;
/// The XML names no root device.
using v1::ERR_NO_ROOT;
/// A device has no source.
using v1::ERR_NO_SOURCE;
/// A device has no target.
using v1::ERR_NO_TARGET;
/// The XML gives no name.
using v1::ERR_NO_NAME;
/// The XML gives no guest system.
using v1::ERR_NO_OS;
/// The XML gives no devices.
using v1::ERR_NO_DEVICE;
/// Xen's store could not be opened.
using v1::ERR_NO_XENSTORE;
/// There are too many drivers.
using v1::ERR_DRIVER_FULL;
/// A call of the driver is not supported.
using v1::ERR_CALL_FAILED;
/// The XML does not describe what it should.
using v1::ERR_XML_ERROR;
/// The domain exists already.
using v1::ERR_DOM_EXIST;
/// The connection is read-only.
using v1::ERR_OPERATION_DENIED;
/// A configuration file could not be opened.
using v1::ERR_OPEN_FAILED;
/// A configuration file could not be read.
using v1::ERR_READ_FAILED;
/// A configuration file could not be parsed.
using v1::ERR_PARSE_FAILED;
/// A configuration file has a mistake in its syntax.
using v1::ERR_CONF_SYNTAX;
/// A configuration file could not be written.
using v1::ERR_WRITE_FAILED;
/// The XML is not well formed; the message says where.
using v1::ERR_XML_DETAIL;
/// The network is not a valid one.
using v1::ERR_INVALID_NETWORK;
/// The network exists already.
using v1::ERR_NETWORK_EXIST;
/// A system call failed; int1 is its errno.
using v1::ERR_SYSTEM_ERROR;
/// The wire to libvirt failed.
using v1::ERR_RPC;
/// TLS failed.
using v1::ERR_GNUTLS_ERROR;
/// The network driver did not start.
using v1::WAR_NO_NETWORK;
/// There is no such domain.
using v1::ERR_NO_DOMAIN;
/// There is no such network.
using v1::ERR_NO_NETWORK;
/// The MAC address is not a valid one.
using v1::ERR_INVALID_MAC;
/// Authentication failed.
using v1::ERR_AUTH_FAILED;
/// The storage pool is not a valid one.
using v1::ERR_INVALID_STORAGE_POOL;
/// The storage volume is not a valid one.
using v1::ERR_INVALID_STORAGE_VOL;
/// The storage driver did not start.
using v1::WAR_NO_STORAGE;
/// There is no such storage pool.
using v1::ERR_NO_STORAGE_POOL;
/// There is no such storage volume.
using v1::ERR_NO_STORAGE_VOL;
/// The node device driver did not start.
using v1::WAR_NO_NODE;
/// The node device is not a valid one.
using v1::ERR_INVALID_NODE_DEVICE;
/// There is no such node device.
using v1::ERR_NO_NODE_DEVICE;
/// The security model is not known.
using v1::ERR_NO_SECURITY_MODEL;
/// The operation does not fit the present state.
using v1::ERR_OPERATION_INVALID;
/// The interface driver did not start.
using v1::WAR_NO_INTERFACE;
/// There is no such interface.
using v1::ERR_NO_INTERFACE;
/// The interface is not a valid one.
using v1::ERR_INVALID_INTERFACE;
/// More than one interface fits.
using v1::ERR_MULTIPLE_INTERFACES;
/// The network filter driver did not start.
using v1::WAR_NO_NWFILTER;
/// The network filter is not a valid one.
using v1::ERR_INVALID_NWFILTER;
/// There is no such network filter.
using v1::ERR_NO_NWFILTER;
/// A firewall rule could not be made.
using v1::ERR_BUILD_FIREWALL;
/// The secret driver did not start.
using v1::WAR_NO_SECRET;
/// The secret is not a valid one.
using v1::ERR_INVALID_SECRET;
/// There is no such secret.
using v1::ERR_NO_SECRET;
/// The configuration asks for what is not supported.
using v1::ERR_CONFIG_UNSUPPORTED;
/// The operation took too long, as waiting for another one on the same domain.
using v1::ERR_OPERATION_TIMEOUT;
/// After a migration the definition could not be kept.
using v1::ERR_MIGRATE_PERSIST_FAILED;
/// A hook script failed.
using v1::ERR_HOOK_SCRIPT_FAILED;
/// The snapshot is not a valid one.
using v1::ERR_INVALID_DOMAIN_SNAPSHOT;
/// There is no such snapshot.
using v1::ERR_NO_DOMAIN_SNAPSHOT;
/// The stream is not a valid one.
using v1::ERR_INVALID_STREAM;
/// An argument is right but not supported.
using v1::ERR_ARGUMENT_UNSUPPORTED;
/// The format of storage could not be recognised.
using v1::ERR_STORAGE_PROBE_FAILED;
/// The storage pool was built before.
using v1::ERR_STORAGE_POOL_BUILT;
/// Going back to the snapshot may lose something; it needs force.
using v1::ERR_SNAPSHOT_REVERT_RISKY;
/// The operation was ended on request.
using v1::ERR_OPERATION_ABORTED;
/// Authentication was cancelled.
using v1::ERR_AUTH_CANCELLED;
/// The domain has no such metadata.
using v1::ERR_NO_DOMAIN_METADATA;
/// The migration may harm data.
using v1::ERR_MIGRATE_UNSAFE;
/// A number is too large.
using v1::ERR_OVERFLOW;
/// A block job is in the way, or is not READY for a pivot.
using v1::ERR_BLOCK_COPY_ACTIVE;
/// The operation is not supported on this object.
using v1::ERR_OPERATION_UNSUPPORTED;
/// SSH failed.
using v1::ERR_SSH;
/// The guest agent does not answer.
using v1::ERR_AGENT_UNRESPONSIVE;
/// Another user holds the resource.
using v1::ERR_RESOURCE_BUSY;
/// An access rule forbids it.
using v1::ERR_ACCESS_DENIED;
/// A D-Bus service failed.
using v1::ERR_DBUS_SERVICE;
/// The storage volume exists already.
using v1::ERR_STORAGE_VOL_EXIST;
/// The processors are not compatible.
using v1::ERR_CPU_INCOMPATIBLE;
/// The XML does not follow its schema.
using v1::ERR_XML_INVALID_SCHEMA;
/// The migration's last step succeeded in spite of an error.
using v1::ERR_MIGRATE_FINISH_OK;
/// Authentication cannot be had.
using v1::ERR_AUTH_UNAVAILABLE;
/// There is no such server inside the daemon.
using v1::ERR_NO_SERVER;
/// There is no such client of the daemon.
using v1::ERR_NO_CLIENT;
/// The guest agent answered out of step.
using v1::ERR_AGENT_UNSYNCED;
/// libssh failed.
using v1::ERR_LIBSSH;
/// The domain has no such device.
using v1::ERR_DEVICE_MISSING;
/// The network filter binding is not a valid one.
using v1::ERR_INVALID_NWFILTER_BINDING;
/// There is no such network filter binding.
using v1::ERR_NO_NWFILTER_BINDING;
/// The checkpoint is not a valid one.
using v1::ERR_INVALID_DOMAIN_CHECKPOINT;
/// There is no such checkpoint.
using v1::ERR_NO_DOMAIN_CHECKPOINT;
/// There is no such backup job.
using v1::ERR_NO_DOMAIN_BACKUP;
/// The network port is not a valid one.
using v1::ERR_INVALID_NETWORK_PORT;
/// The network port exists already.
using v1::ERR_NETWORK_PORT_EXIST;
/// There is no such network port.
using v1::ERR_NO_NETWORK_PORT;
/// The guest's host name cannot be found.
using v1::ERR_NO_HOSTNAME;
/// A checkpoint's data cannot be trusted.
using v1::ERR_CHECKPOINT_INCONSISTENT;
/// More than one domain fits.
using v1::ERR_MULTIPLE_DOMAINS;

/// How grave an error is (virErrorLevel).
using v1::ErrorLevel;
/// No error.
using v1::ERR_NONE;
/// A warning: the call went on.
using v1::ERR_WARNING;
/// An error: the call failed.
using v1::ERR_ERROR;

/// Which part found an error (virErrorDomain).
using v1::ErrorDomain;
/// No part in particular; checks of typed parameters.
using v1::FROM_NONE;
/// Xen driver.
using v1::FROM_XEN;
/// Xen's old daemon.
using v1::FROM_XEND;
/// Xen's store.
using v1::FROM_XENSTORE;
/// S-expressions.
using v1::FROM_SEXPR;
/// XML.
using v1::FROM_XML;
/// Handles of domains.
using v1::FROM_DOM;
/// Wire protocol.
using v1::FROM_RPC;
/// Old Xen proxy.
using v1::FROM_PROXY;
/// Configuration files.
using v1::FROM_CONF;
/// QEMU driver.
using v1::FROM_QEMU;
/// Old network code.
using v1::FROM_NET;
/// Test driver.
using v1::FROM_TEST;
/// Remote driver.
using v1::FROM_REMOTE;
/// OpenVZ driver.
using v1::FROM_OPENVZ;
/// Xen's XM files.
using v1::FROM_XENXM;
/// Statistics on Linux.
using v1::FROM_STATS_LINUX;
/// LXC driver.
using v1::FROM_LXC;
/// Storage and backing chains.
using v1::FROM_STORAGE;
/// Network driver.
using v1::FROM_NETWORK;
/// Domains in general; checks of arguments.
using v1::FROM_DOMAIN;
/// User Mode Linux driver.
using v1::FROM_UML;
/// Node devices.
using v1::FROM_NODEDEV;
/// Xen's watch of files.
using v1::FROM_XEN_INOTIFY;
/// Security labels.
using v1::FROM_SECURITY;
/// VirtualBox driver.
using v1::FROM_VBOX;
/// Host interfaces.
using v1::FROM_INTERFACE;
/// Old OpenNebula driver.
using v1::FROM_ONE;
/// ESX driver.
using v1::FROM_ESX;
/// Power hypervisor driver.
using v1::FROM_PHYP;
/// Secrets.
using v1::FROM_SECRET;
/// Processor models.
using v1::FROM_CPU;
/// XenAPI driver.
using v1::FROM_XENAPI;
/// Network filters.
using v1::FROM_NWFILTER;
/// Hook scripts.
using v1::FROM_HOOK;
/// Snapshots.
using v1::FROM_DOMAIN_SNAPSHOT;
/// Audit log.
using v1::FROM_AUDIT;
/// System information.
using v1::FROM_SYSINFO;
/// Streams.
using v1::FROM_STREAMS;
/// VMware driver.
using v1::FROM_VMWARE;
/// Event loop.
using v1::FROM_EVENT;
/// libxl driver.
using v1::FROM_LIBXL;
/// Lock managers.
using v1::FROM_LOCKING;
/// Hyper-V driver.
using v1::FROM_HYPERV;
/// Capabilities.
using v1::FROM_CAPABILITIES;
/// URIs.
using v1::FROM_URI;
/// Authentication.
using v1::FROM_AUTH;
/// D-Bus.
using v1::FROM_DBUS;
/// Parallels driver.
using v1::FROM_PARALLELS;
/// Devices.
using v1::FROM_DEVICE;
/// SSH.
using v1::FROM_SSH;
/// Lock spaces.
using v1::FROM_LOCKSPACE;
/// Control of init.
using v1::FROM_INITCTL;
/// Identities of callers.
using v1::FROM_IDENTITY;
/// Control groups.
using v1::FROM_CGROUP;
/// Access rules.
using v1::FROM_ACCESS;
/// systemd.
using v1::FROM_SYSTEMD;
/// bhyve driver.
using v1::FROM_BHYVE;
/// Cryptography.
using v1::FROM_CRYPTO;
/// Firewall.
using v1::FROM_FIREWALL;
/// polkit.
using v1::FROM_POLKIT;
/// Threads.
using v1::FROM_THREAD;
/// Administration of the daemon.
using v1::FROM_ADMIN;
/// Log daemon.
using v1::FROM_LOGGING;
/// Xen's XL files.
using v1::FROM_XENXL;
/// Performance counters.
using v1::FROM_PERF;
/// libssh.
using v1::FROM_LIBSSH;
/// Resource control.
using v1::FROM_RESCTRL;
/// firewalld.
using v1::FROM_FIREWALLD;
/// Checkpoints.
using v1::FROM_DOMAIN_CHECKPOINT;
/// Trusted platform modules.
using v1::FROM_TPM;
/// BPF.
using v1::FROM_BPF;
/// Cloud Hypervisor driver.
using v1::FROM_CH;

/// Types of a typed parameter (virTypedParameterType).
using v1::TypedParameterType;
/// No type; libvirt has no zero here.
using v1::TYPED_PARAM_NONE;
/// Signed, 32 bits.
using v1::TYPED_PARAM_INT;
/// Unsigned, 32 bits.
using v1::TYPED_PARAM_UINT;
/// Signed, 64 bits.
using v1::TYPED_PARAM_LLONG;
/// Unsigned, 64 bits.
using v1::TYPED_PARAM_ULLONG;
/// Floating point, 64 bits.
using v1::TYPED_PARAM_DOUBLE;
/// Truth value.
using v1::TYPED_PARAM_BOOLEAN;
/// Text.
using v1::TYPED_PARAM_STRING;

/// State of a domain (virDomainState).
using v1::DomainState;
/// Not known.
using v1::DOMAIN_NOSTATE;
/// Running.
using v1::DOMAIN_RUNNING;
/// Waiting for a resource.
using v1::DOMAIN_BLOCKED;
/// Paused.
using v1::DOMAIN_PAUSED;
/// Shutting down.
using v1::DOMAIN_SHUTDOWN;
/// Shut off.
using v1::DOMAIN_SHUTOFF;
/// Crashed.
using v1::DOMAIN_CRASHED;
/// Suspended by the guest's own power management.
using v1::DOMAIN_PMSUSPENDED;

/// What a change reaches (virDomainModificationImpact).
using v1::DomainModificationImpact;
/// The domain as it is now: live if active, else its definition.
inline constexpr std::uint32_t DOMAIN_AFFECT_CURRENT = 0;
/// The running instance.
inline constexpr std::uint32_t DOMAIN_AFFECT_LIVE = 1;
/// The definition.
inline constexpr std::uint32_t DOMAIN_AFFECT_CONFIG = 2;

/// Flags of DetachDeviceFlags (virDomainDeviceModifyFlags).
using v1::DomainDeviceModifyFlags;
/// As DOMAIN_AFFECT_CURRENT.
inline constexpr std::uint32_t DOMAIN_DEVICE_MODIFY_CURRENT = 0;
/// As DOMAIN_AFFECT_LIVE.
inline constexpr std::uint32_t DOMAIN_DEVICE_MODIFY_LIVE = 1;
/// As DOMAIN_AFFECT_CONFIG.
inline constexpr std::uint32_t DOMAIN_DEVICE_MODIFY_CONFIG = 2;
/// Also against the guest's will.
inline constexpr std::uint32_t DOMAIN_DEVICE_MODIFY_FORCE = 4;

/// Flags of Create and DomainCreateXML (virDomainCreateFlags).
using v1::DomainCreateFlags;
/// No flag.
inline constexpr std::uint32_t DOMAIN_NONE = 0;
/// Start it paused.
inline constexpr std::uint32_t DOMAIN_START_PAUSED = 1;
/// Destroy it when the caller's connection closes.
inline constexpr std::uint32_t DOMAIN_START_AUTODESTROY = 2;
/// Read a saved state past the host's cache.
inline constexpr std::uint32_t DOMAIN_START_BYPASS_CACHE = 4;
/// Throw a saved state away and boot.
inline constexpr std::uint32_t DOMAIN_START_FORCE_BOOT = 8;
/// Check the XML against its schema.
inline constexpr std::uint32_t DOMAIN_START_VALIDATE = 16;
/// Set the firmware's variables back to their template.
inline constexpr std::uint32_t DOMAIN_START_RESET_NVRAM = 32;

/// Flags of Destroy (virDomainDestroyFlagsValues).
using v1::DomainDestroyFlags;
/// Kill it if it does not end.
inline constexpr std::uint32_t DOMAIN_DESTROY_DEFAULT = 0;
/// Never kill; fail if it does not end.
inline constexpr std::uint32_t DOMAIN_DESTROY_GRACEFUL = 1;
/// Remove its logs.
inline constexpr std::uint32_t DOMAIN_DESTROY_REMOVE_LOGS = 2;

/// Flags of SaveFlags and ManagedSave (virDomainSaveRestoreFlags).
using v1::DomainSaveRestoreFlags;
/// No flag.
inline constexpr std::uint32_t DOMAIN_SAVE_NONE = 0;
/// Write past the host's cache.
inline constexpr std::uint32_t DOMAIN_SAVE_BYPASS_CACHE = 1;
/// Restore it running.
inline constexpr std::uint32_t DOMAIN_SAVE_RUNNING = 2;
/// Restore it paused.
inline constexpr std::uint32_t DOMAIN_SAVE_PAUSED = 4;
/// Set the firmware's variables back at restore.
inline constexpr std::uint32_t DOMAIN_SAVE_RESET_NVRAM = 8;

/// Flags of GetXMLDesc (virDomainXMLFlags).
using v1::DomainXmlFlags;
/// No flag.
inline constexpr std::uint32_t DOMAIN_XML_NONE = 0;
/// With secrets; not on a read-only connection.
inline constexpr std::uint32_t DOMAIN_XML_SECURE = 1;
/// The definition, not the running instance.
inline constexpr std::uint32_t DOMAIN_XML_INACTIVE = 2;
/// With the processor model as the host would make it.
inline constexpr std::uint32_t DOMAIN_XML_UPDATE_CPU = 4;
/// Fit for a migration to an older libvirt.
inline constexpr std::uint32_t DOMAIN_XML_MIGRATABLE = 8;

/// Flags of BlockResize (virDomainBlockResizeFlags).
using v1::BlockResizeFlags;
/// No flag: size is in KiB.
inline constexpr std::uint32_t DOMAIN_BLOCK_RESIZE_NONE = 0;
/// size is in bytes.
inline constexpr std::uint32_t DOMAIN_BLOCK_RESIZE_BYTES = 1;

/// Flags of DomainDefineXML (virDomainDefineFlags).
using v1::DomainDefineFlags;
/// No flag.
inline constexpr std::uint32_t DOMAIN_DEFINE_NONE = 0;
/// Check the XML against its schema.
inline constexpr std::uint32_t DOMAIN_DEFINE_VALIDATE = 1;

/// Flags of Undefine (virDomainUndefineFlagsValues).
using v1::DomainUndefineFlags;
/// No flag.
inline constexpr std::uint32_t DOMAIN_UNDEFINE_NONE = 0;
/// Also remove a managed save.
inline constexpr std::uint32_t DOMAIN_UNDEFINE_MANAGED_SAVE = 1;
/// Also remove what libvirt knows of snapshots.
inline constexpr std::uint32_t DOMAIN_UNDEFINE_SNAPSHOTS_METADATA = 2;
/// Also remove the firmware's variables.
inline constexpr std::uint32_t DOMAIN_UNDEFINE_NVRAM = 4;
/// Keep the firmware's variables.
inline constexpr std::uint32_t DOMAIN_UNDEFINE_KEEP_NVRAM = 8;
/// Also remove what libvirt knows of checkpoints.
inline constexpr std::uint32_t DOMAIN_UNDEFINE_CHECKPOINTS_METADATA = 16;
/// Also remove the TPM's state.
inline constexpr std::uint32_t DOMAIN_UNDEFINE_TPM = 32;
/// Keep the TPM's state.
inline constexpr std::uint32_t DOMAIN_UNDEFINE_KEEP_TPM = 64;

/// Flags of ListAllDomains (virConnectListAllDomainsFlags). Each pair or group filters on its own.
using v1::DomainListFlags;
/// No flag: all domains.
inline constexpr std::uint32_t CONNECT_LIST_DOMAINS_NONE = 0;
/// Active ones.
inline constexpr std::uint32_t CONNECT_LIST_DOMAINS_ACTIVE = 1;
/// Shut off ones.
inline constexpr std::uint32_t CONNECT_LIST_DOMAINS_INACTIVE = 2;
/// Persistent ones.
inline constexpr std::uint32_t CONNECT_LIST_DOMAINS_PERSISTENT = 4;
/// Transient ones.
inline constexpr std::uint32_t CONNECT_LIST_DOMAINS_TRANSIENT = 8;
/// Those in DOMAIN_RUNNING.
inline constexpr std::uint32_t CONNECT_LIST_DOMAINS_RUNNING = 16;
/// Those in DOMAIN_PAUSED.
inline constexpr std::uint32_t CONNECT_LIST_DOMAINS_PAUSED = 32;
/// Those in DOMAIN_SHUTOFF.
inline constexpr std::uint32_t CONNECT_LIST_DOMAINS_SHUTOFF = 64;
/// Those in any other state.
inline constexpr std::uint32_t CONNECT_LIST_DOMAINS_OTHER = 128;
/// With a managed save.
inline constexpr std::uint32_t CONNECT_LIST_DOMAINS_MANAGEDSAVE = 256;
/// Without a managed save.
inline constexpr std::uint32_t CONNECT_LIST_DOMAINS_NO_MANAGEDSAVE = 512;
/// Started with the host.
inline constexpr std::uint32_t CONNECT_LIST_DOMAINS_AUTOSTART = 1024;
/// Not started with the host.
inline constexpr std::uint32_t CONNECT_LIST_DOMAINS_NO_AUTOSTART = 2048;
/// With snapshots.
inline constexpr std::uint32_t CONNECT_LIST_DOMAINS_HAS_SNAPSHOT = 4096;
/// Without snapshots.
inline constexpr std::uint32_t CONNECT_LIST_DOMAINS_NO_SNAPSHOT = 8192;
/// With checkpoints.
inline constexpr std::uint32_t CONNECT_LIST_DOMAINS_HAS_CHECKPOINT = 16384;
/// Without checkpoints.
inline constexpr std::uint32_t CONNECT_LIST_DOMAINS_NO_CHECKPOINT = 32768;

/// What a block job does (virDomainBlockJobType).
using v1::BlockJobType;
/// Not known; for GetBlockJobInfo no job.
using v1::DOMAIN_BLOCK_JOB_TYPE_UNKNOWN;
/// Pulls backing images' data up.
using v1::DOMAIN_BLOCK_JOB_TYPE_PULL;
/// Mirrors the disk.
using v1::DOMAIN_BLOCK_JOB_TYPE_COPY;
/// Merges images below the active one.
using v1::DOMAIN_BLOCK_JOB_TYPE_COMMIT;
/// Merges the active image down.
using v1::DOMAIN_BLOCK_JOB_TYPE_ACTIVE_COMMIT;
/// Backs the disk up.
using v1::DOMAIN_BLOCK_JOB_TYPE_BACKUP;

/// What became of a block job, in its events (virConnectDomainEventBlockJobStatus).
using v1::BlockJobStatus;
/// It ended well.
using v1::DOMAIN_BLOCK_JOB_COMPLETED;
/// It ended by an error.
using v1::DOMAIN_BLOCK_JOB_FAILED;
/// It was ended on request.
using v1::DOMAIN_BLOCK_JOB_CANCELED;
/// Source and destination agree; it can be pivoted.
using v1::DOMAIN_BLOCK_JOB_READY;

/// Flags of BlockJobAbort (virDomainBlockJobAbortFlags).
using v1::BlockJobAbortFlags;
/// No flag: end it and stay with the source.
inline constexpr std::uint32_t DOMAIN_BLOCK_JOB_ABORT_NONE = 0;
/// Do not wait for the end.
inline constexpr std::uint32_t DOMAIN_BLOCK_JOB_ABORT_ASYNC = 1;
/// Go on with the destination.
inline constexpr std::uint32_t DOMAIN_BLOCK_JOB_ABORT_PIVOT = 2;

/// Flags of GetBlockJobInfo (virDomainBlockJobInfoFlags).
using v1::BlockJobInfoFlags;
/// No flag: bandwidth is in MiB/s.
inline constexpr std::uint32_t DOMAIN_BLOCK_JOB_INFO_NONE = 0;
/// bandwidth is in bytes/s.
inline constexpr std::uint32_t DOMAIN_BLOCK_JOB_INFO_BANDWIDTH_BYTES = 1;

/// Flags of BlockJobSetSpeed (virDomainBlockJobSetSpeedFlags).
using v1::BlockJobSetSpeedFlags;
/// No flag: bandwidth is in MiB/s.
inline constexpr std::uint32_t DOMAIN_BLOCK_JOB_SPEED_NONE = 0;
/// bandwidth is in bytes/s.
inline constexpr std::uint32_t DOMAIN_BLOCK_JOB_SPEED_BANDWIDTH_BYTES = 1;

/// Flags of BlockPull (virDomainBlockPullFlags).
using v1::BlockPullFlags;
/// No flag: bandwidth is in MiB/s.
inline constexpr std::uint32_t DOMAIN_BLOCK_PULL_NONE = 0;
/// bandwidth is in bytes/s.
inline constexpr std::uint32_t DOMAIN_BLOCK_PULL_BANDWIDTH_BYTES = 64;

/// Flags of BlockRebase (virDomainBlockRebaseFlags). 4 and 8 do not mean what they mean for BlockCopy.
using v1::BlockRebaseFlags;
/// No flag: pull, with bandwidth in MiB/s.
inline constexpr std::uint32_t DOMAIN_BLOCK_REBASE_NONE = 0;
/// Copy the top image only; the destination shares the backing images. Needs COPY.
inline constexpr std::uint32_t DOMAIN_BLOCK_REBASE_SHALLOW = 1;
/// The destination exists, with its format and backing image. Needs COPY.
inline constexpr std::uint32_t DOMAIN_BLOCK_REBASE_REUSE_EXT = 2;
/// The destination is raw. Needs COPY.
inline constexpr std::uint32_t DOMAIN_BLOCK_REBASE_COPY_RAW = 4;
/// Mirror into base instead of pulling.
inline constexpr std::uint32_t DOMAIN_BLOCK_REBASE_COPY = 8;
/// Keep backing paths relative. Not with COPY.
inline constexpr std::uint32_t DOMAIN_BLOCK_REBASE_RELATIVE = 16;
/// The destination is a block device. Needs COPY.
inline constexpr std::uint32_t DOMAIN_BLOCK_REBASE_COPY_DEV = 32;
/// bandwidth is in bytes/s.
inline constexpr std::uint32_t DOMAIN_BLOCK_REBASE_BANDWIDTH_BYTES = 64;

/// Flags of BlockCopy (virDomainBlockCopyFlags).
using v1::BlockCopyFlags;
/// No flag: a full copy into a new destination.
inline constexpr std::uint32_t DOMAIN_BLOCK_COPY_NONE = 0;
/// Copy the top image only; the destination shares the backing images.
inline constexpr std::uint32_t DOMAIN_BLOCK_COPY_SHALLOW = 1;
/// The destination exists, with its format and backing image.
inline constexpr std::uint32_t DOMAIN_BLOCK_COPY_REUSE_EXT = 2;
/// The caller accepts that the job does not outlive the domain's run: allows a persistent domain.
inline constexpr std::uint32_t DOMAIN_BLOCK_COPY_TRANSIENT_JOB = 4;
/// The guest's writes wait for the destination too, so the job surely becomes READY.
inline constexpr std::uint32_t DOMAIN_BLOCK_COPY_SYNCHRONOUS_WRITES = 8;
/// The existing destination reads as zeroes. Since libvirt 12.2.
inline constexpr std::uint32_t DOMAIN_BLOCK_COPY_TARGET_ZEROED = 16;

/// Flags of BlockCommit (virDomainBlockCommitFlags).
using v1::BlockCommitFlags;
/// No flag.
inline constexpr std::uint32_t DOMAIN_BLOCK_COMMIT_NONE = 0;
/// An absent base means the image right below top.
inline constexpr std::uint32_t DOMAIN_BLOCK_COMMIT_SHALLOW = 1;
/// Delete images that are merged. libvirt's QEMU driver may refuse it.
inline constexpr std::uint32_t DOMAIN_BLOCK_COMMIT_DELETE = 2;
/// top is the active image: the job stays READY until BlockJobAbort.
inline constexpr std::uint32_t DOMAIN_BLOCK_COMMIT_ACTIVE = 4;
/// Keep backing paths relative.
inline constexpr std::uint32_t DOMAIN_BLOCK_COMMIT_RELATIVE = 8;
/// bandwidth is in bytes/s.
inline constexpr std::uint32_t DOMAIN_BLOCK_COMMIT_BANDWIDTH_BYTES = 16;

/// Flags of SnapshotCreateXML (virDomainSnapshotCreateFlags).
using v1::DomainSnapshotCreateFlags;
/// No flag.
inline constexpr std::uint32_t DOMAIN_SNAPSHOT_CREATE_NONE = 0;
/// Restore what libvirt knew of a snapshot; take none.
inline constexpr std::uint32_t DOMAIN_SNAPSHOT_CREATE_REDEFINE = 1;
/// Make the redefined one the current one.
inline constexpr std::uint32_t DOMAIN_SNAPSHOT_CREATE_CURRENT = 2;
/// Take it and keep nothing about it.
inline constexpr std::uint32_t DOMAIN_SNAPSHOT_CREATE_NO_METADATA = 4;
/// Stop the domain after it.
inline constexpr std::uint32_t DOMAIN_SNAPSHOT_CREATE_HALT = 8;
/// Disks only, no memory.
inline constexpr std::uint32_t DOMAIN_SNAPSHOT_CREATE_DISK_ONLY = 16;
/// Use external files that exist.
inline constexpr std::uint32_t DOMAIN_SNAPSHOT_CREATE_REUSE_EXT = 32;
/// Have the guest's agent freeze file systems.
inline constexpr std::uint32_t DOMAIN_SNAPSHOT_CREATE_QUIESCE = 64;
/// All disks or none.
inline constexpr std::uint32_t DOMAIN_SNAPSHOT_CREATE_ATOMIC = 128;
/// Let the guest run meanwhile.
inline constexpr std::uint32_t DOMAIN_SNAPSHOT_CREATE_LIVE = 256;
/// Check the XML against its schema.
inline constexpr std::uint32_t DOMAIN_SNAPSHOT_CREATE_VALIDATE = 512;

/// Flags of RevertToSnapshot (virDomainSnapshotRevertFlags).
using v1::SnapshotRevertFlags;
/// No flag.
inline constexpr std::uint32_t DOMAIN_SNAPSHOT_REVERT_NONE = 0;
/// Run after it.
inline constexpr std::uint32_t DOMAIN_SNAPSHOT_REVERT_RUNNING = 1;
/// Stay paused after it.
inline constexpr std::uint32_t DOMAIN_SNAPSHOT_REVERT_PAUSED = 2;
/// Even where something may be lost.
inline constexpr std::uint32_t DOMAIN_SNAPSHOT_REVERT_FORCE = 4;
/// Set the firmware's variables back.
inline constexpr std::uint32_t DOMAIN_SNAPSHOT_REVERT_RESET_NVRAM = 8;

/// Kinds of domain events (virDomainEventID).
using v1::DomainEventId;
/// A domain's life: defined, started, stopped and the like.
using v1::DOMAIN_EVENT_ID_LIFECYCLE;
/// The guest rebooted.
using v1::DOMAIN_EVENT_ID_REBOOT;
/// The guest set its clock.
using v1::DOMAIN_EVENT_ID_RTC_CHANGE;
/// The watchdog fired.
using v1::DOMAIN_EVENT_ID_WATCHDOG;
/// A disk had an error.
using v1::DOMAIN_EVENT_ID_IO_ERROR;
/// A viewer came or went.
using v1::DOMAIN_EVENT_ID_GRAPHICS;
/// A disk had an error, with the reason.
using v1::DOMAIN_EVENT_ID_IO_ERROR_REASON;
/// The hypervisor cannot be controlled.
using v1::DOMAIN_EVENT_ID_CONTROL_ERROR;
/// A block job changed; the disk by its source's path.
using v1::DOMAIN_EVENT_ID_BLOCK_JOB;
/// A disk's medium changed.
using v1::DOMAIN_EVENT_ID_DISK_CHANGE;
/// A drive's tray moved.
using v1::DOMAIN_EVENT_ID_TRAY_CHANGE;
/// The guest woke up.
using v1::DOMAIN_EVENT_ID_PMWAKEUP;
/// The guest suspended to memory.
using v1::DOMAIN_EVENT_ID_PMSUSPEND;
/// The guest's memory changed.
using v1::DOMAIN_EVENT_ID_BALLOON_CHANGE;
/// The guest suspended to disk.
using v1::DOMAIN_EVENT_ID_PMSUSPEND_DISK;
/// A device is gone.
using v1::DOMAIN_EVENT_ID_DEVICE_REMOVED;
/// A block job changed; the disk by its target.
using v1::DOMAIN_EVENT_ID_BLOCK_JOB_2;
/// A tunable value changed.
using v1::DOMAIN_EVENT_ID_TUNABLE;
/// The guest's agent came or went.
using v1::DOMAIN_EVENT_ID_AGENT_LIFECYCLE;
/// A device was added.
using v1::DOMAIN_EVENT_ID_DEVICE_ADDED;
/// A migration began another pass.
using v1::DOMAIN_EVENT_ID_MIGRATION_ITERATION;
/// A job of the whole domain ended.
using v1::DOMAIN_EVENT_ID_JOB_COMPLETED;
/// The guest did not let a device go.
using v1::DOMAIN_EVENT_ID_DEVICE_REMOVAL_FAILED;
/// The domain's metadata changed.
using v1::DOMAIN_EVENT_ID_METADATA_CHANGE;
/// A disk passed its write threshold.
using v1::DOMAIN_EVENT_ID_BLOCK_THRESHOLD;
/// Memory failed.
using v1::DOMAIN_EVENT_ID_MEMORY_FAILURE;
/// A memory device changed its size.
using v1::DOMAIN_EVENT_ID_MEMORY_DEVICE_SIZE_CHANGE;

/// What a lifecycle event tells (virDomainEventType).
using v1::DomainEventType;
/// Defined.
using v1::DOMAIN_EVENT_DEFINED;
/// Undefined.
using v1::DOMAIN_EVENT_UNDEFINED;
/// Started.
using v1::DOMAIN_EVENT_STARTED;
/// Paused.
using v1::DOMAIN_EVENT_SUSPENDED;
/// Went on.
using v1::DOMAIN_EVENT_RESUMED;
/// Stopped.
using v1::DOMAIN_EVENT_STOPPED;
/// The guest shut down; the domain is not stopped yet.
using v1::DOMAIN_EVENT_SHUTDOWN;
/// Suspended by its power management.
using v1::DOMAIN_EVENT_PMSUSPENDED;
/// Crashed.
using v1::DOMAIN_EVENT_CRASHED;

/// Detail of DOMAIN_EVENT_DEFINED (virDomainEventDefinedDetailType).
using v1::DomainEventDefinedDetailType;
/// New.
using v1::DOMAIN_EVENT_DEFINED_ADDED;
/// Changed.
using v1::DOMAIN_EVENT_DEFINED_UPDATED;
/// Has a new name.
using v1::DOMAIN_EVENT_DEFINED_RENAMED;
/// From a snapshot.
using v1::DOMAIN_EVENT_DEFINED_FROM_SNAPSHOT;

/// Detail of DOMAIN_EVENT_UNDEFINED (virDomainEventUndefinedDetailType).
using v1::DomainEventUndefinedDetailType;
/// Removed.
using v1::DOMAIN_EVENT_UNDEFINED_REMOVED;
/// Goes on under a new name.
using v1::DOMAIN_EVENT_UNDEFINED_RENAMED;

/// Detail of DOMAIN_EVENT_STARTED (virDomainEventStartedDetailType).
using v1::DomainEventStartedDetailType;
/// Booted.
using v1::DOMAIN_EVENT_STARTED_BOOTED;
/// Came from another host.
using v1::DOMAIN_EVENT_STARTED_MIGRATED;
/// From a saved state.
using v1::DOMAIN_EVENT_STARTED_RESTORED;
/// From a snapshot.
using v1::DOMAIN_EVENT_STARTED_FROM_SNAPSHOT;
/// Woke up.
using v1::DOMAIN_EVENT_STARTED_WAKEUP;

/// Detail of DOMAIN_EVENT_SUSPENDED (virDomainEventSuspendedDetailType).
using v1::DomainEventSuspendedDetailType;
/// On request.
using v1::DOMAIN_EVENT_SUSPENDED_PAUSED;
/// For a migration.
using v1::DOMAIN_EVENT_SUSPENDED_MIGRATED;
/// By a disk's error.
using v1::DOMAIN_EVENT_SUSPENDED_IOERROR;
/// By the watchdog.
using v1::DOMAIN_EVENT_SUSPENDED_WATCHDOG;
/// Restored paused.
using v1::DOMAIN_EVENT_SUSPENDED_RESTORED;
/// Paused in the snapshot.
using v1::DOMAIN_EVENT_SUSPENDED_FROM_SNAPSHOT;
/// A call of libvirt failed midway.
using v1::DOMAIN_EVENT_SUSPENDED_API_ERROR;
/// For a post-copy migration.
using v1::DOMAIN_EVENT_SUSPENDED_POSTCOPY;
/// A post-copy migration failed.
using v1::DOMAIN_EVENT_SUSPENDED_POSTCOPY_FAILED;

/// Detail of DOMAIN_EVENT_RESUMED (virDomainEventResumedDetailType).
using v1::DomainEventResumedDetailType;
/// On request.
using v1::DOMAIN_EVENT_RESUMED_UNPAUSED;
/// On the migration's destination.
using v1::DOMAIN_EVENT_RESUMED_MIGRATED;
/// Running in the snapshot.
using v1::DOMAIN_EVENT_RESUMED_FROM_SNAPSHOT;
/// While a post-copy migration goes on.
using v1::DOMAIN_EVENT_RESUMED_POSTCOPY;
/// After a post-copy migration failed.
using v1::DOMAIN_EVENT_RESUMED_POSTCOPY_FAILED;

/// Detail of DOMAIN_EVENT_STOPPED (virDomainEventStoppedDetailType).
using v1::DomainEventStoppedDetailType;
/// The guest shut down.
using v1::DOMAIN_EVENT_STOPPED_SHUTDOWN;
/// Destroyed on request.
using v1::DOMAIN_EVENT_STOPPED_DESTROYED;
/// The guest crashed.
using v1::DOMAIN_EVENT_STOPPED_CRASHED;
/// Went to another host.
using v1::DOMAIN_EVENT_STOPPED_MIGRATED;
/// Saved to a file.
using v1::DOMAIN_EVENT_STOPPED_SAVED;
/// The hypervisor failed.
using v1::DOMAIN_EVENT_STOPPED_FAILED;
/// Shut off in the snapshot.
using v1::DOMAIN_EVENT_STOPPED_FROM_SNAPSHOT;

/// Detail of DOMAIN_EVENT_SHUTDOWN (virDomainEventShutdownDetailType).
using v1::DomainEventShutdownDetailType;
/// Nobody knows on whose request.
using v1::DOMAIN_EVENT_SHUTDOWN_FINISHED;
/// On the guest's request.
using v1::DOMAIN_EVENT_SHUTDOWN_GUEST;
/// On the host's request.
using v1::DOMAIN_EVENT_SHUTDOWN_HOST;

/// Detail of DOMAIN_EVENT_PMSUSPENDED (virDomainEventPMSuspendedDetailType).
using v1::DomainEventPmsuspendedDetailType;
/// To memory.
using v1::DOMAIN_EVENT_PMSUSPENDED_MEMORY;
/// To disk.
using v1::DOMAIN_EVENT_PMSUSPENDED_DISK;

/// Detail of DOMAIN_EVENT_CRASHED (virDomainEventCrashedDetailType).
using v1::DomainEventCrashedDetailType;
/// The guest panicked.
using v1::DOMAIN_EVENT_CRASHED_PANICKED;
/// The guest panicked and its crash kernel took over.
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
