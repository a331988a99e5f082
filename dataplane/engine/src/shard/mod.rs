//! One executor: replicas, fetches, serving.
//!
//! A chunk belongs to the shard that its id names; everything about it happens there without locks. Writing is the
//! exception: a chunk has no id until it is sealed, so it is written on any shard and then adopted by its owner.

mod arriving; // pieces on their way in
mod counters; // what happened so far
mod doubting; // fetches that do not go on
mod fetching; // chunks on their way here
mod keeping; // devices, pins, eviction
mod lane_pieces; // pieces over lanes
mod lanes; // lanes to other shards: how they come and go
mod mesh; // connections to other shards
mod on_gpu; // chunks on GPUs
mod pieces; // one piece: from memory, from NVMe, into both
mod preferring; // what comes first of all that is on its way here
mod reading; // chunks that clients read
mod replica; // what is here of one chunk
mod serving; // pieces on their way out
mod sharing; // pieces between nodes of one host
mod start; // arena, store, executors
mod surplus; // how many connections are kept
mod values; // small values
mod writing; // chunks that clients write

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use flow::chunk::ChunkId;
use flow::connections::Keeper;
use flow::swarm::serve::Serve;
use flow::time::Instant;
use flow::wire::control::ReplicaRecord;
use flow::wire::session::ChunkOpened;
use memory::Arena;

use self::keeping::Asker;
use crate::command::{Begun, Command, HandleGiven};
use crate::gpu::Gpus;
use crate::notify::Notify;
use crate::ring::DataRing;
use crate::store::ChunkStore;
use crate::{Config, EngineError, Event};

use counters::Counters;
use fetching::Fetching;
use lanes::Rails;
use mesh::Mesh;
use reading::Reading;
use replica::Replica;
use writing::Writing;

pub(crate) use start::{Adapters, open_adapters, start};
pub(crate) use writing::Adopted;

/// Longest wait for the tasks of a shard that stops.
const STOP_PATIENCE: Duration = Duration::from_secs(1);
/// How often they are looked at meanwhile.
const STOP_LOOK: Duration = Duration::from_millis(1);

/// Everything of one shard. Tasks of its executor share it.
pub(crate) struct Shard {
    index: u16,
    config: Config,
    arena: Arena,
    gpus: Gpus,
    ring: DataRing,
    store: ChunkStore,
    events: flume::Sender<Event>,
    /// All shards of the node, this one among them.
    shards: Vec<flume::Sender<Command>>,
    origin: std::time::Instant,
    next_number: Cell<u64>,
    replicas: RefCell<HashMap<ChunkId, Rc<Replica>>>,
    writings: RefCell<HashMap<u64, Rc<Writing>>>,
    /// Bytes of chunks that were prepared and are not sealed.
    prepared: Rc<Cell<u64>>,
    readings: RefCell<HashMap<u64, Rc<Reading>>>,
    fetches: RefCell<HashMap<ChunkId, Rc<Fetching>>>,
    fetch_started: Notify,
    values: values::Values,
    serve: RefCell<Serve>,
    mesh: RefCell<Mesh>,
    rails: Rails,
    keeper: RefCell<Keeper>,
    pieces_queued: Cell<u64>,
    counters: Counters,
}

impl Shard {
    /// Carries out commands until told to stop.
    async fn run(self: Rc<Self>, commands: flume::Receiver<Command>) {
        let mut lasting = self.start_rails();
        lasting.push(glommio::spawn_local(self.clone().watch_fetches()));
        while let Ok(command) = commands.recv_async().await {
            match command {
                Command::Stop { reply } => {
                    self.stop();
                    drop(lasting);
                    self.let_tasks_end().await;
                    let _ = reply.send(Ok(()));
                    return;
                }
                command => self.clone().carry_out(command),
            }
        }
    }

    /// Lets the tasks end that have nothing to wait for any more, so that what they hold is given back: the executor ends
    /// without those that are left.
    async fn let_tasks_end(self: &Rc<Self>) {
        let until = self.now() + STOP_PATIENCE;
        while Rc::strong_count(self) > 1 && self.now() < until {
            glommio::timer::sleep(STOP_LOOK).await;
        }
    }

    /// Begins one command. What may wait becomes a task of its own.
    fn carry_out(self: Rc<Self>, command: Command) {
        macro_rules! answer {
            ($reply:ident, $work:expr) => {
                drop(glommio::spawn_local(async move { drop($reply.send($work.await)) }).detach())
            };
        }
        match command {
            Command::Begin { size, piece_size, device, count, reply } => answer!(reply, async {
                let begun = self.clone().begin(size, piece_size, device, count).await?;
                let handle = begun.handle;
                Ok(HandleGiven::to_write(begun, handle, self.commands()))
            }),
            Command::Prepare { size, piece_size, reply } => {
                let prepared = self.prepare(size, piece_size);
                let given = |begun: Begun| {
                    let handle = begun.handle;
                    HandleGiven::to_write(begun, handle, self.commands())
                };
                drop(reply.send(prepared.map(given)));
            }
            Command::Lease { handle, first, count, reply } => {
                answer!(reply, self.lease(handle, first, count))
            }
            Command::Fill { handle, pieces, reply } => drop(reply.send(self.fill(handle, &pieces))),
            Command::Seal { handle, pieces, id, size, reply } => answer!(reply, async {
                self.clone().fill(handle, &pieces)?;
                let sealed = self.clone().seal(handle, id, size).await?;
                // The shard that owns the chunk has given out the handle.
                let owner = &self.shards[usize::from(id.shard(self.shards.len() as u16))];
                Ok(HandleGiven::to_read(sealed, sealed.handle, owner))
            }),
            Command::Abort { handle, reply } => drop(reply.send(self.abort(handle))),
            Command::Adopt { chunk, reply } => drop(reply.send(self.adopt(*chunk))),

            Command::Open { chunk, priority, known, reply } => {
                let opened = self.clone().open(&chunk, priority, &known);
                let given = |opened: ChunkOpened| {
                    let handle = opened.handle;
                    HandleGiven::to_read(opened, handle, self.commands())
                };
                drop(reply.send(opened.map(given)));
            }
            Command::Next { handle, first, count, limit, reply } => {
                answer!(reply, self.next(handle, first, count, limit))
            }
            Command::Whole { handle, reply } => answer!(reply, self.whole(handle)),
            Command::Release { handle, pieces, reply } => drop(reply.send(self.release(handle, &pieces))),
            Command::Close { handle, reply } => drop(reply.send(self.close(handle))),

            Command::Fetch { chunk, device, priority, reply } => {
                let asker = Asker { reply: reply.clone(), priority };
                answer!(reply, self.bring(chunk, device, asker))
            }
            Command::Verify { id, reply } => answer!(reply, self.verify(id)),
            Command::Pin { id, pinned, reply } => drop(reply.send(Ok(self.pin(&id, pinned)))),
            Command::Drop { id, device, force, reply } => {
                answer!(reply, self.drop_replica(id, device, force))
            }
            Command::Replicas { chunk, reply } => drop(reply.send(Ok(self.records(chunk)))),
            Command::Counters { reply } => {
                let mut counters = self.counters.list();
                counters.push(("lanes_open".to_owned(), self.rails.open_lanes() as u64));
                counters.push(("connections_open".to_owned(), self.mesh.borrow().connections() as u64));
                drop(reply.send(Ok(counters)));
            }
            Command::Evict { bytes } => drop(self.evict(bytes)),

            Command::Members { peers } => self.set_members(peers),
            Command::Peers { chunk, peers } => self.on_peers(&chunk, &peers),
            Command::Holders { chunk, holders, are_all } => self.on_holders(&chunk, &holders, are_all),
            Command::Room { reply } => drop(reply.send(Ok(self.has_room_for_peer()))),
            Command::Attach { peer, peer_shard, stream } => self.attach(peer, peer_shard, stream),
            Command::DialFailed { peer, peer_shard } => self.on_dial_failed(peer, peer_shard),
            Command::Mapped { connection, memory } => self.on_mapped(connection, memory),
            Command::Values(command) => self.values(command),
            Command::Stop { .. } => {}
        }
    }

    /// The way to this shard.
    fn commands(&self) -> &flume::Sender<Command> {
        &self.shards[usize::from(self.index)]
    }

    /// Ends everything that waits for others.
    fn stop(self: &Rc<Self>) {
        self.close_all_connections();
        let fetches: Vec<_> = self.fetches.borrow().values().cloned().collect();
        fetches.iter().for_each(|fetching| self.end_fetch(fetching, Err(EngineError::Stopping)));
        self.writings.borrow_mut().clear();
        self.readings.borrow_mut().clear();
    }

    fn now(&self) -> Instant {
        Instant::from_micros(self.origin.elapsed().as_micros() as u64)
    }

    /// A number that this shard has not given out before.
    fn number(&self) -> u64 {
        let number = self.next_number.get();
        self.next_number.set(number + 1);
        number
    }

    /// A handle that leads back to this shard.
    fn handle(&self) -> u64 {
        u64::from(self.index) << 48 | (self.number() & ((1 << 48) - 1))
    }

    fn tell(&self, event: Event) {
        // The control plane outlives the shards; once it is gone nobody needs to hear.
        let _ = self.events.send(event);
    }

    fn replica(&self, id: &ChunkId) -> Option<Rc<Replica>> {
        self.replicas.borrow().get(id).cloned()
    }

    fn records(&self, chunk: Option<ChunkId>) -> Vec<ReplicaRecord> {
        let replicas = self.replicas.borrow();
        let wanted = replicas.values().filter(|replica| chunk.is_none_or(|id| id == replica.id));
        wanted
            .map(|replica| replica.record(self.config.node, self.fetches.borrow().contains_key(&replica.id)))
            .collect()
    }
}
