//! A stream socket, local or TCP.

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::{TcpStream, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::retry_on_intr;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, Shutdown, sockopt};

use crate::Address;

/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a silent peer's host may be gone before the connection counts as closed.
const DEAD_PEER_TIMEOUT: Duration = Duration::from_secs(30);
/// Descriptors that come with one message at most.
const DESCRIPTORS_MAX: usize = 4;

/// A connected stream socket.
pub(crate) struct Socket(OwnedFd);

impl Socket {
    /// Connects to a node.
    pub(crate) fn connect(address: &Address) -> io::Result<Self> {
        match address {
            Address::Local(path) => Ok(Self(UnixStream::connect(path)?.into())),
            Address::Tcp(text) => {
                let stream = connect_tcp(text)?;
                stream.set_nodelay(true)?;
                let socket = Self(stream.into());
                socket.watch_peer()?;
                Ok(socket)
            }
        }
    }

    /// Sends all of `bytes`. A closed connection is an error, never a signal.
    pub(crate) fn send(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let sent = retry_on_intr(|| rustix::net::send(&self.0, bytes, SendFlags::NOSIGNAL))?;
            bytes = &bytes[sent..];
        }
        Ok(())
    }

    /// Fills `buffer` and keeps the descriptors that come with its bytes.
    pub(crate) fn receive_exact(&self, buffer: &mut [u8], descriptors: &mut Vec<OwnedFd>) -> io::Result<()> {
        let mut filled = 0;
        while filled < buffer.len() {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let received = retry_on_intr(|| {
                let mut parts = [IoSliceMut::new(&mut buffer[filled..])];
                rustix::net::recvmsg(&self.0, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)
            })?;
            for message in control.drain() {
                if let RecvAncillaryMessage::ScmRights(received) = message {
                    descriptors.extend(received);
                }
            }
            if received.bytes == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            filled += received.bytes;
        }
        Ok(())
    }

    /// Lets a receive that waits longer than this fail; `None` lets it wait for ever.
    pub(crate) fn set_receive_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        Ok(sockopt::set_socket_timeout(&self.0, sockopt::Timeout::Recv, timeout)?)
    }

    /// What has come, as far as there is room for it; nothing is an error of the kind [`io::ErrorKind::WouldBlock`].
    pub(crate) fn receive_now(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let (received, _) = retry_on_intr(|| rustix::net::recv(&self.0, &mut *buffer, RecvFlags::DONTWAIT))?;
        Ok(received)
    }

    /// Waits until something has come or the peer has ended the connection; gives whether it has.
    pub(crate) fn wait_ended(&self) -> bool {
        let mut all = [PollFd::new(&self.0, PollFlags::IN | PollFlags::RDHUP)];
        let polled = poll(&mut all, None);
        polled.is_ok() && all[0].revents().intersects(PollFlags::RDHUP | PollFlags::HUP)
    }

    /// Waits until something has come or the connection has ended, and then returns true. It returns false when so much time
    /// has passed, when a signal came, and when `other` can be read.
    pub(crate) fn wait_readable(&self, other: Option<&OwnedFd>, timeout: Option<Duration>) -> bool {
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        let wait = |fd| PollFd::new(fd, PollFlags::IN);
        let mut all = [wait(&self.0), wait(other.unwrap_or(&self.0))];
        let polled = poll(&mut all, timeout.as_ref());
        polled.is_ok_and(|count| count > 0) && !all[0].revents().is_empty()
    }

    /// Ends both directions, which wakes a receive that waits.
    pub(crate) fn shut_down(&self) {
        // It fails only when the peer has ended the connection before.
        let _ = rustix::net::shutdown(&self.0, Shutdown::Both);
    }

    /// Makes the kernel find out when the peer's host is gone without a word.
    fn watch_peer(&self) -> io::Result<()> {
        sockopt::set_socket_keepalive(&self.0, true)?;
        sockopt::set_tcp_keepidle(&self.0, DEAD_PEER_TIMEOUT / 3)?;
        sockopt::set_tcp_keepintvl(&self.0, DEAD_PEER_TIMEOUT / 6)?;
        sockopt::set_tcp_keepcnt(&self.0, 4)?;
        sockopt::set_tcp_user_timeout(&self.0, DEAD_PEER_TIMEOUT.as_millis() as u32)?;
        Ok(())
    }
}

fn connect_tcp(text: &str) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the host name has no address");
    for address in text.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}
