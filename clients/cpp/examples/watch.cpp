// SPDX-License-Identifier: Apache-2.0

// Prints every change of every block job. It misses none while the server restarts, and none while it is down itself:
//
//   watch SERVER TOKEN_FILE [COUNT]
//
// TOKEN_FILE remembers how far it came; start it again with the same file and it goes on there. COUNT: stop after that many
// changes.
#include <cstdio>
#include <fstream>
#include <iostream>
#include <iterator>
#include <string>

#include "virtblock/client.hpp"

namespace v1 = virtblock::v1;

namespace {

std::string remembered(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

/// Replaces the file in one step, so that a crash leaves either token and never half of one.
void remember(const std::string& path, const std::string& token) {
  // Within a snapshot there is nothing to go on after; what was stored stays.
  if (token.empty()) return;
  const std::string fresh = path + ".new";
  std::ofstream file(fresh, std::ios::binary);
  file << token;
  file.close();
  if (!file || std::rename(fresh.c_str(), path.c_str()) != 0) throw std::runtime_error("cannot write " + path);
}

void follow(const std::string& server, const std::string& token_file, int count) {
  const virtblock::Client client(server);
  v1::WatchBlockJobsRequest request;
  request.set_resume_token(remembered(token_file));
  request.set_include_snapshot(true);
  auto watch = client.watch_block_jobs(request);
  std::cout << "watching " << client.target() << std::endl;
  for (const auto& event : watch) {
    const auto& job = event.job();
    std::cout << event.sequence() << ": " << job.domain().name() << ' ' << job.disk() << ' ' << v1::BlockJobState_Name(job.state())
              << std::endl;
    // Remembered after it was handled: after a crash the last one may come once more, and none is lost.
    remember(token_file, watch.resume_token());
    if (--count == 0) return;
  }
}

}  // namespace

int main(int argument_count, char** arguments) {
  if (argument_count < 3) {
    std::cerr << "usage: watch SERVER TOKEN_FILE [COUNT]\n";
    return 2;
  }
  try {
    follow(arguments[1], arguments[2], argument_count > 3 ? std::stoi(arguments[3]) : -1);
  } catch (const std::exception& error) {
    std::cerr << error.what() << '\n';
    return 1;
  }
}
