// SPDX-License-Identifier: Apache-2.0
// Made by clients/cpp/generate.py from proto/virtblock/v1. Do not edit.
#include "virtblock/gen/services.hpp"

#include "virtblock/v1/connect_service.grpc.pb.h"
#include "virtblock/v1/domain_service.grpc.pb.h"
#include "virtblock/v1/block_job_service.grpc.pb.h"

namespace virtblock {

struct ConnectService::Stub {
  std::unique_ptr<v1::ConnectService::Stub> calls;
};

ConnectService::ConnectService(std::shared_ptr<const Connection> connection)
    : connection_(std::move(connection)),
      stub_(std::make_shared<Stub>(Stub{v1::ConnectService::NewStub(connection_->channel())})) {}

v1::GetVersionResponse ConnectService::GetVersion(v1::GetVersionRequest request, const CallOptions& options) const {
  if (request.connection_uri().empty()) request.set_connection_uri(connection_->connection_uri());
  Call call(*connection_, "GetVersion", options);
  v1::GetVersionResponse answer;
  call.check(stub_->calls->GetVersion(&call.context, request, &answer));
  return answer;
}

v1::GetLibVersionResponse ConnectService::GetLibVersion(v1::GetLibVersionRequest request, const CallOptions& options) const {
  if (request.connection_uri().empty()) request.set_connection_uri(connection_->connection_uri());
  Call call(*connection_, "GetLibVersion", options);
  v1::GetLibVersionResponse answer;
  call.check(stub_->calls->GetLibVersion(&call.context, request, &answer));
  return answer;
}

v1::GetTypeResponse ConnectService::GetType(v1::GetTypeRequest request, const CallOptions& options) const {
  if (request.connection_uri().empty()) request.set_connection_uri(connection_->connection_uri());
  Call call(*connection_, "GetType", options);
  v1::GetTypeResponse answer;
  call.check(stub_->calls->GetType(&call.context, request, &answer));
  return answer;
}

v1::GetHostnameResponse ConnectService::GetHostname(v1::GetHostnameRequest request, const CallOptions& options) const {
  if (request.connection_uri().empty()) request.set_connection_uri(connection_->connection_uri());
  Call call(*connection_, "GetHostname", options);
  v1::GetHostnameResponse answer;
  call.check(stub_->calls->GetHostname(&call.context, request, &answer));
  return answer;
}

v1::GetURIResponse ConnectService::GetURI(v1::GetURIRequest request, const CallOptions& options) const {
  if (request.connection_uri().empty()) request.set_connection_uri(connection_->connection_uri());
  Call call(*connection_, "GetURI", options);
  v1::GetURIResponse answer;
  call.check(stub_->calls->GetURI(&call.context, request, &answer));
  return answer;
}

v1::GetCapabilitiesResponse ConnectService::GetCapabilities(v1::GetCapabilitiesRequest request, const CallOptions& options) const {
  if (request.connection_uri().empty()) request.set_connection_uri(connection_->connection_uri());
  Call call(*connection_, "GetCapabilities", options);
  v1::GetCapabilitiesResponse answer;
  call.check(stub_->calls->GetCapabilities(&call.context, request, &answer));
  return answer;
}

v1::IsAliveResponse ConnectService::IsAlive(v1::IsAliveRequest request, const CallOptions& options) const {
  if (request.connection_uri().empty()) request.set_connection_uri(connection_->connection_uri());
  Call call(*connection_, "IsAlive", options);
  v1::IsAliveResponse answer;
  call.check(stub_->calls->IsAlive(&call.context, request, &answer));
  return answer;
}

v1::IsSecureResponse ConnectService::IsSecure(v1::IsSecureRequest request, const CallOptions& options) const {
  if (request.connection_uri().empty()) request.set_connection_uri(connection_->connection_uri());
  Call call(*connection_, "IsSecure", options);
  v1::IsSecureResponse answer;
  call.check(stub_->calls->IsSecure(&call.context, request, &answer));
  return answer;
}

v1::IsEncryptedResponse ConnectService::IsEncrypted(v1::IsEncryptedRequest request, const CallOptions& options) const {
  if (request.connection_uri().empty()) request.set_connection_uri(connection_->connection_uri());
  Call call(*connection_, "IsEncrypted", options);
  v1::IsEncryptedResponse answer;
  call.check(stub_->calls->IsEncrypted(&call.context, request, &answer));
  return answer;
}

v1::ListConnectionsResponse ConnectService::ListConnections(v1::ListConnectionsRequest request, const CallOptions& options) const {
  Call call(*connection_, "ListConnections", options);
  v1::ListConnectionsResponse answer;
  call.check(stub_->calls->ListConnections(&call.context, request, &answer));
  return answer;
}

v1::DomainLookupByNameResponse ConnectService::DomainLookupByName(v1::DomainLookupByNameRequest request, const CallOptions& options) const {
  if (request.connection_uri().empty()) request.set_connection_uri(connection_->connection_uri());
  Call call(*connection_, "DomainLookupByName", options);
  v1::DomainLookupByNameResponse answer;
  call.check(stub_->calls->DomainLookupByName(&call.context, request, &answer));
  return answer;
}

v1::DomainLookupByUUIDResponse ConnectService::DomainLookupByUUID(v1::DomainLookupByUUIDRequest request, const CallOptions& options) const {
  if (request.connection_uri().empty()) request.set_connection_uri(connection_->connection_uri());
  Call call(*connection_, "DomainLookupByUUID", options);
  v1::DomainLookupByUUIDResponse answer;
  call.check(stub_->calls->DomainLookupByUUID(&call.context, request, &answer));
  return answer;
}

v1::DomainLookupByIDResponse ConnectService::DomainLookupByID(v1::DomainLookupByIDRequest request, const CallOptions& options) const {
  if (request.connection_uri().empty()) request.set_connection_uri(connection_->connection_uri());
  Call call(*connection_, "DomainLookupByID", options);
  v1::DomainLookupByIDResponse answer;
  call.check(stub_->calls->DomainLookupByID(&call.context, request, &answer));
  return answer;
}

v1::ListAllDomainsResponse ConnectService::ListAllDomains(v1::ListAllDomainsRequest request, const CallOptions& options) const {
  if (request.connection_uri().empty()) request.set_connection_uri(connection_->connection_uri());
  Call call(*connection_, "ListAllDomains", options);
  v1::ListAllDomainsResponse answer;
  call.check(stub_->calls->ListAllDomains(&call.context, request, &answer));
  return answer;
}

v1::DomainDefineXMLResponse ConnectService::DomainDefineXML(v1::DomainDefineXMLRequest request, const CallOptions& options) const {
  if (request.connection_uri().empty()) request.set_connection_uri(connection_->connection_uri());
  Call call(*connection_, "DomainDefineXML", options);
  v1::DomainDefineXMLResponse answer;
  call.check(stub_->calls->DomainDefineXML(&call.context, request, &answer));
  return answer;
}

v1::DomainCreateXMLResponse ConnectService::DomainCreateXML(v1::DomainCreateXMLRequest request, const CallOptions& options) const {
  if (request.connection_uri().empty()) request.set_connection_uri(connection_->connection_uri());
  Call call(*connection_, "DomainCreateXML", options);
  v1::DomainCreateXMLResponse answer;
  call.check(stub_->calls->DomainCreateXML(&call.context, request, &answer));
  return answer;
}

Stream<v1::DomainEventRegisterAnyResponse> ConnectService::DomainEventRegisterAny(v1::DomainEventRegisterAnyRequest request, const CallOptions& options) const {
  if (request.connection_uri().empty()) request.set_connection_uri(connection_->connection_uri());
  if (request.has_domain() && request.domain().connection_uri().empty()) {
    request.mutable_domain()->set_connection_uri(connection_->connection_uri());
  }
  auto call = std::make_unique<Call>(*connection_, "DomainEventRegisterAny", options);
  auto reader = stub_->calls->DomainEventRegisterAny(&call->context, request);
  return {std::move(call), std::move(reader)};
}

struct DomainService::Stub {
  std::unique_ptr<v1::DomainService::Stub> calls;
};

DomainService::DomainService(std::shared_ptr<const Connection> connection)
    : connection_(std::move(connection)),
      stub_(std::make_shared<Stub>(Stub{v1::DomainService::NewStub(connection_->channel())})) {}

v1::GetXMLDescResponse DomainService::GetXMLDesc(v1::GetXMLDescRequest request, const CallOptions& options) const {
  if (request.has_domain() && request.domain().connection_uri().empty()) {
    request.mutable_domain()->set_connection_uri(connection_->connection_uri());
  }
  Call call(*connection_, "GetXMLDesc", options);
  v1::GetXMLDescResponse answer;
  call.check(stub_->calls->GetXMLDesc(&call.context, request, &answer));
  return answer;
}

v1::GetStateResponse DomainService::GetState(v1::GetStateRequest request, const CallOptions& options) const {
  if (request.has_domain() && request.domain().connection_uri().empty()) {
    request.mutable_domain()->set_connection_uri(connection_->connection_uri());
  }
  Call call(*connection_, "GetState", options);
  v1::GetStateResponse answer;
  call.check(stub_->calls->GetState(&call.context, request, &answer));
  return answer;
}

v1::GetInfoResponse DomainService::GetInfo(v1::GetInfoRequest request, const CallOptions& options) const {
  if (request.has_domain() && request.domain().connection_uri().empty()) {
    request.mutable_domain()->set_connection_uri(connection_->connection_uri());
  }
  Call call(*connection_, "GetInfo", options);
  v1::GetInfoResponse answer;
  call.check(stub_->calls->GetInfo(&call.context, request, &answer));
  return answer;
}

v1::IsActiveResponse DomainService::IsActive(v1::IsActiveRequest request, const CallOptions& options) const {
  if (request.has_domain() && request.domain().connection_uri().empty()) {
    request.mutable_domain()->set_connection_uri(connection_->connection_uri());
  }
  Call call(*connection_, "IsActive", options);
  v1::IsActiveResponse answer;
  call.check(stub_->calls->IsActive(&call.context, request, &answer));
  return answer;
}

v1::IsPersistentResponse DomainService::IsPersistent(v1::IsPersistentRequest request, const CallOptions& options) const {
  if (request.has_domain() && request.domain().connection_uri().empty()) {
    request.mutable_domain()->set_connection_uri(connection_->connection_uri());
  }
  Call call(*connection_, "IsPersistent", options);
  v1::IsPersistentResponse answer;
  call.check(stub_->calls->IsPersistent(&call.context, request, &answer));
  return answer;
}

v1::CreateResponse DomainService::Create(v1::CreateRequest request, const CallOptions& options) const {
  if (request.has_domain() && request.domain().connection_uri().empty()) {
    request.mutable_domain()->set_connection_uri(connection_->connection_uri());
  }
  Call call(*connection_, "Create", options);
  v1::CreateResponse answer;
  call.check(stub_->calls->Create(&call.context, request, &answer));
  return answer;
}

v1::DestroyResponse DomainService::Destroy(v1::DestroyRequest request, const CallOptions& options) const {
  if (request.has_domain() && request.domain().connection_uri().empty()) {
    request.mutable_domain()->set_connection_uri(connection_->connection_uri());
  }
  Call call(*connection_, "Destroy", options);
  v1::DestroyResponse answer;
  call.check(stub_->calls->Destroy(&call.context, request, &answer));
  return answer;
}

v1::ShutdownResponse DomainService::Shutdown(v1::ShutdownRequest request, const CallOptions& options) const {
  if (request.has_domain() && request.domain().connection_uri().empty()) {
    request.mutable_domain()->set_connection_uri(connection_->connection_uri());
  }
  Call call(*connection_, "Shutdown", options);
  v1::ShutdownResponse answer;
  call.check(stub_->calls->Shutdown(&call.context, request, &answer));
  return answer;
}

v1::UndefineResponse DomainService::Undefine(v1::UndefineRequest request, const CallOptions& options) const {
  if (request.has_domain() && request.domain().connection_uri().empty()) {
    request.mutable_domain()->set_connection_uri(connection_->connection_uri());
  }
  Call call(*connection_, "Undefine", options);
  v1::UndefineResponse answer;
  call.check(stub_->calls->Undefine(&call.context, request, &answer));
  return answer;
}

v1::SuspendResponse DomainService::Suspend(v1::SuspendRequest request, const CallOptions& options) const {
  if (request.has_domain() && request.domain().connection_uri().empty()) {
    request.mutable_domain()->set_connection_uri(connection_->connection_uri());
  }
  Call call(*connection_, "Suspend", options);
  v1::SuspendResponse answer;
  call.check(stub_->calls->Suspend(&call.context, request, &answer));
  return answer;
}

v1::ResumeResponse DomainService::Resume(v1::ResumeRequest request, const CallOptions& options) const {
  if (request.has_domain() && request.domain().connection_uri().empty()) {
    request.mutable_domain()->set_connection_uri(connection_->connection_uri());
  }
  Call call(*connection_, "Resume", options);
  v1::ResumeResponse answer;
  call.check(stub_->calls->Resume(&call.context, request, &answer));
  return answer;
}

v1::BlockRebaseResponse DomainService::BlockRebase(v1::BlockRebaseRequest request, const CallOptions& options) const {
  if (request.request_id().empty()) request.set_request_id(new_request_id());
  if (request.has_domain() && request.domain().connection_uri().empty()) {
    request.mutable_domain()->set_connection_uri(connection_->connection_uri());
  }
  Call call(*connection_, "BlockRebase", options);
  v1::BlockRebaseResponse answer;
  call.check(stub_->calls->BlockRebase(&call.context, request, &answer));
  return answer;
}

v1::BlockCopyResponse DomainService::BlockCopy(v1::BlockCopyRequest request, const CallOptions& options) const {
  if (request.request_id().empty()) request.set_request_id(new_request_id());
  if (request.has_domain() && request.domain().connection_uri().empty()) {
    request.mutable_domain()->set_connection_uri(connection_->connection_uri());
  }
  Call call(*connection_, "BlockCopy", options);
  v1::BlockCopyResponse answer;
  call.check(stub_->calls->BlockCopy(&call.context, request, &answer));
  return answer;
}

v1::BlockPullResponse DomainService::BlockPull(v1::BlockPullRequest request, const CallOptions& options) const {
  if (request.request_id().empty()) request.set_request_id(new_request_id());
  if (request.has_domain() && request.domain().connection_uri().empty()) {
    request.mutable_domain()->set_connection_uri(connection_->connection_uri());
  }
  Call call(*connection_, "BlockPull", options);
  v1::BlockPullResponse answer;
  call.check(stub_->calls->BlockPull(&call.context, request, &answer));
  return answer;
}

v1::BlockCommitResponse DomainService::BlockCommit(v1::BlockCommitRequest request, const CallOptions& options) const {
  if (request.request_id().empty()) request.set_request_id(new_request_id());
  if (request.has_domain() && request.domain().connection_uri().empty()) {
    request.mutable_domain()->set_connection_uri(connection_->connection_uri());
  }
  Call call(*connection_, "BlockCommit", options);
  v1::BlockCommitResponse answer;
  call.check(stub_->calls->BlockCommit(&call.context, request, &answer));
  return answer;
}

v1::BlockJobAbortResponse DomainService::BlockJobAbort(v1::BlockJobAbortRequest request, const CallOptions& options) const {
  if (request.has_domain() && request.domain().connection_uri().empty()) {
    request.mutable_domain()->set_connection_uri(connection_->connection_uri());
  }
  Call call(*connection_, "BlockJobAbort", options);
  v1::BlockJobAbortResponse answer;
  call.check(stub_->calls->BlockJobAbort(&call.context, request, &answer));
  return answer;
}

v1::GetBlockJobInfoResponse DomainService::GetBlockJobInfo(v1::GetBlockJobInfoRequest request, const CallOptions& options) const {
  if (request.has_domain() && request.domain().connection_uri().empty()) {
    request.mutable_domain()->set_connection_uri(connection_->connection_uri());
  }
  Call call(*connection_, "GetBlockJobInfo", options);
  v1::GetBlockJobInfoResponse answer;
  call.check(stub_->calls->GetBlockJobInfo(&call.context, request, &answer));
  return answer;
}

v1::BlockJobSetSpeedResponse DomainService::BlockJobSetSpeed(v1::BlockJobSetSpeedRequest request, const CallOptions& options) const {
  if (request.has_domain() && request.domain().connection_uri().empty()) {
    request.mutable_domain()->set_connection_uri(connection_->connection_uri());
  }
  Call call(*connection_, "BlockJobSetSpeed", options);
  v1::BlockJobSetSpeedResponse answer;
  call.check(stub_->calls->BlockJobSetSpeed(&call.context, request, &answer));
  return answer;
}

v1::BlockResizeResponse DomainService::BlockResize(v1::BlockResizeRequest request, const CallOptions& options) const {
  if (request.has_domain() && request.domain().connection_uri().empty()) {
    request.mutable_domain()->set_connection_uri(connection_->connection_uri());
  }
  Call call(*connection_, "BlockResize", options);
  v1::BlockResizeResponse answer;
  call.check(stub_->calls->BlockResize(&call.context, request, &answer));
  return answer;
}

v1::GetBlockInfoResponse DomainService::GetBlockInfo(v1::GetBlockInfoRequest request, const CallOptions& options) const {
  if (request.has_domain() && request.domain().connection_uri().empty()) {
    request.mutable_domain()->set_connection_uri(connection_->connection_uri());
  }
  Call call(*connection_, "GetBlockInfo", options);
  v1::GetBlockInfoResponse answer;
  call.check(stub_->calls->GetBlockInfo(&call.context, request, &answer));
  return answer;
}

v1::BlockStatsResponse DomainService::BlockStats(v1::BlockStatsRequest request, const CallOptions& options) const {
  if (request.has_domain() && request.domain().connection_uri().empty()) {
    request.mutable_domain()->set_connection_uri(connection_->connection_uri());
  }
  Call call(*connection_, "BlockStats", options);
  v1::BlockStatsResponse answer;
  call.check(stub_->calls->BlockStats(&call.context, request, &answer));
  return answer;
}

v1::SaveResponse DomainService::Save(v1::SaveRequest request, const CallOptions& options) const {
  if (request.has_domain() && request.domain().connection_uri().empty()) {
    request.mutable_domain()->set_connection_uri(connection_->connection_uri());
  }
  Call call(*connection_, "Save", options);
  v1::SaveResponse answer;
  call.check(stub_->calls->Save(&call.context, request, &answer));
  return answer;
}

v1::SaveFlagsResponse DomainService::SaveFlags(v1::SaveFlagsRequest request, const CallOptions& options) const {
  if (request.has_domain() && request.domain().connection_uri().empty()) {
    request.mutable_domain()->set_connection_uri(connection_->connection_uri());
  }
  Call call(*connection_, "SaveFlags", options);
  v1::SaveFlagsResponse answer;
  call.check(stub_->calls->SaveFlags(&call.context, request, &answer));
  return answer;
}

v1::ManagedSaveResponse DomainService::ManagedSave(v1::ManagedSaveRequest request, const CallOptions& options) const {
  if (request.has_domain() && request.domain().connection_uri().empty()) {
    request.mutable_domain()->set_connection_uri(connection_->connection_uri());
  }
  Call call(*connection_, "ManagedSave", options);
  v1::ManagedSaveResponse answer;
  call.check(stub_->calls->ManagedSave(&call.context, request, &answer));
  return answer;
}

v1::SnapshotCreateXMLResponse DomainService::SnapshotCreateXML(v1::SnapshotCreateXMLRequest request, const CallOptions& options) const {
  if (request.has_domain() && request.domain().connection_uri().empty()) {
    request.mutable_domain()->set_connection_uri(connection_->connection_uri());
  }
  Call call(*connection_, "SnapshotCreateXML", options);
  v1::SnapshotCreateXMLResponse answer;
  call.check(stub_->calls->SnapshotCreateXML(&call.context, request, &answer));
  return answer;
}

v1::RevertToSnapshotResponse DomainService::RevertToSnapshot(v1::RevertToSnapshotRequest request, const CallOptions& options) const {
  if (request.has_domain() && request.domain().connection_uri().empty()) {
    request.mutable_domain()->set_connection_uri(connection_->connection_uri());
  }
  Call call(*connection_, "RevertToSnapshot", options);
  v1::RevertToSnapshotResponse answer;
  call.check(stub_->calls->RevertToSnapshot(&call.context, request, &answer));
  return answer;
}

v1::DetachDeviceResponse DomainService::DetachDevice(v1::DetachDeviceRequest request, const CallOptions& options) const {
  if (request.has_domain() && request.domain().connection_uri().empty()) {
    request.mutable_domain()->set_connection_uri(connection_->connection_uri());
  }
  Call call(*connection_, "DetachDevice", options);
  v1::DetachDeviceResponse answer;
  call.check(stub_->calls->DetachDevice(&call.context, request, &answer));
  return answer;
}

v1::DetachDeviceFlagsResponse DomainService::DetachDeviceFlags(v1::DetachDeviceFlagsRequest request, const CallOptions& options) const {
  if (request.has_domain() && request.domain().connection_uri().empty()) {
    request.mutable_domain()->set_connection_uri(connection_->connection_uri());
  }
  Call call(*connection_, "DetachDeviceFlags", options);
  v1::DetachDeviceFlagsResponse answer;
  call.check(stub_->calls->DetachDeviceFlags(&call.context, request, &answer));
  return answer;
}

v1::ListDisksResponse DomainService::ListDisks(v1::ListDisksRequest request, const CallOptions& options) const {
  if (request.has_domain() && request.domain().connection_uri().empty()) {
    request.mutable_domain()->set_connection_uri(connection_->connection_uri());
  }
  Call call(*connection_, "ListDisks", options);
  v1::ListDisksResponse answer;
  call.check(stub_->calls->ListDisks(&call.context, request, &answer));
  return answer;
}

struct BlockJobService::Stub {
  std::unique_ptr<v1::BlockJobService::Stub> calls;
};

BlockJobService::BlockJobService(std::shared_ptr<const Connection> connection)
    : connection_(std::move(connection)),
      stub_(std::make_shared<Stub>(Stub{v1::BlockJobService::NewStub(connection_->channel())})) {}

v1::GetBlockJobResponse BlockJobService::GetBlockJob(v1::GetBlockJobRequest request, const CallOptions& options) const {
  Call call(*connection_, "GetBlockJob", options);
  v1::GetBlockJobResponse answer;
  call.check(stub_->calls->GetBlockJob(&call.context, request, &answer));
  return answer;
}

v1::ListBlockJobsResponse BlockJobService::ListBlockJobs(v1::ListBlockJobsRequest request, const CallOptions& options) const {
  if (request.has_filter() && request.filter().connection_uri().empty()) {
    request.mutable_filter()->set_connection_uri(connection_->connection_uri());
  }
  Call call(*connection_, "ListBlockJobs", options);
  v1::ListBlockJobsResponse answer;
  call.check(stub_->calls->ListBlockJobs(&call.context, request, &answer));
  return answer;
}

v1::WaitBlockJobResponse BlockJobService::WaitBlockJob(v1::WaitBlockJobRequest request, const CallOptions& options) const {
  Call call(*connection_, "WaitBlockJob", options);
  v1::WaitBlockJobResponse answer;
  call.check(stub_->calls->WaitBlockJob(&call.context, request, &answer));
  return answer;
}

v1::PauseBlockJobResponse BlockJobService::PauseBlockJob(v1::PauseBlockJobRequest request, const CallOptions& options) const {
  Call call(*connection_, "PauseBlockJob", options);
  v1::PauseBlockJobResponse answer;
  call.check(stub_->calls->PauseBlockJob(&call.context, request, &answer));
  return answer;
}

v1::ResumeBlockJobResponse BlockJobService::ResumeBlockJob(v1::ResumeBlockJobRequest request, const CallOptions& options) const {
  Call call(*connection_, "ResumeBlockJob", options);
  v1::ResumeBlockJobResponse answer;
  call.check(stub_->calls->ResumeBlockJob(&call.context, request, &answer));
  return answer;
}

Stream<v1::WatchBlockJobsResponse> BlockJobService::WatchBlockJobs(v1::WatchBlockJobsRequest request, const CallOptions& options) const {
  if (request.has_filter() && request.filter().connection_uri().empty()) {
    request.mutable_filter()->set_connection_uri(connection_->connection_uri());
  }
  auto call = std::make_unique<Call>(*connection_, "WatchBlockJobs", options);
  auto reader = stub_->calls->WatchBlockJobs(&call->context, request);
  return {std::move(call), std::move(reader)};
}

Stream<v1::WatchBlockMapResponse> BlockJobService::WatchBlockMap(v1::WatchBlockMapRequest request, const CallOptions& options) const {
  auto call = std::make_unique<Call>(*connection_, "WatchBlockMap", options);
  auto reader = stub_->calls->WatchBlockMap(&call->context, request);
  return {std::move(call), std::move(reader)};
}

v1::ListBlockBitmapsResponse BlockJobService::ListBlockBitmaps(v1::ListBlockBitmapsRequest request, const CallOptions& options) const {
  if (request.has_domain() && request.domain().connection_uri().empty()) {
    request.mutable_domain()->set_connection_uri(connection_->connection_uri());
  }
  Call call(*connection_, "ListBlockBitmaps", options);
  v1::ListBlockBitmapsResponse answer;
  call.check(stub_->calls->ListBlockBitmaps(&call.context, request, &answer));
  return answer;
}

v1::AddBlockBitmapResponse BlockJobService::AddBlockBitmap(v1::AddBlockBitmapRequest request, const CallOptions& options) const {
  if (request.has_domain() && request.domain().connection_uri().empty()) {
    request.mutable_domain()->set_connection_uri(connection_->connection_uri());
  }
  Call call(*connection_, "AddBlockBitmap", options);
  v1::AddBlockBitmapResponse answer;
  call.check(stub_->calls->AddBlockBitmap(&call.context, request, &answer));
  return answer;
}

v1::RemoveBlockBitmapResponse BlockJobService::RemoveBlockBitmap(v1::RemoveBlockBitmapRequest request, const CallOptions& options) const {
  if (request.has_domain() && request.domain().connection_uri().empty()) {
    request.mutable_domain()->set_connection_uri(connection_->connection_uri());
  }
  Call call(*connection_, "RemoveBlockBitmap", options);
  v1::RemoveBlockBitmapResponse answer;
  call.check(stub_->calls->RemoveBlockBitmap(&call.context, request, &answer));
  return answer;
}

v1::ClearBlockBitmapResponse BlockJobService::ClearBlockBitmap(v1::ClearBlockBitmapRequest request, const CallOptions& options) const {
  if (request.has_domain() && request.domain().connection_uri().empty()) {
    request.mutable_domain()->set_connection_uri(connection_->connection_uri());
  }
  Call call(*connection_, "ClearBlockBitmap", options);
  v1::ClearBlockBitmapResponse answer;
  call.check(stub_->calls->ClearBlockBitmap(&call.context, request, &answer));
  return answer;
}

}  // namespace virtblock
