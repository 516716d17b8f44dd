// SPDX-License-Identifier: Apache-2.0
#include "virtblock/error.hpp"

#include <cerrno>
#include <cstring>
#include <optional>

#include "gen/grpc.hpp"
#include "src/status_detail.pb.h"
#include "target.hpp"

namespace virtblock {
namespace {

v1::VirError of_client(ErrorNumber number, const std::string& message, int int1 = -1) {
  v1::VirError record;
  record.set_number(number);
  record.set_domain(FROM_RPC);
  record.set_level(ERR_ERROR);
  record.set_message(message);
  record.set_str1("%s");
  record.set_str2(message);
  record.set_int1(int1);
  record.set_int2(-1);
  return record;
}

std::optional<Error> sent_by_server(const grpc::Status& status) {
  client::StatusDetail sent;
  client::ErrorInfo info;
  std::optional<v1::VirError> record;
  sent.ParseFromString(status.error_details());
  for (const auto& detail : sent.details()) {
    const std::string type = detail.type_url().substr(detail.type_url().rfind('/') + 1);
    if (type == "google.rpc.ErrorInfo") info.ParseFromString(detail.value());
    if (type == "virtblock.v1.VirError") record.emplace().ParseFromString(detail.value());
  }
  return record ? std::optional(Error(*record, info.reason(), status)) : std::nullopt;
}

// What the kernel said of a socket that nobody serves; gRPC passes it on in words alone. -1: something else.
int connect_errno(const std::string& text) {
  for (const int number : {ENOENT, ECONNREFUSED, EACCES, ETIMEDOUT, EHOSTUNREACH}) {
    if (text.find(std::strerror(number)) != std::string::npos) return number;
  }
  return -1;
}

v1::VirError without_detail(const grpc::Status& status, const std::string& target, const std::string& rpc) {
  const std::string at = "virtblockd at " + target, text = status.error_message();
  const int number = connect_errno(text);
  switch (status.error_code()) {
    case grpc::UNAVAILABLE:
      return of_client(ERR_SYSTEM_ERROR, "cannot connect to " + at + ": " + (number == -1 ? text : std::strerror(number)) +
                           "; is it running? start it with: virtblockd --listen " + without_suffix(target), number);
    case grpc::DEADLINE_EXCEEDED:
      return of_client(ERR_OPERATION_TIMEOUT, rpc + ": " + at + " did not answer in time; what it was asked to do may go on");
    case grpc::UNIMPLEMENTED:
      return of_client(ERR_NO_SUPPORT, at + " does not know the call " + rpc + ": " + text + "; it is older than this client");
    case grpc::CANCELLED:
      return of_client(ERR_OPERATION_ABORTED, rpc + ": the call to " + at + " was cancelled: " + text);
    default:
      return of_client(ERR_RPC, rpc + ": the call to " + at + " failed with " + code_name(status.error_code()) + ": " + text);
  }
}

}  // namespace

Error invalid(const std::string& text) {
  v1::VirError record = of_client(ERR_INVALID_ARG, "invalid argument: " + text);
  record.set_str1("invalid argument: %s");
  record.set_str2(text);
  return Error(record);
}

Error error_of_call(const grpc::Status& status, const std::string& target, const std::string& rpc) {
  return sent_by_server(status).value_or(Error(without_detail(status, target, rpc), {}, status));
}

}  // namespace virtblock
