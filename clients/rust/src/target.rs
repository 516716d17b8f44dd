// SPDX-License-Identifier: Apache-2.0

//! A server's address: how it is written, found by default, and told apart from another machine's.

use std::path::Path;
use std::{env, fmt, net::IpAddr};

use crate::VirError;
use crate::error::invalid;

const SYSTEM_SOCKET: &str = "/run/virtblock/virtblock-sock";
pub(crate) const READ_ONLY_SUFFIX: &str = "-ro";
/// sockaddr_un.sun_path holds 108 bytes, the last one a NUL (unix(7)).
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// A unix socket by its absolute path, or a host and a port.
#[derive(Clone, Debug)]
pub(crate) enum Target {
    Socket(String),
    Port(String, u16),
}

impl Target {
    /// Reads "unix:PATH", "unix:///PATH", an absolute path, "HOST:PORT" or "[IPV6]:PORT". An empty text means $VIRTBLOCK_SERVER,
    /// else the system's socket, else that of the user's own daemon.
    pub(crate) fn parse(text: &str, read_only: bool) -> Result<Self, VirError> {
        let text = if text.is_empty() { default_target() } else { text.to_owned() };
        let refused = |problem: String| Err(invalid(format!("server '{text}'{problem}")));
        if text.starts_with("unix:") || text.starts_with('/') {
            return Self::parse_socket(&text, read_only).or_else(refused);
        }
        if read_only {
            return refused(": only a unix socket has a read-only one beside it".into());
        }
        let Some((host, digits)) = split(&text) else { return refused(" is neither unix:PATH nor HOST:PORT".into()) };
        match digits.parse() {
            Ok(port @ 1u16..) if !digits.starts_with('+') => Ok(Self::Port(host.to_owned(), port)),
            _ => refused(": the port is a number from 1 to 65535".into()),
        }
    }

    fn parse_socket(text: &str, read_only: bool) -> Result<Self, String> {
        let path = text.strip_prefix("unix:").unwrap_or(text);
        // unix://HOST/PATH is another host's; three slashes are none's, so this one's.
        let mut path = path.strip_prefix("//").unwrap_or(path).to_owned();
        if read_only && !path.ends_with(READ_ONLY_SUFFIX) {
            path.push_str(READ_ONLY_SUFFIX);
        }
        match path.len() {
            _ if !path.starts_with('/') => Err(format!(": the path must be absolute, as in unix:{SYSTEM_SOCKET}")),
            ..=SOCKET_PATH_BYTES_MAX if !path.contains('\0') => Ok(Self::Socket(path)),
            length => Err(format!(": the path has {length} bytes, a socket's at most {SOCKET_PATH_BYTES_MAX}")),
        }
    }

    /// Whether the link is encrypted, after the options that contradict each other or the target are refused.
    pub(crate) fn is_encrypted(&self, insecure: bool, has_tls_options: bool) -> Result<bool, VirError> {
        let is_loopback = |host: &str| host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
        let problem = match self {
            _ if insecure && has_tls_options => "a link is either insecure or has TLS options, not both".into(),
            Self::Socket(_) if has_tls_options => format!("server '{self}': a unix socket has no TLS"),
            Self::Port(host, port) if insecure && !is_loopback(host) => {
                format!("server '{self}': insecure is for this machine alone, as in 127.0.0.1:{port}")
            }
            Self::Socket(_) => return Ok(false),
            Self::Port(..) => return Ok(!insecure),
        };
        Err(invalid(problem))
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(path) => write!(f, "unix:{path}"),
            Self::Port(host, port) if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Port(host, port) => write!(f, "{host}:{port}"),
        }
    }
}

fn split(text: &str) -> Option<(&str, &str)> {
    let (host, port) = text.rsplit_once(':')?;
    let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let is_clear = bare.is_some() || !host.contains([':', '[', ']']);
    (is_clear && !host.is_empty() && !text.contains('/')).then_some((bare.unwrap_or(host), port))
}

fn default_target() -> String {
    let set = |name| env::var(name).ok().filter(|value| !value.is_empty());
    let own = set("XDG_RUNTIME_DIR").map(|folder| format!("{folder}/virtblock/virtblock-sock"));
    // Where neither socket is there, the error message speaks of the system's.
    let own = own.filter(|own| !Path::new(SYSTEM_SOCKET).exists() && Path::new(own).exists());
    set("VIRTBLOCK_SERVER").or(own).unwrap_or_else(|| SYSTEM_SOCKET.to_owned())
}
