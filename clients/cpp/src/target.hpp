// SPDX-License-Identifier: Apache-2.0
/// @file
/// Where the server is, and the errors of calls to it. What cannot be a target is refused before anything is dialled.
#pragma once

#include "virtblock/error.hpp"

namespace virtblock {

inline constexpr char READ_ONLY_SUFFIX[] = "-ro";

/// A unix socket by its absolute path, or a host and a port.
struct Target {
  std::string path, host, port;
  /// As the client words it.
  std::string text() const;
  /// In gRPC's grammar, where it is part of a URI.
  std::string grpc_address() const;
  /// Whether it surely is this machine.
  bool is_loopback() const;
};

/// Reads "unix:PATH", "unix:///PATH", an absolute path, "HOST:PORT" or "[IPV6]:PORT"; empty: the default.
Target parse_target(std::string text, bool read_only);
/// The text without READ_ONLY_SUFFIX, where it has it.
std::string without_suffix(const std::string& text);
/// ERR_INVALID_ARG, from the client itself.
Error invalid(const std::string& text);
/// What the server said, or number and domain that libvirt's own remote client would give, and what to do.
Error error_of_call(const grpc::Status& status, const std::string& target, const std::string& rpc);

}  // namespace virtblock
