//! Requests and replies, from several threads.
//!
//! Any thread writes requests, one after another behind a mutex; [`Replies`] says who reads what the node answers.

use std::io;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;

use flow::chunk::Geometry;
use flow::swarm::Priority;
use flow::wire::Message;
use flow::wire::handshake::Token;
use flow::wire::session::{ChunkAbort, ChunkBegun, ChunkPrepare};
use memory::{Access, Mapping, Stitched};

use crate::handshake::{self, Welcomed};
use crate::replies::{End, Readers, Replies, Reply};
use crate::socket::Socket;
use crate::{Address, ClientError};

/// A connection to one node.
pub(crate) struct Connection {
    node: String,
    socket: Arc<Socket>,
    writing: Mutex<()>,
    replies: Arc<Replies>,
    arena: Option<Arena>,
    reader: Option<JoinHandle<()>>,
    /// How much what is fetched for this connection matters: the place in the list of priorities.
    priority: AtomicU8,
    prepared: Mutex<Option<Prepared>>,
}

/// A chunk that the node was asked to begin before anybody needs it, and the request whose reply has its slots.
struct Prepared {
    geometry: Geometry,
    request: u64,
}

/// The node's arena as this process sees it.
struct Arena {
    views: Mapping,
    size: u64,
    read_only: OwnedFd,
    read_write: OwnedFd,
    slots: OnceLock<Mapping>,
}

/// A request whose reply is awaited. Dropping it forgets the reply, not the request.
pub(crate) struct Pending<'c> {
    connection: &'c Connection,
    id: u64,
}

impl Connection {
    /// Connects to a node and starts the thread that reads while nobody else does.
    pub(crate) fn open(address: &Address, token: &Token) -> Result<Self, ClientError> {
        let Welcomed { socket, welcome, descriptors } = handshake::connect(address, token)?;
        let connect_error = |source| ClientError::Connect { address: address.clone(), source };
        let arena = Arena::map(welcome.arena_size, descriptors).map_err(connect_error)?;
        let socket = Arc::new(socket);
        let readers = if arena.is_some() { Readers::Waiting } else { Readers::Apart };
        let replies = Arc::new(Replies::of(socket.clone(), readers).map_err(connect_error)?);
        let reader = {
            let replies = replies.clone();
            let thread = std::thread::Builder::new().name("shoal-replies".into());
            thread.spawn(move || replies.keep_reading(readers))
        };
        let reader = Some(reader.map_err(connect_error)?);
        let priority = AtomicU8::new(Priority::Normal as u8);
        let (writing, prepared) = Default::default();
        Ok(Self { node: welcome.name, socket, writing, replies, arena, reader, priority, prepared })
    }

    /// Name of the node.
    pub(crate) fn node(&self) -> &str {
        &self.node
    }

    /// How much what is fetched for this connection matters.
    pub(crate) fn priority(&self) -> Priority {
        let place = usize::from(self.priority.load(Ordering::Relaxed));
        Priority::ALL.get(place).copied().unwrap_or_default()
    }

    pub(crate) fn set_priority(&self, priority: Priority) {
        self.priority.store(priority as u8, Ordering::Relaxed);
    }

    /// Whether pieces are shared in memory; otherwise they travel on the connection.
    pub(crate) fn shares_memory(&self) -> bool {
        self.arena.is_some()
    }

    /// The arena, to read pieces that the node gave out.
    pub(crate) fn views(&self) -> Option<&Mapping> {
        self.arena.as_ref().map(|arena| &arena.views)
    }

    /// Ranges of the arena that the node gave out, as one slice; `None` without an arena.
    pub(crate) fn stitch(
        &self,
        parts: &[Range<u64>],
        access: Access,
        maps_max: usize,
    ) -> Option<io::Result<Stitched>> {
        let arena = self.arena.as_ref()?;
        Some(Stitched::map(&arena.read_only, arena.size, parts, access, maps_max))
    }

    /// The arena, to write slots that the node leased.
    pub(crate) fn slots(&self) -> Result<&Mapping, ClientError> {
        let arena = self
            .arena
            .as_ref()
            .ok_or_else(|| self.protocol("it leases slots of an arena that it did not send"))?;
        if let Some(mapping) = arena.slots.get() {
            return Ok(mapping);
        }
        let mapping = Mapping::map_shared(&arena.read_write, arena.size, true);
        let mapping =
            mapping.map_err(|error| self.protocol(format!("its arena cannot be mapped: {error}")))?;
        Ok(arena.slots.get_or_init(|| mapping))
    }

    /// Asks and waits for the only reply.
    pub(crate) fn call<R: TryFrom<Message, Error = Message>>(
        &self,
        request: impl Into<Message>,
    ) -> Result<R, ClientError> {
        self.send(request)?.wait()
    }

    /// Asks; the reply is waited for later.
    pub(crate) fn send(&self, request: impl Into<Message>) -> Result<Pending<'_>, ClientError> {
        self.send_with(request.into(), &[], 1)
    }

    /// Asks with bytes that follow the frame.
    pub(crate) fn send_with_payload(
        &self,
        request: impl Into<Message>,
        payload: &[u8],
    ) -> Result<Pending<'_>, ClientError> {
        self.send_with(request.into(), payload, 1)
    }

    /// Asks for up to `replies` replies.
    pub(crate) fn send_for_many(
        &self,
        request: impl Into<Message>,
        replies: u32,
    ) -> Result<Pending<'_>, ClientError> {
        self.send_with(request.into(), &[], replies)
    }

    fn send_with(&self, request: Message, payload: &[u8], replies: u32) -> Result<Pending<'_>, ClientError> {
        let id = self.replies.enter(replies).ok_or_else(|| self.ended())?;
        let pending = Pending { connection: self, id };
        let frame = request.encode(0, id);
        let sent = {
            let _in_turn = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
            self.socket.send(&frame).and_then(|()| self.socket.send(payload))
        };
        if sent.is_err() {
            self.replies.end(End::Closed);
            return Err(self.ended());
        }
        Ok(pending)
    }

    /// Asks for slots of another chunk in memory, so that whoever writes one of this size next has them at once. There is one
    /// at a time; the node may refuse it.
    pub(crate) fn prepare(&self, geometry: Geometry) {
        let mut prepared = self.lock_prepared();
        if prepared.is_some() {
            return;
        }
        let request = ChunkPrepare { size: geometry.size(), piece_size: geometry.piece_size() };
        // Should the connection have ended, whoever asks next learns it.
        if let Ok(pending) = self.send(request) {
            *prepared = Some(Prepared { geometry, request: pending.keep() });
        }
    }

    /// What was prepared, if it is of this size and the node has begun it. What is of another size is given up.
    pub(crate) fn take_prepared(&self, geometry: Geometry) -> Result<Option<ChunkBegun>, ClientError> {
        let Some(prepared) = self.lock_prepared().take() else { return Ok(None) };
        let begun: ChunkBegun = match (Pending { connection: self, id: prepared.request }).wait() {
            Ok(begun) => begun,
            Err(ClientError::Failure(_)) => return Ok(None),
            Err(error) => return Err(error),
        };
        if prepared.geometry == geometry {
            return Ok(Some(begun));
        }
        self.send(ChunkAbort { handle: begun.handle })?;
        Ok(None)
    }

    fn lock_prepared(&self) -> MutexGuard<'_, Option<Prepared>> {
        self.prepared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets every request that waits, and every later one, fail. The socket stays open until the connection is
    /// dropped: threads may still write into leased slots, which the node takes back when the socket closes.
    pub(crate) fn cancel(&self) {
        self.replies.end(End::Cancelled);
    }

    /// Fails when the connection has ended or was cancelled.
    pub(crate) fn ensure_open(&self) -> Result<(), ClientError> {
        let is_open = self.replies.ended().is_none();
        if is_open { Ok(()) } else { Err(self.ended()) }
    }

    /// Whether the node keeps what it gave out: a connection that was cancelled is still there.
    pub(crate) fn is_held(&self) -> bool {
        !self.replies.is_closed()
    }

    /// An error that says how the node broke the protocol.
    pub(crate) fn protocol(&self, what: impl Into<String>) -> ClientError {
        ClientError::Protocol { node: self.node.clone(), what: what.into() }
    }

    fn ended(&self) -> ClientError {
        match self.replies.ended() {
            Some(End::Cancelled) => ClientError::Cancelled,
            Some(End::Protocol(what)) => self.protocol(what),
            Some(End::Closed) | None => ClientError::Closed { node: self.node.clone() },
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.replies.end(End::Closed);
        self.socket.shut_down();
        if let Some(reader) = self.reader.take() {
            // It fails only when the thread panicked, which was reported then.
            let _ = reader.join();
        }
    }
}

impl Arena {
    fn map(size: u64, descriptors: Vec<OwnedFd>) -> io::Result<Option<Self>> {
        let mut descriptors = descriptors.into_iter();
        match (size, descriptors.next(), descriptors.next()) {
            (0, _, _) => Ok(None),
            (size, Some(read_only), Some(read_write)) => {
                let views = Mapping::map_shared(&read_only, size, false)?;
                Ok(Some(Self { views, size, read_only, read_write, slots: OnceLock::new() }))
            }
            _ => {
                Err(io::Error::new(io::ErrorKind::InvalidData, "it announces an arena and does not send it"))
            }
        }
    }
}

impl Pending<'_> {
    /// Its number, for whoever is going to wait for the reply.
    fn keep(self) -> u64 {
        let id = self.id;
        std::mem::forget(self);
        id
    }

    /// Waits for the only reply.
    pub(crate) fn wait<R: TryFrom<Message, Error = Message>>(self) -> Result<R, ClientError> {
        R::try_from(self.next()?.message)
            .map_err(|other| self.connection.protocol(format!("it answers with {}", other.name())))
    }

    /// Waits for the next reply.
    pub(crate) fn next(&self) -> Result<Reply, ClientError> {
        match self.connection.replies.next(self.id) {
            Some(Reply { message: Message::Failure(failure), .. }) => Err(ClientError::Failure(failure)),
            Some(Reply { message: Message::CatalogRefused(refused), .. }) => {
                Err(ClientError::Catalog(Box::new(refused)))
            }
            Some(reply) => Ok(reply),
            None => Err(self.connection.ended()),
        }
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.connection.replies.forget(self.id);
    }
}
