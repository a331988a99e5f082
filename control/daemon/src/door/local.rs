//! The local socket and the descriptors that travel over it.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::path::Path;

use flow::wire::Message;
use flow::wire::handshake::Welcome;
use memory::Arena;
use rustix::fs::Mode;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::{UnixListener, UnixStream};

/// Binds the local socket for its owner alone. It is so from the moment it exists, because connecting needs write
/// permission and the mask takes that away before the kernel makes the file.
pub(crate) fn bind(path: &Path) -> io::Result<UnixListener> {
    let before = rustix::process::umask(Mode::from_raw_mode(0o177));
    let bound = UnixListener::bind(path);
    rustix::process::umask(before);
    bound
}

/// Welcomes a local client with the arena's descriptors: the one to read through, then the one to write through.
pub(crate) async fn welcome(stream: &mut UnixStream, welcome: Welcome, arena: &Arena) -> io::Result<()> {
    let frame = Message::from(welcome).encode(0, 0);
    let sent = stream.async_io(Interest::WRITABLE, || {
        let descriptors = [arena.read_only_fd(), arena.read_write_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
        let sent =
            rustix::net::sendmsg(&*stream, &[IoSlice::new(&frame)], &mut ancillary, SendFlags::NOSIGNAL);
        sent.map_err(io::Error::from)
    });
    let sent = sent.await?;
    stream.write_all(&frame[sent..]).await
}

#[cfg(test)]
mod tests {
    use std::io::IoSliceMut;
    use std::os::fd::OwnedFd;
    use std::os::unix::fs::PermissionsExt;

    use flow::limits::HANDSHAKE_BODY_MAX;
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};

    use super::*;

    fn run<T>(test: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test)
    }

    #[test]
    fn only_the_owner_may_connect() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("shoal.sock");
        let _listener = run(async { bind(&path).unwrap() });
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn the_arena_travels_with_the_welcome() {
        let arena = Arena::new(16 << 20, 1).unwrap();
        let (bytes, descriptors) = run(async {
            let (mut ours, theirs) = UnixStream::pair().unwrap();
            let message = Welcome { name: "seven".into(), arena_size: arena.size(), shards: 1 };
            welcome(&mut ours, message, &arena).await.unwrap();
            receive(&theirs)
        });
        let message =
            run(async { crate::frames::read_message(&mut &bytes[..], HANDSHAKE_BODY_MAX).await.unwrap() });
        assert_eq!(Welcome::try_from(message).unwrap().arena_size, 16 << 20);
        let [read_only, read_write] = &descriptors[..] else { panic!("{} descriptors", descriptors.len()) };
        assert!(memory::Mapping::map_shared(read_only, arena.size(), true).is_err());
        assert!(memory::Mapping::map_shared(read_only, arena.size(), false).is_ok());
        assert!(memory::Mapping::map_shared(read_write, arena.size(), true).is_ok());
    }

    fn receive(stream: &UnixStream) -> (Vec<u8>, Vec<OwnedFd>) {
        let mut bytes = vec![0; 4096];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [IoSliceMut::new(&mut bytes)];
        let received =
            rustix::net::recvmsg(stream, &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC).unwrap();
        let mut descriptors = Vec::new();
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(found) = message {
                descriptors.extend(found);
            }
        }
        bytes.truncate(received.bytes);
        (bytes, descriptors)
    }
}
