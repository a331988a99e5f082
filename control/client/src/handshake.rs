//! From an address to an authenticated socket.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use flow::limits::HANDSHAKE_BODY_MAX;
use flow::wire::frame::HEADER_LENGTH;
use flow::wire::handshake::{self, HandshakeError, Hello, Refuse, Role, Token, Welcome};
use flow::wire::{Header, Message};

use crate::socket::Socket;
use crate::{Address, ClientError};

/// How long a node may think about each step.
const STEP_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection whose handshake is over.
pub(crate) struct Welcomed {
    /// The socket.
    pub(crate) socket: Socket,
    /// What the node said of itself.
    pub(crate) welcome: Welcome,
    /// Descriptors of the node's arena: read-only, then read-write; none over TCP.
    pub(crate) descriptors: Vec<OwnedFd>,
}

/// Connects to `address` and proves `token`.
pub(crate) fn connect(address: &Address, token: &Token) -> Result<Welcomed, ClientError> {
    let connect_error = |source| ClientError::Connect { address: address.clone(), source };
    let handshake_error = |source| ClientError::Handshake { address: address.clone(), source };
    let socket = Socket::connect(address).map_err(connect_error)?;
    socket.set_receive_timeout(Some(STEP_TIMEOUT)).map_err(connect_error)?;
    let mut steps = Steps { socket: &socket, descriptors: Vec::new() };

    let hello = Hello::new(Role::Client, 0, 0, nonce().map_err(connect_error)?);
    steps.send(hello.clone().into()).map_err(connect_error)?;
    let challenge = match steps.receive().map_err(connect_error)? {
        Message::Challenge(challenge) => challenge,
        other => return Err(refusal(other).map_or_else(connect_error, handshake_error)),
    };
    let proof = handshake::prove(&hello, &challenge, token);
    if let Err(error) = &proof {
        // The node's log shall say why nobody came in; when it cannot be told, the error here says it all the same.
        let _ = steps.send(Refuse { reason: error.to_string() }.into());
    }
    steps.send(proof.map_err(handshake_error)?.into()).map_err(connect_error)?;
    let welcome = match steps.receive().map_err(connect_error)? {
        Message::Welcome(welcome) => welcome,
        other => return Err(refusal(other).map_or_else(connect_error, handshake_error)),
    };
    let descriptors = steps.descriptors;
    socket.set_receive_timeout(None).map_err(connect_error)?;
    Ok(Welcomed { socket, welcome, descriptors })
}

/// What a message other than the one expected means.
fn refusal(message: Message) -> Result<HandshakeError, io::Error> {
    match message {
        Message::Refuse(refuse) => Ok(HandshakeError::Refused(refuse.reason)),
        other => Err(invalid(format!("it answers with {} during the handshake", other.name()))),
    }
}

/// The two directions of a handshake.
struct Steps<'s> {
    socket: &'s Socket,
    descriptors: Vec<OwnedFd>,
}

impl Steps<'_> {
    fn send(&self, message: Message) -> io::Result<()> {
        self.socket.send(&message.encode(0, 0))
    }

    fn receive(&mut self) -> io::Result<Message> {
        self.receive_frame().map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                io::Error::new(io::ErrorKind::TimedOut, format!("it did not answer within {STEP_TIMEOUT:?}"))
            }
            io::ErrorKind::UnexpectedEof => {
                io::Error::new(io::ErrorKind::ConnectionReset, "it ended the connection during the handshake")
            }
            _ => error,
        })
    }

    fn receive_frame(&mut self) -> io::Result<Message> {
        let mut header = [0; HEADER_LENGTH];
        self.socket.receive_exact(&mut header, &mut self.descriptors)?;
        let header = Header::decode(&header, HANDSHAKE_BODY_MAX).map_err(invalid)?;
        let mut body = vec![0; header.length as usize];
        self.socket.receive_exact(&mut body, &mut self.descriptors)?;
        Message::decode(&header, &body).map_err(invalid)
    }
}

fn nonce() -> io::Result<[u8; 32]> {
    let mut nonce = [0; 32];
    getrandom::fill(&mut nonce)?;
    Ok(nonce)
}

fn invalid(error: impl ToString) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error.to_string())
}
