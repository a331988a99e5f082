//! Both sides of the handshake, over a stream.

use std::io;
use std::time::Duration;

use flow::limits::HANDSHAKE_BODY_MAX;
use flow::wire::Message;
use flow::wire::control::NodeId;
use flow::wire::handshake::{self, HandshakeError, Hello, Refuse, Role, Token, Welcome};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::frames::{self, FrameError};

/// How long a handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a refused peer may take to read why.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(1);
/// Bytes of a refused peer that are read and dropped.
const FAREWELL_BYTES_MAX: u64 = 64 << 10;

/// Why a connection was not taken, or not made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GreetingError {
    #[error("{0}")]
    Frame(#[from] FrameError),
    #[error("{0}")]
    Handshake(#[from] HandshakeError),
    #[error("the peer sent {0} where {1} belongs; check address and port")]
    Order(&'static str, &'static str),
    #[error("the handshake took more than {} s", HANDSHAKE_TIMEOUT.as_secs())]
    Timeout,
    #[error("{0}")]
    Connect(#[from] io::Error),
}

/// Waits for the first byte of a peer, and leaves it where it is. One that sends none is told why, and the connection is of
/// no more use.
pub(crate) async fn first_byte(stream: &mut TcpStream) -> Result<u8, GreetingError> {
    let mut byte = [0];
    let peeked = within_time(async { Ok(stream.peek(&mut byte).await?) }).await;
    match peeked {
        Ok(0) => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
        Ok(_) => Ok(byte[0]),
        Err(error) => {
            refuse(stream, error.to_string()).await;
            Err(error)
        }
    }
}

/// The acceptor's side up to the proof; what remains is to welcome or refuse. A peer that does not prove itself is
/// told why, and the connection is of no more use.
pub(crate) async fn accept<S>(stream: &mut S, token: &Token, node: NodeId) -> Result<Hello, GreetingError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let accepted = within_time(accept_steps(stream, token, node)).await;
    if let Err(error) = &accepted {
        refuse(stream, error.to_string()).await;
    }
    accepted
}

async fn accept_steps<S>(stream: &mut S, token: &Token, node: NodeId) -> Result<Hello, GreetingError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let hello = match frames::read_message(stream, HANDSHAKE_BODY_MAX).await? {
        Message::Hello(hello) => hello,
        other => return Err(GreetingError::Order(other.name(), "Hello")),
    };
    let challenge = handshake::challenge(&hello, token, node, crate::node::random_bytes())?;
    send(stream, challenge.clone()).await?;
    match frames::read_message(stream, HANDSHAKE_BODY_MAX).await? {
        Message::Proof(proof) => handshake::check(&hello, &challenge, &proof, token)?,
        Message::Refuse(Refuse { reason }) => return Err(HandshakeError::Refused(reason).into()),
        other => return Err(GreetingError::Order(other.name(), "Proof")),
    }
    Ok(hello)
}

/// Tells the peer why the connection ends.
pub(crate) async fn refuse<S>(stream: &mut S, reason: String)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    // A socket that is closed over unread bytes is reset, which may take the refusal with it.
    let parting = async {
        send(stream, refusal(reason)).await?;
        stream.shutdown().await?;
        let _ = tokio::io::copy(&mut stream.take(FAREWELL_BYTES_MAX), &mut tokio::io::sink()).await?;
        Ok::<_, GreetingError>(())
    };
    let _ = tokio::time::timeout(FAREWELL_TIMEOUT, parting).await;
}

/// What a peer sent must not make the answer larger than it may read.
fn refusal(reason: String) -> Refuse {
    Refuse { reason: reason.chars().take(500).collect() }
}

/// The acceptor's last word when it takes the connection.
pub(crate) async fn welcome<S>(stream: &mut S, welcome: Welcome) -> Result<(), GreetingError>
where
    S: AsyncWrite + Unpin,
{
    within_time(send(stream, welcome)).await
}

/// The initiator's side: proves this node and gives the id of the node that answered.
pub(crate) async fn greet<S>(
    stream: &mut S,
    token: &Token,
    role: Role,
    node: NodeId,
    expected: NodeId,
) -> Result<(NodeId, Welcome), GreetingError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    within_time(greet_steps(stream, token, Hello::new(role, node, expected, crate::node::random_bytes())))
        .await
}

async fn greet_steps<S>(
    stream: &mut S,
    token: &Token,
    hello: Hello,
) -> Result<(NodeId, Welcome), GreetingError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    send(stream, hello.clone()).await?;
    let challenge = match frames::read_message(stream, HANDSHAKE_BODY_MAX).await? {
        Message::Challenge(challenge) => challenge,
        Message::Refuse(Refuse { reason }) => return Err(HandshakeError::Refused(reason).into()),
        other => return Err(GreetingError::Order(other.name(), "Challenge")),
    };
    let proof = match handshake::prove(&hello, &challenge, token) {
        Ok(proof) => proof,
        Err(error) => {
            send(stream, refusal(error.to_string())).await?;
            return Err(error.into());
        }
    };
    send(stream, proof).await?;
    match frames::read_message(stream, HANDSHAKE_BODY_MAX).await? {
        Message::Welcome(welcome) => Ok((challenge.node, welcome)),
        Message::Refuse(Refuse { reason }) => Err(HandshakeError::Refused(reason).into()),
        other => Err(GreetingError::Order(other.name(), "Welcome")),
    }
}

async fn send<S>(stream: &mut S, message: impl Into<Message>) -> Result<(), GreetingError>
where
    S: AsyncWrite + Unpin,
{
    frames::write(stream, &message.into(), 0, 0).await.map_err(|error| FrameError::Io(error).into())
}

async fn within_time<T>(steps: impl Future<Output = Result<T, GreetingError>>) -> Result<T, GreetingError> {
    tokio::time::timeout(HANDSHAKE_TIMEOUT, steps).await.unwrap_or(Err(GreetingError::Timeout))
}

#[cfg(test)]
mod tests;
