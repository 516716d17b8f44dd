// SPDX-License-Identifier: Apache-2.0

//! The connection to a server, and how it is made.

use std::error::Error;
use std::{fs, time::Duration};

use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tonic::client::Grpc;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};

use crate::call::{FOREVER, Link};
use crate::error::invalid;
use crate::target::Target;
use crate::v1::{
    BlockJobEvent, BlockJobService, ConnectService, DomainSelector, DomainService, WatchBlockJobsRequest, domain_selector::Domain,
};
use crate::{Messages, VirError, watch};

// A server that vanished without a word is noticed, also by a stream that only waits.
const KEEPALIVE_TIME: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// How a [`Client`] connects. More may come: end it with `..Options::default()`.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Takes the socket beside, PATH-ro, which refuses what changes anything.
    pub read_only: bool,
    /// Goes without encryption, to this machine only.
    pub insecure: bool,
    /// The hypervisor connection, for example "qemu:///system", of every request that names none.
    pub connection_uri: String,
    /// Whom to trust, and what to show. None: the system's authorities, and nothing.
    pub tls: Option<Tls>,
}

/// PEM files of a TLS link; empty where there is none. More may come: end it with `..Tls::default()`.
#[derive(Clone, Debug, Default)]
pub struct Tls {
    /// Path of the authorities that may sign for the server. Empty: the system's.
    pub ca: String,
    /// Path of the certificate that the client shows of itself, with `key`.
    pub cert: String,
    /// Path of the certificate's key.
    pub key: String,
    /// The name in the server's certificate, where it is not the host.
    pub server_name: String,
}

/// A connection to a server. Clones share it, and may be used by any number of tasks.
#[derive(Clone, Debug)]
pub struct Client {
    /// libvirt's calls on a connection: look-ups, lists, definitions, events.
    pub connect: ConnectService,
    /// libvirt's calls on a domain, the block jobs among them.
    pub domain: DomainService,
    /// What libvirt lacks: jobs by id, kept after their end. See also [`Client::watch_block_jobs`].
    pub jobs: BlockJobService,
}

impl Client {
    /// A client of the server at "unix:PATH", an absolute path, or "HOST:PORT" (TLS). Empty: $VIRTBLOCK_SERVER, else the system's
    /// socket, else that of the user's own daemon. The first call contacts it. To be called within a tokio runtime, with time and
    /// I/O enabled, which must outlive the client. Fails with ERR_INVALID_ARG.
    pub fn connect(server: &str) -> Result<Self, VirError> {
        Self::with_options(server, Options::default())
    }

    /// As [`Client::connect`], with options.
    pub fn with_options(server: &str, options: Options) -> Result<Self, VirError> {
        let target = Target::parse(server, options.read_only)?;
        let is_encrypted = target.is_encrypted(options.insecure, options.tls.is_some())?;
        let runtime = Handle::try_current().map_err(|error| invalid(error.to_string()))?;
        let uri = match &target {
            Target::Socket(path) => format!("unix://{path}"),
            Target::Port(..) => format!("http{}://{target}", if is_encrypted { "s" } else { "" }),
        };
        let refused = |error: tonic::transport::Error| {
            let cause = error.source().map_or_else(|| error.to_string(), ToString::to_string);
            invalid(format!("server '{target}': {cause}"))
        };
        let mut endpoint = Endpoint::from_shared(uri).map_err(refused)?;
        if is_encrypted {
            endpoint = endpoint.tls_config(options.tls.unwrap_or_default().read()?).map_err(refused)?;
        }
        let endpoint = endpoint.connect_timeout(CONNECT_TIMEOUT);
        let endpoint = endpoint.http2_keep_alive_interval(KEEPALIVE_TIME).keep_alive_timeout(KEEPALIVE_TIMEOUT);
        let grpc = Grpc::new(endpoint.connect_lazy()).max_decoding_message_size(MESSAGE_BYTES_MAX);
        let (connection_uri, stop) = (options.connection_uri, CancellationToken::new());
        Ok(Self::of(Link { grpc, server: target, connection_uri, timeout: FOREVER, stop, runtime }))
    }

    /// The same connection, where every call, stream and watch fails with ERR_OPERATION_TIMEOUT after this time. No job ends by it.
    pub fn with_timeout(&self, timeout: Duration) -> Self {
        Self::of(Link { timeout, ..self.domain.link.clone() })
    }

    /// The same connection, where [`Client::close`] ends only what was called through this client. The other's ends both.
    pub fn child(&self) -> Self {
        Self::of(Link { stop: self.domain.link.stop.child_token(), ..self.domain.link.clone() })
    }

    /// Ends every call, stream and watch, now and from now on, with ERR_OPERATION_ABORTED. No job ends by it. The connection ends
    /// with the last clone.
    pub fn close(&self) {
        self.domain.link.stop.cancel();
    }

    /// The server's address.
    pub fn target(&self) -> String {
        self.domain.link.server.to_string()
    }

    /// Every change of state of block jobs once and in order, and progress where the request asks for it. When the connection breaks,
    /// the server restarts or the reader was too slow, it goes on by itself where it was; it ends only by an error.
    ///
    /// An event's `resume_token` goes on after it, in another process as well. Empty: there is nothing yet to go on after.
    ///
    /// Returns when the server has registered the watch: a job that is started afterwards cannot be missed. A server that cannot be
    /// reached now is an error at once; later the watch bears it.
    pub async fn watch_block_jobs(&self, request: WatchBlockJobsRequest) -> Result<Messages<BlockJobEvent>, VirError> {
        watch::open(&self.domain.link, request).await
    }

    fn of(link: Link) -> Self {
        let (connect, domain) = (ConnectService { link: link.clone() }, DomainService { link: link.clone() });
        Self { connect, domain, jobs: BlockJobService { link } }
    }
}

impl Tls {
    fn read(self) -> Result<ClientTlsConfig, VirError> {
        let (ca, cert, key) = (pem(&self.ca, "CERTIFICATE")?, pem(&self.cert, "CERTIFICATE")?, pem(&self.key, "PRIVATE KEY")?);
        let mut config = ClientTlsConfig::new();
        config = ca.map_or(config.clone().with_native_roots(), |ca| config.ca_certificate(Certificate::from_pem(ca)));
        match (cert, key) {
            (Some(cert), Some(key)) => config = config.identity(Identity::from_pem(cert, key)),
            (None, None) => (),
            _ => return Err(invalid("a TLS certificate and its key are given both or not at all")),
        }
        Ok(if self.server_name.is_empty() { config } else { config.domain_name(self.server_name) })
    }
}

/// The file's text, if there is one. rustls takes a file that lacks what it is for in silence.
fn pem(path: &str, kind: &str) -> Result<Option<String>, VirError> {
    match fs::read_to_string(path) {
        _ if path.is_empty() => Ok(None),
        Ok(text) if text.contains(&format!("{kind}-----")) => Ok(Some(text)),
        Ok(_) => Err(invalid(format!("TLS file '{path}': it has no {kind}"))),
        Err(error) => Err(invalid(format!("TLS file '{path}': {error}"))),
    }
}

/// Selects a domain by its name.
pub fn by_name(name: &str) -> DomainSelector {
    DomainSelector { domain: Some(Domain::Name(name.to_owned())), ..DomainSelector::default() }
}

/// Selects a domain by its UUID, which never changes.
pub fn by_uuid(uuid: &str) -> DomainSelector {
    DomainSelector { domain: Some(Domain::Uuid(uuid.to_owned())), ..DomainSelector::default() }
}

/// Selects an active domain by its id.
pub fn by_id(id: i32) -> DomainSelector {
    DomainSelector { domain: Some(Domain::Id(id)), ..DomainSelector::default() }
}
