//! Why a request to the engine failed.

use flow::chunk::{ChunkId, GeometryError};
use flow::wire::session::{Device, Failure, FailureCode};

/// Nodes that an error names.
const SENDERS_TOLD: usize = 8;

/// Why a request to the engine failed. Nothing is left half done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// A size or piece size outside the limits.
    #[error(transparent)]
    Geometry(#[from] GeometryError),
    /// The calls make no sense together.
    #[error("{0}")]
    Invalid(String),
    /// A handle that was never given out, or is closed.
    #[error("handle {0} is not open")]
    NoHandle(u64),
    /// The node has no replica of the chunk.
    #[error("chunk {0} is not on this node")]
    NoChunk(ChunkId),
    /// A larger chunk than the device can ever hold.
    #[error("{wanted} bytes of memory are wanted, and all {limit} bytes are pinned, leased or in flight")]
    MemoryFull {
        /// Bytes wanted.
        wanted: u64,
        /// Bytes of the arena.
        limit: u64,
    },
    /// There is no such GPU on this node.
    #[error("there is no device {wanted} on this node, which has {count} GPUs")]
    NoGpu {
        /// The one that was wanted.
        wanted: Device,
        /// How many there are.
        count: u16,
    },
    /// No room on a GPU.
    #[error("{wanted} bytes are wanted on gpu:{gpu}, where {free} of {limit} bytes are free for this node")]
    GpuFull {
        /// Its number.
        gpu: u16,
        /// Bytes wanted.
        wanted: u64,
        /// Bytes free.
        free: u64,
        /// Bytes that the node may take there.
        limit: u64,
    },
    /// A GPU fails.
    #[error("gpu:{gpu}: {reason}")]
    Gpu {
        /// Its number.
        gpu: u16,
        /// What is said of it.
        reason: String,
    },
    /// No room on NVMe.
    #[error("the NVMe device is full: {0}")]
    DiskFull(String),
    /// Reading or writing a chunk file failed.
    #[error("{0}")]
    Io(String),
    /// Bytes failed their checksum and nobody had them right.
    #[error("chunk {chunk}: piece {piece} is damaged on this node and no other node has it")]
    Corrupt {
        /// The chunk.
        chunk: ChunkId,
        /// The piece.
        piece: u32,
    },
    /// No live node has the bytes.
    #[error("chunk {chunk}: {pieces} of {of} pieces are on this node and no live node has the others")]
    Unavailable {
        /// The chunk.
        chunk: ChunkId,
        /// Pieces that are here.
        pieces: u32,
        /// Pieces that there are.
        of: u32,
    },
    /// Whoever has the bytes sent bad ones.
    #[error(
        "chunk {chunk}: {pieces} of {of} pieces are on this node, and of the others only damaged copies came: {}",
        in_words(senders)
    )]
    Spoiled {
        /// The chunk.
        chunk: ChunkId,
        /// Pieces that are here.
        pieces: u32,
        /// Pieces that there are.
        of: u32,
        /// Names of the nodes that sent damaged pieces, and how many each.
        senders: Vec<(String, u32)>,
    },
    /// The chunk is pinned, or someone reads it.
    #[error("chunk {0} is in use")]
    InUse(ChunkId),
    /// There is no room for a value, whatever else would go.
    #[error("{wanted} bytes of values are wanted where {limit} may be, and what is kept must stay")]
    ValuesFull {
        /// Bytes of the value and its key.
        wanted: u64,
        /// Bytes that all values of the node may have.
        limit: u64,
    },
    /// The engine is shutting down.
    #[error("the node is shutting down")]
    Stopping,
}

impl EngineError {
    /// The failure as it goes to a client.
    pub fn failure(&self) -> Failure {
        let (code, hint) = match self {
            Self::Geometry(_) | Self::Invalid(_) => (FailureCode::Invalid, ""),
            Self::NoHandle(_) => (FailureCode::NotFound, ""),
            Self::NoChunk(_) => (FailureCode::NotFound, "`shoal chunk ls` shows where it is"),
            Self::MemoryFull { .. } => (
                FailureCode::MemoryFull,
                "unpin chunks, put without --volatile, or start the node with a larger --max-memory",
            ),
            Self::ValuesFull { .. } => {
                (FailureCode::MemoryFull, "release keys that must stay, or raise the limit of values")
            }
            Self::NoGpu { .. } => (FailureCode::Invalid, "`shoal status` shows the GPUs of a node"),
            Self::GpuFull { .. } => (
                FailureCode::MemoryFull,
                "move chunks away from the GPU, or start the node with a larger --gpu-memory",
            ),
            Self::Gpu { .. } => (FailureCode::Io, "`nvidia-smi` shows how the GPU is"),
            Self::DiskFull(_) => {
                (FailureCode::DiskFull, "remove keys, or start the node with a --data-dir on a larger device")
            }
            Self::Io(_) => (FailureCode::Io, "`shoal doctor` checks the data directory"),
            Self::Corrupt { .. } => (FailureCode::Corrupt, "put the data again"),
            Self::Unavailable { .. } => (
                FailureCode::Unavailable,
                "`shoal chunk info` and `shoal node ls` show which nodes are missing; what was put with --volatile is gone \
                 when the last node that had it stops",
            ),
            Self::Spoiled { .. } => (
                FailureCode::Corrupt,
                "check memory, disk and network of the nodes that sent them, and put the data again on another node",
            ),
            Self::InUse(_) => (FailureCode::Conflict, "unpin it, or use --force"),
            Self::Stopping => (FailureCode::Draining, "ask another node"),
        };
        Failure { code, message: self.to_string(), hint: hint.to_owned() }
    }
}

fn in_words(senders: &[(String, u32)]) -> String {
    let told = senders.iter().take(SENDERS_TOLD).map(|(name, pieces)| format!("{pieces} from node '{name}'"));
    let more = senders.len().saturating_sub(SENDERS_TOLD);
    let rest = (more > 0).then(|| format!("and more from {more} other nodes"));
    told.chain(rest).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_sent_damaged_pieces_is_told_up_to_a_length() {
        let sender = |at: usize| (format!("n{at}"), 3);
        let error = |count: usize| EngineError::Spoiled {
            chunk: ChunkId([1; 32]),
            pieces: 1,
            of: 9,
            senders: (1..=count).map(sender).collect(),
        };
        assert!(
            error(2).to_string().ends_with("only damaged copies came: 3 from node 'n1', 3 from node 'n2'")
        );
        assert!(error(300).to_string().ends_with("and more from 292 other nodes"));
        assert_eq!(error(1).failure().code, FailureCode::Corrupt);
    }
}
