// SPDX-License-Identifier: Apache-2.0

//! Prints every change of every block job. It misses none while the server restarts, and none while it is down itself:
//!
//!     watch SERVER TOKEN_FILE [COUNT]
//!
//! TOKEN_FILE remembers how far it came; start it again with the same file and it goes on there. COUNT: stop after that many changes.

use std::error::Error;
use std::io::{self, ErrorKind};
use std::{env, fs};

use virtblock::v1::block_job_event::Payload;
use virtblock::v1::{BlockJobState, WatchBlockJobsRequest};
use virtblock::{Client, StreamExt};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let (server, token_file, count) = match arguments.as_slice() {
        [server, token_file] => (server, token_file, None),
        [server, token_file, count] => (server, token_file, Some(count.parse()?)),
        _ => return Err("usage: watch SERVER TOKEN_FILE [COUNT]".into()),
    };
    follow(server, token_file, count).await
}

async fn follow(server: &str, token_file: &str, count: Option<u64>) -> Result<(), Box<dyn Error>> {
    let resume_token = match fs::read_to_string(token_file) {
        Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
        read => read?,
    };
    let client = Client::connect(server)?;
    let request = WatchBlockJobsRequest { resume_token, include_snapshot: true, ..Default::default() };
    let mut watch = client.watch_block_jobs(request).await?;
    println!("watching {}", client.target());
    let mut shown_count = 0;
    while let Some(event) = watch.try_next().await? {
        let Some(Payload::Job(job)) = event.payload else { continue };
        let state = BlockJobState::try_from(job.state).map_or(job.state.to_string(), |known| known.as_str_name().into());
        println!("{}: {} {} {state}", event.sequence, job.domain.unwrap_or_default().name, job.disk);
        // Remembered after it was handled: after a crash the last one may come once more, and none is lost.
        remember(token_file, &event.resume_token)?;
        shown_count += 1;
        if Some(shown_count) == count {
            break;
        }
    }
    Ok(())
}

/// Replaces the file in one step, so that a crash leaves either token and never half of one.
fn remember(path: &str, token: &str) -> io::Result<()> {
    if token.is_empty() {
        // Within a snapshot there is nothing to go on after; what was stored stays.
        return Ok(());
    }
    fs::write(format!("{path}.new"), token)?;
    fs::rename(format!("{path}.new"), path)
}
