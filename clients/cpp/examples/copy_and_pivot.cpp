// SPDX-License-Identifier: Apache-2.0

// Copies a domain's disk while showing how far it is, and lets the domain go on with the copy:
//
//   copy_and_pivot SERVER DOMAIN DISK DESTINATION
//
// The destination must not exist. Ctrl-C gives the copy up: the domain stays with its source.
#include <csignal>
#include <iostream>
#include <string>

#include "virtblock/client.hpp"

namespace v1 = virtblock::v1;

namespace {

constexpr int REPORT_INTERVAL_MS = 1000;

volatile std::sig_atomic_t interrupted = 0;

void end(const virtblock::Client& client, const v1::BlockRebaseRequest& copy, std::uint32_t flags) {
  v1::BlockJobAbortRequest request;
  *request.mutable_domain() = copy.domain();
  request.set_disk(copy.disk());
  request.set_flags(flags);
  const auto ended = client.domain.BlockJobAbort(request);
  if (flags == virtblock::DOMAIN_BLOCK_JOB_ABORT_PIVOT) {
    std::cout << v1::BlockJobState_Name(ended.job().state()) << ": " << copy.domain().name() << " now uses " << copy.base()
              << '\n';
  }
}

/// Whether every byte is on the destination; false when it was interrupted before.
bool until_ready(const virtblock::Client& client, const std::string& job_id) {
  v1::WaitBlockJobRequest request;
  request.set_job_id(job_id);
  request.add_states(v1::BLOCK_JOB_STATE_READY);
  // The wait is at the server; when its time passes without READY, the answer has the figures of the moment.
  request.set_timeout_ms(REPORT_INTERVAL_MS);
  while (interrupted == 0) {
    const auto waited = client.jobs.WaitBlockJob(request);
    const auto& job = waited.job();
    std::cout << v1::BlockJobState_Name(job.state()) << ": " << job.cur() << " of " << job.end() << " bytes, "
              << job.rate_bytes_per_s() << " bytes/s, " << job.eta_s() << " s left" << std::endl;
    if (waited.reached()) return true;
    if (job.has_error()) throw virtblock::Error(job.error());
    if (job.has_end_time()) {
      throw std::runtime_error("the job was ended by somebody else: " + v1::BlockJobState_Name(job.state()));
    }
  }
  return false;
}

int copy_and_pivot(const virtblock::Client& client, const v1::BlockRebaseRequest& copy) {
  const auto started = client.domain.BlockRebase(copy);
  if (until_ready(client, started.job().job_id())) {
    end(client, copy, virtblock::DOMAIN_BLOCK_JOB_ABORT_PIVOT);
    return 0;
  }
  end(client, copy, 0);
  std::cerr << "given up: the domain stays with its source\n";
  return 1;
}

}  // namespace

int main(int argument_count, char** arguments) {
  if (argument_count != 5) {
    std::cerr << "usage: copy_and_pivot SERVER DOMAIN DISK DESTINATION\n";
    return 2;
  }
  std::signal(SIGINT, [](int) { interrupted = 1; });
  v1::BlockRebaseRequest copy;
  *copy.mutable_domain() = virtblock::by_name(arguments[2]);
  copy.set_disk(arguments[3]);
  copy.set_base(arguments[4]);
  copy.set_flags(virtblock::DOMAIN_BLOCK_REBASE_COPY);
  try {
    return copy_and_pivot(virtblock::Client(arguments[1]), copy);
  } catch (const virtblock::Error& error) {
    if (error.number() == virtblock::ERR_BLOCK_COPY_ACTIVE) {
      std::cerr << "a job runs on this disk: end it by BlockJobAbort first\n";
    }
    std::cerr << error.what() << '\n';
  } catch (const std::exception& error) {
    std::cerr << error.what() << '\n';
  }
  return 1;
}
