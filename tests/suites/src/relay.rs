//! A local socket in front of a node's that counts what passes.

use std::io::{self, IoSlice, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};
use tempfile::TempDir;

use crate::node::Node;

/// Bytes that are passed on at once.
const BLOCK: usize = 64 << 10;
/// Descriptors that come with one message at most.
const DESCRIPTORS_MAX: usize = 4;

/// Passes everything on between clients and a node, descriptors too. Clients connect to it in place of the node.
pub struct Relay {
    folder: TempDir,
    listener: Arc<UnixListener>,
    passed: Arc<AtomicU64>,
}

impl Relay {
    /// A relay in front of the node's local socket.
    pub fn before(node: &Node) -> Self {
        let folder = tempfile::Builder::new().prefix("shoal-suite-").tempdir();
        let folder = folder.expect("a temporary folder can be made");
        let listener = UnixListener::bind(socket_in(folder.path())).expect("a local socket can be made");
        let relay = Self { folder, listener: Arc::new(listener), passed: Arc::default() };
        let (listener, passed, socket) = (relay.listener.clone(), relay.passed.clone(), node.socket());
        thread::spawn(move || {
            while let Ok((client, _)) = listener.accept() {
                let Ok(node) = UnixStream::connect(&socket) else { continue };
                let (client, node) = (Arc::new(client), Arc::new(node));
                for (from, to) in [(client.clone(), node.clone()), (node, client)] {
                    let passed = passed.clone();
                    thread::spawn(move || {
                        // Whoever still waits for something sees that the connection is closed.
                        let _ = pass(&from, &to, &passed);
                        let _ = to.shutdown(Shutdown::Write);
                    });
                }
            }
        });
        relay
    }

    /// Where clients connect.
    pub fn socket(&self) -> PathBuf {
        socket_in(self.folder.path())
    }

    /// Bytes that have passed, both ways together.
    pub fn passed(&self) -> u64 {
        self.passed.load(Ordering::Relaxed)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        // Ends the thread that accepts.
        let _ = rustix::net::shutdown(&*self.listener, rustix::net::Shutdown::Both);
    }
}

fn socket_in(folder: &Path) -> PathBuf {
    folder.join("relay.sock")
}

/// Passes on what comes from one side, until that closes.
fn pass(from: &UnixStream, mut to: &UnixStream, passed: &AtomicU64) -> io::Result<()> {
    let mut block = vec![0; BLOCK];
    loop {
        let (length, descriptors) = receive(from, &mut block)?;
        if length == 0 {
            return Ok(());
        }
        passed.fetch_add(length as u64, Ordering::Relaxed);
        let sent = send(to, &block[..length], &descriptors)?;
        to.write_all(&block[sent..length])?;
    }
}

fn receive(from: &UnixStream, block: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::io::retry_on_intr(|| {
        let mut parts = [IoSliceMut::new(block)];
        rustix::net::recvmsg(from, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)
    })?;
    let rights = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(rights) => Some(rights),
        _ => None,
    });
    Ok((received.bytes, rights.flatten().collect()))
}

fn send(to: &UnixStream, bytes: &[u8], descriptors: &[OwnedFd]) -> io::Result<usize> {
    let descriptors: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(io::Error::other("more descriptors came than fit"));
    }
    let sent = rustix::io::retry_on_intr(|| {
        rustix::net::sendmsg(to, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)
    });
    Ok(sent?)
}
