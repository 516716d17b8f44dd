// SPDX-License-Identifier: Apache-2.0

//! Connects and prints the domains and their disks: list SERVER

use std::env;
use std::error::Error;
use std::time::Duration;

use virtblock::v1::{DomainState, ListAllDomainsRequest, ListDisksRequest};
use virtblock::{Client, Options, by_uuid};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let server = env::args().nth(1).ok_or("usage: list SERVER")?;
    let client = Client::with_options(&server, Options { read_only: true, ..Options::default() })?;
    let client = client.with_timeout(Duration::from_secs(30));
    let found = client.connect.list_all_domains(ListAllDomainsRequest::default()).await?;
    for domain in found.domains {
        let state = DomainState::try_from(domain.state).map_or(domain.state.to_string(), |known| known.as_str_name().into());
        println!("{} {} {state}", domain.uuid, domain.name);
        let request = ListDisksRequest { domain: Some(by_uuid(&domain.uuid)) };
        for disk in client.domain.list_disks(request).await?.disks {
            println!("  {} {} {}, {} bytes", disk.target, disk.format, disk.source_path, disk.capacity_bytes);
        }
    }
    Ok(())
}
