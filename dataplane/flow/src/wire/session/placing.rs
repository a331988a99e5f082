//! Replicas: where they are, brought, checked, pinned, moved, dropped.

use rkyv::{Archive, Deserialize, Serialize};
use serde::Serialize as Json;

use super::ChunkReference;
use crate::chunk::ChunkId;
use crate::swarm::Priority;
use crate::wire::control::ReplicaRecord;

/// Brings a replica of a chunk to this node and keeps it there; answered by [`ChunkFetched`] when it is all
/// there and verified.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct ChunkFetch {
    /// The chunk.
    pub chunk: ChunkReference,
    /// Where to keep it.
    pub device: Device,
    /// How much it matters beside others that are fetched. Of several who want the chunk here, the highest counts.
    pub priority: Priority,
}

/// Where bytes live on a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Archive, Serialize, Deserialize)]
pub enum Device {
    /// The arena.
    Dram,
    /// Files under the data directory.
    Nvme,
    /// The memory of the GPU with this number on its node.
    Gpu(u16),
    /// The memory of whichever GPU of the node has most room, or has the bytes already.
    AnyGpu,
}

impl Device {
    /// Whether it is a GPU, or any GPU.
    pub fn is_gpu(self) -> bool {
        matches!(self, Device::Gpu(_) | Device::AnyGpu)
    }
}

impl std::fmt::Display for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Device::Dram => f.write_str("dram"),
            Device::Nvme => f.write_str("nvme"),
            Device::Gpu(index) => write!(f, "gpu:{index}"),
            Device::AnyGpu => f.write_str("gpu"),
        }
    }
}

/// A text that names no device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a device is dram, nvme, gpu or gpu:N")]
pub struct NoDevice;

impl std::str::FromStr for Device {
    type Err = NoDevice;

    fn from_str(text: &str) -> Result<Self, NoDevice> {
        match text {
            "dram" => Ok(Device::Dram),
            "nvme" => Ok(Device::Nvme),
            "gpu" => Ok(Device::AnyGpu),
            _ => {
                let number = text
                    .strip_prefix("gpu:")
                    .filter(|number| number.bytes().all(|byte| byte.is_ascii_digit()));
                number.and_then(|number| number.parse().ok()).map(Device::Gpu).ok_or(NoDevice)
            }
        }
    }
}

impl Json for Device {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// How a fetch went.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize, Json)]
pub struct ChunkFetched {
    /// From the first request to the last piece verified, in microseconds.
    pub elapsed_us: u64,
    /// Pieces that were here already.
    pub pieces_local: u32,
    /// Pieces from nodes that held the whole chunk when the fetch began.
    pub pieces_from_origin: u32,
    /// Pieces from nodes that were receivers themselves.
    pub pieces_from_peers: u32,
    /// Pieces that failed their checksum and were fetched again.
    pub pieces_corrupt: u32,
    /// Pieces that arrived twice.
    pub pieces_duplicate: u32,
    /// Pieces verified at points in time: (microseconds since the first request, pieces), about 64 points.
    pub progress: Vec<(u64, u32)>,
}

/// Reads a whole local chunk, checks every piece and the BLAKE3 digest; answered by [`ChunkVerified`].
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct ChunkVerify {
    /// The chunk.
    pub id: ChunkId,
}

/// The digest that the bytes have.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct ChunkVerified {
    /// BLAKE3 of the bytes as they are; of a chunk whose name is no digest that name, if all pieces have their checksums.
    pub digest: ChunkId,
}

/// Asks for the replicas of the whole cluster, in the order of their chunks; answered by [`ChunkListing`].
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct ChunkList {
    /// Only this chunk, or all.
    pub chunk: Option<ChunkId>,
    /// Only chunks after this one; `None` for the first page.
    pub after: Option<ChunkId>,
}

/// A page of the replicas of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct ChunkListing {
    /// One entry for each chunk and node, ascending. All of a chunk are on one page, which has at most as many as a
    /// cluster may have nodes beyond [`crate::limits::LIST_ENTRIES_MAX`].
    // A record can be refused for its geometry, and a plain list that breaks off leaks what it allocated.
    #[rkyv(with = rkyv::with::Map<rkyv::with::Identity>)]
    pub replicas: Vec<ReplicaRecord>,
    /// Names of nodes that did not answer.
    pub silent: Vec<String>,
    /// Whether there are more after the last.
    pub more: bool,
}

/// Sets or clears the pin of a chunk wherever it is; answered by [`Done`](super::Done).
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct ChunkPin {
    /// The chunk.
    pub id: ChunkId,
    /// Whether it must not be evicted.
    pub pinned: bool,
    /// Only on this node; everywhere when empty.
    pub node: String,
}

/// Copies or moves a chunk to a node and device; answered by [`ChunkFetched`].
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct ChunkPlace {
    /// The chunk.
    pub id: ChunkId,
    /// Name of the node that shall have it.
    pub node: String,
    /// The device there.
    pub device: Device,
    /// Whether the other replicas are dropped afterwards.
    pub remove_source: bool,
    /// Where to move it from; any other replica when empty.
    pub from: String,
}

/// Drops replicas of a chunk; answered by [`Done`](super::Done).
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct ChunkRemove {
    /// The chunk.
    pub id: ChunkId,
    /// Only on this node; everywhere when empty.
    pub node: String,
    /// Only from this device; from all when `None`.
    pub device: Option<Device>,
    /// Even if a key still refers to it or it is pinned.
    pub force: bool,
}
