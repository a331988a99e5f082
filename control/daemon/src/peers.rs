//! The control connections that are open: at most one to each address.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use flow::wire::Message;
use flow::wire::control::{NodeId, NodeRecord};
use flow::wire::handshake::{HandshakeError, Role, Token};
use flow::wire::session::{Failure, FailureCode};

use crate::door::handshake::{GreetingError, greet};
use crate::link::{Link, LinkError};
use crate::{dial, failure};

/// A node that was not reached is not dialled again for so long.
const REST_AFTER_FAILURE: Duration = Duration::from_millis(300);
/// Addresses that are remembered before those without a connection are forgotten.
const ADDRESSES_REMEMBERED: usize = 1024;

/// Opens control connections as they are needed and shares them.
pub(crate) struct Peers {
    node: NodeId,
    token: Token,
    places: Mutex<BTreeMap<String, Arc<Place>>>,
    /// Each open connection has a clone of it.
    open: Arc<()>,
}

type Place = tokio::sync::Mutex<Contact>;

#[derive(Default)]
struct Contact {
    link: Option<Arc<Link>>,
    failed: Option<(Instant, CallError)>,
}

/// Why a node gave no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CallError {
    /// No connection to it could be made.
    #[error("cannot connect to {address}: {message}")]
    Unreachable { address: String, message: String },
    /// It does not want to speak with this node, and will not change its mind.
    #[error("{address}: {message}")]
    Refused { address: String, message: String },
    /// The connection is there and the answer is not.
    #[error("{address}: {error}")]
    Link { address: String, error: LinkError },
}

impl Peers {
    pub(crate) fn new(node: NodeId, token: Token) -> Self {
        Self { node, token, places: Mutex::default(), open: Arc::default() }
    }

    /// Asks a member; a refusal of its own and every reason why it does not answer come as a [`Failure`].
    pub(crate) async fn ask(
        &self,
        peer: &NodeRecord,
        message: impl Into<Message>,
        limit: Option<Duration>,
    ) -> Result<Message, Failure> {
        let answer = self.call(&peer.address, peer.node, &message.into(), limit).await;
        match answer {
            Ok(Message::Failure(failure)) => Err(failure),
            Ok(answer) => Ok(answer),
            Err(error) => {
                let message = format!("node '{}' does not answer: {error}", peer.name);
                Err(failure::unavailable(message, "`shoal node ls` shows which nodes are alive"))
            }
        }
    }

    /// Asks whoever answers at `address`, which must be `expected` unless that is zero. A [`Message::Failure`] is an
    /// answer like any other.
    pub(crate) async fn call(
        &self,
        address: &str,
        expected: NodeId,
        message: &Message,
        limit: Option<Duration>,
    ) -> Result<Message, CallError> {
        let failed = |error| CallError::Link { address: address.to_owned(), error };
        let link = self.link(address, expected).await?;
        match link.ask(message, limit).await {
            // It was closed while nobody asked, so nothing was sent and asking again does nothing twice.
            Err(LinkError::Closed) => {
                let link = self.link(address, expected).await?;
                link.ask(message, limit).await.map_err(failed)
            }
            answer => answer.map_err(failed),
        }
    }

    async fn link(&self, address: &str, expected: NodeId) -> Result<Arc<Link>, CallError> {
        let place = self.place(address);
        let mut contact = place.lock().await;
        if let Some(link) = &contact.link
            && link.is_open()
            && (expected == 0 || link.node() == expected)
        {
            return Ok(link.clone());
        }
        if let Some((when, error)) = &contact.failed
            && when.elapsed() < REST_AFTER_FAILURE
        {
            return Err(error.clone());
        }
        let opened = self.open(address, expected).await.map(Arc::new);
        *contact = match &opened {
            Ok(link) => Contact { link: Some(link.clone()), failed: None },
            Err(error) => Contact { link: None, failed: Some((Instant::now(), error.clone())) },
        };
        opened
    }

    fn place(&self, address: &str) -> Arc<Place> {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        if places.len() >= ADDRESSES_REMEMBERED && !places.contains_key(address) {
            let in_use = |place: &Arc<Place>| match place.try_lock() {
                Ok(contact) => contact.link.as_ref().is_some_and(|link| link.is_open()),
                Err(_) => true,
            };
            places.retain(|_, place| in_use(place));
        }
        places.entry(address.to_owned()).or_default().clone()
    }

    async fn open(&self, address: &str, expected: NodeId) -> Result<Link, CallError> {
        let address_text = || address.to_owned();
        let unreachable = |message| CallError::Unreachable { address: address_text(), message };
        let mut stream = dial::connect(address).await.map_err(|error| unreachable(error.to_string()))?;
        let greeted = greet(&mut stream, &self.token, Role::Control, self.node, expected).await;
        match greeted {
            Ok((node, _)) => Ok(Link::over(stream, node, &self.open)),
            Err(GreetingError::Handshake(error @ (HandshakeError::Token | HandshakeError::Version(..)))) => {
                Err(CallError::Refused { address: address_text(), message: error.to_string() })
            }
            Err(error) => Err(unreachable(error.to_string())),
        }
    }
}

/// Turns an answer into what it must be.
pub(crate) fn expect<T: TryFrom<Message, Error = Message>>(
    question: &str,
    answer: Message,
) -> Result<T, Failure> {
    match T::try_from(answer) {
        Ok(answer) => Ok(answer),
        Err(Message::Failure(failure)) => Err(failure),
        Err(other) => Err(failure::unexpected(question, other.name())),
    }
}

/// Whether a refusal says that the other side is not there, rather than that it does not want to.
pub(crate) fn is_away(failure: &Failure) -> bool {
    failure.code == FailureCode::Unavailable
}
