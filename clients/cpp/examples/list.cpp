// SPDX-License-Identifier: Apache-2.0

// Connects and prints the domains and their disks: list SERVER
#include <chrono>
#include <iostream>

#include "virtblock/client.hpp"

namespace v1 = virtblock::v1;

int main(int argument_count, char** arguments) {
  if (argument_count != 2) {
    std::cerr << "usage: list SERVER\n";
    return 2;
  }
  try {
    virtblock::Options read_only;
    read_only.read_only = true;
    const virtblock::Client client(arguments[1], read_only);
    virtblock::CallOptions within;
    within.timeout = std::chrono::seconds(30);
    const auto found = client.connect.ListAllDomains({}, within);
    for (const auto& domain : found.domains()) {
      std::cout << domain.uuid() << ' ' << domain.name() << ' ' << v1::DomainState_Name(domain.state()) << '\n';
      v1::ListDisksRequest request;
      *request.mutable_domain() = virtblock::by_uuid(domain.uuid());
      const auto listed = client.domain.ListDisks(request, within);
      for (const auto& disk : listed.disks()) {
        std::cout << "  " << disk.target() << ' ' << disk.format() << ' ' << disk.source_path() << ", "
                  << disk.capacity_bytes() << " bytes\n";
      }
    }
  } catch (const virtblock::Error& error) {
    std::cerr << error.what() << '\n';
    return 1;
  }
}
