//! The memory of other nodes on this host.
//!
//! A node gives its arena to processes of its own user through its local socket, as it does to clients; another node of
//! that user is one. What does not work, for whatever reason, leaves the two with TCP.

use std::collections::HashMap;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use flow::wire::control::NodeId;
use flow::wire::handshake::{Role, Token};
use memory::Mapping;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::UnixStream;

use crate::door::handshake::greet;

/// How long connecting to a local socket may take; it waits only while the other side's queue is full.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Descriptors that come with one message at most.
const DESCRIPTORS_MAX: usize = 4;

/// Arenas that are mapped. All shards of this node share one mapping of a peer's arena.
#[derive(Default)]
pub(crate) struct Neighbours {
    arenas: Mutex<HashMap<ArenaFile, Weak<Mapping>>>,
}

/// Device and inode of an arena's file: the same for no two arenas that exist at the same time.
type ArenaFile = (u64, u64);

impl Neighbours {
    /// Maps the arena of `peer` for reading; asks `us`, at the local socket of `peer`.
    pub(crate) async fn map(&self, us: NodeId, peer: NodeId, socket: &Path) -> io::Result<Arc<Mapping>> {
        let (descriptor, size) = ask(us, peer, socket).await?;
        let stat = rustix::fs::fstat(&descriptor)?;
        let mut arenas = self.arenas.lock().unwrap_or_else(PoisonError::into_inner);
        arenas.retain(|_, mapping| mapping.strong_count() > 0);
        if let Some(mapping) = arenas.get(&(stat.st_dev, stat.st_ino)).and_then(Weak::upgrade) {
            return Ok(mapping);
        }
        let mapping = Arc::new(Mapping::map_shared(&descriptor, size, false)?);
        arenas.insert((stat.st_dev, stat.st_ino), Arc::downgrade(&mapping));
        Ok(mapping)
    }
}

/// Asks at a local socket for the descriptor to read through, and how many bytes are behind it.
async fn ask(us: NodeId, peer: NodeId, socket: &Path) -> io::Result<(OwnedFd, u64)> {
    let connected = tokio::time::timeout(CONNECT_TIMEOUT, UnixStream::connect(socket)).await;
    let stream = connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
    let mut stream = WithDescriptors { stream, received: Vec::new() };
    let greeted = greet(&mut stream, &Token::new(""), Role::Client, us, peer).await;
    let (_, welcome) = greeted.map_err(io::Error::other)?;
    let read_only = stream.received.into_iter().next();
    let read_only = read_only.ok_or_else(|| io::Error::other("no descriptor came with the welcome"))?;
    Ok((read_only, welcome.arena_size))
}

/// A local stream that keeps the descriptors which come with its bytes.
struct WithDescriptors {
    stream: UnixStream,
    received: Vec<OwnedFd>,
}

impl AsyncRead for WithDescriptors {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { stream, received } = self.get_mut();
        loop {
            ready!(stream.poll_read_ready(context))?;
            let step =
                stream.try_io(Interest::READABLE, || receive(stream, buffer.initialize_unfilled(), received));
            match step {
                Ok(count) => {
                    buffer.advance(count);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

fn receive(stream: &UnixStream, buffer: &mut [u8], descriptors: &mut Vec<OwnedFd>) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(buffer)];
    let message = rustix::net::recvmsg(stream, &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    for part in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(found) = part {
            descriptors.extend(found);
            // Whoever sends more than was asked for does not fill this process with descriptors.
            descriptors.truncate(DESCRIPTORS_MAX);
        }
    }
    Ok(message.bytes)
}

impl AsyncWrite for WithDescriptors {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use flow::wire::handshake::Welcome;
    use memory::Arena;
    use tokio::net::UnixListener;

    use super::*;
    use crate::door::{handshake, local};

    /// Two asks of node 7 at the socket of a node 9 that serves each with the arena of its turn.
    fn map_twice(arenas: [Arena; 2], expected: NodeId) -> [io::Result<Arc<Mapping>>; 2] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("shoal.sock");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = UnixListener::bind(&path).unwrap();
            tokio::spawn(async move {
                for arena in arenas {
                    let (mut stream, _) = listener.accept().await.unwrap();
                    let Ok(_) = handshake::accept(&mut stream, &Token::new(""), 9).await else { continue };
                    let welcome = Welcome { name: "nine".into(), arena_size: arena.size(), shards: 1 };
                    local::welcome(&mut stream, welcome, &arena).await.unwrap();
                }
            });
            let neighbours = Neighbours::default();
            let first = neighbours.map(7, expected, &path).await;
            let second = neighbours.map(7, expected, &path).await;
            [first, second]
        })
    }

    #[test]
    fn an_arena_is_mapped_once_however_often_it_is_offered() {
        let arena = Arena::new(16 << 20, 1).unwrap();
        let mut lease = arena.lease(0, 4096).unwrap();
        lease.as_mut_slice().fill(7);
        let [first, second] = map_twice([arena.clone(), arena.clone()], 9).map(Result::unwrap);
        assert!(Arc::ptr_eq(&first, &second));
        assert_eq!(first.read(lease.offset(), 4096), Some(&[7; 4096][..]));
        let other = Arena::new(16 << 20, 1).unwrap();
        let [first, second] = map_twice([arena, other], 9).map(Result::unwrap);
        assert!(!Arc::ptr_eq(&first, &second), "a node that has started again has another arena");
    }

    #[test]
    fn another_node_at_the_socket_is_noticed() {
        let arena = || Arena::new(16 << 20, 1).unwrap();
        let [first, _] = map_twice([arena(), arena()], 8);
        let error = first.map(drop).unwrap_err().to_string();
        assert!(error.contains("node"), "{error}");
    }

    #[test]
    fn a_socket_that_is_not_there_is_an_error() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let asked = Neighbours::default();
        let error =
            runtime.block_on(asked.map(7, 9, Path::new("/nowhere/shoal.sock"))).map(drop).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
