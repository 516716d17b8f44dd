// SPDX-License-Identifier: Apache-2.0
/// @file
/// The link to a server, and what every call on it has: deadline, cancellation, Error.
#pragma once

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>
#include <grpcpp/support/sync_stream.h>

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "virtblock/error.hpp"

namespace virtblock {

/// Cancels every call and watch that it was given to, those that begin later too. Copies are the same cancellation. Any thread
/// may use it, but no signal handler.
class Cancellation {
 public:
  Cancellation();
  /// Ends the calls with ERR_OPERATION_ABORTED. It never ends a job.
  void cancel() const;
  /// Waits, and tells whether it was cancelled by then.
  bool wait_for(std::chrono::milliseconds time) const;

 private:
  friend class Call;
  struct State;
  std::shared_ptr<State> state_;
};

/// What a single call may be given. Neither ends a job.
struct CallOptions {
  /// From the call's begin. It then fails with ERR_OPERATION_TIMEOUT.
  std::optional<std::chrono::milliseconds> timeout = std::nullopt;
  Cancellation cancellation = {};
};

/// How to connect.
struct Options {
  /// Take the socket beside, PATH-ro, which refuses what changes anything.
  bool read_only = false;
  /// Go without encryption, to this machine only.
  bool insecure = false;
  /// The hypervisor connection, for example "qemu:///system", of every request that names none.
  std::string connection_uri = {};
  /// PEM file of the authorities that may sign for the server. Empty: the system's.
  std::string tls_ca = {};
  /// PEM files of what the client shows of itself: both or none.
  std::string tls_certificate = {}, tls_key = {};
  /// The name in the server's certificate, where it is not the host.
  std::string tls_server_name = {};
};

/// The link to a server. Any number of threads may use it.
class Connection {
 public:
  /// As Client's constructor.
  Connection(const std::string& server, const Options& options);
  /// The server's address.
  const std::string& target() const { return target_; }
  /// gRPC's channel, for stubs of other contracts.
  const std::shared_ptr<grpc::Channel>& channel() const { return channel_; }
  /// Of every request that names none.
  const std::string& connection_uri() const { return connection_uri_; }

 private:
  std::string target_, connection_uri_;
  std::shared_ptr<grpc::Channel> channel_;
};

/// Names the start of a job, so that a repeat after a lost answer can be told from a second job.
std::string new_request_id();

/// One call under way.
class Call {
 public:
  Call(const Connection& connection, std::string name, const CallOptions& options);
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;
  ~Call();
  /// Throws Error unless the status is OK.
  void check(const grpc::Status& status) const;
  grpc::ClientContext context;

 private:
  std::string target_, name_;
  std::shared_ptr<Cancellation::State> cancellation_;
};

/// Lets a range-for loop take from `next` until it has nothing.
template <typename Source>
class Iterator {
 public:
  explicit Iterator(Source* source) : source_(source) { ++*this; }
  const auto& operator*() const { return *current_; }
  void operator++() { current_ = source_ ? source_->next() : decltype(source_->next()){}; }
  bool operator!=(const Iterator&) const { return current_.has_value(); }

 private:
  Source* source_;
  decltype(std::declval<Source>().next()) current_;
};

/// A stream of answers: `for (const auto& answer : stream)`. Move-only; its destructor cancels it.
template <typename Answer>
class Stream {
 public:
  Stream(std::unique_ptr<Call> call, std::unique_ptr<grpc::ClientReaderInterface<Answer>> reader)
      : state_(new State{std::move(call), std::move(reader)}) {}
  /// Waits for the next answer. Nothing: the stream is over. Throws Error.
  std::optional<Answer> next() {
    std::optional<Answer> answer(std::in_place);
    if (state_->reader && state_->reader->Read(&*answer)) return answer;
    if (auto reader = std::move(state_->reader)) state_->call->check(reader->Finish());
    return std::nullopt;
  }
  Iterator<Stream> begin() { return Iterator<Stream>(this); }
  Iterator<Stream> end() { return Iterator<Stream>(nullptr); }

 private:
  struct State {
    ~State() {
      if (!reader) return;
      call->context.TryCancel();
      reader->Finish();
    }
    std::unique_ptr<Call> call;
    std::unique_ptr<grpc::ClientReaderInterface<Answer>> reader;
  };
  std::unique_ptr<State> state_;
};

}  // namespace virtblock
