// SPDX-License-Identifier: Apache-2.0

//! Copies a domain's disk while showing how far it is, and lets the domain go on with the copy:
//!
//!     copy_and_pivot SERVER DOMAIN DISK DESTINATION
//!
//! The destination must not exist. Ctrl-C gives the copy up: the domain stays with its source.

use std::env;
use std::error::Error;

use tokio::signal::ctrl_c;
use virtblock::v1::{BlockJob, BlockJobAbortRequest, BlockJobState, BlockRebaseRequest, WaitBlockJobRequest};
use virtblock::{Client, DOMAIN_BLOCK_JOB_ABORT_PIVOT, DOMAIN_BLOCK_REBASE_COPY, ERR_BLOCK_COPY_ACTIVE, VirError, by_name};

const REPORT_INTERVAL_MS: i64 = 1000;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [server, domain, disk, destination] = arguments.as_slice() else {
        return Err("usage: copy_and_pivot SERVER DOMAIN DISK DESTINATION".into());
    };
    let outcome = copy_and_pivot(&Client::connect(server)?, domain, disk, destination).await;
    if let Err(error) = &outcome
        && error.downcast_ref::<VirError>().is_some_and(|error| error.number == ERR_BLOCK_COPY_ACTIVE)
    {
        eprintln!("a job runs on this disk: end it by BlockJobAbort first");
    }
    outcome
}

async fn copy_and_pivot(client: &Client, domain: &str, disk: &str, destination: &str) -> Result<(), Box<dyn Error>> {
    let request = BlockRebaseRequest {
        domain: Some(by_name(domain)),
        disk: Some(disk.into()),
        base: Some(destination.into()),
        flags: DOMAIN_BLOCK_REBASE_COPY,
        ..Default::default()
    };
    let started = client.domain.block_rebase(request).await?.job.unwrap_or_default();
    let mut abort = BlockJobAbortRequest { domain: Some(by_name(domain)), disk: Some(disk.into()), ..Default::default() };
    tokio::select! {
        ready = until_ready(client, &started.job_id) => ready?,
        pressed = ctrl_c() => {
            pressed?;
            client.domain.block_job_abort(abort).await?;
            return Err("given up: the domain stays with its source".into());
        }
    }
    abort.flags = DOMAIN_BLOCK_JOB_ABORT_PIVOT;
    let ended = client.domain.block_job_abort(abort).await?.job.unwrap_or_default();
    println!("{}: {domain} now uses {destination}", state(&ended));
    Ok(())
}

/// Returns when every byte is on the destination.
async fn until_ready(client: &Client, job_id: &str) -> Result<(), Box<dyn Error>> {
    loop {
        // The wait is at the server; when its time passes without READY, the answer has the figures of the moment.
        let states = vec![BlockJobState::Ready.into()];
        let request = WaitBlockJobRequest { job_id: job_id.into(), states, timeout_ms: REPORT_INTERVAL_MS };
        let waited = client.jobs.wait_block_job(request).await?;
        let job = waited.job.unwrap_or_default();
        let (rate, left) = (job.rate_bytes_per_s, job.eta_s);
        println!("{}: {} of {} bytes, {rate} bytes/s, {left} s left", state(&job), job.cur, job.end);
        if waited.reached {
            return Ok(());
        }
        if let Some(error) = job.error {
            return Err(VirError::from(error).into());
        }
        if job.end_time.is_some() {
            return Err(format!("the job was ended by somebody else: {} {}", state(&job), job.reason).into());
        }
    }
}

fn state(job: &BlockJob) -> String {
    BlockJobState::try_from(job.state).map_or(job.state.to_string(), |known| known.as_str_name().into())
}
