//! Sockets, handshakes, and where a connection goes.

pub(crate) mod handshake; // both sides, over a stream
pub(crate) mod local; // the local socket and the descriptors that travel over it
mod refusals; // how often refused connections are told

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use flow::limits::{CLIENTS_MAX, NODES_MAX};
use flow::wire::control::NodeId;
use flow::wire::frame::MAGIC;
use flow::wire::handshake::{Role, ShardPair, Token, Welcome};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

pub(crate) use local::bind as bind_local;

use refusals::Refusals;

use crate::http::Http;
use crate::node::Node;
use crate::replies::Replies;
use crate::{dial, service, session};

/// Handshakes at once on each socket; more connections wait to be accepted.
const HANDSHAKES_AT_ONCE: usize = 1024;
/// How long an unknown node may take to become a member, when it dials before this node has heard of it.
const STRANGER_PATIENCE: Duration = Duration::from_secs(1);
/// Rest after accepting has failed, as it does when the process has no descriptors left.
const ACCEPT_REST: Duration = Duration::from_millis(100);

/// How many connections of which kind there may be.
#[derive(Clone)]
pub(crate) struct Door {
    node: Arc<Node>,
    handshakes: Arc<Semaphore>,
    local_handshakes: Arc<Semaphore>,
    clients: Arc<Semaphore>,
    controls: Arc<Semaphore>,
    refusals: Arc<Refusals>,
    http: Http,
}

impl Door {
    pub(crate) fn new(node: Arc<Node>) -> Self {
        Self {
            http: Http::new(node.clone()),
            node,
            handshakes: Arc::new(Semaphore::new(HANDSHAKES_AT_ONCE)),
            local_handshakes: Arc::new(Semaphore::new(HANDSHAKES_AT_ONCE)),
            clients: Arc::new(Semaphore::new(CLIENTS_MAX)),
            controls: Arc::new(Semaphore::new(NODES_MAX)),
            refusals: Arc::default(),
        }
    }

    /// Accepts on the TCP port. It never returns.
    pub(crate) async fn open_tcp(self, listener: TcpListener) {
        loop {
            let Ok(permit) = self.handshakes.clone().acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, peer)) => self.spawn(self.clone().meet_remote(stream, peer, permit)),
                Err(error) => rest(&error).await,
            }
        }
    }

    /// Accepts on the local socket, where strangers on the network keep nobody waiting. It never returns.
    pub(crate) async fn open_local(self, listener: UnixListener) {
        loop {
            let Ok(permit) = self.local_handshakes.clone().acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, _)) => self.spawn(self.clone().meet_local(stream, permit)),
                Err(error) => rest(&error).await,
            }
        }
    }

    /// Connections go on after the doors are closed, until the node ends.
    fn spawn(&self, meeting: impl Future<Output = ()> + Send + 'static) {
        drop(self.node.life.spawn(meeting));
    }

    async fn meet_local(self, mut stream: UnixStream, handshaking: OwnedSemaphorePermit) {
        let identity = &self.node.identity;
        let refused = |reason: String| self.refusals.tell("the local socket", &reason);
        // Who can open the socket is its owner, whom the file system has made sure of; no token is asked for.
        match handshake::accept(&mut stream, &Token::new(""), identity.node).await {
            Ok(hello) if hello.role != Role::Client => {
                handshake::refuse(&mut stream, "the local socket serves clients alone".into()).await;
            }
            Ok(_) => {
                let Ok(_client) = self.clients.clone().try_acquire_owned() else {
                    return handshake::refuse(&mut stream, too_many_clients()).await;
                };
                let arena = self.node.engine.arena();
                let welcome = self.welcome(arena.size());
                if let Err(error) = local::welcome(&mut stream, welcome, arena).await {
                    return refused(error.to_string());
                }
                drop(handshaking);
                let (reader, writer) = stream.into_split();
                session::serve(self.node, reader, Replies::over(writer), session::Bytes::InArena).await;
            }
            Err(error) => refused(error.to_string()),
        }
    }

    async fn meet_remote(self, mut stream: TcpStream, peer: SocketAddr, handshaking: OwnedSemaphorePermit) {
        if dial::prepare(&stream).is_err() {
            return;
        }
        let (identity, refusals) = (&self.node.identity, self.refusals.clone());
        match handshake::first_byte(&mut stream).await {
            Ok(first) if begins_http(first) => {
                drop(handshaking);
                return self.http.serve(stream).await;
            }
            Ok(_) => {}
            Err(error) => return refusals.tell(&peer.to_string(), &error.to_string()),
        }
        let taken = match handshake::accept(&mut stream, &identity.token, identity.node).await {
            Ok(hello) => match hello.role {
                Role::Client => self.take_client(stream, handshaking).await,
                Role::Control => self.take_control(stream, hello.node, handshaking).await,
                Role::Data(pair) => self.take_data(stream, hello.node, pair).await,
            },
            Err(error) => Err(error.to_string()),
        };
        if let Err(reason) = taken {
            refusals.tell(&peer.to_string(), &reason);
        }
    }

    async fn take_client(
        self,
        mut stream: TcpStream,
        handshaking: OwnedSemaphorePermit,
    ) -> Result<(), String> {
        let Ok(_client) = self.clients.clone().try_acquire_owned() else {
            return turn_away(stream, too_many_clients()).await;
        };
        self.say_welcome(&mut stream).await?;
        drop(handshaking);
        let (reader, writer) = stream.into_split();
        session::serve(self.node, reader, Replies::over(writer), session::Bytes::OnTheWire).await;
        Ok(())
    }

    async fn take_control(
        self,
        mut stream: TcpStream,
        from: NodeId,
        handshaking: OwnedSemaphorePermit,
    ) -> Result<(), String> {
        let Ok(_control) = self.controls.clone().try_acquire_owned() else {
            return turn_away(stream, format!("{NODES_MAX} nodes are connected already")).await;
        };
        dial::bound_silence(&stream).map_err(|error| error.to_string())?;
        self.say_welcome(&mut stream).await?;
        drop(handshaking);
        let (reader, writer) = stream.into_split();
        service::serve(self.node, from, reader, Replies::over(writer)).await;
        Ok(())
    }

    async fn take_data(self, mut stream: TcpStream, from: NodeId, pair: ShardPair) -> Result<(), String> {
        let identity = &self.node.identity;
        if pair.to >= identity.shards {
            let text =
                format!("shard {} does not exist; node '{}' has {}", pair.to, identity.name, identity.shards);
            return turn_away(stream, text).await;
        }
        if !self.node.members.knows(from, STRANGER_PATIENCE).await {
            return turn_away(stream, format!("node {from:016x} is not a live member of the cluster")).await;
        }
        if !self.node.engine.has_room(pair.to).await {
            let text = format!(
                "shard {} of node '{}' has as many connections as it may have; ask another node",
                pair.to, identity.name
            );
            return turn_away(stream, text).await;
        }
        dial::bound_silence(&stream).map_err(|error| error.to_string())?;
        self.say_welcome(&mut stream).await?;
        let stream = stream.into_std().map_err(|error| error.to_string())?;
        self.node.engine.attach(pair.to, from, pair.from, stream);
        Ok(())
    }

    async fn say_welcome(&self, stream: &mut TcpStream) -> Result<(), String> {
        handshake::welcome(stream, self.welcome(0)).await.map_err(|error| error.to_string())
    }

    fn welcome(&self, arena_size: u64) -> Welcome {
        Welcome { name: self.node.identity.name.clone(), arena_size, shards: self.node.identity.shards }
    }
}

/// Whether a connection that begins with this byte speaks HTTP. All methods are words of letters, and those that are
/// served do not begin as a frame does.
fn begins_http(first: u8) -> bool {
    first.is_ascii_alphabetic() && first != MAGIC[0]
}

async fn turn_away(mut stream: TcpStream, reason: String) -> Result<(), String> {
    handshake::refuse(&mut stream, reason.clone()).await;
    Err(reason)
}

fn too_many_clients() -> String {
    format!("the node serves {CLIENTS_MAX} clients already; try again later, or ask another node")
}

async fn rest(error: &std::io::Error) {
    tracing::error!(%error, "accepting a connection failed; raise the limit of open files if that is the reason");
    tokio::time::sleep(ACCEPT_REST).await;
}
