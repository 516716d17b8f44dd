// SPDX-License-Identifier: Apache-2.0
// Made by clients/cpp/generate.py from proto/virtblock/v1. Do not edit.
#pragma once

#include <string>

namespace virtblock {

// Repeated is only what does no thing twice: reads, and calls that start a job under a request_id.
inline constexpr char SERVICE_CONFIG[] = R"({"methodConfig": [{"name": [{"service": "virtblock.v1.ConnectService", "method": "GetVersion"}, {"service": "virtblock.v1.ConnectService", "method": "GetLibVersion"}, {"service": "virtblock.v1.ConnectService", "method": "GetType"}, {"service": "virtblock.v1.ConnectService", "method": "GetHostname"}, {"service": "virtblock.v1.ConnectService", "method": "GetURI"}, {"service": "virtblock.v1.ConnectService", "method": "GetCapabilities"}, {"service": "virtblock.v1.ConnectService", "method": "IsAlive"}, {"service": "virtblock.v1.ConnectService", "method": "IsSecure"}, {"service": "virtblock.v1.ConnectService", "method": "IsEncrypted"}, {"service": "virtblock.v1.ConnectService", "method": "ListConnections"}, {"service": "virtblock.v1.ConnectService", "method": "DomainLookupByName"}, {"service": "virtblock.v1.ConnectService", "method": "DomainLookupByUUID"}, {"service": "virtblock.v1.ConnectService", "method": "DomainLookupByID"}, {"service": "virtblock.v1.ConnectService", "method": "ListAllDomains"}, {"service": "virtblock.v1.DomainService", "method": "GetXMLDesc"}, {"service": "virtblock.v1.DomainService", "method": "GetState"}, {"service": "virtblock.v1.DomainService", "method": "GetInfo"}, {"service": "virtblock.v1.DomainService", "method": "IsActive"}, {"service": "virtblock.v1.DomainService", "method": "IsPersistent"}, {"service": "virtblock.v1.DomainService", "method": "BlockRebase"}, {"service": "virtblock.v1.DomainService", "method": "BlockCopy"}, {"service": "virtblock.v1.DomainService", "method": "BlockPull"}, {"service": "virtblock.v1.DomainService", "method": "BlockCommit"}, {"service": "virtblock.v1.DomainService", "method": "GetBlockJobInfo"}, {"service": "virtblock.v1.DomainService", "method": "GetBlockInfo"}, {"service": "virtblock.v1.DomainService", "method": "BlockStats"}, {"service": "virtblock.v1.DomainService", "method": "ListDisks"}, {"service": "virtblock.v1.BlockJobService", "method": "GetBlockJob"}, {"service": "virtblock.v1.BlockJobService", "method": "ListBlockJobs"}, {"service": "virtblock.v1.BlockJobService", "method": "ListBlockBitmaps"}, {"service": "virtblock.v1.BlockJobService", "method": "WaitBlockJob"}], "retryPolicy": {"maxAttempts": 4, "initialBackoff": "0.1s", "maxBackoff": "1s", "backoffMultiplier": 2, "retryableStatusCodes": ["UNAVAILABLE"]}}]})";

// gRPC's name of a code.
inline std::string code_name(int code) {
  switch (code) {
    case 0: return "OK";
    case 1: return "CANCELLED";
    case 2: return "UNKNOWN";
    case 3: return "INVALID_ARGUMENT";
    case 4: return "DEADLINE_EXCEEDED";
    case 5: return "NOT_FOUND";
    case 6: return "ALREADY_EXISTS";
    case 7: return "PERMISSION_DENIED";
    case 8: return "RESOURCE_EXHAUSTED";
    case 9: return "FAILED_PRECONDITION";
    case 10: return "ABORTED";
    case 11: return "OUT_OF_RANGE";
    case 12: return "UNIMPLEMENTED";
    case 13: return "INTERNAL";
    case 14: return "UNAVAILABLE";
    case 15: return "DATA_LOSS";
    case 16: return "UNAUTHENTICATED";
    default: return std::to_string(code);
  }
}

}  // namespace virtblock
