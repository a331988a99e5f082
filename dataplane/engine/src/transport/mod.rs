//! Frames and pieces over a connection between two shards.
//!
//! The reader hands over messages as they come and lets the shard say where the payload of a piece goes, so that pieces
//! are received straight into leased memory. The writer gathers what is queued into few large sends.

mod filling; // pieces on their way into a slot
pub(crate) mod lanes; // pieces over RDMA and UCX
mod reader; // frames in
#[cfg(test)]
mod tests;
mod writer; // frames out

use std::io;
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use flow::wire::control::NodeId;
use flow::wire::{HeaderError, MessageError};
use socket2::SockRef;

pub(crate) use filling::{Copying, Filling};
pub(crate) use reader::Reader;
pub(crate) use writer::{PieceSent, Writer};

/// One end of a connection, the same whoever dialled: a shard of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct PeerShard {
    pub(crate) node: NodeId,
    pub(crate) shard: u16,
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectionError {
    #[error("the peer closed the connection")]
    Closed,
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Header(#[from] HeaderError),
    #[error("{0}")]
    Message(#[from] MessageError),
    #[error("the peer broke the protocol: {0}")]
    Protocol(&'static str),
}

/// Bytes that wait in a socket for the network, about. With more, pieces would count as sent long before they are on
/// their way, and peers would queue here for what others could send them sooner.
const UNSENT_BYTES: u32 = 128 << 10;

/// Takes over a connection whose handshake is done. `congestion_control` is a name that the kernel knows; an unknown
/// one leaves the system's own.
pub(crate) fn take_over(stream: TcpStream, congestion_control: Option<&str>) -> io::Result<Rc<OwnedFd>> {
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    SockRef::from(&stream).set_tcp_notsent_lowat(UNSENT_BYTES)?;
    let socket = OwnedFd::from(stream);
    if let Some(name) = congestion_control
        && let Err(error) = rustix::net::sockopt::set_tcp_congestion(&socket, name)
    {
        tracing::warn!(name, %error, "the congestion control is not available; the system's own is used");
    }
    Ok(Rc::new(socket))
}
