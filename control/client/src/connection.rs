//! Requests and replies, from several threads.
//!
//! Any thread writes requests, one after another behind a mutex. One thread reads replies and hands each to who asked.
//! Requests under way are bounded by [`CLIENT_OPERATIONS_AT_ONCE`], replies to a request by what it allows, so that
//! nothing a node sends makes the client hold more than it asked for.

use std::collections::HashMap;
use std::io::{self, BufReader, Read};
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;

use flow::limits::{CLIENT_OPERATIONS_AT_ONCE, FRAME_BODY_MAX, PIECE_SIZE_MAX};
use flow::swarm::Priority;
use flow::wire::frame::{FLAG_MORE, FLAG_REPLY, HEADER_LENGTH};
use flow::wire::handshake::Token;
use flow::wire::{Header, Message};
use memory::{Access, Mapping, Stitched};

use crate::handshake::{self, Welcomed};
use crate::socket::Socket;
use crate::{Address, ClientError};

/// A connection to one node.
pub(crate) struct Connection {
    node: String,
    socket: Arc<Socket>,
    writing: Mutex<()>,
    router: Arc<Router>,
    arena: Option<Arena>,
    reader: Option<JoinHandle<()>>,
    /// How much what is fetched for this connection matters: the place in the list of priorities.
    priority: AtomicU8,
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
    replies: Receiver<Reply>,
}

/// One reply.
pub(crate) struct Reply {
    /// What the node says.
    pub(crate) message: Message,
    /// The bytes that follow a `PieceBytes`.
    pub(crate) payload: Vec<u8>,
}

impl Connection {
    /// Connects to a node and starts the thread that reads its replies.
    pub(crate) fn open(address: &Address, token: &Token) -> Result<Self, ClientError> {
        let Welcomed { socket, welcome, descriptors } = handshake::connect(address, token)?;
        let connect_error = |source| ClientError::Connect { address: address.clone(), source };
        let arena = Arena::map(welcome.arena_size, descriptors).map_err(connect_error)?;
        let socket = Arc::new(socket);
        let router = Arc::new(Router::default());
        let reader = {
            let (socket, router) = (socket.clone(), router.clone());
            std::thread::Builder::new().name("shoal-replies".into()).spawn(move || {
                let end = match read_replies(&socket, &router) {
                    Ok(()) => End::Closed,
                    Err(what) => End::Protocol(what),
                };
                router.end(end);
            })
        };
        let reader = Some(reader.map_err(connect_error)?);
        let priority = AtomicU8::new(Priority::Normal as u8);
        Ok(Self { node: welcome.name, socket, writing: Mutex::default(), router, arena, reader, priority })
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
        let (sender, receiver) = channel();
        let Some(id) = self.router.enter(sender, replies) else {
            return Err(self.ended());
        };
        let frame = request.encode(0, id);
        let sent = {
            let _in_turn = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
            self.socket.send(&frame).and_then(|()| self.socket.send(payload))
        };
        if sent.is_err() {
            self.router.end(End::Closed);
            return Err(self.ended());
        }
        Ok(Pending { connection: self, replies: receiver })
    }

    /// Lets every request that waits, and every later one, fail. The socket stays open until the connection is
    /// dropped: threads may still write into leased slots, which the node takes back when the socket closes.
    pub(crate) fn cancel(&self) {
        self.router.end(End::Cancelled);
    }

    /// Fails when the connection has ended or was cancelled.
    pub(crate) fn ensure_open(&self) -> Result<(), ClientError> {
        let is_open = self.router.lock().ended.is_none();
        if is_open { Ok(()) } else { Err(self.ended()) }
    }

    /// Whether the node keeps what it gave out: a connection that was cancelled is still there.
    pub(crate) fn is_held(&self) -> bool {
        !self.router.lock().closed
    }

    /// An error that says how the node broke the protocol.
    pub(crate) fn protocol(&self, what: impl Into<String>) -> ClientError {
        ClientError::Protocol { node: self.node.clone(), what: what.into() }
    }

    fn ended(&self) -> ClientError {
        match self.router.lock().ended.clone() {
            Some(End::Cancelled) => ClientError::Cancelled,
            Some(End::Protocol(what)) => self.protocol(what),
            Some(End::Closed) | None => ClientError::Closed { node: self.node.clone() },
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
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
    /// Waits for the only reply.
    pub(crate) fn wait<R: TryFrom<Message, Error = Message>>(self) -> Result<R, ClientError> {
        R::try_from(self.next()?.message)
            .map_err(|other| self.connection.protocol(format!("it answers with {}", other.name())))
    }

    /// Waits for the next reply.
    pub(crate) fn next(&self) -> Result<Reply, ClientError> {
        match self.replies.recv() {
            Ok(Reply { message: Message::Failure(failure), .. }) => Err(ClientError::Failure(failure)),
            Ok(Reply { message: Message::CatalogRefused(refused), .. }) => {
                Err(ClientError::Catalog(Box::new(refused)))
            }
            Ok(reply) => Ok(reply),
            Err(_) => Err(self.connection.ended()),
        }
    }
}

/// Knows who waits for which reply.
#[derive(Default)]
struct Router {
    routes: Mutex<Routes>,
    room: Condvar,
}

#[derive(Default)]
struct Routes {
    open: HashMap<u64, Route>,
    last_id: u64,
    ended: Option<End>,
    /// Nothing comes from the node any more.
    closed: bool,
}

struct Route {
    sender: Sender<Reply>,
    replies_left: u32,
}

/// Why a connection ended.
#[derive(Clone)]
enum End {
    Closed,
    Cancelled,
    Protocol(String),
}

impl Router {
    /// Registers a request once there is room for it; `None` when the connection has ended.
    fn enter(&self, sender: Sender<Reply>, replies_left: u32) -> Option<u64> {
        let full =
            |routes: &mut Routes| routes.ended.is_none() && routes.open.len() >= CLIENT_OPERATIONS_AT_ONCE;
        let waited = self.room.wait_while(self.lock(), full);
        let mut routes = waited.unwrap_or_else(PoisonError::into_inner);
        if routes.ended.is_some() {
            return None;
        }
        routes.last_id += 1;
        let id = routes.last_id;
        routes.open.insert(id, Route { sender, replies_left });
        Some(id)
    }

    /// Hands a reply to who asked.
    fn deliver(&self, id: u64, more: bool, reply: Reply) -> Result<(), String> {
        let mut routes = self.lock();
        let ended = routes.ended.is_some();
        let Some(route) = routes.open.get_mut(&id) else {
            return if ended {
                Ok(())
            } else {
                Err(format!("it answers {} to no question", reply.message.name()))
            };
        };
        if route.replies_left == 0 || (more && route.replies_left == 1) {
            return Err(format!(
                "it sends more replies than were asked for, the last {}",
                reply.message.name()
            ));
        }
        route.replies_left -= 1;
        // Who asked may have lost interest.
        let _ = route.sender.send(reply);
        if !more {
            routes.open.remove(&id);
            self.room.notify_one();
        }
        Ok(())
    }

    /// Lets all who wait go; the first reason counts, except that nothing is held on a connection that is cancelled once it
    /// is closed.
    fn end(&self, end: End) {
        let mut routes = self.lock();
        routes.closed |= !matches!(end, End::Cancelled);
        routes.ended.get_or_insert(end);
        routes.open.clear();
        self.room.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Routes> {
        self.routes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads until the connection ends; an error says what the node did wrong.
fn read_replies(socket: &Socket, router: &Router) -> Result<(), String> {
    let mut source = BufReader::with_capacity(64 << 10, socket);
    let mut header = [0; HEADER_LENGTH];
    let mut body = Vec::new();
    loop {
        if source.read_exact(&mut header).is_err() {
            return Ok(());
        }
        let header = Header::decode(&header, FRAME_BODY_MAX).map_err(|error| error.to_string())?;
        if header.flags & FLAG_REPLY == 0 {
            return Err("it sends a request to a client".into());
        }
        if !read_bytes(&mut source, header.length, &mut body) {
            return Ok(());
        }
        let message = Message::decode(&header, &body).map_err(|error| error.to_string())?;
        let mut payload = Vec::new();
        if let Message::PieceBytes(piece) = &message {
            if piece.length > PIECE_SIZE_MAX {
                return Err(format!("it sends a piece of {} bytes", piece.length));
            }
            if !read_bytes(&mut source, piece.length, &mut payload) {
                return Ok(());
            }
        }
        router.deliver(header.request_id, header.flags & FLAG_MORE != 0, Reply { message, payload })?;
    }
}

/// Replaces the content of `bytes` with the next `length` bytes; false when the connection ends before.
fn read_bytes(source: &mut impl Read, length: u32, bytes: &mut Vec<u8>) -> bool {
    bytes.clear();
    bytes.reserve_exact(length as usize);
    matches!(source.take(length.into()).read_to_end(bytes), Ok(read) if read == length as usize)
}
