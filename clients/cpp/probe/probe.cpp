// SPDX-License-Identifier: Apache-2.0

// Runs conformance cases through this client: one JSON command a line on standard input, one JSON answer a line on standard
// output, as tests/conformance/PROBE.md defines them. Messages travel as the base64 of their bytes.
#include <google/protobuf/util/json_util.h>
#include <probe.pb.h>

#include <functional>
#include <future>
#include <iostream>
#include <map>

#include "virtblock/client.hpp"

namespace {

using virtblock::CallOptions;
using virtblock::Client;
using virtblock::probe::Answer;
using virtblock::probe::Command;

/// Anything that gives serialized messages until it fails or, with nothing, ends.
struct OpenStream {
  std::function<std::optional<std::string>()> next;
  /// Of a watch alone.
  std::function<std::string()> token;
};

template <typename Request>
Request parsed(const std::string& data) {
  Request request;
  if (!request.ParseFromString(data)) throw std::invalid_argument("not a request: " + request.GetTypeName());
  return request;
}

template <typename Answer>
OpenStream held(virtblock::Stream<Answer> stream) {
  const auto shared = std::make_shared<virtblock::Stream<Answer>>(std::move(stream));
  const auto next = [shared]() -> std::optional<std::string> {
    const auto answer = shared->next();
    return answer ? std::optional(answer->SerializeAsString()) : std::nullopt;
  };
  return {next, nullptr};
}

using Unary = std::function<std::string(const Client&, const std::string&, const CallOptions&)>;
using Open = std::function<OpenStream(const Client&, const std::string&)>;

const std::map<std::string, Unary> UNARY_CALLS = {
#define STREAM(SERVICE, FIELD, NAME)
#define UNARY(SERVICE, FIELD, NAME)                                                              \
  {#SERVICE "." #NAME, [](const Client& client, const std::string& data, const CallOptions& options) { \
     return client.FIELD.NAME(parsed<virtblock::v1::NAME##Request>(data), options).SerializeAsString(); \
   }},
#include "gen/methods.inc"
#undef STREAM
#undef UNARY
};

const std::map<std::string, Open> STREAMS = {
#define UNARY(SERVICE, FIELD, NAME)
#define STREAM(SERVICE, FIELD, NAME)                                                     \
  {#SERVICE "." #NAME, [](const Client& client, const std::string& data) {               \
     return held(client.FIELD.NAME(parsed<virtblock::v1::NAME##Request>(data)));         \
   }},
#include "gen/methods.inc"
#undef STREAM
#undef UNARY
};

class Probe {
 public:
  Answer run(const Command& command) {
    try {
      return perform(command);
    } catch (const virtblock::Error& error) {
      return failed(error);
    } catch (const std::exception& error) {
      Answer answer;
      answer.set_crash(error.what());
      return answer;
    }
  }

 private:
  Answer perform(const Command& command) {
    const std::string& op = command.op();
    if (op == "dial") return dial(command);
    if (op == "call") return call(command);
    if (op == "open") return open(command);
    if (op == "watch") return watch(command);
    if (op == "next") return next(command);
    if (op == "close_stream") return streams_.erase(command.stream()), Answer();
    if (op == "close") return clients_.erase(command.client()), Answer();
    throw std::invalid_argument("unknown op " + op);
  }

  Answer dial(const Command& command) {
    const auto& tls = command.tls();
    const virtblock::Options options{command.read_only(), command.insecure(), command.connection_uri(), tls.ca(),
                                     tls.cert(),          tls.key(),          tls.server_name()};
    Client client(command.target(), options);
    Answer answer;
    answer.set_target(client.target());
    clients_.insert_or_assign(command.client(), std::move(client));
    return answer;
  }

  Answer call(const Command& command) {
    CallOptions options;
    if (command.timeout_ms() > 0) options.timeout = std::chrono::milliseconds(command.timeout_ms());
    std::promise<void> over;
    std::future<void> cancelling;
    if (command.cancel_after_ms() > 0) {
      cancelling = std::async(std::launch::async, [&, ended = over.get_future()] {
        const auto waited = ended.wait_for(std::chrono::milliseconds(command.cancel_after_ms()));
        if (waited == std::future_status::timeout) options.cancellation.cancel();
      });
    }
    const std::shared_ptr<void> at_end(nullptr, [&over](void*) { over.set_value(); });
    return encoded(UNARY_CALLS.at(command.method())(clients_.at(command.client()), command.request(), options));
  }

  Answer open(const Command& command) {
    streams_[command.stream()] = STREAMS.at(command.method())(clients_.at(command.client()), command.request());
    return {};
  }

  Answer watch(const Command& command) {
    const auto request = parsed<virtblock::v1::WatchBlockJobsRequest>(command.request());
    const auto watch = std::make_shared<virtblock::Watch>(clients_.at(command.client()).watch_block_jobs(request));
    streams_[command.stream()] = {[watch] { return std::optional(watch->next()->SerializeAsString()); },
                                  [watch] { return watch->resume_token(); }};
    return {};
  }

  Answer next(const Command& command) {
    const auto& stream = streams_.at(command.stream());
    const auto message = stream.next();
    Answer answer;
    if (message) {
      answer = encoded(*message);
    } else {
      answer.set_end(true);
    }
    if (stream.token) answer.set_token(stream.token());
    return answer;
  }

  static Answer encoded(const std::string& data) {
    Answer answer;
    answer.set_response(data);
    return answer;
  }

  static Answer failed(const virtblock::Error& error) {
    Answer answer;
    const auto& record = error.record();
    auto& fields = *answer.mutable_error();
    fields.set_number(error.number());
    fields.set_domain(record.domain());
    fields.set_level(record.level());
    fields.set_message(error.what());
    set(fields.mutable_str1(), record.has_str1(), record.str1());
    set(fields.mutable_str2(), record.has_str2(), record.str2());
    set(fields.mutable_str3(), record.has_str3(), record.str3());
    fields.set_int1(record.int1());
    fields.set_int2(record.int2());
    fields.set_reason(error.reason());
    return answer;
  }

  static void set(google::protobuf::Value* value, bool is_there, const std::string& text) {
    if (is_there) {
      value->set_string_value(text);
    } else {
      value->set_null_value(google::protobuf::NULL_VALUE);
    }
  }

  std::map<std::string, Client> clients_;
  std::map<std::string, OpenStream> streams_;
};

}  // namespace

int main() {
  Probe probe;
  google::protobuf::util::JsonPrintOptions print;
  print.always_print_primitive_fields = true;
  print.preserve_proto_field_names = true;
  for (std::string line; std::getline(std::cin, line);) {
    Command command;
    const auto read = google::protobuf::util::JsonStringToMessage(line, &command);
    std::string text;
    if (!read.ok() || !google::protobuf::util::MessageToJsonString(probe.run(command), &text, print).ok()) {
      std::cerr << "not a command: " << read.ToString() << '\n';
      return 1;
    }
    std::cout << text << std::endl;
  }
}
