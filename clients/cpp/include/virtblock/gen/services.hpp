// SPDX-License-Identifier: Apache-2.0
// Made by clients/cpp/generate.py from proto/virtblock/v1. Do not edit.
#pragma once

#include <memory>

#include "virtblock/connection.hpp"
#include "virtblock/v1/connect_service.pb.h"
#include "virtblock/v1/domain_service.pb.h"
#include "virtblock/v1/block_job_service.pb.h"

namespace virtblock {

/// Selects a domain. The domain's name.
inline v1::DomainSelector by_name(const std::string& name) {
  v1::DomainSelector selector;
  selector.set_name(name);
  return selector;
}

/// Selects a domain. The domain's UUID, with or without dashes.
inline v1::DomainSelector by_uuid(const std::string& uuid) {
  v1::DomainSelector selector;
  selector.set_uuid(uuid);
  return selector;
}

/// Selects a domain. The id of an active domain, 0 or more.
inline v1::DomainSelector by_id(std::int32_t id) {
  v1::DomainSelector selector;
  selector.set_id(id);
  return selector;
}

/// libvirt's virConnect calls. A connection is named by its URI in every request; the server opens it and keeps it.
/// Errors of every call that names a connection:
/// - NO_CONNECT -> UNAVAILABLE (the server knows no such connection, or cannot reach it now), see ListConnections, else try
/// again later.
/// - OPERATION_DENIED, ACCESS_DENIED -> PERMISSION_DENIED (the caller may not), ask for the right.
/// - NO_SUPPORT -> UNIMPLEMENTED (the connection's driver lacks the call), see GetCapabilities.
class ConnectService {
 public:
  explicit ConnectService(std::shared_ptr<const Connection> connection);
  const Connection& connection() const { return *connection_; }
  /// Answers the version of the hypervisor behind a connection.
  /// Mirrors virConnectGetVersion.
  /// Errors: those of every call.
  v1::GetVersionResponse GetVersion(v1::GetVersionRequest request = {}, const CallOptions& options = {}) const;
  /// Answers the version of libvirt that serves a connection.
  /// Mirrors virConnectGetLibVersion.
  /// Errors: those of every call.
  v1::GetLibVersionResponse GetLibVersion(v1::GetLibVersionRequest request = {}, const CallOptions& options = {}) const;
  /// Answers the name of the driver behind a connection.
  /// Mirrors virConnectGetType.
  /// Errors: those of every call.
  v1::GetTypeResponse GetType(v1::GetTypeRequest request = {}, const CallOptions& options = {}) const;
  /// Answers the name of the host that the hypervisor runs on.
  /// Mirrors virConnectGetHostname.
  /// Errors: those of every call.
  v1::GetHostnameResponse GetHostname(v1::GetHostnameRequest request = {}, const CallOptions& options = {}) const;
  /// Answers the full URI of a connection.
  /// Mirrors virConnectGetURI.
  /// Errors: those of every call.
  v1::GetURIResponse GetURI(v1::GetURIRequest request = {}, const CallOptions& options = {}) const;
  /// Answers what works, truthfully: an RPC, a flag or a feature that is listed works, and what is not listed does not.
  /// Mirrors virConnectGetCapabilities.
  /// Errors: those of every call.
  v1::GetCapabilitiesResponse GetCapabilities(v1::GetCapabilitiesRequest request = {}, const CallOptions& options = {}) const;
  /// Answers whether a connection to the hypervisor is alive.
  /// Mirrors virConnectIsAlive.
  /// Errors: those of every call.
  v1::IsAliveResponse IsAlive(v1::IsAliveRequest request = {}, const CallOptions& options = {}) const;
  /// Answers whether a connection from the server to the hypervisor is secure.
  /// Mirrors virConnectIsSecure.
  /// Errors: those of every call.
  v1::IsSecureResponse IsSecure(v1::IsSecureRequest request = {}, const CallOptions& options = {}) const;
  /// Answers whether a connection from the server to the hypervisor is encrypted.
  /// Mirrors virConnectIsEncrypted.
  /// Errors: those of every call.
  v1::IsEncryptedResponse IsEncrypted(v1::IsEncryptedRequest request = {}, const CallOptions& options = {}) const;
  /// Answers the connections that the server serves. libvirt has no such call: its caller names the URI.
  /// Errors: none of its own.
  v1::ListConnectionsResponse ListConnections(v1::ListConnectionsRequest request = {}, const CallOptions& options = {}) const;
  /// Finds a domain by its name.
  /// Mirrors virDomainLookupByName.
  /// Errors:
  /// - those of every call.
  /// - NO_DOMAIN -> NOT_FOUND (no such domain), do not retry.
  v1::DomainLookupByNameResponse DomainLookupByName(v1::DomainLookupByNameRequest request = {}, const CallOptions& options = {}) const;
  /// Finds a domain by its UUID.
  /// Mirrors virDomainLookupByUUIDString.
  /// Errors:
  /// - those of every call.
  /// - NO_DOMAIN -> NOT_FOUND (no such domain), do not retry.
  /// - INVALID_ARG -> INVALID_ARGUMENT (not a UUID), correct the call.
  v1::DomainLookupByUUIDResponse DomainLookupByUUID(v1::DomainLookupByUUIDRequest request = {}, const CallOptions& options = {}) const;
  /// Finds an active domain by its id.
  /// Mirrors virDomainLookupByID.
  /// Errors:
  /// - those of every call.
  /// - NO_DOMAIN -> NOT_FOUND (no such domain), do not retry.
  /// - INVALID_ARG -> INVALID_ARGUMENT (below 0), correct the call.
  v1::DomainLookupByIDResponse DomainLookupByID(v1::DomainLookupByIDRequest request = {}, const CallOptions& options = {}) const;
  /// Answers the domains of a connection.
  /// Mirrors virConnectListAllDomains.
  /// Errors:
  /// - those of every call.
  /// - INVALID_ARG -> INVALID_ARGUMENT (unknown flags), correct the call.
  v1::ListAllDomainsResponse ListAllDomains(v1::ListAllDomainsRequest request = {}, const CallOptions& options = {}) const;
  /// Defines a persistent domain, or changes the definition of one. While our engine runs a job on a disk of a shut-off domain,
  /// a definition that changes that disk is refused.
  /// Mirrors virDomainDefineXMLFlags.
  /// Errors:
  /// - those of every call.
  /// - XML_DETAIL, XML_ERROR -> INVALID_ARGUMENT (the XML cannot be used), correct it.
  /// - CONFIG_UNSUPPORTED -> FAILED_PRECONDITION (it asks for what the driver lacks), correct it.
  /// - BLOCK_COPY_ACTIVE -> FAILED_PRECONDITION (a job runs on the disk), end it by BlockJobAbort.
  /// - OPERATION_FAILED -> INTERNAL (name and UUID belong to two domains), correct the XML.
  v1::DomainDefineXMLResponse DomainDefineXML(v1::DomainDefineXMLRequest request = {}, const CallOptions& options = {}) const;
  /// Creates and starts a transient domain.
  /// Mirrors virDomainCreateXML.
  /// Errors:
  /// - those of every call.
  /// - XML_DETAIL, XML_ERROR -> INVALID_ARGUMENT (the XML cannot be used), correct it.
  /// - CONFIG_UNSUPPORTED -> FAILED_PRECONDITION (it asks for what the driver lacks), correct it.
  /// - OPERATION_INVALID -> FAILED_PRECONDITION (it is active already), use it.
  /// - BLOCK_COPY_ACTIVE -> FAILED_PRECONDITION (a job runs on a disk of it), end it by BlockJobAbort.
  v1::DomainCreateXMLResponse DomainCreateXML(v1::DomainCreateXMLRequest request = {}, const CallOptions& options = {}) const;
  /// Streams events of domains as libvirt itself has them: both kinds of block job events, what was missed stays missed, and a
  /// domain that goes away takes its jobs along in silence. For events that are never missed use BlockJobService.WatchBlockJobs.
  /// The stream's first message, at once, has no event and says that all later events are included. It ends by error or by the
  /// caller (virConnectDomainEventDeregisterAny).
  /// Mirrors virConnectDomainEventRegisterAny.
  /// Errors:
  /// - those of every call.
  /// - NO_DOMAIN -> NOT_FOUND (no such domain), do not retry.
  /// - INVALID_ARG -> INVALID_ARGUMENT (an event id that is not served), see the features in GetCapabilities.
  /// - RESOURCE_BUSY -> RESOURCE_EXHAUSTED with the ErrorInfo reason SLOW_READER, open it again and look at the present state.
  /// - UNAVAILABLE (the server stops, or the connection broke), the same.
  Stream<v1::DomainEventRegisterAnyResponse> DomainEventRegisterAny(v1::DomainEventRegisterAnyRequest request = {}, const CallOptions& options = {}) const;

 private:
  struct Stub;
  std::shared_ptr<const Connection> connection_;
  std::shared_ptr<Stub> stub_;
};

/// libvirt's virDomain calls. A domain that is shut off, or lives on the embedded hypervisor, takes the same block calls, and
/// our engine does the work. There OPERATION_INVALID for a domain that is not running or not transient does not come, unless the
/// server is set to be as strict as libvirt.
/// Errors of every call:
/// - NO_DOMAIN -> NOT_FOUND (no such domain), do not retry.
/// - INVALID_DOMAIN -> INVALID_ARGUMENT (no domain was named), correct the call.
/// - OPERATION_DENIED, ACCESS_DENIED -> PERMISSION_DENIED (the caller may not), ask for the right.
/// - OPERATION_TIMEOUT -> ABORTED (another call holds the domain), retry later.
/// - NO_SUPPORT -> UNIMPLEMENTED (the connection's driver lacks the call), see GetCapabilities.
/// - NO_CONNECT -> UNAVAILABLE (the server knows no such connection, or cannot reach it now), see ListConnections, else try
/// again later.
class DomainService {
 public:
  explicit DomainService(std::shared_ptr<const Connection> connection);
  const Connection& connection() const { return *connection_; }
  /// Answers the domain's XML.
  /// Mirrors virDomainGetXMLDesc.
  /// Errors:
  /// - those of every call.
  /// - INVALID_ARG -> INVALID_ARGUMENT (unknown flags), correct the call.
  v1::GetXMLDescResponse GetXMLDesc(v1::GetXMLDescRequest request = {}, const CallOptions& options = {}) const;
  /// Answers the domain's state and the reason for it.
  /// Mirrors virDomainGetState.
  /// Errors:
  /// - those of every call.
  /// - INVALID_ARG -> INVALID_ARGUMENT (unknown flags), correct the call.
  v1::GetStateResponse GetState(v1::GetStateRequest request = {}, const CallOptions& options = {}) const;
  /// Answers state, memory and processors.
  /// Mirrors virDomainGetInfo.
  /// Errors: those of every call.
  v1::GetInfoResponse GetInfo(v1::GetInfoRequest request = {}, const CallOptions& options = {}) const;
  /// Answers whether the domain is active.
  /// Mirrors virDomainIsActive.
  /// Errors: those of every call.
  v1::IsActiveResponse IsActive(v1::IsActiveRequest request = {}, const CallOptions& options = {}) const;
  /// Answers whether the domain has a definition that outlives its run.
  /// Mirrors virDomainIsPersistent.
  /// Errors: those of every call.
  v1::IsPersistentResponse IsPersistent(v1::IsPersistentRequest request = {}, const CallOptions& options = {}) const;
  /// Starts a defined domain. Refused while our engine runs a job on a disk of it.
  /// Mirrors virDomainCreateWithFlags.
  /// Errors:
  /// - those of every call.
  /// - INVALID_ARG -> INVALID_ARGUMENT (unknown flags), correct the call.
  /// - OPERATION_INVALID -> FAILED_PRECONDITION (it is active already), use it.
  /// - BLOCK_COPY_ACTIVE -> FAILED_PRECONDITION (a job runs on a disk of it), end it by BlockJobAbort.
  v1::CreateResponse Create(v1::CreateRequest request = {}, const CallOptions& options = {}) const;
  /// Stops a domain at once. Its live block jobs end with it; their destinations stay.
  /// Mirrors virDomainDestroyFlags.
  /// Errors:
  /// - those of every call.
  /// - INVALID_ARG -> INVALID_ARGUMENT (unknown flags), correct the call.
  /// - OPERATION_INVALID -> FAILED_PRECONDITION (it is not active), nothing to do.
  v1::DestroyResponse Destroy(v1::DestroyRequest request = {}, const CallOptions& options = {}) const;
  /// Asks the guest to shut down, and does not wait for it.
  /// Mirrors virDomainShutdown.
  /// Errors:
  /// - those of every call.
  /// - OPERATION_INVALID -> FAILED_PRECONDITION (it is not active), nothing to do.
  /// - NO_SUPPORT -> UNIMPLEMENTED, use Destroy.
  v1::ShutdownResponse Shutdown(v1::ShutdownRequest request = {}, const CallOptions& options = {}) const;
  /// Removes the domain's definition. An active domain becomes transient. Refused while our engine runs a job on a disk of a
  /// shut-off domain.
  /// Mirrors virDomainUndefineFlags.
  /// Errors:
  /// - those of every call.
  /// - INVALID_ARG -> INVALID_ARGUMENT (unknown flags), correct the call.
  /// - OPERATION_INVALID -> FAILED_PRECONDITION (it is transient, or something is kept for it that no flag allows to remove),
  /// add the flag.
  /// - BLOCK_COPY_ACTIVE -> FAILED_PRECONDITION (a job runs on a disk of it), end it by BlockJobAbort.
  v1::UndefineResponse Undefine(v1::UndefineRequest request = {}, const CallOptions& options = {}) const;
  /// Pauses the domain's processors. Its block jobs go on.
  /// Mirrors virDomainSuspend.
  /// Errors:
  /// - those of every call.
  /// - OPERATION_INVALID -> FAILED_PRECONDITION (the domain is not running), start it first.
  v1::SuspendResponse Suspend(v1::SuspendRequest request = {}, const CallOptions& options = {}) const;
  /// Lets a paused domain go on.
  /// Mirrors virDomainResume.
  /// Errors:
  /// - those of every call.
  /// - OPERATION_INVALID -> FAILED_PRECONDITION (the domain is not running), start it first.
  v1::ResumeResponse Resume(v1::ResumeRequest request = {}, const CallOptions& options = {}) const;
  /// With COPY starts a mirror of the disk into the image that base names; without it pulls the data of the backing images above
  /// base into the disk's own image. Returns when the job is started; the job may be over by then. End a mirror by
  /// BlockJobAbort.
  /// Mirrors virDomainBlockRebase.
  /// Errors:
  /// - those of every call.
  /// - INVALID_ARG -> INVALID_ARGUMENT (disk or base is absent or not found, or flags do not go together), correct the call.
  /// - ARGUMENT_UNSUPPORTED -> INVALID_ARGUMENT (RELATIVE with COPY), leave the flag out.
  /// - OVERFLOW -> OUT_OF_RANGE (bandwidth in MiB/s is above 8796093022207), give less.
  /// - OPERATION_INVALID -> FAILED_PRECONDITION (the domain must be running or transient, see the message), start it, or make it
  /// transient.
  /// - CONFIG_UNSUPPORTED -> FAILED_PRECONDITION (the destination exists and is not empty, has another size, or its format does
  /// not fit), choose another destination or flags.
  /// - BLOCK_COPY_ACTIVE, OPERATION_UNSUPPORTED -> FAILED_PRECONDITION (a job runs on the disk, a mirror or another one; or
  /// block jobs cannot work on this kind of disk), end the job by BlockJobAbort.
  /// - SYSTEM_ERROR -> by errno (NOT_FOUND, PERMISSION_DENIED, ALREADY_EXISTS, RESOURCE_EXHAUSTED, else INTERNAL; an image could
  /// not be used), mend what the message names.
  /// - INVALID_ARG -> ALREADY_EXISTS with the ErrorInfo reason REQUEST_ID_REUSED (other arguments than the first time), choose
  /// another request_id.
  /// - INTERNAL_ERROR, OPERATION_FAILED -> INTERNAL (the hypervisor refused), read the message.
  v1::BlockRebaseResponse BlockRebase(v1::BlockRebaseRequest request = {}, const CallOptions& options = {}) const;
  /// Starts a mirror of the disk into the destination that dest_xml describes. Returns when the job is started. End it by
  /// BlockJobAbort.
  /// Mirrors virDomainBlockCopy.
  /// Errors:
  /// - those of every call.
  /// - INVALID_ARG -> INVALID_ARGUMENT (something is absent, not found or out of range), correct the call.
  /// - ARGUMENT_UNSUPPORTED -> INVALID_ARGUMENT (unknown parameter), leave it out.
  /// - XML_DETAIL, XML_ERROR, NO_SOURCE -> INVALID_ARGUMENT (dest_xml cannot be used), correct it.
  /// - NO_SUPPORT -> UNIMPLEMENTED (pivot_persistent), see there.
  /// - OPERATION_INVALID -> FAILED_PRECONDITION (the domain must be running or transient, see the message), start it, or make it
  /// transient.
  /// - CONFIG_UNSUPPORTED -> FAILED_PRECONDITION (the destination exists and is not empty, has another size, or its format does
  /// not fit), choose another destination or flags.
  /// - BLOCK_COPY_ACTIVE, OPERATION_UNSUPPORTED -> FAILED_PRECONDITION (a job runs on the disk, a mirror or another one; or
  /// block jobs cannot work on this kind of disk), end the job by BlockJobAbort.
  /// - SYSTEM_ERROR -> by errno (NOT_FOUND, PERMISSION_DENIED, ALREADY_EXISTS, RESOURCE_EXHAUSTED, else INTERNAL; an image could
  /// not be used), mend what the message names.
  /// - INVALID_ARG -> ALREADY_EXISTS with the ErrorInfo reason REQUEST_ID_REUSED (other arguments than the first time), choose
  /// another request_id.
  /// - NO_DOMAIN_CHECKPOINT -> NOT_FOUND (no bitmap of that name), see ListBlockBitmaps; CHECKPOINT_INCONSISTENT ->
  /// FAILED_PRECONDITION (the bitmap does not mark all that was written), make a whole copy.
  /// - INTERNAL_ERROR, OPERATION_FAILED -> INTERNAL (the hypervisor refused), read the message.
  v1::BlockCopyResponse BlockCopy(v1::BlockCopyRequest request = {}, const CallOptions& options = {}) const;
  /// Pulls the data of all backing images into the disk's own image. Returns when the job is started. It ends by itself.
  /// Mirrors virDomainBlockPull.
  /// Errors:
  /// - those of every call.
  /// - INVALID_ARG -> INVALID_ARGUMENT (disk is absent or not found), correct the call.
  /// - OVERFLOW -> OUT_OF_RANGE (bandwidth in MiB/s is above 8796093022207), give less.
  /// - OPERATION_INVALID -> FAILED_PRECONDITION (the domain is not running), start it.
  /// - BLOCK_COPY_ACTIVE, OPERATION_UNSUPPORTED -> FAILED_PRECONDITION (a job runs on the disk, a mirror or another one; or
  /// block jobs cannot work on this kind of disk), end the job by BlockJobAbort.
  /// - SYSTEM_ERROR -> by errno (NOT_FOUND, PERMISSION_DENIED, ALREADY_EXISTS, RESOURCE_EXHAUSTED, else INTERNAL; an image could
  /// not be used), mend what the message names.
  /// - INVALID_ARG -> ALREADY_EXISTS with the ErrorInfo reason REQUEST_ID_REUSED (other arguments than the first time), choose
  /// another request_id.
  /// - INTERNAL_ERROR, OPERATION_FAILED -> INTERNAL (the hypervisor refused), read the message.
  v1::BlockPullResponse BlockPull(v1::BlockPullRequest request = {}, const CallOptions& options = {}) const;
  /// Merges the data of the images from top down to above base into base. Returns when the job is started. An inactive commit
  /// ends by itself; an active one, with ACTIVE, by BlockJobAbort.
  /// Mirrors virDomainBlockCommit.
  /// Errors:
  /// - those of every call.
  /// - INVALID_ARG -> INVALID_ARGUMENT (disk, base or top is not found, or they and the flags do not go together), correct the
  /// call.
  /// - OVERFLOW -> OUT_OF_RANGE (bandwidth in MiB/s is above 8796093022207), give less.
  /// - OPERATION_INVALID -> FAILED_PRECONDITION (the domain is not running), start it.
  /// - CONFIG_UNSUPPORTED -> FAILED_PRECONDITION (the disk is empty), insert a medium.
  /// - BLOCK_COPY_ACTIVE, OPERATION_UNSUPPORTED -> FAILED_PRECONDITION (a job runs on the disk, a mirror or another one; or
  /// block jobs cannot work on this kind of disk), end the job by BlockJobAbort.
  /// - SYSTEM_ERROR -> by errno (NOT_FOUND, PERMISSION_DENIED, ALREADY_EXISTS, RESOURCE_EXHAUSTED, else INTERNAL; an image could
  /// not be used), mend what the message names.
  /// - INVALID_ARG -> ALREADY_EXISTS with the ErrorInfo reason REQUEST_ID_REUSED (other arguments than the first time), choose
  /// another request_id.
  /// - INTERNAL_ERROR, OPERATION_FAILED -> INTERNAL (the hypervisor refused), read the message.
  v1::BlockCommitResponse BlockCommit(v1::BlockCommitRequest request = {}, const CallOptions& options = {}) const;
  /// Ends the disk's job: with PIVOT the domain goes on with the destination, without it with the source. Waits for the end
  /// unless ASYNC is given. No image is deleted. The call's own deadline ends the call, not the ending.
  /// Mirrors virDomainBlockJobAbort.
  /// Errors:
  /// - those of every call.
  /// - INVALID_ARG -> INVALID_ARGUMENT (disk is absent, not found or without a job), look for the last job by ListBlockJobs.
  /// - BLOCK_COPY_ACTIVE -> FAILED_PRECONDITION (PIVOT and the job is not READY), wait by WaitBlockJob.
  /// - OPERATION_INVALID -> FAILED_PRECONDITION (it is being ended already, or the domain is not running), wait by WaitBlockJob.
  /// - OPERATION_FAILED -> INTERNAL (the pivot failed; the domain uses its source), read the message.
  v1::BlockJobAbortResponse BlockJobAbort(v1::BlockJobAbortRequest request = {}, const CallOptions& options = {}) const;
  /// Answers what the disk's job is doing. For more, and after its end, see BlockJobService.
  /// Mirrors virDomainGetBlockJobInfo.
  /// Errors:
  /// - those of every call.
  /// - INVALID_ARG -> INVALID_ARGUMENT (disk is absent or not found, or unknown flags), correct the call.
  /// - OPERATION_INVALID -> FAILED_PRECONDITION (the domain is not running), start it.
  v1::GetBlockJobInfoResponse GetBlockJobInfo(v1::GetBlockJobInfoRequest request = {}, const CallOptions& options = {}) const;
  /// Changes the speed limit of the disk's job, at once and in any state.
  /// Mirrors virDomainBlockJobSetSpeed.
  /// Errors:
  /// - those of every call.
  /// - OVERFLOW -> OUT_OF_RANGE (bandwidth in MiB/s is above 8796093022207), give less.
  /// - INVALID_ARG -> INVALID_ARGUMENT (disk is absent, not found or without a job), correct the call.
  /// - OPERATION_INVALID -> FAILED_PRECONDITION (the domain is not running), start it.
  v1::BlockJobSetSpeedResponse BlockJobSetSpeed(v1::BlockJobSetSpeedRequest request = {}, const CallOptions& options = {}) const;
  /// Changes the length of a disk. Refused while a job runs on it.
  /// Mirrors virDomainBlockResize.
  /// Errors:
  /// - those of every call.
  /// - INVALID_ARG -> INVALID_ARGUMENT (disk is absent or not found), correct the call.
  /// - OVERFLOW -> OUT_OF_RANGE (size is too large), give less.
  /// - OPERATION_INVALID -> FAILED_PRECONDITION (not in this state), see the message.
  /// - BLOCK_COPY_ACTIVE -> FAILED_PRECONDITION (our engine runs a job on it), INTERNAL_ERROR -> INTERNAL (the hypervisor runs
  /// one), end it by BlockJobAbort.
  v1::BlockResizeResponse BlockResize(v1::BlockResizeRequest request = {}, const CallOptions& options = {}) const;
  /// Answers the sizes of a disk.
  /// Mirrors virDomainGetBlockInfo.
  /// Errors:
  /// - those of every call.
  /// - INVALID_ARG -> INVALID_ARGUMENT (disk is absent or not found), correct the call.
  /// - SYSTEM_ERROR -> by errno (the image cannot be read), mend what the message names.
  v1::GetBlockInfoResponse GetBlockInfo(v1::GetBlockInfoRequest request = {}, const CallOptions& options = {}) const;
  /// Answers how much the guest read from and wrote to a disk.
  /// Mirrors virDomainBlockStats.
  /// Errors:
  /// - those of every call.
  /// - INVALID_ARG -> INVALID_ARGUMENT (disk is absent or not found), correct the call.
  /// - OPERATION_INVALID -> FAILED_PRECONDITION (the domain is not running), start it first.
  v1::BlockStatsResponse BlockStats(v1::BlockStatsRequest request = {}, const CallOptions& options = {}) const;
  /// Saves a running domain's memory to a file and stops it. Refused while a block job runs.
  /// Mirrors virDomainSave.
  /// Errors:
  /// - those of every call.
  /// - INVALID_ARG -> INVALID_ARGUMENT (to is absent), correct the call.
  /// - OPERATION_INVALID, BLOCK_COPY_ACTIVE -> FAILED_PRECONDITION (not in this state, or a job runs on a disk of it), end it by
  /// BlockJobAbort.
  v1::SaveResponse Save(v1::SaveRequest request = {}, const CallOptions& options = {}) const;
  /// Saves a running domain's memory to a file and stops it. Refused while a block job runs.
  /// Mirrors virDomainSaveFlags.
  /// Errors:
  /// - those of every call.
  /// - INVALID_ARG -> INVALID_ARGUMENT (to is absent, or flags do not go together), correct the call.
  /// - OPERATION_INVALID, BLOCK_COPY_ACTIVE -> FAILED_PRECONDITION (not in this state, or a job runs on a disk of it), end it by
  /// BlockJobAbort.
  v1::SaveFlagsResponse SaveFlags(v1::SaveFlagsRequest request = {}, const CallOptions& options = {}) const;
  /// Saves a running domain's memory where libvirt keeps it, and stops it; the next start restores it. Refused while a block job
  /// runs.
  /// Mirrors virDomainManagedSave.
  /// Errors:
  /// - those of every call.
  /// - INVALID_ARG -> INVALID_ARGUMENT (unknown flags), correct the call.
  /// - OPERATION_INVALID, BLOCK_COPY_ACTIVE -> FAILED_PRECONDITION (not in this state, or a job runs on a disk of it), end it by
  /// BlockJobAbort.
  v1::ManagedSaveResponse ManagedSave(v1::ManagedSaveRequest request = {}, const CallOptions& options = {}) const;
  /// Takes a snapshot. Refused while a block job runs on a disk that belongs to it.
  /// Mirrors virDomainSnapshotCreateXML.
  /// Errors:
  /// - those of every call.
  /// - INVALID_ARG -> INVALID_ARGUMENT (flags do not go together), correct the call.
  /// - XML_DETAIL, XML_ERROR -> INVALID_ARGUMENT (the XML cannot be used), correct it.
  /// - CONFIG_UNSUPPORTED -> FAILED_PRECONDITION (the domain's disks do not allow it), see the message.
  /// - OPERATION_INVALID, BLOCK_COPY_ACTIVE -> FAILED_PRECONDITION (not in this state, or a job runs on a disk of it), end it by
  /// BlockJobAbort.
  v1::SnapshotCreateXMLResponse SnapshotCreateXML(v1::SnapshotCreateXMLRequest request = {}, const CallOptions& options = {}) const;
  /// Takes the domain back to a snapshot. Refused while a block job runs.
  /// Mirrors virDomainRevertToSnapshot.
  /// Errors:
  /// - those of every call.
  /// - NO_DOMAIN_SNAPSHOT -> NOT_FOUND (no such snapshot), do not retry.
  /// - SNAPSHOT_REVERT_RISKY -> FAILED_PRECONDITION (something may be lost), add FORCE.
  /// - INVALID_ARG -> INVALID_ARGUMENT (unknown flags), correct the call.
  /// - OPERATION_INVALID, BLOCK_COPY_ACTIVE -> FAILED_PRECONDITION (not in this state, or a job runs on a disk of it), end it by
  /// BlockJobAbort.
  v1::RevertToSnapshotResponse RevertToSnapshot(v1::RevertToSnapshotRequest request = {}, const CallOptions& options = {}) const;
  /// Takes a device from an active domain. Refused for a disk that a block job runs on.
  /// Mirrors virDomainDetachDevice.
  /// Errors:
  /// - those of every call.
  /// - INVALID_ARG -> INVALID_ARGUMENT (the XML is empty, or unknown flags), correct the call.
  /// - XML_DETAIL, XML_ERROR -> INVALID_ARGUMENT (the XML cannot be used), correct it.
  /// - DEVICE_MISSING -> NOT_FOUND (the domain has no such device), nothing to do.
  /// - OPERATION_INVALID, BLOCK_COPY_ACTIVE, OPERATION_UNSUPPORTED -> FAILED_PRECONDITION (not in this state, or a job runs on
  /// the disk), end it by BlockJobAbort.
  v1::DetachDeviceResponse DetachDevice(v1::DetachDeviceRequest request = {}, const CallOptions& options = {}) const;
  /// Takes a device from a domain, its definition, or both. Refused for a disk that a block job runs on.
  /// Mirrors virDomainDetachDeviceFlags.
  /// Errors:
  /// - those of every call.
  /// - INVALID_ARG -> INVALID_ARGUMENT (the XML is empty, or unknown flags), correct the call.
  /// - XML_DETAIL, XML_ERROR -> INVALID_ARGUMENT (the XML cannot be used), correct it.
  /// - DEVICE_MISSING -> NOT_FOUND (the domain has no such device), nothing to do.
  /// - OPERATION_INVALID, BLOCK_COPY_ACTIVE, OPERATION_UNSUPPORTED -> FAILED_PRECONDITION (not in this state, or a job runs on
  /// the disk), end it by BlockJobAbort.
  v1::DetachDeviceFlagsResponse DetachDeviceFlags(v1::DetachDeviceFlagsRequest request = {}, const CallOptions& options = {}) const;
  /// Answers the domain's disks with their backing chains, read now. libvirt has no such call: the same is in the XML, where a
  /// shut-off domain's lacks the chains.
  /// Errors: those of every call.
  v1::ListDisksResponse ListDisks(v1::ListDisksRequest request = {}, const CallOptions& options = {}) const;

 private:
  struct Stub;
  std::shared_ptr<const Connection> connection_;
  std::shared_ptr<Stub> stub_;
};

/// Looks at, waits for and follows block jobs, which are started and ended by DomainService, with libvirt's calls; and keeps the
/// persistent bitmaps that tell BlockCopy, by its parameter "virtblock.bitmap", what was written since an earlier copy.
class BlockJobService {
 public:
  explicit BlockJobService(std::shared_ptr<const Connection> connection);
  const Connection& connection() const { return *connection_; }
  /// Answers one job, running or ended. No libvirt call.
  /// Errors: INVALID_ARG -> INVALID_ARGUMENT (job_id is empty), correct the call; INVALID_ARG -> NOT_FOUND with
  /// the ErrorInfo reason BLOCK_JOB_NOT_FOUND (the server holds no job of this id), do not retry: it never becomes valid later.
  v1::GetBlockJobResponse GetBlockJob(v1::GetBlockJobRequest request = {}, const CallOptions& options = {}) const;
  /// Answers jobs, newest first, a page at a time. No libvirt call.
  /// Errors: INVALID_ARG -> INVALID_ARGUMENT (page_size below 0, or a page_token that no answer gave), start from the first page.
  v1::ListBlockJobsResponse ListBlockJobs(v1::ListBlockJobsRequest request = {}, const CallOptions& options = {}) const;
  /// Waits until a job is in one of the wanted states or in a final state, and answers it. When timeout_ms passes it answers the
  /// job as it is. The call's own deadline or cancellation ends the call and never the job. No libvirt call.
  /// Errors: as GetBlockJob.
  v1::WaitBlockJobResponse WaitBlockJob(v1::WaitBlockJobRequest request = {}, const CallOptions& options = {}) const;
  /// Stops moving data until ResumeBlockJob. Pausing a paused job changes nothing. No libvirt call.
  /// Errors: as GetBlockJob; OPERATION_INVALID -> FAILED_PRECONDITION (the job is not NEW, RUNNING or READY), look at its state;
  /// NO_SUPPORT -> UNIMPLEMENTED (the hypervisor runs the job, not our engine), set a low speed by BlockJobSetSpeed instead.
  v1::PauseBlockJobResponse PauseBlockJob(v1::PauseBlockJobRequest request = {}, const CallOptions& options = {}) const;
  /// Goes on with a paused job. Resuming a job that is not paused changes nothing. No libvirt call.
  /// Errors: as PauseBlockJob.
  v1::ResumeBlockJobResponse ResumeBlockJob(v1::ResumeBlockJobRequest request = {}, const CallOptions& options = {}) const;
  /// Streams every change of state of the jobs that match, in the order of sequence, without gaps: a caller that comes back with
  /// the resume_token of the last event it handled gets all that came after it, over restarts of either side as well. The stream
  /// begins at once: with the snapshot if asked for, and then always a Bookmark. The stream ends only by error or by the caller.
  /// Nearest libvirt call: virConnectDomainEventRegisterAny.
  /// Errors: INVALID_ARG -> INVALID_ARGUMENT (a resume_token that no event gave), begin without a token and with include_snapshot;
  /// OVERFLOW -> OUT_OF_RANGE with the ErrorInfo reason COMPACTED (the token is older than what the server keeps), the same;
  /// RESOURCE_BUSY -> RESOURCE_EXHAUSTED with the ErrorInfo reason SLOW_READER, open again with the last resume_token;
  /// UNAVAILABLE (the server stops), the same.
  Stream<v1::WatchBlockJobsResponse> WatchBlockJobs(v1::WatchBlockJobsRequest request = {}, const CallOptions& options = {}) const;
  /// Streams a down-sampled picture of what a job has and has not copied: each message is a whole picture. The first comes at once,
  /// the stream ends after the picture of the final state. No libvirt call.
  /// Errors: as GetBlockJob; INVALID_ARG -> INVALID_ARGUMENT (cell_count or interval_ms out of range), correct the call;
  /// NO_SUPPORT -> UNIMPLEMENTED (the hypervisor runs the job, which shows no map), use WatchBlockJobs with progress.
  Stream<v1::WatchBlockMapResponse> WatchBlockMap(v1::WatchBlockMapRequest request = {}, const CallOptions& options = {}) const;
  /// Answers the persistent bitmaps of a disk's active image. Allowed on read-only connections. No libvirt call.
  /// Errors: NO_DOMAIN -> NOT_FOUND, look the domain up again; INVALID_DOMAIN -> INVALID_ARGUMENT (the request names none);
  /// INVALID_ARG -> INVALID_ARGUMENT (the domain has no such disk), list its disks; CONFIG_UNSUPPORTED -> FAILED_PRECONDITION (the
  /// engine does not read the disk's format); INTERNAL_ERROR -> INTERNAL (somebody has the image open for writing, or it is
  /// damaged), try again when it is closed; BLOCK_COPY_ACTIVE, OPERATION_UNSUPPORTED -> FAILED_PRECONDITION (a job writes to the
  /// image), wait for its end; NO_SUPPORT -> UNIMPLEMENTED (this connection offers no bitmaps).
  v1::ListBlockBitmapsResponse ListBlockBitmaps(v1::ListBlockBitmapsRequest request = {}, const CallOptions& options = {}) const;
  /// Gives the image a new bitmap in which nothing is dirty; it is durable when the call answers. Bitmaps that an INCONSISTENT image
  /// still lists are dropped. Of a shut-off domain only. No libvirt call.
  /// Errors: as ListBlockBitmaps; OPERATION_DENIED -> PERMISSION_DENIED (a read-only connection), use another one; INVALID_ARG ->
  /// INVALID_ARGUMENT (name or granularity), correct the call; OPERATION_INVALID -> FAILED_PRECONDITION (there is one of that name;
  /// or a strict server refuses shut-off disks), choose another name; BLOCK_COPY_ACTIVE -> FAILED_PRECONDITION (the disk has a
  /// block job), wait for its end; CONFIG_UNSUPPORTED -> FAILED_PRECONDITION (the image is raw, or qcow2 of version 2, or its header
  /// has no room), convert it.
  v1::AddBlockBitmapResponse AddBlockBitmap(v1::AddBlockBitmapRequest request = {}, const CallOptions& options = {}) const;
  /// Takes a bitmap from the image, whatever its state. Of a shut-off domain only. No libvirt call.
  /// Errors: as AddBlockBitmap, but for the name; NO_DOMAIN_CHECKPOINT -> NOT_FOUND (no bitmap of that name; the message has
  /// those there are), list them.
  v1::RemoveBlockBitmapResponse RemoveBlockBitmap(v1::RemoveBlockBitmapRequest request = {}, const CallOptions& options = {}) const;
  /// Makes a bitmap mark nothing: what comes next is copied from here on. Call it when the copy that used it is safe, and before the
  /// domain runs again, or writes are missed. Of a shut-off domain only. No libvirt call.
  /// Errors: as RemoveBlockBitmap; CHECKPOINT_INCONSISTENT -> FAILED_PRECONDITION (the bitmap is not USABLE), remove it, add a new
  /// one, and make a full copy.
  v1::ClearBlockBitmapResponse ClearBlockBitmap(v1::ClearBlockBitmapRequest request = {}, const CallOptions& options = {}) const;

 private:
  struct Stub;
  std::shared_ptr<const Connection> connection_;
  std::shared_ptr<Stub> stub_;
};

}  // namespace virtblock
