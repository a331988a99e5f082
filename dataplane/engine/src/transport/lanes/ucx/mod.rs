//! The fabric on libucp: active messages, whose data the receiver fetches into the slot that it granted.
//!
//! ```text
//! sender                                receiver
//! PIECE, tag ────────── offer ────────► is a slot granted under this tag?
//! Sent ◄═══════════ the bytes ════════  fetches into it
//! Written ◄──────────── TAKEN, tag ───  Arrived
//! ```
//!
//! All data is offered before it moves (rendezvous), so that the receiver alone decides where bytes go, and bytes that nobody
//! waits for do not travel. That a send is done says only that its memory is free: over some transports the bytes are
//! in a socket then. So the receiver says when it has them.
//!
//! A message begins with the token of the lane that it is for. The library refuses data under tokens that are not known, so
//! that who sends to a lane that is closed learns of it at once.

mod adapter; // UCX with the arena registered
mod message; // what passes between two workers
mod wiring; // endpoints on their way to their peers

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ::ucx::{Address, EndpointId, Event, OfferId, Worker};
use flow::limits::WORKER_ADDRESS_MAX;
use flow::wire::lane::{LaneAddress, WorkerAddress};
use memory::SharedLease;
use rustix::event::EventfdFlags;

pub use self::adapter::UcxSettings;

pub(crate) use self::adapter::UcxAdapter;
use self::message::{Kind, Message};
use self::wiring::Wiring;
use super::error::LaneError;
use super::fabric::{Completion, Fabric, Health, LaneId, Refused, RemoteSlot, Room, Unsent, Write};

/// How often the worker is asked to be armed while more is coming in.
const ARM_TURNS_MAX: usize = 64;
/// Answers to the peer of one lane that wait to be sent.
const ANSWERS_PER_LANE: usize = 256;
/// How long a shard that stops waits for endpoints that are on their way to their peers.
const FAREWELL: Duration = Duration::from_millis(500);

/// UCX as one shard uses it.
pub(crate) struct UcxFabric {
    adapter: Arc<UcxAdapter>,
    worker: Worker<Held>,
    address: Vec<u8>,
    room: Room,
    lanes: HashMap<LaneId, Lane>,
    /// Lanes by what messages for them begin with.
    tokens: HashMap<u64, LaneId>,
    endpoints: HashMap<EndpointId, LaneId>,
    /// Endpoints that have not reached their peers yet.
    wiring: HashMap<EndpointId, Wiring>,
    /// How many requests of each lane the library works on, those of closed ones among them.
    under_way: HashMap<LaneId, usize>,
    next_lane: u64,
    ready: Vec<Completion>,
    /// Kept for its memory.
    events: Vec<Event<Held>>,
    /// Never readable: UCX tells of its health by the lanes alone.
    silent: OwnedFd,
}

struct Lane {
    token: u64,
    /// Its other end, and the token of that.
    remote: Option<(EndpointId, u64)>,
    /// Slots that were granted, by tag.
    expected: BTreeMap<u32, Expected>,
    writing: BTreeMap<u32, Writing>,
    /// Answers that the library has not sent yet.
    answers: usize,
}

struct Expected {
    slot: RemoteSlot,
    is_arriving: bool,
}

/// A write of which not everything is known yet.
#[derive(Default)]
struct Writing {
    /// Its memory, when the library is done with that.
    lease: Option<SharedLease>,
    /// What the peer says of it.
    verdict: Option<Kind>,
}

/// What a request of the library works on.
#[derive(Debug)]
enum Held {
    Write { lane: LaneId, tag: u32, lease: SharedLease },
    Receive { lane: LaneId, tag: u32, bytes: u32 },
    Answer { lane: LaneId },
    Hello { endpoint: EndpointId },
}

impl UcxFabric {
    /// A worker of this thread, with as much room as was asked for.
    pub(crate) fn open(adapter: &Arc<UcxAdapter>, room: Room) -> Result<Self, LaneError> {
        let worker = Worker::create(&adapter.context)?;
        let address = worker.address()?.as_bytes().to_vec();
        if address.len() > WORKER_ADDRESS_MAX {
            let (length, of) = (address.len() as u64, WORKER_ADDRESS_MAX as u64);
            return Err(LaneError::OutOfRange { offset: 0, length, of });
        }
        let event = rustix::event::eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC);
        let silent = event.map_err(|error| LaneError::NoDevice(format!("{}: {error}", adapter.name)))?;
        Ok(Self {
            adapter: adapter.clone(),
            worker,
            address,
            room,
            lanes: HashMap::new(),
            tokens: HashMap::new(),
            endpoints: HashMap::new(),
            wiring: HashMap::new(),
            under_way: HashMap::new(),
            next_lane: 0,
            ready: Vec::new(),
            events: Vec::new(),
            silent,
        })
    }

    /// Lets the library work, and keeps what came of it.
    fn turn(&mut self) -> usize {
        let mut events = std::mem::take(&mut self.events);
        let count = self.worker.poll(&mut events);
        events.drain(..).for_each(|event| self.on_event(event));
        self.events = events;
        count
    }

    fn on_event(&mut self, event: Event<Held>) {
        match event {
            Event::Offered { header, length, offer } => {
                let message = Message::decode(&header).filter(|message| message.kind == Kind::Piece);
                let lane = message.and_then(|message| self.tokens.get(&message.token).copied());
                match message.zip(lane) {
                    Some((message, lane)) => self.on_offer(lane, message, length, offer),
                    None => self.worker.refuse(offer),
                }
            }
            Event::Message { header } => {
                if let Some(message) = Message::decode(&header) {
                    self.on_answer(message);
                }
            }
            Event::Sent { held: Held::Write { lane, tag, lease }, outcome } => {
                self.done(lane);
                self.on_sent(lane, tag, lease, outcome.map_err(LaneError::from));
            }
            Event::Received { held: Held::Receive { lane, tag, bytes }, outcome } => {
                self.done(lane);
                self.on_received(lane, tag, bytes, outcome.map_err(LaneError::from));
            }
            // When an answer cannot be sent, its endpoint fails.
            Event::Sent { held: Held::Answer { lane }, .. } => {
                if let Some(lane) = self.lanes.get_mut(&lane) {
                    lane.answers -= 1;
                }
            }
            Event::Sent { held: Held::Hello { endpoint }, .. } => self.on_wired(endpoint),
            Event::Sent { .. } | Event::Received { .. } => {}
            Event::Failed { endpoint, status } => {
                self.on_wired(endpoint);
                if let Some(lane) = self.endpoints.get(&endpoint) {
                    let (lane, error) = (*lane, status.into());
                    self.ready.push(Completion::Failed { lane, error, write: None });
                }
            }
        }
    }

    /// The peer has data. It is fetched only into a slot that was granted for it.
    fn on_offer(&mut self, id: LaneId, message: Message, length: usize, offer: OfferId) {
        let Message { tag, bytes, .. } = message;
        let expected = self.lanes.get_mut(&id).and_then(|lane| lane.expected.get_mut(&tag));
        let expected = expected.filter(|expected| {
            let fits = bytes.max(1) <= expected.slot.length && length == bytes.max(1) as usize;
            fits && !expected.is_arriving
        });
        let Some(expected) = expected else {
            self.worker.refuse(offer);
            return self.answer(id, Kind::Refused, tag);
        };
        let into = self.adapter.region.segment(expected.slot.offset, bytes.max(1));
        let taken = into.map_err(LaneError::from).and_then(|into| {
            let held = Held::Receive { lane: id, tag, bytes };
            self.worker.receive(offer, into, held).map_err(|refused| refused.error.into())
        });
        match taken {
            Ok(()) => {
                expected.is_arriving = true;
                *self.under_way.entry(id).or_default() += 1;
            }
            Err(error) => self.ready.push(Completion::Failed { lane: id, error, write: None }),
        }
    }

    fn on_received(&mut self, id: LaneId, tag: u32, bytes: u32, outcome: Result<usize, LaneError>) {
        let Some(lane) = self.lanes.get_mut(&id) else { return };
        lane.expected.remove(&tag);
        match outcome {
            Ok(count) if count == bytes.max(1) as usize => {
                self.answer(id, Kind::Taken, tag);
                self.ready.push(Completion::Arrived { lane: id, tag, bytes });
            }
            Ok(_) => {
                self.ready.push(Completion::Failed { lane: id, error: LaneError::Protocol, write: None })
            }
            Err(error) => self.ready.push(Completion::Failed { lane: id, error, write: None }),
        }
    }

    fn on_answer(&mut self, message: Message) {
        let Some(id) = self.tokens.get(&message.token).copied() else { return };
        let Some(lane) = self.lanes.get_mut(&id) else { return };
        match (message.kind, lane.writing.get_mut(&message.tag)) {
            (Kind::Closed, _) => {
                self.ready.push(Completion::Failed { lane: id, error: LaneError::Disconnected, write: None });
            }
            (verdict @ (Kind::Taken | Kind::Refused), Some(writing)) => {
                writing.verdict = Some(verdict);
                self.finish(id, message.tag);
            }
            _ => {}
        }
    }

    /// The library is done with the memory of a write.
    fn on_sent(&mut self, id: LaneId, tag: u32, lease: SharedLease, outcome: Result<(), LaneError>) {
        let writing = self.lanes.get_mut(&id).and_then(|lane| lane.writing.get_mut(&tag));
        match (writing, outcome) {
            (Some(writing), Ok(())) => {
                writing.lease = Some(lease);
                self.finish(id, tag);
            }
            (found, outcome) => {
                let error = outcome.err().unwrap_or(LaneError::Flushed);
                if found.is_some()
                    && let Some(lane) = self.lanes.get_mut(&id)
                {
                    lane.writing.remove(&tag);
                }
                let write = Some(Unsent { tag, lease });
                self.ready.push(Completion::Failed { lane: id, error, write });
            }
        }
    }

    /// Tells of a write when both the library and the peer have spoken.
    fn finish(&mut self, id: LaneId, tag: u32) {
        let Some(lane) = self.lanes.get_mut(&id) else { return };
        let Some(Writing { lease: Some(lease), verdict: Some(verdict) }) = lane.writing.get(&tag) else {
            return;
        };
        let (lease, is_taken) = (lease.clone(), *verdict == Kind::Taken);
        lane.writing.remove(&tag);
        self.ready.push(match is_taken {
            true => Completion::Written { lane: id, tag, lease },
            false => Completion::Failed {
                lane: id,
                error: LaneError::RemoteAccess,
                write: Some(Unsent { tag, lease }),
            },
        });
    }

    fn answer(&mut self, id: LaneId, kind: Kind, tag: u32) {
        let Some(lane) = self.lanes.get_mut(&id) else { return };
        let Some((endpoint, token)) = lane.remote else { return };
        let header = Message { token, kind, tag, bytes: 0 }.encode();
        // Who sends and takes no answers breaks the protocol.
        let sent = match lane.answers < ANSWERS_PER_LANE {
            true => self
                .worker
                .send(endpoint, &header, None, Held::Answer { lane: id })
                .map_err(|refused| refused.error.into()),
            false => Err(LaneError::Protocol),
        };
        match sent {
            Ok(()) => lane.answers += 1,
            Err(error) => self.ready.push(Completion::Failed { lane: id, error, write: None }),
        }
    }

    /// A request of a lane is done.
    fn done(&mut self, lane: LaneId) {
        if let Some(count) = self.under_way.get_mut(&lane) {
            *count -= 1;
            if *count == 0 {
                self.under_way.remove(&lane);
            }
        }
    }
}

impl Fabric for UcxFabric {
    fn name(&self) -> &str {
        &self.adapter.name
    }

    fn room(&self) -> Room {
        self.room
    }

    fn reaches(&self, remote: &LaneAddress) -> bool {
        matches!(remote, LaneAddress::Worker(worker) if Address::from_bytes(&worker.address).is_ok())
    }

    fn open_lane(&mut self) -> Result<(LaneId, LaneAddress), LaneError> {
        let lane = LaneId(self.next_lane);
        self.next_lane += 1;
        let token = RandomState::new().build_hasher().finish();
        if self.tokens.insert(token, lane).is_some() {
            return Err(LaneError::TooManyLanes { lanes: self.lanes.len() });
        }
        self.worker.admit(token);
        let (expected, writing) = (BTreeMap::new(), BTreeMap::new());
        self.lanes.insert(lane, Lane { token, remote: None, expected, writing, answers: 0 });
        Ok((lane, LaneAddress::Worker(WorkerAddress { address: self.address.clone(), token })))
    }

    fn connect(&mut self, lane: LaneId, remote: &LaneAddress) -> Result<(), LaneError> {
        let state = self.lanes.get(&lane).ok_or(LaneError::NoLane)?;
        if state.remote.is_some() {
            return Err(LaneError::NoLane);
        }
        let connected = match remote {
            LaneAddress::Worker(worker) => self.reach(lane, worker).map(|endpoint| (endpoint, worker.token)),
            _ => Err(LaneError::OtherKind),
        };
        match (connected, self.lanes.get_mut(&lane)) {
            (Ok(remote), Some(state)) => {
                state.remote = Some(remote);
                self.endpoints.insert(remote.0, lane);
                Ok(())
            }
            (connected, _) => {
                self.close_lane(lane)?;
                Err(connected.err().unwrap_or(LaneError::NoLane))
            }
        }
    }

    fn expect(&mut self, lane: LaneId, tag: u32, slot: RemoteSlot) {
        if let Some(lane) = self.lanes.get_mut(&lane) {
            lane.expected.entry(tag).or_insert(Expected { slot, is_arriving: false });
        }
    }

    fn forget(&mut self, lane: LaneId, tag: u32) -> bool {
        let Some(lane) = self.lanes.get_mut(&lane) else { return true };
        let is_arriving = lane.expected.get(&tag).is_some_and(|expected| expected.is_arriving);
        if !is_arriving {
            lane.expected.remove(&tag);
        }
        !is_arriving
    }

    fn write(&mut self, id: LaneId, write: Write) -> Result<(), Refused> {
        let remote = self.lanes.get(&id).and_then(|lane| Some((lane.remote?, &lane.writing)));
        let Some(((endpoint, token), writing)) = remote else {
            return Err(Refused { error: LaneError::NoLane, write });
        };
        if writing.len() >= self.room.writes_per_lane {
            let error = LaneError::LaneFull { count: writing.len(), what: "writes" };
            return Err(Refused { error, write });
        }
        if writing.contains_key(&write.tag) {
            return Err(Refused { error: LaneError::TagInUse { tag: write.tag }, write });
        }
        // Where the slot is only the peer knows, which looks it up by its tag.
        let segment = write
            .check_length()
            .and_then(|()| Ok(self.adapter.region.segment(write.lease.offset(), write.length.max(1))?));
        let segment = match segment {
            Ok(segment) => segment,
            Err(error) => return Err(Refused { error, write }),
        };
        let Write { lease, length, to, tag } = write;
        let header = Message { token, kind: Kind::Piece, tag, bytes: length }.encode();
        let held = Held::Write { lane: id, tag, lease };
        match self.worker.send(endpoint, &header, Some(segment), held) {
            Ok(()) => {
                if let Some(lane) = self.lanes.get_mut(&id) {
                    lane.writing.insert(tag, Writing::default());
                }
                *self.under_way.entry(id).or_default() += 1;
                Ok(())
            }
            Err(::ucx::Refused { error, held: Held::Write { lease, .. } }) => {
                Err(Refused { error: error.into(), write: Write { lease, length, to, tag } })
            }
            Err(_) => unreachable!("a refused request gives back what was given with it"),
        }
    }

    fn poll(&mut self, into: &mut Vec<Completion>) -> Result<usize, LaneError> {
        self.turn();
        self.close_overdue();
        let count = self.ready.len();
        into.append(&mut self.ready);
        Ok(count)
    }

    fn close_lane(&mut self, id: LaneId) -> Result<Vec<Unsent>, LaneError> {
        // The peer may learn it from the connection too, but not over every transport.
        self.answer(id, Kind::Closed, 0);
        let Some(Lane { token, remote, writing, .. }) = self.lanes.remove(&id) else { return Ok(Vec::new()) };
        self.tokens.remove(&token);
        self.worker.dismiss(token);
        if let Some((endpoint, _)) = remote {
            self.endpoints.remove(&endpoint);
            match self.wiring.get_mut(&endpoint) {
                Some(wiring) => wiring.closed_at = Some(Instant::now()),
                None => self.worker.close(endpoint),
            }
        }
        // What the library works on comes back when it is done.
        let free = writing.into_iter().filter_map(|(tag, writing)| Some((tag, writing.lease?)));
        Ok(free.map(|(tag, lease)| Unsent { tag, lease }).collect())
    }

    fn is_quiet(&self, lane: LaneId) -> bool {
        !self.under_way.contains_key(&lane) && !self.wiring.values().any(|wiring| wiring.lane == lane)
    }

    fn arm(&mut self) -> Result<(), LaneError> {
        for _ in 0..ARM_TURNS_MAX {
            if self.worker.arm()? {
                return Ok(());
            }
            self.turn();
        }
        Ok(self.worker.signal()?)
    }

    fn health(&mut self) -> Health {
        Health::Up
    }

    fn descriptors(&self) -> [BorrowedFd<'_>; 2] {
        [self.worker.descriptor(), self.silent.as_fd()]
    }
}

impl Drop for UcxFabric {
    fn drop(&mut self) {
        let began = Instant::now();
        while !self.wiring.is_empty() && began.elapsed() < FAREWELL {
            self.turn();
        }
    }
}
