//! The engine as the control plane sees it.

use std::net::TcpStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use flow::chunk::ChunkId;
use flow::connections::Bounds;
use flow::swarm::{Priority, Uplinks};
use flow::wire::control::{NodeId, ReplicaRecord, TrackerPeer};
use flow::wire::session::{
    ChunkFetched, ChunkOpened, ChunkReference, Device, FilledPiece, GpuRecord, SlotRef,
};
use memory::{Arena, Mapping};

use crate::command::{Begun, Command, HandleGiven, Reply, Sealed};
use crate::gpu::{GpuSettings, Gpus};
use crate::shard::{Adapters, open_adapters};
use crate::transport::lanes::LaneSettings;
use crate::values::Budget;
use crate::{EngineError, Event, Executors, Finding, Peer};

/// How an engine is started.
#[derive(Debug, Clone)]
pub struct Config {
    /// This node.
    pub node: NodeId,
    /// Chunk files live in `chunks` below it.
    pub data_dir: PathBuf,
    /// How many shards, at least one.
    pub shards: u16,
    /// Whether each shard stays on a core of its own; needs as many cores as shards.
    pub pin_to_cores: bool,
    /// Bytes of the arena; at first also the most bytes of values.
    pub memory_bytes: u64,
    /// Whether to take the arena's memory from the machine at the start, rather than as it is first written.
    pub prefault: bool,
    /// TCP congestion control of data connections, or the system's own when `None`.
    pub congestion_control: Option<String>,
    /// How nodes on this host reach this node's memory; `None` lets them receive everything over TCP.
    pub sharing: Option<Sharing>,
    /// Which GPUs are devices of the node, and how much of them.
    pub gpus: GpuSettings,
    /// The most connections of each shard to shards of other nodes.
    pub connections: Bounds,
    /// What the links between racks carry.
    pub uplinks: Uplinks,
    /// What lanes to other nodes may go over. Of those that reach a node the first is used.
    pub lanes: Vec<LaneSettings>,
    /// For tests: one in so many pieces leaves this node with a flipped bit. Zero is never.
    pub corrupt_one_in: u32,
}

/// How nodes on the same host reach this node's memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sharing {
    /// What tells this host from others.
    pub boot_id: String,
    /// The node's local socket, which gives its owner's processes the descriptor of the arena.
    pub socket: String,
}

/// Why an engine does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No arena.
    #[error(transparent)]
    Arena(#[from] memory::ArenaError),
    /// The machine has not as much memory as the arena takes.
    #[error(
        "cannot take {size} bytes of memory at once: {source}; try a smaller --max-memory, or no --prefault"
    )]
    Prefault {
        /// Bytes of the arena.
        size: u64,
        /// What failed.
        source: std::io::Error,
    },
    /// The data directory cannot be used.
    #[error("cannot use the data directory {path}: {source}; choose another --data-dir")]
    DataDir {
        /// The directory.
        path: PathBuf,
        /// What failed.
        source: std::io::Error,
    },
    /// No executor or ring.
    #[error("cannot start shard {shard}: {message}; `shoal doctor` says what io_uring needs")]
    Shard {
        /// The shard.
        shard: u16,
        /// What failed.
        message: String,
    },
}

/// A running engine. Dropping it without [`Engine::stop`] leaves its shards running until the process ends.
pub struct Engine {
    handle: Handle,
    findings: Vec<Finding>,
    running: Vec<flume::Receiver<()>>,
    executors: Executors,
}

impl Engine {
    /// Starts all shards, on a thread for each; chunks that are on NVMe are found again before this returns. Events come
    /// out of the receiver.
    pub fn start(config: Config) -> Result<(Self, flume::Receiver<Event>), StartError> {
        Self::start_on(config, open_adapters)
    }

    /// As [`Engine::start`], on threads that other engines run on as well; where these stay was said when they were
    /// started.
    pub fn start_among(
        config: Config,
        executors: &Executors,
    ) -> Result<(Self, flume::Receiver<Event>), StartError> {
        Self::assemble(config, executors.clone(), open_adapters)
    }

    /// As [`Engine::start`], on other devices than this machine's.
    pub(crate) fn start_on(
        config: Config,
        open_adapters: impl FnOnce(&Config, &Arena) -> Adapters,
    ) -> Result<(Self, flume::Receiver<Event>), StartError> {
        let executors = Executors::start(config.shards, config.pin_to_cores)?;
        Self::assemble(config, executors, open_adapters)
    }

    fn assemble(
        config: Config,
        executors: Executors,
        open_adapters: impl FnOnce(&Config, &Arena) -> Adapters,
    ) -> Result<(Self, flume::Receiver<Event>), StartError> {
        let started = crate::shard::start(config, &executors, open_adapters)?;
        let (shards, closed) = (started.senders.into(), started.closed.into());
        let budget = started.budget;
        let (arena, gpus) = (started.arena, started.gpus);
        let handle = Handle { arena, gpus, shards, closed, next: Arc::default(), budget };
        let (findings, running) = (started.findings, started.running);
        Ok((Self { handle, findings, running, executors }, started.events))
    }

    /// What was found on the machine, and which fast path was taken.
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// The way to the shards.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Stops all shards: what is in flight ends, files are synced. Blocks until they are gone, and the threads that are
    /// theirs alone.
    pub fn stop(self) {
        for shard in self.handle.shards.iter() {
            let (reply, stopped) = flume::bounded(1);
            if shard.send(Command::Stop { reply }).is_ok() {
                let _ = stopped.recv();
            }
        }
        for running in self.running {
            let _ = running.recv();
        }
        self.executors.join();
    }
}

/// The way to the shards, from any thread or runtime.
#[derive(Clone)]
pub struct Handle {
    arena: Arena,
    gpus: Gpus,
    shards: Arc<[flume::Sender<Command>]>,
    /// For each shard whether it is gone.
    closed: Arc<[Arc<AtomicBool>]>,
    next: Arc<AtomicUsize>,
    pub(crate) budget: Arc<Budget>,
}

impl Handle {
    /// The node's memory.
    pub fn arena(&self) -> &Arena {
        &self.arena
    }

    /// The node's GPUs.
    pub fn gpus(&self) -> Vec<GpuRecord> {
        self.gpus.states()
    }

    /// How many shards there are.
    pub fn shards(&self) -> u16 {
        self.shards.len() as u16
    }

    /// Begins a chunk; gives its handle. Every piece reaches the device before the chunk is sealed.
    pub async fn create(&self, size: u64, piece_size: u32, device: Device) -> Result<u64, EngineError> {
        Ok(self.begin(size, piece_size, device, 0).await?.handle)
    }

    /// As [`Handle::create`], with slots for the first `count` pieces, or for as many as there is memory for at once.
    pub async fn begin(
        &self,
        size: u64,
        piece_size: u32,
        device: Device,
        count: u32,
    ) -> Result<Begun, EngineError> {
        let shard = self.next.fetch_add(1, Ordering::Relaxed) % self.shards.len();
        let given = self.ask(shard, |reply| Command::Begin { size, piece_size, device, count, reply }).await;
        given.map(HandleGiven::take)
    }

    /// As [`Handle::begin`] in memory with slots for all pieces, for a chunk that may never be written: it evicts nothing, and is
    /// refused where such chunks take their share of the memory.
    pub async fn prepare(&self, size: u64, piece_size: u32) -> Result<Begun, EngineError> {
        let shard = self.next.fetch_add(1, Ordering::Relaxed) % self.shards.len();
        let given = self.ask(shard, |reply| Command::Prepare { size, piece_size, reply }).await;
        given.map(HandleGiven::take)
    }

    /// Slots for pieces `first..first + count` of a chunk that is being written; waits for at least one.
    pub async fn lease(&self, handle: u64, first: u32, count: u32) -> Result<Vec<SlotRef>, EngineError> {
        self.ask(shard_of(handle), |reply| Command::Lease { handle, first, count, reply }).await
    }

    /// Takes pieces that the client has written into their slots.
    pub async fn fill(&self, handle: u64, pieces: Vec<FilledPiece>) -> Result<(), EngineError> {
        self.ask(shard_of(handle), |reply| Command::Fill { handle, pieces, reply }).await
    }

    /// Makes a written chunk visible under its id, and opens it, so that it stays until whoever wrote it has closed it.
    pub async fn seal(&self, handle: u64, id: ChunkId, size: u64) -> Result<Sealed, EngineError> {
        self.fill_and_seal(handle, Vec::new(), id, size).await
    }

    /// As [`Handle::fill`], and when all of that is taken as [`Handle::seal`].
    pub async fn fill_and_seal(
        &self,
        handle: u64,
        pieces: Vec<FilledPiece>,
        id: ChunkId,
        size: u64,
    ) -> Result<Sealed, EngineError> {
        let shard = shard_of(handle);
        let given = self.ask(shard, |reply| Command::Seal { handle, pieces, id, size, reply }).await;
        given.map(HandleGiven::take)
    }

    /// Gives up a chunk that is not sealed. Unknown handles are ignored.
    pub async fn abort(&self, handle: u64) -> Result<(), EngineError> {
        self.ask(shard_of(handle), |reply| Command::Abort { handle, reply }).await
    }

    /// Opens a chunk for reading and begins to fetch what is not here.
    pub async fn open(&self, chunk: ChunkReference, priority: Priority) -> Result<ChunkOpened, EngineError> {
        self.open_from(chunk, priority, Vec::new()).await
    }

    /// As [`Handle::open`], from peers that are known to take part in the chunk's swarm; others are found as ever.
    pub async fn open_from(
        &self,
        chunk: ChunkReference,
        priority: Priority,
        known: Vec<TrackerPeer>,
    ) -> Result<ChunkOpened, EngineError> {
        let open = |reply| Command::Open { chunk, priority, known, reply };
        self.ask(self.owner(&chunk.id), open).await.map(HandleGiven::take)
    }

    /// Every piece of an open chunk that was not given out before, once all of it was in memory.
    pub async fn whole(&self, handle: u64) -> Result<Vec<SlotRef>, EngineError> {
        self.ask(shard_of(handle), |reply| Command::Whole { handle, reply }).await
    }

    /// Verified pieces of an open chunk, each once; waits for at least one.
    pub async fn next(
        &self,
        handle: u64,
        first: u32,
        count: u32,
        limit: u32,
    ) -> Result<Vec<SlotRef>, EngineError> {
        self.ask(shard_of(handle), |reply| Command::Next { handle, first, count, limit, reply }).await
    }

    /// Lets go of pieces that were given out.
    pub async fn release(&self, handle: u64, pieces: Vec<u32>) -> Result<(), EngineError> {
        self.ask(shard_of(handle), |reply| Command::Release { handle, pieces, reply }).await
    }

    /// Closes an open chunk. Unknown handles are ignored.
    pub async fn close(&self, handle: u64) -> Result<(), EngineError> {
        self.ask(shard_of(handle), |reply| Command::Close { handle, reply }).await
    }

    /// As [`Handle::close`], without waiting: what is asked of the shard from here on finds it closed.
    pub fn close_soon(&self, handle: u64) {
        if let Some(shard) = self.shards.get(shard_of(handle)) {
            let (reply, _) = flume::bounded(1);
            // A shard that has stopped has no handles.
            let _ = shard.send(Command::Close { handle, reply });
        }
    }

    /// Brings a replica here and keeps it on `device`.
    pub async fn fetch(
        &self,
        chunk: ChunkReference,
        device: Device,
        priority: Priority,
    ) -> Result<ChunkFetched, EngineError> {
        self.ask(self.owner(&chunk.id), |reply| Command::Fetch { chunk, device, priority, reply }).await
    }

    /// Reads all of a local chunk and gives the BLAKE3 digest that the bytes have; of a chunk whose name is no digest that name, if
    /// all pieces have their checksums.
    pub async fn verify(&self, id: ChunkId) -> Result<ChunkId, EngineError> {
        self.ask(self.owner(&id), |reply| Command::Verify { id, reply }).await
    }

    /// Sets or clears a chunk's pin; false when the chunk is not here.
    pub async fn pin(&self, id: ChunkId, pinned: bool) -> Result<bool, EngineError> {
        self.ask(self.owner(&id), |reply| Command::Pin { id, pinned, reply }).await
    }

    /// Drops the replica on `device`, or on all; false when there is none. Pieces that are read or sent at the
    /// moment stay until that is over.
    pub async fn drop_replica(
        &self,
        id: ChunkId,
        device: Option<Device>,
        force: bool,
    ) -> Result<bool, EngineError> {
        self.ask(self.owner(&id), |reply| Command::Drop { id, device, force, reply }).await
    }

    /// What is on this node.
    pub async fn replicas(&self, chunk: Option<ChunkId>) -> Result<Vec<ReplicaRecord>, EngineError> {
        if let Some(id) = chunk {
            return self.ask(self.owner(&id), |reply| Command::Replicas { chunk, reply }).await;
        }
        let mut all = Vec::new();
        for shard in 0..self.shards.len() {
            all.append(&mut self.ask(shard, |reply| Command::Replicas { chunk, reply }).await?);
        }
        Ok(all)
    }

    /// Counters since the start, summed over the shards.
    pub async fn counters(&self) -> Result<Vec<(String, u64)>, EngineError> {
        let mut sums: Vec<(String, u64)> = Vec::new();
        for shard in 0..self.shards.len() {
            for (name, value) in self.ask(shard, |reply| Command::Counters { reply }).await? {
                match sums.iter_mut().find(|(known, _)| *known == name) {
                    Some((_, sum)) => *sum += value,
                    None => sums.push((name, value)),
                }
            }
        }
        Ok(sums)
    }

    /// Tells the shards who the live peers are, this node not among them. Connections to others are closed.
    pub fn members(&self, peers: &[Peer]) {
        for shard in self.shards.iter() {
            let _ = shard.send(Command::Members { peers: peers.to_vec() });
        }
    }

    /// Answers [`Event::FindPeers`].
    pub fn peers(&self, chunk: ChunkId, peers: Vec<TrackerPeer>) {
        let _ = self.shards[self.owner(&chunk)].send(Command::Peers { chunk, peers });
    }

    /// Answers [`Event::FindHolders`]: other nodes and how many pieces each has; `are_all` says that no other live node
    /// has any.
    pub fn holders(&self, chunk: ChunkId, holders: Vec<(NodeId, u32)>, are_all: bool) {
        let _ = self.shards[self.owner(&chunk)].send(Command::Holders { chunk, holders, are_all });
    }

    /// Whether a shard takes another data connection that a peer asks for. Who is refused should be told so, for it to ask
    /// another node.
    pub async fn has_room(&self, shard: u16) -> bool {
        self.ask(shard.into(), |reply| Command::Room { reply }).await.unwrap_or(false)
    }

    /// Hands over a data connection whose handshake is done: between our `shard` and `peer_shard` of `peer`,
    /// whoever dialled.
    pub fn attach(&self, shard: u16, peer: NodeId, peer_shard: u16, stream: TcpStream) {
        if let Some(sender) = self.shards.get(usize::from(shard)) {
            let _ = sender.send(Command::Attach { peer, peer_shard, stream });
        }
    }

    /// Answers [`Event::Dial`] when the peer was not reached.
    pub fn dial_failed(&self, shard: u16, peer: NodeId, peer_shard: u16) {
        if let Some(sender) = self.shards.get(usize::from(shard)) {
            let _ = sender.send(Command::DialFailed { peer, peer_shard });
        }
    }

    /// Answers [`Event::Map`]: with a mapping for reading of the peer's arena, or with `None` where there is none to be
    /// had.
    pub fn mapped(&self, shard: u16, connection: u64, memory: Option<Arc<Mapping>>) {
        if let Some(sender) = self.shards.get(usize::from(shard)) {
            let _ = sender.send(Command::Mapped { connection, memory });
        }
    }

    fn owner(&self, id: &ChunkId) -> usize {
        usize::from(id.shard(self.shards()))
    }

    pub(crate) async fn ask<T>(
        &self,
        shard: usize,
        command: impl FnOnce(Reply<T>) -> Command,
    ) -> Result<T, EngineError> {
        let (reply, answer) = flume::bounded(1);
        let nobody = || EngineError::Invalid("the handle names no shard".into());
        let (sender, is_closed) = self.shards.get(shard).zip(self.closed.get(shard)).ok_or_else(nobody)?;
        sender.send_async(command(reply)).await.map_err(|_| EngineError::Stopping)?;
        // A shard that goes says so before it drops what it has not taken. So either it drops this, or it is seen here.
        if is_closed.load(Ordering::SeqCst) {
            return Err(EngineError::Stopping);
        }
        answer.recv_async().await.map_err(|_| EngineError::Stopping)?
    }
}

/// The shard that gave out `handle`; it stands in the upper 16 bits.
fn shard_of(handle: u64) -> usize {
    (handle >> 48) as usize
}
