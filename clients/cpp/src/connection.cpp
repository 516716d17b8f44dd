// SPDX-License-Identifier: Apache-2.0
#include "virtblock/connection.hpp"

#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>

#include <condition_variable>
#include <cstring>
#include <fstream>
#include <iomanip>
#include <mutex>
#include <random>
#include <set>
#include <sstream>

#include "gen/grpc.hpp"
#include "target.hpp"

namespace virtblock {

struct Cancellation::State {
  std::mutex mutex;
  std::condition_variable changed;
  std::set<grpc::ClientContext*> contexts;
  bool is_cancelled = false;
};

Cancellation::Cancellation() : state_(std::make_shared<State>()) {}

void Cancellation::cancel() const {
  const std::lock_guard lock(state_->mutex);
  state_->is_cancelled = true;
  for (auto* context : state_->contexts) context->TryCancel();
  state_->changed.notify_all();
}

bool Cancellation::wait_for(std::chrono::milliseconds time) const {
  std::unique_lock lock(state_->mutex);
  return state_->changed.wait_for(lock, time, [this] { return state_->is_cancelled; });
}

Call::Call(const Connection& connection, std::string name, const CallOptions& options)
    : target_(connection.target()), name_(std::move(name)), cancellation_(options.cancellation.state_) {
  if (options.timeout) context.set_deadline(std::chrono::system_clock::now() + *options.timeout);
  const std::lock_guard lock(cancellation_->mutex);
  cancellation_->contexts.insert(&context);
  if (cancellation_->is_cancelled) context.TryCancel();
}

Call::~Call() {
  const std::lock_guard lock(cancellation_->mutex);
  cancellation_->contexts.erase(&context);
}

void Call::check(const grpc::Status& status) const {
  if (!status.ok()) throw error_of_call(status, target_, name_);
}

namespace {

std::string read_pem(const std::string& path, const std::string& kind) {
  if (path.empty()) return {};
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  if (!file || !(text << file.rdbuf())) throw invalid("TLS file '" + path + "': " + std::strerror(errno));
  // gRPC takes a file that lacks what it is for in silence, and then no server is good enough.
  if (text.str().find(kind + "-----") == std::string::npos) throw invalid("TLS file '" + path + "' holds no PEM " + kind);
  return text.str();
}

std::shared_ptr<grpc::ChannelCredentials> credentials(const Target& target, const Options& options) {
  const bool has_tls = !(options.tls_ca + options.tls_certificate + options.tls_key + options.tls_server_name).empty();
  const std::string at = "server '" + target.text() + "': ";
  if (options.insecure && has_tls) throw invalid("a link is either insecure or has TLS options, not both");
  if (options.insecure && !target.is_loopback()) {
    throw invalid(at + "insecure is for this machine alone, as in 127.0.0.1:" + target.port);
  }
  if (has_tls && !target.path.empty()) throw invalid(at + "a unix socket has no TLS");
  if (options.tls_certificate.empty() != options.tls_key.empty()) {
    throw invalid("a TLS certificate and its key are given both or not at all");
  }
  if (options.insecure || !target.path.empty()) return grpc::InsecureChannelCredentials();
  return grpc::SslCredentials({read_pem(options.tls_ca, "CERTIFICATE"), read_pem(options.tls_key, "PRIVATE KEY"), read_pem(options.tls_certificate, "CERTIFICATE")});
}

grpc::ChannelArguments channel_arguments(const Options& options) {
  grpc::ChannelArguments arguments;
  arguments.SetServiceConfigJSON(SERVICE_CONFIG);
  arguments.SetInt(GRPC_ARG_SERVICE_CONFIG_DISABLE_RESOLUTION, 1);
  // A client has a connection of its own: another one's back-off does not hide a server that is back.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 1000);
  // To gRPC this is how long a connection may take to come about.
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 5000);
  // A server that vanished without a word is noticed, also by a stream that only waits.
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 30'000);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 10'000);
  arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  arguments.SetMaxReceiveMessageSize(16 << 20);
  if (!options.tls_server_name.empty()) arguments.SetSslTargetNameOverride(options.tls_server_name);
  return arguments;
}

}  // namespace

std::string new_request_id() {
  std::random_device random;
  std::ostringstream text;
  for (int i = 0; i < 4; ++i) text << std::hex << std::setfill('0') << std::setw(8) << random();
  return text.str();
}

Connection::Connection(const std::string& server, const Options& options) : connection_uri_(options.connection_uri) {
  const Target target = parse_target(server, options.read_only);
  target_ = target.text();
  channel_ = grpc::CreateCustomChannel(target.grpc_address(), credentials(target, options), channel_arguments(options));
}

}  // namespace virtblock
