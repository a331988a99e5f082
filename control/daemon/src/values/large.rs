//! Values that are chunks: how they get into memory or onto NVMe, and out again.

use std::sync::Arc;

use async_trait::async_trait;
use engine::EngineError;
use flow::chunk::{ChunkId, Geometry};
use flow::swarm::Priority;
use flow::verify::checksum_of;
use flow::wire::session::{ChunkReference, Device, FilledPiece, SlotRef};
use hyper::body::Bytes;

use super::ValueError;
use crate::failure;
use crate::node::Node;

/// How often room is made for a chunk before it is given up.
const ATTEMPTS: usize = 8;

/// A chunk that was written here and stays until this is dropped.
pub(crate) struct Written {
    node: Arc<Node>,
    chunk: ChunkReference,
    handle: u64,
}

impl Written {
    pub(crate) fn reference(&self) -> ChunkReference {
        self.chunk
    }
}

impl Drop for Written {
    fn drop(&mut self) {
        let (node, id, handle) = (self.node.clone(), self.chunk.id, self.handle);
        tokio::spawn(async move {
            let _ = node.engine.close(handle).await;
            node.collector.release([id]);
        });
    }
}

/// Writes the bytes of a value as a chunk.
pub(super) async fn put(node: &Arc<Node>, bytes: Bytes, device: Device) -> Result<Written, ValueError> {
    node.check_takes_chunks()?;
    let geometry = Geometry::of(bytes.len() as u64).map_err(EngineError::from)?;
    for _ in 0..ATTEMPTS {
        match write_chunk(node, geometry, device, &mut bytes.clone()).await {
            Ok(written) => return Ok(written),
            Err(WriteError::Engine(EngineError::MemoryFull { .. })) if device == Device::Dram => {
                if !node.engine.free_values(bytes.len() as u64).await? {
                    return Err(ValueError::Full);
                }
            }
            Err(WriteError::Engine(error)) => return Err(error.into()),
            Err(WriteError::Source(reason)) => return Err(failure::internal(reason).into()),
        }
    }
    Err(ValueError::Full)
}

/// Why a chunk was not written.
#[derive(Debug)]
pub(crate) enum WriteError {
    /// The engine did not take it.
    Engine(EngineError),
    /// Its bytes did not come.
    Source(String),
}

impl From<EngineError> for WriteError {
    fn from(error: EngineError) -> Self {
        Self::Engine(error)
    }
}

/// Bytes that come one piece after the other.
#[async_trait]
pub(crate) trait Input: Send {
    /// The next piece, which begins at `offset` and is so long; or why it does not come.
    async fn next(&mut self, offset: u64, length: usize) -> Result<Bytes, String>;
}

#[async_trait]
impl Input for Bytes {
    async fn next(&mut self, offset: u64, length: usize) -> Result<Bytes, String> {
        Ok(self.slice(offset as usize..offset as usize + length))
    }
}

/// Writes a chunk onto a device.
pub(crate) async fn write_chunk(
    node: &Arc<Node>,
    geometry: Geometry,
    device: Device,
    input: &mut dyn Input,
) -> Result<Written, WriteError> {
    let writing = Unsealed::begin(node, geometry, device).await?;
    let id = fill(node, writing.handle, geometry, input).await?;
    node.collector.hold(id).await;
    match node.engine.seal(writing.handle, id, geometry.size()).await {
        Ok(sealed) => Ok(Written { node: node.clone(), chunk: sealed.chunk, handle: sealed.handle }),
        Err(error) => {
            node.collector.release([id]);
            Err(error.into())
        }
    }
}

/// A chunk that is being written. Dropped, it is given up, which does nothing to one that is sealed.
struct Unsealed {
    node: Arc<Node>,
    handle: u64,
}

impl Unsealed {
    async fn begin(node: &Arc<Node>, geometry: Geometry, device: Device) -> Result<Self, EngineError> {
        let handle = node.engine.create(geometry.size(), geometry.piece_size(), device).await?;
        Ok(Self { node: node.clone(), handle })
    }
}

impl Drop for Unsealed {
    fn drop(&mut self) {
        let (node, handle) = (self.node.clone(), self.handle);
        tokio::spawn(async move { node.engine.abort(handle).await });
    }
}

/// Copies the bytes into the slots of a chunk; gives its id. Hashing and copying go on in a thread of their own, since
/// this one serves everybody.
async fn fill(
    node: &Arc<Node>,
    handle: u64,
    geometry: Geometry,
    input: &mut dyn Input,
) -> Result<ChunkId, WriteError> {
    let mut hasher = blake3::Hasher::new();
    for piece in 0..geometry.pieces() {
        let length = geometry.length(piece);
        let part = input.next(geometry.offset(piece), length as usize).await.map_err(WriteError::Source)?;
        let slots = node.engine.lease(handle, piece, 1).await?;
        let slot = slots.first().filter(|slot| slot.length == length && part.len() == length as usize);
        let Some(&SlotRef { offset, .. }) = slot else {
            return Err(EngineError::Invalid(format!("piece {piece} has no slot of its length")).into());
        };
        let owner = node.clone();
        let copied = tokio::task::spawn_blocking(move || {
            let mut slot = owner.mapping.writer(offset, part.len())?;
            slot.copy_from_slice(&part);
            hasher.update(&part);
            Some((hasher, checksum_of(&part)))
        });
        let copied = copied.await.ok().flatten();
        let checksum;
        (hasher, checksum) =
            copied.ok_or_else(|| EngineError::Invalid(format!("piece {piece} was not copied")))?;
        node.engine.fill(handle, vec![FilledPiece { piece, length, checksum }]).await?;
    }
    Ok(ChunkId(hasher.finalize().into()))
}

/// A chunk that is open for reading until this is dropped.
pub(crate) struct Opened {
    node: Arc<Node>,
    chunk: ChunkReference,
    handle: u64,
}

impl Drop for Opened {
    fn drop(&mut self) {
        let (node, handle) = (self.node.clone(), self.handle);
        tokio::spawn(async move { node.engine.close(handle).await });
    }
}

/// A piece of an open chunk, in the node's memory. Nothing else may happen to it until this is dropped.
struct View {
    opened: Arc<Opened>,
    slot: SlotRef,
}

impl AsRef<[u8]> for View {
    fn as_ref(&self) -> &[u8] {
        self.opened.node.mapping.read(self.slot.offset, self.slot.length as usize).unwrap_or_default()
    }
}

impl Drop for View {
    fn drop(&mut self) {
        let (opened, piece) = (self.opened.clone(), self.slot.piece);
        tokio::spawn(async move { opened.node.engine.release(opened.handle, vec![piece]).await });
    }
}

impl Opened {
    pub(super) async fn open(node: &Arc<Node>, chunk: ChunkReference) -> Result<Arc<Self>, EngineError> {
        let opened = node.engine.open(chunk, Priority::Normal).await?;
        Ok(Arc::new(Self { node: node.clone(), chunk, handle: opened.handle }))
    }

    /// Bytes of the chunk.
    pub(crate) fn size(&self) -> u64 {
        self.chunk.geometry.size()
    }

    /// How many pieces it has.
    pub(crate) fn pieces(&self) -> u32 {
        self.chunk.geometry.pieces()
    }

    /// One piece, where it lies.
    pub(crate) async fn piece(self: &Arc<Self>, piece: u32) -> Result<Bytes, EngineError> {
        let slots = self.node.engine.next(self.handle, piece, 1, 1).await?;
        let Some(&slot) = slots.first() else {
            return Err(EngineError::Invalid(format!("piece {piece} was given out before")));
        };
        let view = View { opened: self.clone(), slot };
        if view.as_ref().len() != slot.length as usize {
            return Err(EngineError::Invalid(format!("piece {piece} lies outside the arena")));
        }
        Ok(Bytes::from_owner(view))
    }

    /// All of it, copied.
    pub(crate) async fn all_bytes(self: &Arc<Self>) -> Result<Bytes, ValueError> {
        let size = usize::try_from(self.size()).map_err(|_| failure::internal("the value is too large"))?;
        let mut all = Vec::with_capacity(size);
        for piece in 0..self.pieces() {
            all.extend_from_slice(&self.piece(piece).await?);
        }
        Ok(all.into())
    }
}
