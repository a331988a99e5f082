//! Where a node listens.

use std::fmt;
use std::path::PathBuf;

use crate::ClientError;

/// Where a node listens for clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// The local socket of a node on this host, `<data-dir>/shoal.sock`. Pieces are shared in memory.
    Local(PathBuf),
    /// `HOST:PORT` of a node anywhere. Pieces travel on the connection.
    Tcp(String),
}

impl Address {
    /// Reads an address: a text with a `/` is the path of a local socket, anything else must be `HOST:PORT`.
    pub fn parse(text: &str) -> Result<Self, ClientError> {
        if text.contains('/') {
            return Ok(Address::Local(text.into()));
        }
        let is_host_and_port =
            text.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
        if is_host_and_port { Ok(Address::Tcp(text.into())) } else { Err(ClientError::Address(text.into())) }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Local(path) => write!(f, "{}", path.display()),
            Address::Tcp(text) => f.write_str(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slash_makes_a_path_and_a_port_makes_a_host() {
        assert_eq!(Address::parse("./shoal.sock").unwrap(), Address::Local("./shoal.sock".into()));
        assert_eq!(Address::parse("gpu-7:9015").unwrap(), Address::Tcp("gpu-7:9015".into()));
        assert_eq!(Address::parse("[::1]:9015").unwrap(), Address::Tcp("[::1]:9015".into()));
        for wrong in ["", "gpu-7", ":9015", "gpu-7:", "gpu-7:port", "gpu-7:70000"] {
            assert!(Address::parse(wrong).is_err(), "{wrong}");
        }
    }
}
