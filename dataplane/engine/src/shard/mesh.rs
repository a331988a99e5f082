//! Connections to other shards.
//!
//! One connection serves both directions between a pair of shards, whoever dialled. When both dial at once there are two
//! for a while; what arrives on either is good, and what is sent goes to the one that came last.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;

use flow::backoff::Backoff;
use flow::chunk::ChunkId;
use flow::connections::{Asker, Occasion};
use flow::swarm::Settings;
use flow::time::Instant;
use flow::wire::Message;
use flow::wire::control::NodeId;
use memory::Mapping;

use super::Shard;
use super::arriving::Incoming;
use super::counters::add;
use super::lanes::{Lane, lane_backoff};
use crate::transport::{ConnectionError, PeerShard, Reader, Writer, take_over};
use crate::{Event, Peer};

/// The peers and the connections to them.
#[derive(Default)]
pub(super) struct Mesh {
    peers: HashMap<NodeId, Peer>,
    /// Whether all of them are on this node's host.
    is_on_one_host: bool,
    connections: HashMap<PeerShard, Rc<Connection>>,
    /// Open connections to shards that are reached over a later one.
    superseded: Vec<Rc<Connection>>,
    /// Chunks that wait for a connection that is being dialled.
    dialling: HashMap<PeerShard, Vec<ChunkId>>,
    /// Connections whose peer's memory is being mapped, by number.
    pub(super) mapping: HashMap<u64, Rc<Connection>>,
}

/// One connection.
pub(super) struct Connection {
    pub(super) peer: PeerShard,
    pub(super) writer: Writer,
    /// The peer's memory, where it is on this host.
    pub(super) memory: RefCell<Option<Arc<Mapping>>>,
    pub(super) lanes: RefCell<Vec<Rc<Lane>>>,
    pub(super) lane_backoff: RefCell<Backoff>,
    /// When something came on it last.
    pub(super) heard: Cell<Instant>,
    socket: Rc<OwnedFd>,
}

impl Mesh {
    /// The shard of `node` that owns `chunk`, if the node is a member.
    pub(super) fn owner(&self, node: NodeId, chunk: &ChunkId) -> Option<PeerShard> {
        let peer = self.peers.get(&node)?;
        Some(PeerShard { node, shard: chunk.shard(peer.shards) })
    }

    /// What a member is called.
    pub(super) fn name(&self, node: NodeId) -> Option<&str> {
        self.peers.get(&node).map(|peer| &*peer.name)
    }

    pub(super) fn is_near(&self, node: NodeId) -> bool {
        self.peers.get(&node).is_some_and(|peer| peer.near)
    }

    /// How a fetch behaves among these peers.
    pub(super) fn fetch_settings(&self) -> Settings {
        if self.is_on_one_host { Settings::on_one_host() } else { Settings::default() }
    }

    /// Whether a connection is being made for the sake of a chunk.
    pub(super) fn is_dialling(&self, chunk: &ChunkId) -> bool {
        self.dialling.values().any(|waiting| waiting.contains(chunk))
    }

    /// How many connections there are.
    pub(super) fn connections(&self) -> usize {
        self.connections.len() + self.superseded.len()
    }

    /// All of them.
    pub(super) fn all(&self) -> impl Iterator<Item = &Rc<Connection>> {
        self.connections.values().chain(&self.superseded)
    }

    pub(super) fn connection(&self, peer: PeerShard) -> Option<Rc<Connection>> {
        self.connections.get(&peer).cloned()
    }

    /// Where to write what `peer` shall read.
    pub(super) fn writer(&self, peer: PeerShard) -> Option<Writer> {
        self.connections.get(&peer).map(|connection| connection.writer.clone())
    }
}

impl Shard {
    pub(super) fn set_members(&self, peers: Vec<Peer>) {
        let gone: Vec<_> = {
            let mut mesh = self.mesh.borrow_mut();
            mesh.is_on_one_host = peers.iter().all(|peer| peer.here);
            mesh.peers = peers.into_iter().map(|peer| (peer.node, peer)).collect();
            let is_gone = |connection: &&Rc<Connection>| !mesh.peers.contains_key(&connection.peer.node);
            mesh.all().filter(is_gone).cloned().collect()
        };
        gone.iter().for_each(|connection| connection.close());
    }

    /// Says hello to `node` for the sake of `chunk`, over a connection that is there or is dialled.
    pub(super) fn connect(self: &Rc<Self>, node: NodeId, chunk: ChunkId) {
        let Some(peer) = self.mesh.borrow().owner(node, &chunk) else {
            return self.on_source_lost(node, &chunk);
        };
        let writer = self.mesh.borrow().writer(peer);
        if let Some(writer) = writer {
            self.greet(node, &writer, &chunk);
            return self.on_greeted(node, &chunk);
        }
        let mut mesh = self.mesh.borrow_mut();
        let open = mesh.connections() + mesh.dialling.len();
        if !self.keeper.borrow().has_room(open, Asker::Here) {
            drop(mesh);
            return self.on_source_lost(node, &chunk);
        }
        let waiting = mesh.dialling.entry(peer).or_default();
        waiting.push(chunk);
        if waiting.len() == 1 {
            drop(mesh);
            self.tell(Event::Dial { from_shard: self.index, peer: peer.node, to_shard: peer.shard });
        }
    }

    pub(super) fn on_dial_failed(self: &Rc<Self>, node: NodeId, shard: u16) {
        let waiting = self.mesh.borrow_mut().dialling.remove(&PeerShard { node, shard });
        for chunk in waiting.unwrap_or_default() {
            self.on_source_lost(node, &chunk);
        }
    }

    pub(super) fn attach(self: Rc<Self>, node: NodeId, shard: u16, stream: TcpStream) {
        let peer = PeerShard { node, shard };
        if !self.keeper.borrow().has_room(self.mesh.borrow().connections(), Asker::Here) {
            // Others came while this one was welcomed.
            add(&self.counters.connections_refused, 1);
            return self.on_dial_failed(node, shard);
        }
        let socket = match take_over(stream, self.config.congestion_control.as_deref()) {
            Ok(socket) => socket,
            Err(error) => {
                tracing::warn!(peer = format_args!("{node:016x}/{shard}"), %error, "a connection cannot be used");
                return self.on_dial_failed(node, shard);
            }
        };
        let connection = Rc::new(Connection {
            peer,
            writer: Writer::new(),
            memory: RefCell::default(),
            lanes: RefCell::default(),
            lane_backoff: lane_backoff(),
            heard: Cell::new(self.now()),
            socket,
        });
        add(&self.counters.connections_opened, 1);
        let waiting = {
            let mut mesh = self.mesh.borrow_mut();
            let before = mesh.connections.insert(peer, connection.clone());
            mesh.superseded.extend(before);
            mesh.dialling.remove(&peer)
        };
        self.close_surplus(Occasion::Time);
        self.offer_memory(&connection.writer);
        glommio::spawn_local(self.clone().write(connection.clone())).detach();
        glommio::spawn_local(self.clone().read(connection.clone())).detach();
        for chunk in waiting.unwrap_or_default() {
            self.greet(node, &connection.writer, &chunk);
        }
    }

    pub(super) fn close_all_connections(&self) {
        let all: Vec<_> = self.mesh.borrow().all().cloned().collect();
        all.iter().for_each(|connection| connection.close());
    }

    async fn write(self: Rc<Self>, connection: Rc<Connection>) {
        let (shard, node) = (self.clone(), connection.peer.node);
        let sent = move |piece| shard.on_piece_sent(node, &piece);
        let ended = connection.writer.clone().run(self.ring.clone(), connection.socket.clone(), sent).await;
        if let Err(error) = ended {
            tracing::debug!(peer = format_args!("{node:016x}"), %error, "sending ended");
        }
        connection.close();
    }

    async fn read(self: Rc<Self>, connection: Rc<Connection>) {
        let mut reader = Reader::new(self.ring.clone(), connection.socket.clone());
        let mut incoming = None;
        let error = loop {
            let step = match reader.next().await {
                Ok(message) => self.on_message(&connection, &mut reader, &mut incoming, message).await,
                Err(error) => Err(error),
            };
            if let Err(error) = step {
                break error;
            }
        };
        drop(incoming);
        let node = connection.peer.node;
        match &error {
            ConnectionError::Closed | ConnectionError::Io(_) => {
                tracing::debug!(peer = format_args!("{node:016x}"), %error, "a connection ended");
            }
            _ => tracing::warn!(peer = format_args!("{node:016x}"), %error, "a connection is closed"),
        }
        connection.close();
        self.on_connection_lost(&connection);
    }

    async fn on_message(
        self: &Rc<Self>,
        connection: &Rc<Connection>,
        reader: &mut Reader,
        incoming: &mut Option<Incoming>,
        message: Message,
    ) -> Result<(), ConnectionError> {
        let (peer, writer) = (connection.peer, &connection.writer);
        add(&self.counters.messages_received, 1);
        connection.heard.set(self.now());
        match message {
            Message::PieceData(_) if incoming.is_some() => {
                return Err(ConnectionError::Protocol("a piece began before the last one ended"));
            }
            Message::PieceData(head) => *incoming = self.begin_piece(peer, reader, head).await?,
            Message::PiecePart(head) => {
                *incoming = self.continue_piece(peer, reader, incoming.take(), head).await?;
            }
            Message::PieceAt(place) => self.copy_piece(connection, place).await?,
            Message::PieceTaken(taken) => {
                let sent = writer.take_back(taken.grant)?;
                add(&self.counters.bytes_sent_shm, sent.length.into());
                self.on_piece_sent(peer.node, &sent);
            }
            Message::MemoryOffer(offer) => self.on_memory_offer(connection, offer),
            Message::MemoryMapped(_) => writer.lend(),
            Message::Grant(grant) => self.on_grant(peer, writer, grant),
            Message::Coming(coming) => self.on_coming(peer.node, &coming),
            Message::Room(room) => self.on_room(peer.node, &room),
            Message::Have(have) => self.on_have(peer, &have),
            Message::Interest(interest) => self.on_interest(peer, writer, interest),
            Message::LaneOpen(offer) => self.on_lane_offer(connection, &offer),
            Message::LaneClosed(closed) => self.on_lane_closed(connection, closed.lane),
            Message::LaneGrant(granted) => self.on_lane_grant(connection, granted),
            Message::PieceWritten(written) => self.on_piece_written(peer, &written)?,
            Message::Preference(preference) => self.on_preference(peer, &preference),
            Message::Revoke(revoke) => self.on_revoked(connection, revoke.grant),
            Message::Decline(decline) => self.on_declined(peer.node, &decline),
            Message::Leave(leave) => self.on_leave(peer, &leave.chunk),
            Message::Describe(describe) => self.on_describe(writer, &describe.chunk),
            Message::Description(description) => self.on_description(peer.node, description.descriptor),
            _ => {
                return Err(ConnectionError::Protocol("a message that does not belong on a data connection"));
            }
        }
        Ok(())
    }

    fn on_connection_lost(self: &Rc<Self>, connection: &Rc<Connection>) {
        let peer = connection.peer;
        self.close_lanes(connection);
        let was_current = {
            let mut mesh = self.mesh.borrow_mut();
            let current = mesh.connections.get(&peer);
            let was_current = current.is_some_and(|current| Rc::ptr_eq(current, connection));
            if was_current {
                mesh.connections.remove(&peer);
            }
            mesh.superseded.retain(|other| !Rc::ptr_eq(other, connection));
            was_current
        };
        self.serve.borrow_mut().on_lost(peer.node);
        if !was_current {
            // Another connection to the same shard is there, and what was said on it holds.
            return self.pump();
        }
        for replica in self.replicas.borrow().values() {
            replica.state.borrow_mut().interested.remove(&peer);
        }
        let chunks: Vec<_> = self.fetches.borrow().keys().copied().collect();
        for chunk in chunks {
            if self.mesh.borrow().owner(peer.node, &chunk).is_none_or(|owner| owner == peer) {
                self.on_source_lost(peer.node, &chunk);
            }
        }
        self.pump();
    }
}

impl Connection {
    /// Ends both directions; the tasks that wait on them see it.
    pub(super) fn close(&self) {
        self.writer.close();
        let _ = rustix::net::shutdown(&*self.socket, rustix::net::Shutdown::Both);
    }
}
