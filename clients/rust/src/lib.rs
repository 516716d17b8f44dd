// SPDX-License-Identifier: Apache-2.0

//! Calls a virtblock server: libvirt's block-job calls, with libvirt's flags and errors, on running and on shut-off virtual
//! machines.
//!
//! A [`Client`] has the three services of the contract. A call is named after libvirt's, takes the contract's request, whose
//! comments have meaning, units and errors, and fails with [`VirError`]:
//!
//! ```no_run
//! use virtblock::{Client, DOMAIN_BLOCK_REBASE_COPY, ERR_NO_DOMAIN, by_name, v1::BlockRebaseRequest};
//!
//! # async fn copy() -> Result<(), virtblock::VirError> {
//! let client = Client::connect("unix:/run/virtblock/virtblock-sock")?;
//! let request = BlockRebaseRequest {
//!     domain: Some(by_name("guest")),
//!     disk: Some("vda".into()),
//!     base: Some("/images/copy.qcow2".into()),
//!     flags: DOMAIN_BLOCK_REBASE_COPY,
//!     ..Default::default()
//! };
//! match client.domain.block_rebase(request).await {
//!     Err(error) if error.number == ERR_NO_DOMAIN => eprintln!("no such guest"),
//!     outcome => println!("{:?}", outcome?.job),
//! }
//! # Ok(())
//! # }
//! ```
//!
//! A future that is dropped, a deadline ([`Client::with_timeout`]) and [`Client::close`] end the call, never the job.
#![warn(missing_docs)]

mod call;
mod client;
#[rustfmt::skip]
#[path = "gen/constants.rs"]
mod constants;
mod error;
mod target;
mod watch;

/// The messages and services of the contract, package virtblock.v1. Enumerations are open: a field holds the number as it came,
/// also one that this client has no name for.
#[rustfmt::skip]
#[allow(missing_docs, clippy::all, rustdoc::all)]
#[path = "gen/virtblock.v1.rs"]
pub mod v1;

pub use call::Messages;
pub use client::{Client, Options, Tls, by_id, by_name, by_uuid};
pub use constants::*;
pub use error::VirError;
pub use tokio_stream::StreamExt;
