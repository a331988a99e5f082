//! Node to node: values, which one node of the cluster keeps for all.

use rkyv::{Archive, Deserialize, Serialize};

use super::session::ChunkReference;

/// Asks the node that a key belongs to for its value; answered by [`ValueFound`].
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct ValueRead {
    /// The key: any text.
    pub key: String,
}

/// The value of a key.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct ValueFound {
    /// The value; `None` when there is none.
    pub value: Option<ValueRecord>,
    /// When it was used last, milliseconds since 1970.
    pub used_ms: u64,
}

/// Writes a value on the node that its key belongs to; answered by `Done`. A chunk must stay where it is until then.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct ValueWrite {
    /// The key.
    pub key: String,
    /// The value.
    pub value: ValueRecord,
    /// Whether it is written only where there is none: it comes from the node that the key belonged to before.
    pub if_absent: bool,
}

/// Removes a key on the node that it belongs to; answered by [`ValueReleased`].
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct ValueRelease {
    /// The key.
    pub key: String,
}

/// A key was removed.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct ValueReleased {
    /// Whether it was there.
    pub was_there: bool,
}

/// Keeps a value in another way, on the node that its key belongs to and as it is at that moment; answered by
/// [`ValueMoved`].
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct ValueMove {
    /// The key.
    pub key: String,
    /// How it is kept from then on.
    pub keep: ValueKeep,
}

/// A value is kept in another way.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct ValueMoved {
    /// How it was kept before; `None` when there is none.
    pub before: Option<ValueKeep>,
}

/// A value and how it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct ValueRecord {
    /// What kind of text it is.
    pub kind: ValueKind,
    /// How it is kept.
    pub keep: ValueKeep,
    /// How long it lives from now on, in milliseconds; `None` for ever.
    pub ttl_ms: Option<u64>,
    /// Its bytes.
    pub content: ValueContent,
}

/// What kind of text a value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub enum ValueKind {
    /// JSON.
    Json,
    /// JSON of something that only clients understand.
    Pickle,
}

/// How a value is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub enum ValueKeep {
    /// In memory, until the room is wanted.
    Memory,
    /// In memory, until the node stops.
    Pinned,
    /// Durably.
    Durable,
    /// On the GPU of this number, until the node stops.
    Gpu(u16),
}

/// The bytes of a value.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub enum ValueContent {
    /// Here; at most [`crate::limits::INLINE_VALUE_MAX`].
    Inline(Vec<u8>),
    /// In a chunk.
    Chunk(ChunkReference),
}
