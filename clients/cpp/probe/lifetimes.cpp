// SPDX-License-Identifier: Apache-2.0

// Checks what the conformance cases cannot see, because it is C++'s: who may outlive whom, what a destructor ends, what another
// thread may do. Usage: lifetimes SERVER. It names the first check that fails.
#include <cstdlib>
#include <iostream>
#include <thread>
#include <vector>

#include "virtblock/client.hpp"

namespace {

using std::chrono::milliseconds;
using virtblock::Cancellation;
using virtblock::Client;
using virtblock::Error;

void check(bool holds, const char* what) {
  if (holds) return;
  std::cerr << "does not hold: " << what << '\n';
  std::exit(1);
}

template <typename Action>
void check_fails(virtblock::ErrorNumber number, const Action& action, const char* what) {
  try {
    action();
  } catch (const Error& error) {
    check(error.number() == number, what);
    return;
  }
  check(false, what);
}

void cancellations(const Client& client) {
  virtblock::CallOptions options;
  options.cancellation.cancel();
  check_fails(virtblock::ERR_OPERATION_ABORTED, [&] { client.connect.IsAlive({}, options); }, "cancelled before its begin");
  check(client.connect.IsAlive().alive(), "another call goes on");

  const Cancellation cancellation;
  auto watch = client.watch_block_jobs({}, cancellation);
  auto moved = std::move(watch);
  std::thread other([&] { cancellation.cancel(); });
  const auto read_on = [&] {
    for (const auto& event : moved) static_cast<void>(event);
  };
  check_fails(virtblock::ERR_OPERATION_ABORTED, read_on, "a watch is cancelled by another thread");
  check_fails(virtblock::ERR_OPERATION_ABORTED, read_on, "a cancelled watch stays so");
  other.join();
}

void lifetimes(const std::string& server) {
  auto client = std::make_unique<Client>(server);
  auto watch = client->watch_block_jobs();
  watch = client->watch_block_jobs();
  virtblock::v1::DomainEventRegisterAnyRequest request;
  request.add_event_ids(virtblock::DOMAIN_EVENT_ID_BLOCK_JOB_2);
  auto stream = client->connect.DomainEventRegisterAny(request);
  virtblock::CallOptions soon;
  soon.timeout = milliseconds(100);
  auto timed = client->connect.DomainEventRegisterAny(request, soon);
  // From here on the streams alone hold the connection.
  client.reset();
  const auto read_on = [&] {
    for (const auto& event : timed) static_cast<void>(event);
  };
  check_fails(virtblock::ERR_OPERATION_TIMEOUT, read_on, "a stream ends at its deadline");
  check(!timed.next(), "a stream that failed is over");
}

void threads(const Client& client) {
  std::vector<std::thread> callers;
  for (int i = 0; i < 4; ++i) {
    callers.emplace_back([&] {
      for (int call = 0; call < 25; ++call) check(client.connect.IsAlive().alive(), "threads share a client");
    });
  }
  for (auto& caller : callers) caller.join();
}

void errors(const Client& client) {
  virtblock::v1::GetStateRequest request;
  *request.mutable_domain() = virtblock::by_name("nobody has this name");
  try {
    client.domain.GetState(request);
    check(false, "a domain that is not there is an error");
  } catch (const std::runtime_error& thrown) {
    const Error error = dynamic_cast<const Error&>(thrown);
    check(error.number() == virtblock::ERR_NO_DOMAIN && error.reason() == "VIR_ERR_NO_DOMAIN", "number and reason");
    check(error.status().error_code() == grpc::NOT_FOUND, "gRPC's status is kept");
    check(error.record().message() == error.what() && !error.record().has_str3(), "libvirt's fields");
  }
}

}  // namespace

int main(int argument_count, char** arguments) {
  check(argument_count == 2, "usage: lifetimes SERVER");
  const Client client(arguments[1]);
  cancellations(client);
  lifetimes(arguments[1]);
  threads(client);
  errors(client);
}
