// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <random>

#include "target.hpp"
#include "virtblock/client.hpp"

namespace virtblock {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds PAUSE_FIRST(100), PAUSE_MAX(5000);

bool helps_to_retry(const Error& error) {
  const auto code = error.status().error_code();
  if (code == grpc::UNAVAILABLE || error.reason() == reason::SLOW_READER) return true;
  // A server that stops cancels its streams; one that is full refuses new ones. Neither says so as libvirt.
  return error.reason().empty() && (code == grpc::CANCELLED || code == grpc::RESOURCE_EXHAUSTED);
}

}  // namespace

Watch::Watch(const BlockJobService& jobs, const v1::WatchBlockJobsRequest& request, const Cancellation& cancellation)
    : jobs_(jobs), request_(request), cancellation_(cancellation), token_(request.resume_token()) {
  // The server has registered it with the first event, or the end of the snapshot.
  for (open(); !receive();) reopen();
}

std::optional<v1::BlockJobEvent> Watch::next() {
  for (;;) {
    while (!pending_.empty()) {
      v1::BlockJobEvent event = std::move(pending_.front());
      pending_.pop_front();
      if (!event.resume_token().empty()) token_ = event.resume_token();
      if (event.has_job() || event.has_progress()) return event;
    }
    while (!receive()) reopen();
  }
}

// Takes messages until there is something to show. False: the stream is over, and another one helps.
bool Watch::receive() {
  // A snapshot counts only as a whole, because a token from its middle would lose the rest of it.
  std::deque<v1::BlockJobEvent> snapshot;
  try {
    while (auto answer = stream_->next()) {
      failures_ = 0;
      reached_ = true;
      if (take(*answer->mutable_event(), snapshot)) return true;
    }
  } catch (const Error& error) {
    if (!reached_ || cancellation_.wait_for(milliseconds(0)) || !helps_to_retry(error)) throw;
  }
  const grpc::Status empty(grpc::UNKNOWN, "the stream was empty");
  if (!reached_) throw error_of_call(empty, jobs_.connection().target(), "WatchBlockJobs");
  return false;
}

bool Watch::take(v1::BlockJobEvent& event, std::deque<v1::BlockJobEvent>& snapshot) {
  if (in_snapshot_ && !event.bookmark().snapshot_end()) {
    event.clear_resume_token();
    if (event.has_job()) snapshot.push_back(std::move(event));
    return false;
  }
  if (in_snapshot_) {
    last_sequence_ = -1;
    pending_ = std::move(snapshot);
    in_snapshot_ = false;
  }
  // The reader has this change, as a bookmark or an earlier stream told; its token would lead back.
  if (event.has_job() && event.sequence() <= last_sequence_) return true;
  if (!event.resume_token().empty()) {
    request_.set_resume_token(event.resume_token());
    request_.set_include_snapshot(false);
  }
  if (!event.has_progress()) last_sequence_ = std::max(last_sequence_, event.sequence());
  pending_.push_back(std::move(event));
  return true;
}

void Watch::open() {
  in_snapshot_ = request_.include_snapshot() && request_.resume_token().empty();
  stream_.emplace(jobs_.WatchBlockJobs(request_, {std::nullopt, cancellation_}));
}

// Opens the next stream, after a pause.
void Watch::reopen() {
  const milliseconds pause = std::min(PAUSE_FIRST * (1 << std::min(failures_, 10)), PAUSE_MAX);
  ++failures_;
  // Half of it at random, so that all clients of a restarted server do not come back at the same moment.
  std::random_device random;
  cancellation_.wait_for(pause / 2 + milliseconds(random() % (pause.count() / 2)));
  open();
}

}  // namespace virtblock
