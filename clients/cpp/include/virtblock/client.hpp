// SPDX-License-Identifier: Apache-2.0
/// @file
/// Calls a virtblock server: libvirt's block-job calls, with libvirt's flags and errors, on running and on shut-off virtual
/// machines.
#pragma once

#include <deque>

#include "virtblock/gen/services.hpp"

namespace virtblock {

/// Shows every change of state of block jobs once and in order: `for (const auto& event : watch)`. When the connection breaks, the
/// server restarts or the reader was too slow, it goes on by itself where it was. It ends only by Error. Move-only; its destructor
/// ends it. One thread reads it at a time; another one ends it by its Cancellation.
class Watch {
 public:
  /// Waits for the next change of a job, or progress where the request asked for it. Never empty. Throws Error.
  std::optional<v1::BlockJobEvent> next();
  /// Goes on after the last event that was shown, in WatchBlockJobsRequest.resume_token, in another process as well. Empty: nothing
  /// was shown yet that one can go on after.
  const std::string& resume_token() const { return token_; }
  Iterator<Watch> begin() { return Iterator<Watch>(this); }
  Iterator<Watch> end() { return Iterator<Watch>(nullptr); }

 private:
  friend class Client;
  Watch(const BlockJobService& jobs, const v1::WatchBlockJobsRequest& request, const Cancellation& cancellation);
  bool receive();
  bool take(v1::BlockJobEvent& event, std::deque<v1::BlockJobEvent>& snapshot);
  void open();
  void reopen();

  BlockJobService jobs_;
  v1::WatchBlockJobsRequest request_;
  Cancellation cancellation_;
  std::optional<Stream<v1::WatchBlockJobsResponse>> stream_;
  // What is to be shown before the stream is read again: a whole snapshot, or one event.
  std::deque<v1::BlockJobEvent> pending_;
  std::string token_;
  std::int64_t last_sequence_ = -1;
  int failures_ = 0;
  bool in_snapshot_ = false, reached_ = false;
};

/// A connection to a server: the three services of the contract. A call is named after libvirt's, takes the contract's request,
/// whose comments have meaning, units and errors, and throws Error. Any number of threads may use a client. Streams and watches
/// that it opened keep the connection until they end.
class Client {
 public:
  /// A client of the server at "unix:PATH", an absolute path, or "HOST:PORT" (TLS). Empty: $VIRTBLOCK_SERVER, else the system's
  /// socket, else that of the user's own daemon. It is contacted by the first call. Throws ERR_INVALID_ARG.
  explicit Client(const std::string& server = {}, const Options& options = {})
      : Client(std::make_shared<const Connection>(server, options)) {}
  Client(Client&&) noexcept = default;
  Client& operator=(Client&&) noexcept = default;

  /// libvirt's calls on a connection: look-ups, lists, definitions, events.
  ConnectService connect;
  /// libvirt's calls on a domain, the block jobs among them.
  DomainService domain;
  /// What libvirt lacks: jobs by id, kept after their end. See also watch_block_jobs.
  BlockJobService jobs;

  /// Opens a watch and waits until the server has registered it: a job that is started afterwards cannot be missed. A server that
  /// cannot be reached now is an Error at once; later the watch bears it.
  Watch watch_block_jobs(const v1::WatchBlockJobsRequest& request = {}, const Cancellation& cancellation = {}) const {
    return Watch(jobs, request, cancellation);
  }
  /// The server's address.
  const std::string& target() const { return connection_->target(); }
  /// The link, for what this client does not know.
  const Connection& connection() const { return *connection_; }

 private:
  explicit Client(std::shared_ptr<const Connection> connection)
      : connect(connection), domain(connection), jobs(connection), connection_(std::move(connection)) {}
  std::shared_ptr<const Connection> connection_;
};

}  // namespace virtblock
