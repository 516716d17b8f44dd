// SPDX-License-Identifier: Apache-2.0
/// @file
/// The one error of the client: libvirt's, field for field.
#pragma once

#include <grpcpp/support/status.h>

#include <memory>
#include <stdexcept>
#include <string>

#include "virtblock/gen/constants.hpp"
#include "virtblock/v1/errors.pb.h"

namespace virtblock {

/// A call failed. Decide by number(), and by reason() for what libvirt cannot have; what() is the message, for people.
class Error : public std::runtime_error {
 public:
  /// An error of a record, for example that of a failed job. `status` is gRPC's; unknown where nothing was called.
  explicit Error(const v1::VirError& record, const std::string& reason = {}, const grpc::Status& status = {grpc::UNKNOWN, {}})
      : std::runtime_error(record.message()), fields_(std::make_shared<const Fields>(Fields{record, reason, status})) {}

  /// What went wrong (virErrorNumber). A number without a name here is kept as it is.
  ErrorNumber number() const { return fields_->record.number(); }
  /// All of libvirt's fields: domain, level, str1 to str3, absent where libvirt has NULL, int1 and int2.
  const v1::VirError& record() const { return fields_->record; }
  /// The ErrorInfo's: "VIR_ERR_NO_DOMAIN", or one of virtblock::reason. Empty: none came.
  const std::string& reason() const { return fields_->reason; }
  /// gRPC's status of the call.
  const grpc::Status& status() const { return fields_->status; }

 private:
  struct Fields {
    v1::VirError record;
    std::string reason;
    grpc::Status status;
  };
  // Shared, because copying an exception must not throw.
  std::shared_ptr<const Fields> fields_;
};

}  // namespace virtblock
