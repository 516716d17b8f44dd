// SPDX-License-Identifier: Apache-2.0
/** Connects and prints the domains and their disks: node list.js SERVER */
import { Client, DomainState } from "@virtblock/client";

const [server = ""] = process.argv.slice(2);
using client = new Client(server, { readOnly: true });
const { domains } = await client.connect.listAllDomains({}, { timeoutMs: 30_000 });
for (const domain of domains) {
  console.log(`${domain.uuid} ${domain.name} ${DomainState[domain.state] ?? domain.state}`);
  const { disks } = await client.domain.listDisks({ domain: { uuid: domain.uuid } });
  for (const disk of disks) {
    console.log(`  ${disk.target} ${disk.format} ${disk.sourcePath}, ${disk.capacityBytes} bytes`);
  }
}
