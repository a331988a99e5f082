//! Values of any size under any key: in memory, where what was used least goes first, or durable in the catalog.
//!
//! Any node is asked for any key. Each key belongs to one node, which decides what is written under it in which order, and on that node to one shard,
//! which keeps what is small. What is larger than [`INLINE_VALUE_MAX`] is a chunk.

mod elsewhere; // on other nodes
mod here; // on the node that a key belongs to
mod large; // values that are chunks
mod name; // under which names the catalog keeps them

use std::sync::Arc;

use catalog::CatalogError;
use engine::EngineError;
use flow::limits::INLINE_VALUE_MAX;
use flow::wire::session::{ChunkReference, Device, Failure, FailureCode, GpuRecord};
use hyper::body::Bytes;

use crate::node::Node;
use crate::{failure, operate};

pub(crate) use elsewhere::{answer, follow_members};
pub(crate) use here::{Locks, dropped, manifest_of, only_chunk};
pub(crate) use large::{Input, Opened, WriteError, Written, write_chunk};
pub(crate) use name::{NameError, check as check_name};

/// What kind of text a value is. The node keeps it as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A JSON text.
    Json,
    /// A JSON text of something that only clients understand.
    Pickle,
}

/// How a value is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keep {
    /// In memory, until the room is wanted.
    Memory,
    /// In memory, until the node stops.
    Pinned,
    /// Durably.
    Durable,
    /// On the GPU of this number, until the node stops.
    Gpu(u16),
}

impl Keep {
    /// The device that large values are kept on so.
    fn device(self) -> Device {
        match self {
            Keep::Memory | Keep::Pinned => Device::Dram,
            Keep::Durable => Device::Nvme,
            Keep::Gpu(index) => Device::Gpu(index),
        }
    }
}

/// A value.
#[derive(Debug, Clone)]
pub(crate) struct Value {
    pub(crate) kind: Kind,
    pub(crate) content: Content,
    pub(crate) keep: Keep,
    /// How long it lives, or still lives, in milliseconds.
    pub(crate) ttl_ms: Option<u64>,
}

/// The bytes of a value.
#[derive(Debug, Clone)]
pub(crate) enum Content {
    Inline(Bytes),
    Chunk(ChunkReference),
}

impl Content {
    pub(crate) fn length(&self) -> u64 {
        match self {
            Content::Inline(bytes) => bytes.len() as u64,
            Content::Chunk(chunk) => chunk.geometry.size(),
        }
    }
}

/// What is known of a value without its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct About {
    pub(crate) key: String,
    pub(crate) keep: Keep,
    /// Bytes of the value.
    pub(crate) size: u64,
    /// When it was used last, milliseconds since 1970.
    pub(crate) used_ms: u64,
}

/// Why a value was not written or read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ValueError {
    #[error("Insufficient storage space")]
    Full,
    #[error("{}", .0.message)]
    Failed(Failure),
}

impl From<EngineError> for ValueError {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::ValuesFull { .. }
            | EngineError::MemoryFull { .. }
            | EngineError::GpuFull { .. }
            | EngineError::DiskFull(_) => Self::Full,
            error => Self::Failed(error.failure()),
        }
    }
}

impl From<Failure> for ValueError {
    fn from(failure: Failure) -> Self {
        match failure.code {
            FailureCode::MemoryFull | FailureCode::DiskFull => Self::Full,
            _ => Self::Failed(failure),
        }
    }
}

impl From<CatalogError> for ValueError {
    fn from(error: CatalogError) -> Self {
        Self::Failed(failure::of_catalog(&error))
    }
}

/// Bytes of memory that a value counts; those on a GPU count there.
fn size_of(key: &str, keep: Keep, length: u64) -> u64 {
    key.len() as u64 + if matches!(keep, Keep::Gpu(_)) { 0 } else { length }
}

/// The GPUs of the node that a key belongs to.
pub(crate) async fn gpus(node: &Arc<Node>, key: &str) -> Result<Vec<GpuRecord>, ValueError> {
    match elsewhere::owner(node, key) {
        None => Ok(node.engine.gpus()),
        Some(owner) => Ok(operate::gpus(node, &owner.name).await?),
    }
}

/// Writes a value. What was there before stays when this fails.
pub(crate) async fn write(
    node: &Arc<Node>,
    key: &str,
    kind: Kind,
    bytes: Bytes,
    keep: Keep,
    ttl_ms: Option<u64>,
) -> Result<(), ValueError> {
    let (node, key) = (node.clone(), key.to_owned());
    // It is carried out to its end, also when whoever asked is gone.
    let written = tokio::spawn(async move {
        let owner = elsewhere::owner(&node, &key);
        // The rest of the request's body need not stay for a small one.
        let (content, _chunk) = if bytes.len() <= INLINE_VALUE_MAX {
            (Content::Inline(Bytes::copy_from_slice(&bytes)), None)
        } else {
            let counts_here = owner.is_none() && matches!(keep, Keep::Memory | Keep::Pinned);
            if counts_here {
                here::make_room(&node, &key, bytes.len() as u64).await?;
            }
            // A node that is asked for others need not have their GPUs.
            let is_away = owner.is_some() && matches!(keep, Keep::Gpu(_));
            let device = if is_away { Device::Dram } else { keep.device() };
            let chunk = large::put(&node, bytes, device).await?;
            (Content::Chunk(chunk.reference()), Some(chunk))
        };
        let value = Value { kind, content, keep, ttl_ms };
        match owner {
            None => here::write(&node, &key, value, false).await,
            Some(owner) => elsewhere::write(&node, &owner, &key, value, false).await,
        }
    });
    written.await.unwrap_or_else(|_| Err(failure::internal("writing the value failed").into()))
}

/// Reads a value.
pub(crate) async fn read(node: &Arc<Node>, key: &str) -> Result<Option<Value>, ValueError> {
    match elsewhere::owner(node, key) {
        None => here::read(node, key).await,
        Some(owner) => Ok(elsewhere::read(node, &owner, key).await?.map(|(value, _)| value)),
    }
}

/// Opens the chunk of a value, so that it stays while it is read.
pub(crate) async fn open(node: &Arc<Node>, chunk: ChunkReference) -> Result<Arc<Opened>, ValueError> {
    Ok(Opened::open(node, chunk).await?)
}

/// Removes a key; whether it was there.
pub(crate) async fn release(node: &Arc<Node>, key: &str) -> Result<bool, ValueError> {
    let (node, key) = (node.clone(), key.to_owned());
    let released = tokio::spawn(async move {
        match elsewhere::owner(&node, &key) {
            None => here::release(&node, &key).await,
            Some(owner) => elsewhere::release(&node, &owner, &key).await,
        }
    });
    released.await.unwrap_or_else(|_| Err(failure::internal("releasing the key failed").into()))
}

/// Keeps a value in another way, as it is at that moment; how it was kept before.
pub(crate) async fn rekeep(node: &Arc<Node>, key: &str, keep: Keep) -> Result<Option<Keep>, ValueError> {
    let (node, key) = (node.clone(), key.to_owned());
    let moved = tokio::spawn(async move {
        match elsewhere::owner(&node, &key) {
            None => here::rekeep(&node, &key, keep).await,
            Some(owner) => elsewhere::rekeep(&node, &owner, &key, keep).await,
        }
    });
    moved.await.unwrap_or_else(|_| Err(failure::internal("moving the value failed").into()))
}

/// What is known of a value.
pub(crate) async fn about(node: &Arc<Node>, key: &str) -> Result<Option<About>, ValueError> {
    let found = match elsewhere::owner(node, key) {
        None => match here::read(node, key).await? {
            Some(value) => Some((value, here::used_ms(node, key).await?)),
            None => None,
        },
        Some(owner) => elsewhere::read(node, &owner, key).await?,
    };
    let about = |(value, used_ms): (Value, u64)| About {
        key: key.to_owned(),
        keep: value.keep,
        size: value.content.length(),
        used_ms,
    };
    Ok(found.map(about))
}

/// What is known of all values of this node.
pub(crate) async fn list(node: &Arc<Node>) -> Result<Vec<About>, ValueError> {
    here::list(node).await
}
