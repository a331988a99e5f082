//! Replies, read by those who wait for them.
//!
//! Whoever waits reads the socket, unless somebody does already, and hands the others what is theirs: so a reply wakes the
//! thread that asked for it and no other. While nobody waits, a thread of the connection reads, so that a node never waits
//! for its client, and the end of a connection is noticed. Requests under way are bounded by [`CLIENT_OPERATIONS_AT_ONCE`],
//! replies to a request by what it allows, so that nothing a node sends makes the client hold more than it asked for.

use std::collections::{HashMap, VecDeque};
use std::io::{self, BufReader, Read};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use flow::limits::{CLIENT_OPERATIONS_AT_ONCE, FRAME_BODY_MAX, PIECE_SIZE_MAX};
use flow::wire::frame::{FLAG_MORE, FLAG_REPLY, HEADER_LENGTH};
use flow::wire::{Header, Message};
use rustix::event::EventfdFlags;

use crate::patience;
use crate::socket::Socket;

/// How long nobody may have read before the connection's own thread does.
const QUIET: Duration = Duration::from_millis(100);
/// As [`QUIET`], when the node has ended the connection.
const SOON: Duration = Duration::from_millis(1);
/// What is read at once of what has come.
const BUFFER_BYTES: usize = 64 << 10;

/// One reply.
pub(crate) struct Reply {
    /// What the node says.
    pub(crate) message: Message,
    /// The bytes that follow a `PieceBytes`.
    pub(crate) payload: Vec<u8>,
}

/// Why a connection ended.
#[derive(Clone)]
pub(crate) enum End {
    Closed,
    Cancelled,
    Protocol(String),
}

/// Knows who waits for which reply.
pub(crate) struct Replies {
    socket: Arc<Socket>,
    routes: Mutex<Routes>,
    /// Waits for room for another request.
    room: Condvar,
    /// Waits until nobody else reads.
    quiet: Condvar,
    /// Held by whoever reads.
    incoming: Mutex<Incoming>,
    /// Written to when the connection ends, which ends every wait for the socket.
    ended: OwnedFd,
}

/// Who reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Readers {
    /// Those who wait for replies.
    Waiting,
    /// A thread of the connection, always: so it reads large replies while others use those before.
    Apart,
}

#[derive(Default)]
struct Routes {
    open: HashMap<u64, Route>,
    /// Of those, how many get more replies.
    under_way: usize,
    last_id: u64,
    ended: Option<End>,
    /// Nothing comes from the node any more.
    closed: bool,
    /// Whether somebody reads.
    is_read: bool,
    /// How often somebody who waited began to read.
    turns: u64,
    /// How many wait for room.
    wait_for_room: usize,
}

#[derive(Default)]
struct Route {
    come: VecDeque<Reply>,
    replies_left: u32,
    /// Whether more replies come.
    is_open: bool,
    /// Whether nobody wants them.
    is_forgotten: bool,
    /// Wakes who waits while somebody else reads.
    waiter: Arc<Condvar>,
    waiting: usize,
}

/// What is waited for.
#[derive(Clone, Copy)]
enum Wanted {
    Reply(u64),
    Room,
}

/// How long a read may take.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wait {
    No,
    /// Until the connection ends, or the thread should look whether it still waits.
    Patiently,
    UntilClosed,
}

/// What became of an attempt to read a reply. It is looked at where it is returned, and kept nowhere.
#[allow(clippy::large_enum_variant)]
enum Attempt {
    Reply(Header, Reply),
    /// The rest has not come.
    Nothing,
    End(End),
}

impl Replies {
    pub(crate) fn of(socket: Arc<Socket>, readers: Readers) -> io::Result<Self> {
        let ended = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let incoming = Mutex::new(Incoming::of(socket.clone()));
        let routes = Mutex::new(Routes { is_read: readers == Readers::Apart, ..Routes::default() });
        Ok(Self { socket, routes, room: Condvar::new(), quiet: Condvar::new(), incoming, ended })
    }

    /// Registers a request once there is room for it; `None` when the connection has ended.
    pub(crate) fn enter(&self, replies_left: u32) -> Option<u64> {
        let mut routes = self.lock();
        while routes.ended.is_none() && routes.under_way >= CLIENT_OPERATIONS_AT_ONCE {
            routes = self.wait(routes, Wanted::Room);
        }
        self.pass_on(&routes);
        if routes.ended.is_some() {
            return None;
        }
        routes.last_id += 1;
        let id = routes.last_id;
        routes.under_way += 1;
        routes.open.insert(id, Route { replies_left, is_open: true, ..Route::default() });
        Some(id)
    }

    /// Waits for the next reply to a request; `None` when none comes any more.
    pub(crate) fn next(&self, id: u64) -> Option<Reply> {
        let mut routes = self.lock();
        loop {
            let route = routes.open.get_mut(&id)?;
            let next = route.come.pop_front();
            if next.is_some() || !route.is_open {
                self.pass_on(&routes);
                return next;
            }
            routes = self.wait(routes, Wanted::Reply(id));
        }
    }

    /// Nobody wants what else comes of a request.
    pub(crate) fn forget(&self, id: u64) {
        let mut routes = self.lock();
        let Some(route) = routes.open.get_mut(&id) else { return };
        if route.is_open {
            route.is_forgotten = true;
            route.come.clear();
        } else {
            routes.open.remove(&id);
        }
    }

    /// Lets all who wait go; the first reason counts, except that nothing is held on a connection that is cancelled once it
    /// is closed.
    pub(crate) fn end(&self, end: End) {
        let mut routes = self.lock();
        routes.closed |= !matches!(end, End::Cancelled);
        routes.ended.get_or_insert(end);
        routes.under_way = 0;
        routes.open.retain(|_, route| !route.is_forgotten);
        for route in routes.open.values_mut() {
            route.is_open = false;
            route.waiter.notify_all();
        }
        self.room.notify_all();
        self.quiet.notify_all();
        drop(routes);
        // It fails only when it was written to more often than there are numbers, and so can be read.
        let _ = rustix::io::write(&self.ended, &1_u64.to_ne_bytes());
    }

    /// Why the connection ended, if it has.
    pub(crate) fn ended(&self) -> Option<End> {
        self.lock().ended.clone()
    }

    /// Whether the node has ended the connection, or was found to break the protocol.
    pub(crate) fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// What the connection's own thread does: it reads always, or while nobody waits, until nothing comes any more.
    pub(crate) fn keep_reading(&self, readers: Readers) {
        let mut routes = self.lock();
        while !routes.closed {
            if readers == Readers::Apart {
                (routes, _) = self.read(routes, Wait::UntilClosed);
                routes.is_read = true;
                continue;
            }
            drop(routes);
            let quiet = if self.socket.wait_ended() { SOON } else { QUIET };
            routes = self.lock();
            let turns = routes.turns;
            let waited = self.quiet.wait_timeout_while(routes, quiet, |routes| !routes.closed);
            routes = waited.unwrap_or_else(PoisonError::into_inner).0;
            while !routes.is_read && routes.turns == turns && !routes.closed {
                let came;
                (routes, came) = self.read(routes, Wait::No);
                self.pass_on(&routes);
                if !came {
                    break;
                }
            }
        }
    }

    /// Waits for something to happen: reads, or waits for who does.
    fn wait<'r>(&'r self, mut routes: MutexGuard<'r, Routes>, wanted: Wanted) -> MutexGuard<'r, Routes> {
        let came;
        if routes.is_read {
            let waiter = routes.count(wanted, true);
            let waiter = waiter.as_deref().unwrap_or(&self.room);
            (routes, came) = match patience::look_every() {
                None => (waiter.wait(routes).unwrap_or_else(PoisonError::into_inner), true),
                Some(every) => {
                    let waited = waiter.wait_timeout(routes, every);
                    let (routes, waited) = waited.unwrap_or_else(PoisonError::into_inner);
                    (routes, !waited.timed_out())
                }
            };
            routes.count(wanted, false);
        } else {
            routes.turns += 1;
            (routes, came) = self.read(routes, Wait::Patiently);
        }
        if came || routes.ended.is_some() {
            return routes;
        }
        // Looking may take long, and even ask for something on this connection.
        self.pass_on(&routes);
        drop(routes);
        patience::look();
        self.lock()
    }

    /// Reads one reply and hands it to who asked; whether something has come.
    fn read<'r>(&'r self, mut routes: MutexGuard<'r, Routes>, wait: Wait) -> (MutexGuard<'r, Routes>, bool) {
        routes.is_read = true;
        drop(routes);
        let mut incoming = self.incoming.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut attempt, mut came) = (incoming.attempt(), true);
        if matches!(attempt, Attempt::Nothing) {
            came = match wait {
                Wait::No => false,
                Wait::Patiently => self.socket.wait_readable(Some(&self.ended), patience::look_every()),
                Wait::UntilClosed => self.socket.wait_readable(None, None),
            };
            if came {
                attempt = incoming.attempt();
            }
        }
        drop(incoming);
        let mut routes = self.lock();
        let end = match attempt {
            Attempt::Reply(header, reply) => {
                self.deliver(&mut routes, &header, reply).err().map(End::Protocol)
            }
            Attempt::Nothing => None,
            Attempt::End(end) => Some(end),
        };
        if let Some(end) = end {
            drop(routes);
            self.end(end);
            routes = self.lock();
        }
        routes.is_read = false;
        (routes, came)
    }

    /// Lets another of those who wait read, if nobody does.
    fn pass_on(&self, routes: &Routes) {
        if routes.is_read {
            return;
        }
        let waits = |route: &&Route| route.waiting > 0 && route.is_open && route.come.is_empty();
        match routes.open.values().find(waits) {
            Some(route) => route.waiter.notify_one(),
            None if routes.wait_for_room > 0 => self.room.notify_one(),
            None => {}
        }
    }

    /// Hands a reply to who asked.
    fn deliver(&self, routes: &mut Routes, header: &Header, reply: Reply) -> Result<(), String> {
        let (id, more, ended) = (header.request_id, header.flags & FLAG_MORE != 0, routes.ended.is_some());
        let Some(route) = routes.open.get_mut(&id).filter(|route| route.is_open) else {
            let name = reply.message.name();
            return if ended { Ok(()) } else { Err(format!("it answers {name} to no question")) };
        };
        if route.replies_left == 0 || (more && route.replies_left == 1) {
            let name = reply.message.name();
            return Err(format!("it sends more replies than were asked for, the last {name}"));
        }
        route.replies_left -= 1;
        if !route.is_forgotten {
            route.come.push_back(reply);
        }
        if route.waiting > 0 {
            route.waiter.notify_all();
        }
        if !more {
            route.is_open = false;
            if route.is_forgotten {
                routes.open.remove(&id);
            }
            routes.under_way -= 1;
            if routes.wait_for_room > 0 {
                self.room.notify_one();
            }
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Routes> {
        self.routes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Routes {
    /// Counts that somebody begins or ends to wait; gives what wakes who waits for a reply.
    fn count(&mut self, wanted: Wanted, begins: bool) -> Option<Arc<Condvar>> {
        let route = match wanted {
            Wanted::Reply(id) => Some(self.open.get_mut(&id)?),
            Wanted::Room => None,
        };
        let (waiting, waiter) = match route {
            Some(route) => (&mut route.waiting, Some(route.waiter.clone())),
            None => (&mut self.wait_for_room, None),
        };
        *waiting = if begins { *waiting + 1 } else { *waiting - 1 };
        waiter
    }
}

/// What has come of the next reply. No attempt to read more waits, so that whoever reads can turn to something else in the
/// middle of a reply.
struct Incoming {
    source: BufReader<WithoutWaiting>,
    bytes: Vec<u8>,
    header: Option<Header>,
    /// The message whose payload is read.
    message: Option<(Message, u32)>,
}

impl Incoming {
    fn of(socket: Arc<Socket>) -> Self {
        let source = BufReader::with_capacity(BUFFER_BYTES, WithoutWaiting(socket));
        Self { source, bytes: Vec::new(), header: None, message: None }
    }

    fn attempt(&mut self) -> Attempt {
        match self.advance() {
            Ok((header, reply)) => Attempt::Reply(header, reply),
            Err(Stop::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => Attempt::Nothing,
            Err(Stop::Io(_)) => Attempt::End(End::Closed),
            Err(Stop::Protocol(what)) => Attempt::End(End::Protocol(what)),
        }
    }

    /// Reads on, to the end of a reply.
    fn advance(&mut self) -> Result<(Header, Reply), Stop> {
        let header = match self.header {
            Some(header) => header,
            None => {
                self.collect(HEADER_LENGTH as u32)?;
                let bytes = self.bytes[..].try_into().expect("as many bytes were collected as a header has");
                let header = Header::decode(bytes, FRAME_BODY_MAX)?;
                if header.flags & FLAG_REPLY == 0 {
                    return Err(Stop::Protocol("it sends a request to a client".into()));
                }
                self.bytes.clear();
                *self.header.insert(header)
            }
        };
        if self.message.is_none() {
            self.collect(header.length)?;
            let message = Message::decode(&header, &self.bytes)?;
            self.bytes.clear();
            let payload = match &message {
                Message::PieceBytes(piece) if piece.length > PIECE_SIZE_MAX => {
                    return Err(Stop::Protocol(format!("it sends a piece of {} bytes", piece.length)));
                }
                Message::PieceBytes(piece) => piece.length,
                _ => 0,
            };
            self.message = Some((message, payload));
        }
        let payload = self.message.as_ref().map_or(0, |(_, payload)| *payload);
        self.collect(payload)?;
        let (message, _) = self.message.take().expect("it was decoded above");
        self.header = None;
        // Small ones are read into the same memory again and again.
        let payload = if payload == 0 { Vec::new() } else { std::mem::take(&mut self.bytes) };
        Ok((header, Reply { message, payload }))
    }

    /// Reads until so many bytes are there.
    fn collect(&mut self, length: u32) -> Result<(), Stop> {
        let left = length as usize - self.bytes.len();
        self.bytes.reserve_exact(left);
        let read = (&mut self.source).take(left as u64).read_to_end(&mut self.bytes)?;
        if read == left { Ok(()) } else { Err(Stop::Io(io::ErrorKind::UnexpectedEof.into())) }
    }
}

/// Why a reply is not read to its end.
enum Stop {
    Io(io::Error),
    Protocol(String),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<flow::wire::HeaderError> for Stop {
    fn from(error: flow::wire::HeaderError) -> Self {
        Self::Protocol(error.to_string())
    }
}

impl From<flow::wire::MessageError> for Stop {
    fn from(error: flow::wire::MessageError) -> Self {
        Self::Protocol(error.to_string())
    }
}

/// What has come on a socket.
struct WithoutWaiting(Arc<Socket>);

impl Read for WithoutWaiting {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.receive_now(buffer)
    }
}
