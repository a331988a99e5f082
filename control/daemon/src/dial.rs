//! Connections to other nodes, and data connections that the engine asks for.

use std::io;
use std::net::TcpStream as StdStream;
use std::sync::Arc;
use std::time::Duration;

use flow::wire::control::NodeId;
use flow::wire::handshake::{Role, ShardPair};
use rustix::net::sockopt;
use tokio::net::TcpStream;

use crate::door::handshake::greet;
use crate::node::Node;

/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// A peer that is gone without a word is noticed after about a minute.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_PROBES: u32 = 3;
/// What a node has not acknowledged or not taken for so long ends the connection: the kernel alone would try for a quarter
/// of an hour, ever more rarely, and after a cut it would be as long silent again as that has lasted.
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(10);

/// Connects to `HOST:PORT`.
pub(crate) async fn connect(address: &str) -> io::Result<TcpStream> {
    let connected = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await;
    let stream = connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
    prepare(&stream)?;
    bound_silence(&stream)?;
    Ok(stream)
}

/// Sets what a connection between nodes needs beside that. Clients may take as long as they like over what they read.
pub(crate) fn bound_silence(stream: &TcpStream) -> io::Result<()> {
    Ok(sockopt::set_tcp_user_timeout(stream, UNACKNOWLEDGED_MAX.as_millis() as u32)?)
}

/// Sets what every TCP connection of a node needs: small messages leave at once, and dead peers are noticed.
pub(crate) fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(stream, KEEPALIVE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(stream, KEEPALIVE_PROBES)?;
    Ok(())
}

/// Answers `Dial`: hands the engine a data connection, or tells it that there is none.
pub(crate) async fn dial(node: Arc<Node>, from_shard: u16, peer: NodeId, to_shard: u16) {
    match open(&node, from_shard, peer, to_shard).await {
        Ok(stream) => node.engine.attach(from_shard, peer, to_shard, stream),
        Err(reason) => {
            tracing::debug!(peer = format_args!("{peer:016x}"), reason, "a data connection was not made");
            node.engine.dial_failed(from_shard, peer, to_shard);
        }
    }
}

async fn open(node: &Node, from: u16, peer: NodeId, to: u16) -> Result<StdStream, String> {
    let view = node.members.view();
    let record = view.node(peer).filter(|_| view.is_live(peer)).ok_or("it is not a live member")?;
    let mut stream = connect(&record.address).await.map_err(|error| error.to_string())?;
    let role = Role::Data(ShardPair { from, to });
    let greeted = greet(&mut stream, &node.identity.token, role, node.id(), peer).await;
    greeted.map_err(|error| error.to_string())?;
    stream.into_std().map_err(|error| error.to_string())
}
