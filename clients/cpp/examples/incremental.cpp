// SPDX-License-Identifier: Apache-2.0

// Brings an earlier copy of a disk up to date: it copies only what the disk's persistent bitmap marks as written since, then clears
// the bitmap for the next time.
//
//   incremental SERVER DOMAIN DISK BITMAP DESTINATION
//
// The first time there is no bitmap: it is added, and the whole disk is copied.
#include <algorithm>
#include <iostream>
#include <string>

#include "virtblock/client.hpp"

namespace v1 = virtblock::v1;

namespace {

std::string escaped(const std::string& text) {
  std::string result;
  for (const char each : text) {
    switch (each) {
      case '&': result += "&amp;"; break;
      case '<': result += "&lt;"; break;
      case '\'': result += "&apos;"; break;
      default: result += each;
    }
  }
  return result;
}

/// A request about a bitmap of the disk.
template <typename Request>
Request about(const v1::BlockCopyRequest& copy, const std::string& bitmap) {
  Request request;
  *request.mutable_domain() = copy.domain();
  request.set_disk(copy.disk());
  request.set_name(bitmap);
  return request;
}

bool has_bitmap(const virtblock::Client& client, const v1::BlockCopyRequest& copy, const std::string& bitmap) {
  v1::ListBlockBitmapsRequest request;
  *request.mutable_domain() = copy.domain();
  request.set_disk(copy.disk());
  const auto listed = client.jobs.ListBlockBitmaps(request);
  return std::any_of(listed.bitmaps().begin(), listed.bitmaps().end(), [&](const auto& each) { return each.name() == bitmap; });
}

/// Runs a copy to READY and ends it there: the domain stays with its source, the destination is complete.
v1::BlockJob copy_once(const virtblock::Client& client, const v1::BlockCopyRequest& copy) {
  v1::WaitBlockJobRequest wait;
  wait.set_job_id(client.domain.BlockCopy(copy).job().job_id());
  wait.add_states(v1::BLOCK_JOB_STATE_READY);
  const auto waited = client.jobs.WaitBlockJob(wait);
  if (!waited.reached()) {
    if (waited.job().has_error()) throw virtblock::Error(waited.job().error());
    throw std::runtime_error("the copy is " + v1::BlockJobState_Name(waited.job().state()));
  }
  v1::BlockJobAbortRequest end;
  *end.mutable_domain() = copy.domain();
  end.set_disk(copy.disk());
  client.domain.BlockJobAbort(end);
  return waited.job();
}

void update(const virtblock::Client& client, v1::BlockCopyRequest copy, const std::string& bitmap) {
  const bool is_known = has_bitmap(client, copy, bitmap);
  if (is_known) {
    copy.set_flags(virtblock::DOMAIN_BLOCK_COPY_REUSE_EXT);
    auto& parameter = *copy.add_params();
    parameter.set_field("virtblock.bitmap");
    parameter.set_string_value(bitmap);
  }
  const auto job = copy_once(client, copy);
  // The copy is safe: from here on the bitmap marks what comes next.
  if (is_known) {
    client.jobs.ClearBlockBitmap(about<v1::ClearBlockBitmapRequest>(copy, bitmap));
  } else {
    client.jobs.AddBlockBitmap(about<v1::AddBlockBitmapRequest>(copy, bitmap));
  }
  std::cout << "copied " << job.copied_bytes() << " bytes\n";
}

}  // namespace

int main(int argument_count, char** arguments) {
  if (argument_count != 6) {
    std::cerr << "usage: incremental SERVER DOMAIN DISK BITMAP DESTINATION\n";
    return 2;
  }
  v1::BlockCopyRequest copy;
  *copy.mutable_domain() = virtblock::by_name(arguments[2]);
  copy.set_disk(arguments[3]);
  copy.set_dest_xml("<disk type='file'><source file='" + escaped(arguments[5]) + "'/><driver type='qcow2'/></disk>");
  try {
    update(virtblock::Client(arguments[1]), copy, arguments[4]);
  } catch (const std::exception& error) {
    std::cerr << error.what() << '\n';
    return 1;
  }
}
