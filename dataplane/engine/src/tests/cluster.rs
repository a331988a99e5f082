//! The control plane, played: it dials, names peers and remembers what was told.

use std::collections::BTreeMap;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use flow::chunk::{ChunkId, Geometry};
use flow::connections::Bounds;
use flow::swarm::{Priority, Uplinks};
use flow::verify::{Digest, checksum_of};
use flow::wire::control::{Holding, TrackerPeer};
use flow::wire::session::{ChunkReference, Device, FilledPiece};
use futures_lite::future::block_on;
use memory::{Arena, Mapping};

use crate::transport::lanes::model::{Network, Running};
use crate::{Config, Engine, EngineError, Event, Fault, Finding, Handle, Peer};
use crate::{GpuLimit, GpuSettings, GpuSource};

/// Engines 1, 2, … with shards, memory and directories of their own, and members that the test plays.
pub struct Cluster {
    pub directory: tempfile::TempDir,
    nodes: Vec<Option<Engine>>,
    shared: Arc<Shared>,
    /// The network that its devices are in, if that is a model.
    network: Option<Running>,
}

#[derive(Default)]
struct Shared {
    handles: Mutex<BTreeMap<u64, Handle>>,
    played: Mutex<BTreeMap<u64, Played>>,
    holders: Mutex<BTreeMap<(ChunkId, u64), bool>>,
    faults: Mutex<Vec<(u64, Fault)>>,
    /// Memory cannot be mapped any more.
    is_apart: AtomicBool,
}

/// What the control plane knows of a member that the test plays.
struct Played {
    arena: Arena,
    dialled: flume::Sender<TcpStream>,
    /// Pieces of the chunks that it is said to hold.
    held: BTreeMap<ChunkId, u32>,
}

pub fn config(directory: &Path, node: u64, shards: u16, memory_bytes: u64) -> Config {
    Config {
        node,
        data_dir: directory.join(node.to_string()),
        shards,
        pin_to_cores: false,
        memory_bytes,
        prefault: false,
        congestion_control: None,
        sharing: None,
        gpus: GpuSettings {
            source: GpuSource::Emulated { count: 0, bytes: 0 },
            limit: GpuLimit::Percent(100),
        },
        connections: Bounds::default(),
        uplinks: Uplinks::Full,
        lanes: Vec::new(),
        corrupt_one_in: 0,
    }
}

impl Cluster {
    /// One engine for each number of shards.
    pub fn new(shards: &[u16], memory_bytes: u64) -> Self {
        Self::with(shards, memory_bytes, |_| {})
    }

    /// As [`Cluster::new`], with configurations adjusted.
    pub fn with(shards: &[u16], memory_bytes: u64, adjust: impl Fn(&mut Config)) -> Self {
        Self::start(shards, memory_bytes, adjust, |config| Engine::start(config).unwrap())
    }

    /// As [`Cluster::with`], with a device of that network for each shard. It runs for as long as the cluster is there.
    pub fn on(network: &Network, shards: &[u16], memory_bytes: u64, adjust: impl Fn(&mut Config)) -> Self {
        let finding = || Finding { topic: "rdma", found: "a model".into(), taken: "it".into(), remedy: None };
        let adapters = |_: &Config, arena: &Arena| (vec![network.adapter(arena)], vec![finding()]);
        let start = |config| Engine::start_on(config, adapters).unwrap();
        let network = Some(network.run());
        Self { network, ..Self::start(shards, memory_bytes, adjust, start) }
    }

    fn start(
        shards: &[u16],
        memory_bytes: u64,
        adjust: impl Fn(&mut Config),
        start: impl Fn(Config) -> (Engine, flume::Receiver<Event>),
    ) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let shared = Arc::new(Shared::default());
        let mut nodes = Vec::new();
        for (node, &shards) in (1..).zip(shards) {
            let mut config = config(directory.path(), node, shards, memory_bytes);
            adjust(&mut config);
            let (engine, events) = start(config);
            shared.handles.lock().unwrap().insert(node, engine.handle().clone());
            nodes.push(Some(engine));
            let shared = shared.clone();
            std::thread::spawn(move || events.iter().for_each(|event| shared.on_event(node, event)));
        }
        shared.tell_members(None);
        Self { directory, nodes, shared, network: None }
    }

    pub fn handle(&self, node: usize) -> &Handle {
        self.nodes[node - 1].as_ref().expect("the test has stopped this engine").handle()
    }

    /// A member that the test plays joins; gives the connections that engines dial to it.
    pub fn play(&self, node: u64, arena: &Arena) -> flume::Receiver<TcpStream> {
        let (dialled, connections) = flume::unbounded();
        let played = Played { arena: arena.clone(), dialled, held: BTreeMap::new() };
        self.shared.played.lock().unwrap().insert(node, played);
        self.shared.tell_members(None);
        connections
    }

    /// A played member is said to hold that many pieces of a chunk, and whether it had them all from the start.
    pub fn played_holds(&self, node: u64, chunk: ChunkId, pieces: u32, complete: bool) {
        self.shared.played.lock().unwrap().get_mut(&node).unwrap().held.insert(chunk, pieces);
        self.shared.holders.lock().unwrap().insert((chunk, node), complete);
    }

    /// A played member is not said to hold a chunk any more.
    pub fn forget(&self, node: u64, chunk: ChunkId) {
        self.shared.played.lock().unwrap().get_mut(&node).unwrap().held.remove(&chunk);
        self.shared.holders.lock().unwrap().remove(&(chunk, node));
    }

    /// A played member leaves the cluster; engines close their connections to it.
    pub fn dismiss(&self, node: u64) {
        self.shared.played.lock().unwrap().remove(&node);
        self.shared.forget(node);
        self.shared.tell_members(None);
    }

    /// A connection that a played member dials to an engine.
    pub fn dial(&self, node: u64, to: u64) -> TcpStream {
        let (ours, theirs) = connected();
        self.shared.handles.lock().unwrap()[&to].attach(0, node, 0, theirs);
        ours
    }

    /// Cuts all connections of an engine, which may be dialled again.
    pub fn cut(&self, node: u64) {
        self.shared.tell_members(Some(node));
        self.shared.tell_members(None);
    }

    /// From here on no memory can be mapped.
    pub fn part(&self) {
        self.shared.is_apart.store(true, Ordering::Relaxed);
    }

    /// Stops one engine, and tells the others.
    pub fn stop_one(&mut self, node: u64) {
        let engine = self.nodes[node as usize - 1].take().expect("an engine is stopped once");
        engine.stop();
        self.shared.handles.lock().unwrap().remove(&node);
        self.shared.forget(node);
        self.shared.tell_members(None);
    }

    pub fn faults(&self) -> Vec<(u64, Fault)> {
        self.shared.faults.lock().unwrap().clone()
    }

    /// Stops every engine and gives the directory back.
    pub fn stop(self) -> tempfile::TempDir {
        self.nodes.into_iter().flatten().for_each(Engine::stop);
        drop(self.network);
        self.directory
    }
}

impl Shared {
    fn on_event(&self, node: u64, event: Event) {
        let handles = self.handles.lock().unwrap().clone();
        let Some(ours) = handles.get(&node) else { return };
        match event {
            Event::Dial { from_shard, peer, to_shard } => {
                let (from, to) = connected();
                if let Some(theirs) = handles.get(&peer) {
                    if !block_on(theirs.has_room(to_shard)) {
                        return ours.dial_failed(from_shard, peer, to_shard);
                    }
                    theirs.attach(to_shard, node, from_shard, to);
                } else if let Some(played) = self.played.lock().unwrap().get(&peer) {
                    let _ = played.dialled.send(to);
                } else {
                    return ours.dial_failed(from_shard, peer, to_shard);
                }
                ours.attach(from_shard, peer, to_shard, from);
            }
            Event::Map { shard, connection, peer, .. } => {
                let played = || self.played.lock().unwrap().get(&peer).map(|played| played.arena.clone());
                let arena = handles.get(&peer).map(|handle| handle.arena().clone()).or_else(played);
                let arena = arena.filter(|_| !self.is_apart.load(Ordering::Relaxed));
                let map = |arena: Arena| Mapping::map_shared(arena.read_only_fd(), arena.size(), false).ok();
                ours.mapped(shard, connection, arena.and_then(map).map(Arc::new));
            }
            Event::FindPeers { chunk } => {
                let mut holders = self.holders.lock().unwrap();
                let known = holders.iter().filter(|((id, holder), _)| *id == chunk && *holder != node);
                let peers =
                    known.map(|(&(_, node), &complete)| TrackerPeer { node, complete, near: true }).collect();
                holders.entry((chunk, node)).or_insert(false);
                drop(holders);
                ours.peers(chunk, peers);
            }
            Event::FindHolders { chunk, .. } => {
                let others = handles.iter().filter(|(other, _)| **other != node);
                // One that is being stopped has none.
                let replicas =
                    others.flat_map(|(_, handle)| block_on(handle.replicas(Some(chunk)))).flatten();
                let held =
                    replicas.map(|replica| (replica.node, replica.dram_pieces.max(replica.nvme_pieces)));
                let mut held: Vec<_> = held.filter(|&(_, held)| held > 0).collect();
                let played = self.played.lock().unwrap();
                held.extend(
                    played.iter().filter_map(|(&node, played)| Some((node, *played.held.get(&chunk)?))),
                );
                drop(played);
                ours.holders(chunk, held, true);
            }
            Event::Holding { chunk, holding } => {
                self.holders.lock().unwrap().insert((chunk, node), holding == Holding::Complete);
            }
            Event::ValueDropped { .. } => {}
            Event::Fault(fault) => self.faults.lock().unwrap().push((node, fault)),
        }
    }

    /// Tells every engine of all others but `hidden`, and that one of nobody.
    fn tell_members(&self, hidden: Option<u64>) {
        let handles = self.handles.lock().unwrap();
        let engines = handles.iter().map(|(&node, handle)| (node, handle.shards()));
        let played = self.played.lock().unwrap().keys().map(|&node| (node, 1)).collect::<Vec<_>>();
        let all: Vec<(u64, u16)> = engines.chain(played).collect();
        for (&node, handle) in handles.iter() {
            let is_seen = |other: u64| other != node && hidden != Some(other) && hidden != Some(node);
            let others = all.iter().filter(|(other, _)| is_seen(*other));
            let peer = |&(node, shards): &(u64, u16)| Peer {
                node,
                name: format!("n{node}"),
                shards,
                near: true,
                here: false,
            };
            handle.members(&others.map(peer).collect::<Vec<_>>());
        }
    }

    fn forget(&self, node: u64) {
        self.holders.lock().unwrap().retain(|(_, holder), _| *holder != node);
    }
}

fn connected() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let from = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (from, listener.accept().unwrap().0)
}

/// The value of a counter of an engine.
pub fn counter(handle: &Handle, name: &str) -> u64 {
    let counters = block_on(handle.counters()).unwrap();
    counters.into_iter().find(|(known, _)| known == name).unwrap().1
}

/// Bytes that differ from seed to seed, of a generator that is optimised in every profile.
pub fn bytes(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// Writes a chunk as a client does.
pub fn put(handle: &Handle, content: &[u8], durable: bool) -> Result<ChunkReference, EngineError> {
    put_on(handle, content, if durable { Device::Nvme } else { Device::Dram })
}

/// Writes a chunk onto a device.
pub fn put_on(handle: &Handle, content: &[u8], device: Device) -> Result<ChunkReference, EngineError> {
    let mapping =
        memory::Mapping::map_shared(handle.arena().read_write_fd(), handle.arena().size(), true).unwrap();
    let geometry = Geometry::of(content.len() as u64)?;
    block_on(async {
        let writing = handle.create(geometry.size(), geometry.piece_size(), device).await?;
        let mut first = 0;
        while first < geometry.pieces() {
            let slots = match handle.lease(writing, first, 8).await {
                Ok(slots) => slots,
                Err(error) => {
                    handle.abort(writing).await?;
                    return Err(error);
                }
            };
            first += slots.len() as u32;
            let mut filled = Vec::new();
            for slot in slots {
                let start = geometry.offset(slot.piece) as usize;
                let piece = &content[start..start + slot.length as usize];
                mapping.writer(slot.offset, piece.len()).unwrap().copy_from_slice(piece);
                filled.push(FilledPiece {
                    piece: slot.piece,
                    length: slot.length,
                    checksum: checksum_of(piece),
                });
            }
            handle.fill(writing, filled).await?;
        }
        let mut digest = Digest::default();
        digest.update(content);
        let id = digest.finish();
        let sealed = handle.seal(writing, id, geometry.size()).await?;
        handle.close(sealed.handle).await?;
        Ok(sealed.chunk)
    })
}

/// Reads a chunk as a client does.
pub fn get(handle: &Handle, chunk: ChunkReference) -> Result<Vec<u8>, EngineError> {
    let mapping =
        memory::Mapping::map_shared(handle.arena().read_only_fd(), handle.arena().size(), false).unwrap();
    let mut content = vec![0; chunk.geometry.size() as usize];
    block_on(async {
        let reading = handle.open(chunk, Priority::Normal).await?.handle;
        let outcome = loop {
            let slots = match handle.next(reading, 0, chunk.geometry.pieces(), 16).await {
                Ok(slots) if slots.is_empty() => break Ok(content),
                Ok(slots) => slots,
                Err(error) => break Err(error),
            };
            for slot in &slots {
                let start = chunk.geometry.offset(slot.piece) as usize;
                let view = mapping.read(slot.offset, slot.length as usize).unwrap();
                content[start..start + view.len()].copy_from_slice(view);
            }
            handle.release(reading, slots.iter().map(|slot| slot.piece).collect()).await?;
        };
        handle.close(reading).await?;
        outcome
    })
}
