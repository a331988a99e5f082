//! Requests that the node makes to others over HTTP, and to whom it may make them.
//!
//! Whoever can make a node ask any address can look behind every wall that the node stands behind. So an address is looked
//! up once, checked, and connected to as it was checked; and what may be asked is a setting. Values are sent nowhere else than
//! where they were to be sent, and whoever reads decides whether a server may send it on.

mod download; // bytes that come from servers
mod trust; // whose word about servers is taken

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use http_body_util::{BodyExt, Limited};
use hyper::body::{Body, Bytes};
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, HOST};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::members::View;
use crate::pool::Sources;

pub(crate) use download::{Answer, Download, get};
pub(crate) use trust::Trust;

/// How long a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a whole request may take, with all of its body.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(300);
/// How long a server may pause.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// What is read of an answer, in bytes.
const ANSWER_SIZE_MAX: usize = 64 << 10;

/// Where values may be sent.
#[derive(Debug, Clone, Default)]
pub(crate) struct Targets {
    /// What the operator allows: `HOST`, `HOST:PORT`, or `*`.
    pub(crate) allowed: Vec<String>,
    /// Whether places on this machine may be asked without being named.
    pub(crate) allow_local: bool,
}

/// What may be asked of the world outside.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reach {
    /// Where values may be sent.
    pub(crate) targets: Targets,
    /// What chunks may be read from.
    pub(crate) sources: Sources,
}

/// A place that may be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    /// As it was named.
    name: String,
    address: SocketAddr,
}

/// Why a place is not asked, or gave no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum OutgoingError {
    #[error("{0}")]
    Malformed(String),
    #[error(
        "this node may not send to {0}; other nodes of the cluster may be sent to, places on this machine when the node \
         listens on this machine alone, and what `--allow-send HOST:PORT` names"
    )]
    Forbidden(String),
    #[error("{place}: {message}")]
    Unreachable { place: String, message: String },
}

impl Targets {
    /// The place that a target means, if it may be asked.
    pub(crate) async fn check(&self, target: &str, view: &View) -> Result<Place, OutgoingError> {
        let name = place_of(target)?;
        let looked_up = tokio::time::timeout(CONNECT_TIMEOUT, tokio::net::lookup_host(&name)).await;
        let unreachable = |message: String| OutgoingError::Unreachable { place: name.clone(), message };
        let looked_up = looked_up.map_err(|_| "its name was not found in time".to_owned());
        let addresses: Vec<SocketAddr> =
            match looked_up.and_then(|found| found.map_err(|error| error.to_string())) {
                Ok(found) => found.collect(),
                Err(message) if self.names(&name) => return Err(unreachable(message)),
                // Whether there is such a name is nobody's business who may not send there.
                Err(_) => Vec::new(),
            };
        let address = addresses.into_iter().find(|address| self.allows(&name, *address, view));
        let address = address.ok_or_else(|| OutgoingError::Forbidden(name.clone()))?;
        Ok(Place { name, address })
    }

    /// Whether the operator allows a place by its name.
    fn names(&self, name: &str) -> bool {
        let host = name.rsplit_once(':').map_or(name, |(host, _)| host);
        self.allowed.iter().any(|allowed| {
            allowed == "*" || allowed.eq_ignore_ascii_case(name) || allowed.eq_ignore_ascii_case(host)
        })
    }

    fn allows(&self, name: &str, address: SocketAddr, view: &View) -> bool {
        let is_named = self.names(name);
        let is_local = address.ip().to_canonical().is_loopback();
        let is_member = || view.live().any(|record| record.address.parse() == Ok(address));
        is_named || (is_local && self.allow_local) || (!is_odd(address.ip()) && is_member())
    }
}

/// Addresses that no node has: everywhere, many at once, or what clouds tell machines about themselves.
fn is_odd(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip.is_unspecified() || ip.is_multicast() || ip.is_broadcast() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unspecified() || ip.is_multicast() || ip.is_unicast_link_local(),
    }
}

/// `HOST:PORT` of a target such as `localhost:9016` or `http://node2:9015/`.
fn place_of(target: &str) -> Result<String, OutgoingError> {
    let shown: String = target.chars().take(120).collect();
    let malformed = |why: &str| OutgoingError::Malformed(format!("'{shown}' is no target: {why}"));
    let place = match target.split_once("://") {
        Some((scheme, place)) if scheme.eq_ignore_ascii_case("http") => place,
        Some(_) => return Err(malformed("only http is spoken; write HOST:PORT")),
        None => target,
    };
    let place = place.strip_suffix('/').unwrap_or(place);
    let uri: hyper::Uri = format!("http://{place}/").parse().map_err(|_| malformed("write HOST:PORT"))?;
    let authority = uri.authority().filter(|authority| authority.as_str() == place);
    let authority = authority.ok_or_else(|| malformed("write HOST:PORT and nothing else"))?;
    if authority.host().is_empty() || place.contains('@') || place.ends_with(':') {
        return Err(malformed("write HOST:PORT"));
    }
    let port = match authority.as_str().strip_prefix(authority.host()) {
        Some("") => Some(80),
        _ => authority.port_u16(),
    };
    let port = port.ok_or_else(|| malformed("its port is none"))?;
    Ok(format!("{}:{port}", authority.host()))
}

/// Posts a body of `length` bytes of JSON; gives the status and the beginning of the answer.
pub(crate) async fn post<B>(
    place: &Place,
    path: &str,
    body: B,
    length: u64,
) -> Result<(StatusCode, Bytes), OutgoingError>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: std::error::Error + Send + Sync + 'static,
{
    let failed = |message: String| OutgoingError::Unreachable { place: place.name.clone(), message };
    let late = |_| failed("it did not answer in time".into());
    let asked = async {
        let connected = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(place.address)).await;
        let stream = connected.map_err(late)?.map_err(|error| failed(error.to_string()))?;
        let shaken = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = shaken.map_err(|error| failed(error.to_string()))?;
        let _driver = Driver(tokio::spawn(async move { drop(connection.await) }));
        let request = Request::builder()
            .method(Method::POST)
            .uri(path)
            .header(HOST, &place.name)
            .header(CONTENT_TYPE, "application/json")
            .header(CONTENT_LENGTH, length)
            .body(Box::pin(body))
            .map_err(|error| failed(error.to_string()))?;
        let answer = sender.send_request(request).await.map_err(|error| failed(error.to_string()))?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), ANSWER_SIZE_MAX).collect().await;
        Ok((status, body.map(|body| body.to_bytes()).unwrap_or_default()))
    };
    tokio::time::timeout(REQUEST_TIMEOUT, asked).await.map_err(late)?
}

/// What drives a connection, for as long as it is there.
struct Driver(tokio::task::JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn allows(targets: &Targets, name: &str, address: &str) -> bool {
        targets.allows(name, address.parse().unwrap(), &View::default())
    }

    #[test]
    fn targets_are_hosts_and_ports() {
        assert_eq!(place_of("localhost:9016").unwrap(), "localhost:9016");
        assert_eq!(place_of("http://node2:9015/").unwrap(), "node2:9015");
        assert_eq!(place_of("HTTP://[::1]:7").unwrap(), "[::1]:7");
        assert_eq!(place_of("node2").unwrap(), "node2:80");
        for target in [
            "",
            "https://a",
            "file:///etc/passwd",
            "a:1/b",
            "a:1?b",
            "a b:1",
            "u:p@a:1",
            "a:99999",
            "a:",
            ":1",
        ] {
            assert!(matches!(place_of(target), Err(OutgoingError::Malformed(_))), "{target}");
        }
    }

    #[test]
    fn only_what_is_allowed_is_asked() {
        let local = Targets { allowed: Vec::new(), allow_local: true };
        assert!(
            allows(&local, "localhost:1", "127.0.0.1:1") && allows(&local, "x:1", "[::ffff:127.0.0.1]:1")
        );
        assert!(!allows(&local, "a:1", "10.0.0.1:1") && !allows(&local, "a:80", "169.254.169.254:80"));
        let open = Targets { allowed: vec!["b".into(), "c:7".into()], allow_local: false };
        assert!(!allows(&open, "localhost:1", "127.0.0.1:1"));
        assert!(allows(&open, "B:1", "10.0.0.1:1") && allows(&open, "c:7", "10.0.0.1:7"));
        assert!(!allows(&open, "c:8", "10.0.0.1:8"));
        let all = Targets { allowed: vec!["*".into()], allow_local: false };
        assert!(allows(&all, "a:1", "10.0.0.1:1"));
    }

    proptest! {
        #[test]
        fn any_text_is_a_target_or_refused(target in "[a-z0-9:/@.\\[\\]?# -]{0,30}") {
            let _ = place_of(&target);
        }
    }
}
