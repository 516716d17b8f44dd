// SPDX-License-Identifier: Apache-2.0
#include "target.hpp"

#include <unistd.h>

#include <cctype>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <regex>

namespace virtblock {
namespace {

constexpr char SYSTEM_SOCKET[] = "/run/virtblock/virtblock-sock";
// sockaddr_un.sun_path holds 108 bytes, the last one a NUL (unix(7)).
constexpr std::size_t SOCKET_PATH_BYTES_MAX = 107;

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

std::string default_target() {
  const std::string server = environment("VIRTBLOCK_SERVER"), runtime_dir = environment("XDG_RUNTIME_DIR");
  const std::string own = runtime_dir + "/virtblock/virtblock-sock";
  if (!server.empty()) return server;
  // Where neither is there, the error message speaks of the system's.
  return !runtime_dir.empty() && access(SYSTEM_SOCKET, F_OK) != 0 && access(own.c_str(), F_OK) == 0 ? own : SYSTEM_SOCKET;
}

Target parse_socket(const std::string& text, bool read_only) {
  std::string path = text.rfind("unix:", 0) == 0 ? text.substr(5) : text;
  // unix://HOST/PATH is another host's; three slashes are none's, so this one's.
  if (path.rfind("//", 0) == 0) path.erase(0, 2);
  if (path.rfind('/', 0) != 0) throw invalid("server '" + text + "': the path must be absolute, as in unix:" + SYSTEM_SOCKET);
  if (read_only) path = without_suffix(path) + READ_ONLY_SUFFIX;
  const std::string length = std::to_string(path.size()), longest = std::to_string(SOCKET_PATH_BYTES_MAX);
  if (path.size() > SOCKET_PATH_BYTES_MAX || path.find('\0') != std::string::npos) {
    throw invalid("server '" + text + "': the path has " + length + " bytes, a socket's at most " + longest);
  }
  return {path, "", ""};
}

}  // namespace

std::string without_suffix(const std::string& text) {
  const std::size_t end = text.rfind(READ_ONLY_SUFFIX);
  return end != std::string::npos && end + std::strlen(READ_ONLY_SUFFIX) == text.size() ? text.substr(0, end) : text;
}

Target parse_target(std::string text, bool read_only) {
  if (text.empty()) text = default_target();
  if (text.rfind("unix:", 0) == 0 || text.rfind('/', 0) == 0) return parse_socket(text, read_only);
  if (read_only) throw invalid("server '" + text + "': only a unix socket has a read-only one beside it");
  std::smatch parts;
  if (!std::regex_match(text, parts, std::regex(R"((?:\[([^\]/]+)\]|([^:/[\]]+)):([^:/]*))"))) {
    throw invalid("server '" + text + "' is neither unix:PATH nor HOST:PORT");
  }
  const std::string port = parts[3];
  if (!std::regex_match(port, std::regex("0*[1-9][0-9]{0,4}")) || std::stoi(port) > 65535) {
    throw invalid("server '" + text + "': the port is a number from 1 to 65535");
  }
  return {"", parts[1].matched ? parts[1] : parts[2], port};
}

std::string Target::text() const {
  if (!path.empty()) return "unix:" + path;
  return (host.find(':') == std::string::npos ? host : "[" + host + "]") + ":" + port;
}

std::string Target::grpc_address() const {
  std::string escaped;
  for (const char each : path.empty() ? text() : path) {
    const auto byte = static_cast<unsigned char>(each);
    char code[4];
    std::snprintf(code, sizeof(code), std::isalnum(byte) != 0 || std::strchr("-._~/:", byte) != nullptr ? "%c" : "%%%02X", byte);
    escaped += code;
  }
  return (path.empty() ? "dns:///" : "unix://") + escaped;
}

bool Target::is_loopback() const {
  return !path.empty() || std::regex_match(host, std::regex("localhost|::1|127([.][0-9]+){3}"));
}

}  // namespace virtblock
