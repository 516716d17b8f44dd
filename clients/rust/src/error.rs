// SPDX-License-Identifier: Apache-2.0

//! The one error of the client, and how it is made of what gRPC reports.

use std::error::Error;
use std::{fmt, io, iter, ops::Deref};

use prost::Message;
use tonic::{Code, ConnectError, Status, TimeoutExpired};

use crate::target::{READ_ONLY_SUFFIX, Target};
use crate::{ERR_ERROR, ERR_INVALID_ARG, ERR_NO_SUPPORT, ERR_OPERATION_ABORTED, ERR_OPERATION_TIMEOUT, ERR_RPC, ERR_SYSTEM_ERROR};
use crate::{FROM_RPC, v1};

#[rustfmt::skip]
#[allow(dead_code, missing_docs, clippy::all, rustdoc::all)]
#[path = "gen/google.rpc.rs"]
mod rpc;

/// libvirt's error as the server gave it, field for field: `error.number`, `error.message`, … are those of [`v1::VirError`].
/// Every failed call gives one.
///
/// Decide by `number`, and for the few failures that libvirt cannot have by `reason`. `VirError::from(record)` makes an error of a
/// failed job's `BlockJob::error`.
#[derive(Clone, thiserror::Error)]
#[error("{}", record.message)]
#[non_exhaustive]
pub struct VirError {
    record: Box<v1::VirError>,
    /// The ErrorInfo's: "VIR_ERR_NO_DOMAIN", or one of the REASON constants. Empty: none came.
    pub reason: String,
    /// The call's gRPC status as it came. None where nothing was called.
    #[source]
    pub status: Option<Status>,
}

impl VirError {
    /// The call's gRPC code. A link that breaks is `Unavailable`, whatever broke it. `Unknown` where nothing was called.
    pub fn code(&self) -> Code {
        self.status.as_ref().map_or(Code::Unknown, code_of)
    }

    pub(crate) fn from_call(status: Status, server: &Target, rpc: &str) -> Self {
        let (record, reason) = sent_by_server(&status).unwrap_or_else(|| (without_detail(&status, server, rpc), String::new()));
        Self { record: Box::new(record), reason, status: Some(status) }
    }
}

/// What a program that ends by this error prints.
impl fmt::Debug for VirError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "virError(Code={}, Domain={}, Message='{}')", self.number, self.domain, self.message)
    }
}

impl Deref for VirError {
    type Target = v1::VirError;

    fn deref(&self) -> &v1::VirError {
        &self.record
    }
}

impl From<v1::VirError> for VirError {
    fn from(record: v1::VirError) -> Self {
        Self { record: Box::new(record), reason: String::new(), status: None }
    }
}

/// An error of this client's caller.
pub(crate) fn invalid(detail: impl Into<String>) -> VirError {
    let (template, detail) = ("invalid argument: %s".to_owned(), detail.into());
    let record = own(ERR_INVALID_ARG, template.replace("%s", &detail));
    v1::VirError { str1: Some(template), str2: Some(detail), ..record }.into()
}

fn own(number: i32, message: String) -> v1::VirError {
    let (str1, str2) = (Some("%s".into()), Some(message.clone()));
    v1::VirError { number, domain: FROM_RPC, level: ERR_ERROR, message, str1, str2, str3: None, int1: -1, int2: -1 }
}

fn causes(status: &Status) -> impl Iterator<Item = &(dyn Error + 'static)> {
    iter::successors(status.source(), |&error| error.source())
}

/// tonic words a broken link in several ways; what all have in common is a cause, which no answer of a server has.
fn code_of(status: &Status) -> Code {
    match status.source() {
        Some(_) if causes(status).any(|error| error.is::<TimeoutExpired>()) => Code::DeadlineExceeded,
        Some(_) => Code::Unavailable,
        None => status.code(),
    }
}

fn sent_by_server(status: &Status) -> Option<(v1::VirError, String)> {
    let details = rpc::Status::decode(status.details()).ok()?.details;
    let of = |name: &str| details.iter().find(|detail| detail.type_url.ends_with(name)).map(|detail| &detail.value[..]);
    let record = v1::VirError::decode(of("/virtblock.v1.VirError")?).ok()?;
    let info = of("/google.rpc.ErrorInfo").and_then(|bytes| rpc::ErrorInfo::decode(bytes).ok());
    Some((record, info.unwrap_or_default().reason))
}

/// Number and domain that libvirt's own remote client would give, and what to do.
fn without_detail(status: &Status, server: &Target, rpc: &str) -> v1::VirError {
    let (daemon, text) = (format!("virtblockd at {server}"), status.message());
    let (number, message) = match code_of(status) {
        Code::Unavailable => return not_connected(status, &server.to_string()),
        Code::DeadlineExceeded => {
            (ERR_OPERATION_TIMEOUT, format!("{rpc}: {daemon} did not answer in time; what it was asked to do may go on"))
        }
        Code::Unimplemented => (ERR_NO_SUPPORT, format!("{daemon} does not know the call {rpc}: {text}; it is older than this client")),
        Code::Cancelled => (ERR_OPERATION_ABORTED, format!("{rpc}: the call to {daemon} was cancelled: {text}")),
        code => {
            let code = rpc::Code::try_from(code as i32).unwrap_or(rpc::Code::Unknown).as_str_name();
            (ERR_RPC, format!("{rpc}: the call to {daemon} failed with {code}: {text}"))
        }
    };
    own(number, message)
}

fn not_connected(status: &Status, server: &str) -> v1::VirError {
    let mut connecting = causes(status).skip_while(|error| !error.is::<ConnectError>());
    let errno = connecting.find_map(|error| error.downcast_ref::<io::Error>()?.raw_os_error());
    let text = errno.map(|errno| io::Error::from_raw_os_error(errno).to_string());
    let text = text.or_else(|| causes(status).last().map(ToString::to_string)).unwrap_or_else(|| status.message().to_owned());
    let cause = text.split(" (os error").next().unwrap_or_default();
    let hint = format!("start it with: virtblockd --listen {}", server.strip_suffix(READ_ONLY_SUFFIX).unwrap_or(server));
    let message = format!("cannot connect to virtblockd at {server}: {cause}; is it running? {hint}");
    v1::VirError { int1: errno.unwrap_or(-1), ..own(ERR_SYSTEM_ERROR, message) }
}
