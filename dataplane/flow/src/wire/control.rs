//! Node to node: membership, trackers, replicas.

use rkyv::{Archive, Deserialize, Serialize};
use serde::Serialize as Json;

use super::session::Device;
use crate::chunk::{ChunkId, Geometry};

/// Names a node for its lifetime on one data directory: random, never zero.
pub type NodeId = u64;

/// One node as the cluster knows it.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize, Json)]
pub struct NodeRecord {
    /// The node.
    pub node: NodeId,
    /// Its name, unique in the cluster.
    pub name: String,
    /// Where its peers reach it: `host:port`.
    pub address: String,
    /// The rack it stands in; empty when unknown.
    pub rack: String,
    /// How many shards it runs.
    pub shards: u16,
    /// Grows with each start of the node: milliseconds since 1970 when it started.
    pub incarnation: u64,
    /// Whether it takes part, is being drained, or is not heard from.
    pub state: NodeState,
    /// Whether it holds the catalog.
    pub head: bool,
    /// Bytes of DRAM it may hold.
    pub memory_limit: u64,
    /// Bytes of DRAM in use.
    pub memory_used: u64,
    /// Bytes of chunks on its NVMe device.
    pub nvme_used: u64,
}

/// What the head knows of a node's health.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize, Deserialize, Json)]
#[serde(rename_all = "lowercase")]
pub enum NodeState {
    /// Heard from within the last heartbeats.
    Alive,
    /// Gives its chunks away; no new ones are placed on it.
    Draining,
    /// Not heard from; its soft state is dropped.
    Dead,
}

/// A node asks the head to take it in; answered by [`Membership`] or a `Failure`.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Join {
    /// The node.
    pub record: NodeRecord,
}

/// A node's sign of life to the head; answered by [`MembersChanged`], or by [`Membership`] when the head does not know what
/// has changed since that epoch.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Beat {
    /// The node.
    pub node: NodeId,
    /// Which start of it, as in [`NodeRecord`].
    pub incarnation: u64,
    /// The membership epoch that the node knows; zero for none.
    pub epoch: u64,
    /// Bytes of DRAM it may hold.
    pub memory_limit: u64,
    /// Bytes of DRAM in use.
    pub memory_used: u64,
    /// Bytes of chunks on its NVMe device.
    pub nvme_used: u64,
    /// Version leases that clients of this node still hold.
    pub leases: Vec<u64>,
}

/// All members.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Membership {
    /// Grows with every change.
    pub epoch: u64,
    /// The cluster, random at its first start.
    pub cluster: u64,
    /// The members.
    pub nodes: Vec<NodeRecord>,
    /// Versions of keys that were forgotten since the head started. When it grows, chunks may have lost their last
    /// reference.
    pub forgotten: u64,
}

/// How the members differ from those of an earlier epoch.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct MembersChanged {
    /// The earlier epoch.
    pub since: u64,
    /// The present one.
    pub epoch: u64,
    /// The cluster, as in [`Membership`].
    pub cluster: u64,
    /// Members that came or are others than before.
    pub nodes: Vec<NodeRecord>,
    /// Who is no member any more.
    pub gone: Vec<NodeId>,
    /// As in [`Membership`].
    pub forgotten: u64,
}

/// How much of a chunk a node has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub enum Holding {
    /// All of it.
    Complete,
    /// Some of it, and more arrives.
    Partial,
    /// Nothing any more.
    None,
}

/// A node tells a tracker what it holds; answered by `Done`.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct TrackerAnnounce {
    /// The holder.
    pub node: NodeId,
    /// What it holds, chunk by chunk.
    pub holdings: Vec<(ChunkId, Holding)>,
}

/// A node joins a swarm and asks for peers; answered by [`TrackerPeers`].
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct TrackerJoin {
    /// The chunk.
    pub chunk: ChunkId,
    /// The receiver.
    pub node: NodeId,
    /// The most peers wanted.
    pub limit: u32,
}

/// Members of a swarm to fetch from.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct TrackerPeers {
    /// The chunk.
    pub chunk: ChunkId,
    /// The peers, holders of all of it first.
    pub peers: Vec<TrackerPeer>,
}

/// One member of a swarm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct TrackerPeer {
    /// The node.
    pub node: NodeId,
    /// Whether it holds all of the chunk.
    pub complete: bool,
    /// Whether it stands in the asker's rack.
    pub near: bool,
}

/// Asks one node for the replicas it has, in the order of their chunks; answered by [`ReplicaReport`].
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct ReplicaQuery {
    /// Only this chunk, or all.
    pub chunk: Option<ChunkId>,
    /// Only chunks after this one; `None` for the first page.
    pub after: Option<ChunkId>,
    /// The most entries wanted.
    pub limit: u32,
}

/// A page of the replicas on one node.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct ReplicaReport {
    /// One entry for each chunk, ascending; at most [`crate::limits::LIST_ENTRIES_MAX`].
    // A record can be refused for its geometry, and a plain list that breaks off leaks what it allocated.
    #[rkyv(with = rkyv::with::Map<rkyv::with::Identity>)]
    pub replicas: Vec<ReplicaRecord>,
    /// Whether there are more after the last.
    pub more: bool,
}

/// The copies of one chunk on one node.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct ReplicaRecord {
    /// The chunk.
    pub chunk: ChunkId,
    /// How it is cut.
    pub geometry: Geometry,
    /// BLAKE3 digest of the descriptor; see [`crate::chunk::Descriptor::digest`].
    pub descriptor_digest: [u8; 32],
    /// The node.
    pub node: NodeId,
    /// Verified pieces in DRAM.
    pub dram_pieces: u32,
    /// Pieces on NVMe.
    pub nvme_pieces: u32,
    /// Pieces on each GPU that has any, by the numbers of the GPUs.
    pub gpus: Vec<GpuPieces>,
    /// Whether it must not be evicted.
    pub pinned: bool,
    /// Whether a transfer into this node is under way.
    pub fetching: bool,
}

/// Pieces of a chunk on one GPU of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct GpuPieces {
    /// The number of the GPU.
    pub gpu: u16,
    /// Pieces there.
    pub pieces: u32,
}

impl ReplicaRecord {
    /// Pieces on a device; on any GPU the most that one has.
    pub fn pieces_on(&self, device: Device) -> u32 {
        match device {
            Device::Dram => self.dram_pieces,
            Device::Nvme => self.nvme_pieces,
            Device::Gpu(index) => {
                self.gpus.iter().find(|there| there.gpu == index).map_or(0, |there| there.pieces)
            }
            Device::AnyGpu => self.gpus.iter().map(|there| there.pieces).max().unwrap_or(0),
        }
    }

    /// Pieces on the device that has most.
    pub fn most_pieces(&self) -> u32 {
        let devices = [Device::Dram, Device::Nvme, Device::AnyGpu];
        devices.map(|device| self.pieces_on(device)).into_iter().max().unwrap_or(0)
    }

    /// Whether all of the chunk is on one device.
    pub fn is_whole(&self) -> bool {
        self.most_pieces() >= self.geometry.pieces()
    }

    /// The devices that have any of it, and how many pieces.
    pub fn devices(&self) -> impl Iterator<Item = (Device, u32)> {
        let host = [(Device::Dram, self.dram_pieces), (Device::Nvme, self.nvme_pieces)];
        let gpus = self.gpus.iter().map(|there| (Device::Gpu(there.gpu), there.pieces));
        host.into_iter().chain(gpus).filter(|(_, pieces)| *pieces > 0)
    }
}
