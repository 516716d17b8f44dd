// SPDX-License-Identifier: Apache-2.0

//! Brings an earlier copy of a disk up to date: it copies only what the disk's persistent bitmap marks as written since, then
//! clears the bitmap for the next time.
//!
//!     incremental SERVER DOMAIN DISK BITMAP DESTINATION
//!
//! The first time there is no bitmap: it is added, and the whole disk is copied.

use std::env;
use std::error::Error;

use virtblock::v1::typed_parameter::Value;
use virtblock::v1::{
    AddBlockBitmapRequest, BlockCopyRequest, BlockJob, BlockJobAbortRequest, BlockJobState, ClearBlockBitmapRequest,
    ListBlockBitmapsRequest, TypedParameter, WaitBlockJobRequest,
};
use virtblock::{Client, DOMAIN_BLOCK_COPY_REUSE_EXT, VirError, by_name};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [server, domain, disk, bitmap, destination] = arguments.as_slice() else {
        return Err("usage: incremental SERVER DOMAIN DISK BITMAP DESTINATION".into());
    };
    update(&Client::connect(server)?, domain, disk, bitmap, destination).await
}

async fn update(client: &Client, domain: &str, disk: &str, bitmap: &str, destination: &str) -> Result<(), Box<dyn Error>> {
    let selector = Some(by_name(domain));
    let (disk, name) = (disk.to_owned(), bitmap.to_owned());
    let request = ListBlockBitmapsRequest { domain: selector.clone(), disk: disk.clone() };
    let is_known = client.jobs.list_block_bitmaps(request).await?.bitmaps.iter().any(|each| each.name == bitmap);
    let mut request = BlockCopyRequest {
        domain: selector.clone(),
        disk: Some(disk.clone()),
        dest_xml: Some(format!("<disk type='file'><source file='{}'/><driver type='qcow2'/></disk>", escaped(destination))),
        ..Default::default()
    };
    if is_known {
        request.flags = DOMAIN_BLOCK_COPY_REUSE_EXT;
        let value = Some(Value::StringValue(name.clone()));
        request.params = vec![TypedParameter { field: "virtblock.bitmap".into(), value }];
    }
    let job = copy_once(client, request).await?;
    // The copy is safe: from here on the bitmap marks what comes next.
    if is_known {
        client.jobs.clear_block_bitmap(ClearBlockBitmapRequest { domain: selector, disk, name }).await?;
    } else {
        let request = AddBlockBitmapRequest { domain: selector, disk, name, ..Default::default() };
        client.jobs.add_block_bitmap(request).await?;
    }
    println!("copied {} bytes", job.copied_bytes);
    Ok(())
}

/// Runs a copy to READY and ends it there: the domain stays with its source, the destination is complete.
async fn copy_once(client: &Client, request: BlockCopyRequest) -> Result<BlockJob, Box<dyn Error>> {
    let abort = BlockJobAbortRequest { domain: request.domain.clone(), disk: request.disk.clone(), ..Default::default() };
    let job_id = client.domain.block_copy(request).await?.job.unwrap_or_default().job_id;
    let request = WaitBlockJobRequest { job_id, states: vec![BlockJobState::Ready.into()], ..Default::default() };
    let waited = client.jobs.wait_block_job(request).await?;
    let job = waited.job.unwrap_or_default();
    if !waited.reached {
        let why = job.error.map(VirError::from).map_or("it was ended by somebody else".into(), |error| error.to_string());
        return Err(format!("the copy did not become ready: {why}").into());
    }
    client.domain.block_job_abort(abort).await?;
    Ok(job)
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('\'', "&apos;")
}
