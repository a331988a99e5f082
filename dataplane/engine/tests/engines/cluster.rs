//! The control plane, played: it dials, names peers and remembers what was told.

use std::collections::BTreeMap;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};

use engine::{Config, Engine, EngineError, Event, Fault, Handle, Peer};
use flow::chunk::{ChunkId, Geometry};
use flow::verify::{Digest, checksum_of};
use flow::wire::control::{Holding, TrackerPeer};
use flow::wire::session::{ChunkReference, FilledPiece};
use futures_lite::future::block_on;

/// Engines 1, 2, … with shards, memory and directories of their own.
pub struct Cluster {
    pub directory: tempfile::TempDir,
    nodes: Vec<Engine>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    handles: Mutex<Vec<Handle>>,
    holders: Mutex<BTreeMap<(ChunkId, u64), bool>>,
    faults: Mutex<Vec<(u64, Fault)>>,
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
        rdma: None,
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
        let directory = tempfile::tempdir().unwrap();
        let shared = Arc::new(Shared::default());
        let mut nodes = Vec::new();
        for (node, &shards) in (1..).zip(shards) {
            let mut config = config(directory.path(), node, shards, memory_bytes);
            adjust(&mut config);
            let (engine, events) = Engine::start(config).unwrap();
            shared.handles.lock().unwrap().push(engine.handle().clone());
            nodes.push(engine);
            let shared = shared.clone();
            std::thread::spawn(move || events.iter().for_each(|event| shared.on_event(node, event)));
        }
        for (node, engine) in (1..).zip(&nodes) {
            let others = (1..).zip(&nodes).filter(|(other, _)| *other != node);
            let peer = |(node, other): (u64, &Engine)| Peer {
                node,
                name: format!("n{node}"),
                shards: other.handle().shards(),
                near: true,
            };
            engine.handle().members(&others.map(peer).collect::<Vec<_>>());
        }
        Self { directory, nodes, shared }
    }

    pub fn handle(&self, node: usize) -> &Handle {
        self.nodes[node - 1].handle()
    }

    pub fn faults(&self) -> Vec<(u64, Fault)> {
        self.shared.faults.lock().unwrap().clone()
    }

    /// Stops every engine and gives the directory back.
    pub fn stop(self) -> tempfile::TempDir {
        self.nodes.into_iter().for_each(Engine::stop);
        self.directory
    }
}

impl Shared {
    fn on_event(&self, node: u64, event: Event) {
        let handles = self.handles.lock().unwrap().clone();
        let handle = |node: u64| &handles[node as usize - 1];
        match event {
            Event::Dial { from_shard, peer, to_shard } => {
                let listener = TcpListener::bind("127.0.0.1:0").unwrap();
                let ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
                let (theirs, _) = listener.accept().unwrap();
                handle(peer).attach(to_shard, node, from_shard, theirs);
                handle(node).attach(from_shard, peer, to_shard, ours);
            }
            Event::Map { shard, connection, peer, .. } => {
                let arena = handle(peer).arena();
                let mapping = memory::Mapping::map_shared(arena.read_only_fd(), arena.size(), false);
                handle(node).mapped(shard, connection, mapping.ok().map(Arc::new));
            }
            Event::FindPeers { chunk } => {
                let mut holders = self.holders.lock().unwrap();
                let known = holders.iter().filter(|((id, holder), _)| *id == chunk && *holder != node);
                let peers =
                    known.map(|(&(_, node), &complete)| TrackerPeer { node, complete, near: true }).collect();
                holders.entry((chunk, node)).or_insert(false);
                drop(holders);
                handle(node).peers(chunk, peers);
            }
            Event::FindHolders { chunk } => {
                let others = (1..).zip(&handles).filter(|(other, _)| *other != node);
                let replicas = others.flat_map(|(_, handle)| block_on(handle.replicas(Some(chunk))).unwrap());
                let held =
                    replicas.map(|replica| (replica.node, replica.dram_pieces.max(replica.nvme_pieces)));
                handle(node).holders(chunk, held.filter(|&(_, held)| held > 0).collect(), true);
            }
            Event::Holding { chunk, holding } => {
                self.holders.lock().unwrap().insert((chunk, node), holding == Holding::Complete);
            }
            Event::Fault(fault) => self.faults.lock().unwrap().push((node, fault)),
        }
    }
}

/// Bytes that differ from seed to seed.
pub fn bytes(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut word = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut bytes: Vec<u8> = (0..length.div_ceil(8)).flat_map(|_| word().to_le_bytes()).collect();
    bytes.truncate(length);
    bytes
}

/// Writes a chunk as a client does.
pub fn put(handle: &Handle, content: &[u8], durable: bool) -> Result<ChunkReference, EngineError> {
    let mapping =
        memory::Mapping::map_shared(handle.arena().read_write_fd(), handle.arena().size(), true).unwrap();
    let geometry = Geometry::of(content.len() as u64)?;
    block_on(async {
        let writing = handle.create(geometry.size(), geometry.piece_size(), durable).await?;
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
        let reading = handle.open(chunk).await?.handle;
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
