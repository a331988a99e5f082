//! Chunks on their way here. `flow::swarm::fetch` decides; this carries it out.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::rc::Rc;
use std::time::Duration;

use flow::bitmap::Bitmap;
use flow::chunk::{ChunkId, Descriptor};
use flow::connections::Occasion;
use flow::eviction::would_crowd;
use flow::limits::GRANTS_PER_CHUNK;
use flow::swarm::fetch::{Action, Fetch};
use flow::swarm::patience::Patience;
use flow::swarm::{Priority, Settings};
use flow::time::Instant;
use flow::wire::control::{Holding, NodeId, TrackerPeer};
use flow::wire::data::{Coming, Decline, Describe, Grant, Have, Interest, Leave, Revoke, Room, Want};
use flow::wire::session::{ChunkFetched, ChunkReference, Device};
use futures_lite::future::yield_now;
use memory::Lease;

use super::Shard;
use super::counters::add;
use super::mesh::Connection;
use super::replica::Replica;
use crate::transport::{PeerShard, Writer};
use crate::{EngineError, Event};

/// How often fetches are looked at when none has a deadline sooner.
const TICK: Duration = Duration::from_millis(10);
/// How often at the most.
const TICK_MIN: Duration = Duration::from_micros(500);
/// Points of the progress curve that a report holds.
const PROGRESS_POINTS: u32 = 64;

/// One fetch.
pub(super) struct Fetching {
    pub(super) replica: Rc<Replica>,
    pub(super) fetch: RefCell<Fetch>,
    pub(super) leases: RefCell<HashMap<u64, (NodeId, Lease)>>,
    pub(super) arriving: Cell<u32>,
    pub(super) priority: Cell<Priority>,
    waiters: RefCell<Vec<flume::Sender<Result<ChunkFetched, EngineError>>>>,
    pieces_local: u32,
    pub(super) started: Instant,
    pub(super) patience: RefCell<Patience>,
    /// Who sent bad pieces, and how many.
    pub(super) spoilers: RefCell<BTreeMap<NodeId, u32>>,
    pub(super) starved: Cell<bool>,
    /// Who was asked for the checksums of the pieces, while they are not known.
    described_by: RefCell<BTreeSet<NodeId>>,
    /// The control plane was asked for peers and has not answered yet.
    pub(super) asks_trackers: Cell<bool>,
    pub(super) ready: Cell<bool>,
    pub(super) finishing: Cell<bool>,
    progress: RefCell<Vec<(u64, u32)>>,
}

impl Shard {
    /// The replica of a chunk that a manifest names, empty when nothing is here.
    pub(super) fn replica_for(&self, chunk: &ChunkReference) -> Result<Rc<Replica>, EngineError> {
        let geometry = flow::chunk::Geometry::new(chunk.geometry.size(), chunk.geometry.piece_size())?;
        let replica = self.replica(&chunk.id).unwrap_or_else(|| {
            let replica = Rc::new(Replica::empty(chunk));
            self.replicas.borrow_mut().insert(chunk.id, replica.clone());
            replica
        });
        if replica.geometry != geometry || replica.descriptor_digest != chunk.descriptor_digest {
            let text =
                format!("chunk {} is here with another cut or other checksums than asked for", chunk.id);
            return Err(EngineError::Invalid(text));
        }
        Ok(replica)
    }

    /// Begins to fetch what is missing, or joins the fetch that is under way; the outcome comes out of the receiver.
    pub(super) fn start_fetch(
        self: &Rc<Self>,
        replica: &Rc<Replica>,
        device: Device,
        priority: Priority,
    ) -> flume::Receiver<Result<ChunkFetched, EngineError>> {
        let (waiter, outcome) = flume::bounded(1);
        add(&self.counters.fetches[priority as usize], 1);
        if let Some(fetching) = &self.fetches.borrow().get(&replica.id).cloned() {
            fetching.waiters.borrow_mut().push(waiter);
            self.prefer(fetching, priority);
            return outcome;
        }
        let have = replica.state.borrow().have.clone();
        let (now, number) = (self.now(), self.number());
        let seed = self.config.node ^ replica.id.spread().rotate_left(17) ^ number;
        let (node, uplinks) = (self.config.node, self.config.uplinks);
        let settings = Settings { node, uplinks, ..self.mesh.borrow().fetch_settings() };
        let fetching = Rc::new(Fetching {
            replica: replica.clone(),
            pieces_local: have.count(),
            fetch: RefCell::new(Fetch::new(settings, have, seed, now)),
            leases: RefCell::default(),
            arriving: Cell::new(0),
            waiters: RefCell::new(vec![waiter]),
            priority: Cell::new(priority),
            started: now,
            patience: RefCell::new(Patience::new(now)),
            spoilers: RefCell::default(),
            starved: Cell::new(false),
            described_by: RefCell::default(),
            asks_trackers: Cell::new(false),
            ready: Cell::new(false),
            finishing: Cell::new(false),
            progress: RefCell::default(),
        });
        replica.failure.take();
        self.fetches.borrow_mut().insert(replica.id, fetching.clone());
        self.share_out();
        self.fetch_started.notify();
        let (all, free) = (self.arena.size(), self.arena.free_bytes());
        let crowds = !device.is_gpu() && would_crowd(replica.geometry.size(), all, free);
        if device == Device::Nvme || crowds {
            self.lead_through_file(&fetching);
        } else {
            let shard = self.clone();
            glommio::spawn_local(async move {
                fetching.ready.set(true);
                shard.drive(&fetching);
            })
            .detach();
        }
        outcome
    }

    /// Gives a fetch a file, brings what is in memory there, and lets the fetch go on. From then on its pieces may leave
    /// memory.
    pub(super) fn lead_through_file(self: &Rc<Self>, fetching: &Rc<Fetching>) {
        fetching.ready.set(false);
        let (shard, fetching) = (self.clone(), fetching.clone());
        glommio::spawn_local(async move {
            let brought = match shard.give_file(&fetching.replica).await {
                Ok(()) => shard.write_what_is_here(&fetching.replica).await,
                Err(error) => Err(error),
            };
            match brought {
                Ok(()) => {
                    fetching.ready.set(true);
                    shard.drive(&fetching);
                }
                Err(_) if fetching.finishing.get() => {}
                Err(error) => shard.end_fetch(&fetching, Err(error)),
            }
        })
        .detach();
    }

    /// Fetches pieces again that turned out to be damaged here. A fetch that is under way believes them to be here and
    /// goes on; when it ends, this is asked again.
    pub(super) fn mend(self: &Rc<Self>, replica: &Rc<Replica>) {
        if replica.descriptor.get().is_some() && !replica.is_complete() {
            drop(self.start_fetch(replica, Device::Dram, Priority::Normal));
        }
    }

    /// Ends a fetch that nobody waits for any more. What has arrived in memory stays until that is wanted.
    pub(super) fn end_fetch_if_unwanted(self: &Rc<Self>, replica: &Rc<Replica>) {
        let fetching = self.fetches.borrow().get(&replica.id).cloned();
        let Some(fetching) = fetching.filter(|fetching| !fetching.finishing.get()) else { return };
        let unwanted = fetching.waiters.borrow().iter().all(flume::Sender::is_disconnected);
        if !unwanted || replica.readers.get() > 0 || replica.is_durable_in_part() {
            return;
        }
        {
            let mut state = replica.state.borrow_mut();
            state.file = None;
            (0..replica.geometry.pieces()).for_each(|piece| state.lose_nvme(piece));
        }
        self.end_fetch(&fetching, Err(self.lacking(replica)));
    }

    /// Looks after deadlines, and after fetches that nobody helps.
    pub(super) async fn watch_fetches(self: Rc<Self>) {
        loop {
            let fetches: Vec<_> = self.fetches.borrow().values().cloned().collect();
            if fetches.is_empty() {
                self.fetch_started.wait().await;
                continue;
            }
            for fetching in &fetches {
                self.drive(fetching);
                self.look_after_idle(fetching);
            }
            self.close_surplus(Occasion::Time);
            let running = fetches.iter().filter(|fetching| fetching.ready.get() && !fetching.finishing.get());
            let due = running.filter_map(|fetching| fetching.fetch.borrow().next_deadline()).min();
            let pause = due.map_or(TICK, |due| due.since(self.now()).clamp(TICK_MIN, TICK));
            glommio::timer::sleep(pause).await;
        }
    }

    /// Carries out what the fetch decides.
    pub(super) fn drive(self: &Rc<Self>, fetching: &Rc<Fetching>) {
        if !fetching.ready.get() || fetching.finishing.get() {
            return;
        }
        let chunk = fetching.replica.id;
        loop {
            let free = self.free_slots(fetching);
            let action = fetching.fetch.borrow_mut().poll(self.now(), free);
            match action {
                None => return,
                Some(Action::AskTracker) => {
                    fetching.asks_trackers.set(true);
                    self.tell(Event::FindPeers { chunk });
                }
                Some(Action::Connect { peer }) => self.connect(peer, chunk),
                Some(Action::Disconnect { peer }) => self.let_go(&fetching.replica, peer),
                Some(Action::Coming { peer, piece, importer }) => {
                    if let Some(connection) = self.source(peer, &chunk) {
                        connection.writer.message(Coming { chunk, piece, importer });
                    }
                }
                Some(Action::Announce { piece }) => self.announce_piece(&fetching.replica, piece),
                Some(Action::Grant { peer, grant, want }) => self.send_grant(fetching, peer, grant, want),
                Some(Action::Revoke { peer, grant }) => self.send_revoke(fetching, peer, grant),
                Some(Action::Complete) => return self.finish(fetching),
            }
        }
    }

    /// Pieces that there is memory for. Where pieces may come on lanes, none before the checksums are known, which come on the
    /// connection: what is granted on that comes after them.
    fn free_slots(self: &Rc<Self>, fetching: &Fetching) -> usize {
        if fetching.replica.descriptor.get().is_none() && !self.rails.is_empty() {
            return 0;
        }
        let piece = u64::from(fetching.replica.geometry.piece_size()).min(fetching.replica.geometry.size());
        let slot = piece.next_power_of_two();
        if self.arena.free_bytes() < slot {
            self.evict(slot);
        }
        let free = (self.arena.free_bytes() / slot).min(GRANTS_PER_CHUNK as u64) as usize;
        fetching.starved.set(free == 0);
        free
    }

    fn send_grant(self: &Rc<Self>, fetching: &Rc<Fetching>, node: NodeId, grant: u64, want: Want) {
        let geometry = &fetching.replica.geometry;
        let length = match want {
            Want::Piece(piece) => geometry.length(piece),
            Want::LeastSent(_) => geometry.size().min(geometry.piece_size().into()) as u32,
        };
        let connection = self.source(node, &fetching.replica.id);
        match (self.try_acquire(length), connection) {
            (Some(lease), Some(connection)) => {
                self.ask_checksums(fetching, node, &connection.writer);
                if let Err(lease) = self.grant_on_lane(&connection, fetching, grant, &want, lease) {
                    fetching.leases.borrow_mut().insert(grant, (node, lease));
                    connection.writer.message(Grant { chunk: fetching.replica.id, grant, want });
                }
            }
            (_, None) => fetching.fetch.borrow_mut().on_lost(self.now(), node),
            (None, _) => {
                fetching.starved.set(true);
                fetching.fetch.borrow_mut().on_declined(self.now(), node, grant);
            }
        }
    }

    fn send_revoke(&self, fetching: &Fetching, node: NodeId, grant: u64) {
        fetching.leases.borrow_mut().remove(&grant);
        self.revoke_on_lanes(node, grant);
        if let Some(connection) = self.source(node, &fetching.replica.id) {
            connection.writer.message(Revoke { grant });
        }
    }

    /// Withdraws what is granted still, so that nobody sends what would be dropped.
    fn revoke_all(&self, fetching: &Fetching) {
        for (grant, (node, _)) in fetching.leases.take() {
            if let Some(connection) = self.source(node, &fetching.replica.id) {
                connection.writer.message(Revoke { grant });
            }
        }
        self.revoke_chunk_on_lanes(&fetching.replica.id, None);
    }

    /// Ends what a peer and this shard are to each other in a chunk's swarm.
    fn let_go(&self, replica: &Replica, node: NodeId) {
        let Some(peer) = self.mesh.borrow().owner(node, &replica.id) else { return };
        replica.state.borrow_mut().interested.remove(&peer);
        if let Some(writer) = self.mesh.borrow().writer(peer) {
            writer.message(Leave { chunk: replica.id });
        }
    }

    fn source(&self, node: NodeId, chunk: &ChunkId) -> Option<Rc<Connection>> {
        let mesh = self.mesh.borrow();
        mesh.owner(node, chunk).and_then(|peer| mesh.connection(peer))
    }

    /// Asks a peer for the checksums of the pieces, once, unless they are known. Its answer comes before any piece that it is asked
    /// for afterwards.
    fn ask_checksums(&self, fetching: &Fetching, node: NodeId, writer: &Writer) {
        let replica = &fetching.replica;
        if replica.descriptor.get().is_none() && fetching.described_by.borrow_mut().insert(node) {
            writer.message(Describe { chunk: replica.id });
        }
    }

    /// Tells a peer that this shard takes part, and asks what it does not know.
    pub(super) fn greet(&self, node: NodeId, writer: &Writer, chunk: &ChunkId) {
        let Some(fetching) = self.fetches.borrow().get(chunk).cloned() else { return };
        let replica = &fetching.replica;
        self.ask_checksums(&fetching, node, writer);
        self.tell_preference(writer, chunk);
        let have = replica.state.borrow().have.words().to_vec();
        writer.message(Interest { chunk: *chunk, pieces: replica.geometry.pieces(), have, reply: true });
    }

    /// A peer was greeted over a connection that was there, so that what it answers comes before what it is asked for from here on.
    pub(super) fn on_greeted(&self, node: NodeId, chunk: &ChunkId) {
        let fetching = self.fetches.borrow().get(chunk).cloned();
        fetching.iter().for_each(|fetching| fetching.fetch.borrow_mut().on_greeted(node));
    }

    pub(super) fn on_description(self: &Rc<Self>, node: NodeId, descriptor: Descriptor) {
        let Some(fetching) = self.fetches.borrow().get(&descriptor.id).cloned() else { return };
        let replica = &fetching.replica;
        if !descriptor.is_consistent()
            || descriptor.geometry != replica.geometry
            || descriptor.digest() != replica.descriptor_digest
        {
            let peer = format_args!("{node:016x}").to_string();
            tracing::warn!(peer, chunk = %replica.id, "a peer describes a chunk wrongly; it is not asked");
            return self.on_source_lost(node, &descriptor.id);
        }
        let _ = replica.descriptor.set(descriptor);
        fetching.described_by.take();
        self.drive(&fetching);
    }

    pub(super) fn on_peers(self: &Rc<Self>, chunk: &ChunkId, peers: &[TrackerPeer]) {
        if let Some(fetching) = self.fetches.borrow().get(chunk) {
            fetching.asks_trackers.set(false);
        }
        self.with_fetch(chunk, |fetch, now| fetch.on_peers(now, peers));
    }

    /// Peers are known to take part in a chunk's swarm before anybody was asked.
    pub(super) fn begin_with(self: &Rc<Self>, chunk: &ChunkId, known: &[TrackerPeer]) {
        self.with_fetch(chunk, |fetch, now| fetch.begin_with(now, known));
    }

    /// Tells the fetch of a chunk, if there is one, of a peer that said what it has. Returns whether the peer may stay; what
    /// follows is done by [`Self::drive_fetch`].
    pub(super) fn may_stay(&self, node: NodeId, chunk: &ChunkId, have: Bitmap) -> bool {
        let near = self.mesh.borrow().is_near(node);
        let fetching = self.fetches.borrow().get(chunk).cloned();
        fetching.is_none_or(|fetching| fetching.fetch.borrow_mut().on_interest(self.now(), node, near, have))
    }

    /// Carries out what the fetch of a chunk decides, if there is one.
    pub(super) fn drive_fetch(self: &Rc<Self>, chunk: &ChunkId) {
        let fetching = self.fetches.borrow().get(chunk).cloned();
        fetching.iter().for_each(|fetching| self.drive(fetching));
    }

    pub(super) fn on_have(self: &Rc<Self>, peer: PeerShard, have: &Have) {
        if let Some(replica) = self.replica(&have.chunk)
            && let Some(lacks) = replica.state.borrow_mut().interested.get_mut(&peer)
        {
            *lacks = lacks.saturating_sub(have.pieces.len() as u32);
        }
        self.with_fetch(&have.chunk, |fetch, now| fetch.on_have(now, peer.node, &have.pieces));
    }

    pub(super) fn on_coming(self: &Rc<Self>, node: NodeId, coming: &Coming) {
        let Coming { chunk, piece, importer } = *coming;
        self.with_fetch(&chunk, |fetch, now| fetch.on_coming(now, node, piece, importer));
    }

    pub(super) fn on_room(self: &Rc<Self>, node: NodeId, room: &Room) {
        add(&self.counters.room_heard, 1);
        self.with_fetch(&room.chunk, |fetch, _| fetch.on_room(node));
    }

    pub(super) fn on_declined(self: &Rc<Self>, node: NodeId, decline: &Decline) {
        self.release_on_lanes(node, decline.grant);
        let Some(fetching) = self.fetches.borrow().get(&decline.chunk).cloned() else { return };
        fetching.leases.borrow_mut().remove(&decline.grant);
        fetching.fetch.borrow_mut().on_declined(self.now(), node, decline.grant);
        self.drive(&fetching);
    }

    /// A source is gone for one chunk; its grants are void.
    pub(super) fn on_source_lost(self: &Rc<Self>, node: NodeId, chunk: &ChunkId) {
        if let Some(fetching) = self.fetches.borrow().get(chunk) {
            fetching.leases.borrow_mut().retain(|_, (source, _)| *source != node);
            fetching.described_by.borrow_mut().remove(&node);
        }
        self.revoke_chunk_on_lanes(chunk, Some(node));
        let (shard, chunk) = (self.clone(), *chunk);
        glommio::spawn_local(async move {
            // This is also reached from within `drive`, which must not be entered twice.
            yield_now().await;
            shard.with_fetch(&chunk, |fetch, now| fetch.on_lost(now, node));
        })
        .detach();
    }

    /// Pieces have turned up that were not fetched.
    pub(super) fn note_local_pieces(self: &Rc<Self>, replica: &Replica) {
        let have = replica.state.borrow().have.clone();
        self.with_fetch(&replica.id, |fetch, now| have.iter().for_each(|piece| fetch.on_local(now, piece)));
    }

    fn with_fetch(self: &Rc<Self>, chunk: &ChunkId, change: impl FnOnce(&mut Fetch, Instant)) {
        let Some(fetching) = self.fetches.borrow().get(chunk).cloned() else { return };
        change(&mut fetching.fetch.borrow_mut(), self.now());
        self.drive(&fetching);
    }

    /// Every piece is here.
    fn finish(self: &Rc<Self>, fetching: &Rc<Fetching>) {
        fetching.finishing.set(true);
        let (shard, fetching) = (self.clone(), fetching.clone());
        let elapsed = self.now().since(fetching.started);
        glommio::spawn_local(async move {
            // Who waits for the last piece has it before all others hear that there is nothing more to come.
            yield_now().await;
            let published = shard.publish_replica(&fetching.replica).await;
            let report = fetching.report(elapsed);
            shard.end_fetch(&fetching, published.map(|()| report));
        })
        .detach();
    }

    /// Ends a fetch and tells everybody who waits for it. One whose replica was dropped meanwhile has ended already, and what
    /// is there under the same name by then is another one's.
    pub(super) fn end_fetch(
        self: &Rc<Self>,
        fetching: &Rc<Fetching>,
        outcome: Result<ChunkFetched, EngineError>,
    ) {
        fetching.finishing.set(true);
        let replica = &fetching.replica;
        let is_under_way =
            self.fetches.borrow().get(&replica.id).is_some_and(|known| Rc::ptr_eq(known, fetching));
        if !is_under_way {
            return;
        }
        self.fetches.borrow_mut().remove(&replica.id);
        self.share_out();
        self.revoke_all(fetching);
        let holding = match replica.state.borrow().have.count() {
            0 => Holding::None,
            count if count == replica.geometry.pieces() => Holding::Complete,
            _ => Holding::Partial,
        };
        self.tell(Event::Holding { chunk: replica.id, holding });
        match holding {
            Holding::None => {
                self.replicas.borrow_mut().remove(&replica.id);
                self.leave_swarm(replica);
            }
            Holding::Partial if outcome.is_ok() => self.mend(replica),
            Holding::Partial | Holding::Complete => self.leave_sources(replica),
        }
        *replica.failure.borrow_mut() = outcome.as_ref().err().cloned();
        fetching.waiters.take().into_iter().for_each(|waiter| drop(waiter.send(outcome.clone())));
        fetching.replica.last_used.set(self.number());
        fetching.replica.changed.notify();
    }
}

impl Fetching {
    /// Whether a piece is on its way or asked for.
    pub(super) fn is_busy(&self) -> bool {
        !self.leases.borrow().is_empty() || self.arriving.get() > 0
    }

    pub(super) fn note_progress(&self, now: Instant, have: u32) {
        let step = self.replica.geometry.pieces().div_ceil(PROGRESS_POINTS);
        if have.is_multiple_of(step) || have == self.replica.geometry.pieces() {
            self.progress.borrow_mut().push((now.since(self.started).as_micros() as u64, have));
        }
    }

    fn report(&self, elapsed: Duration) -> ChunkFetched {
        let counters = self.fetch.borrow().counters();
        ChunkFetched {
            elapsed_us: elapsed.as_micros() as u64,
            pieces_local: self.pieces_local,
            pieces_from_origin: counters.from_origin,
            pieces_from_peers: counters.from_peers,
            pieces_corrupt: counters.corrupt,
            pieces_duplicate: counters.duplicate,
            progress: self.progress.take(),
        }
    }
}
