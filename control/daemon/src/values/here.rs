//! Values on the node that their keys belong to.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use catalog::{Consistency, Entry, Operation, Put, Scan, Write};
use engine::{Held, HeldContent, Reservation};
use flow::chunk::{ChunkId, Geometry};
use flow::limits::INLINE_VALUE_MAX;
use flow::swarm::Priority;
use flow::values::spread;
use flow::wire::session::{ChunkReference, Device};
use plan::manifest::{ChunkEntry, Extent, FileEntry, FileKind, Files, Manifest, Shape};
use tokio::sync::{Mutex, MutexGuard};

use super::name::{PREFIX, key_of, name_of};
use super::{About, Content, Keep, Kind, Value, ValueError, large, size_of};
use crate::node::{Clock, Node};
use crate::{failure, keys};

/// Keys that share an order of writes.
const LOCKS: usize = 256;
/// Entries of the catalog that are read at once.
const SCAN_STEP: usize = 1024;
/// The label that says what kind of text a durable value is.
const KIND: &str = "gswarm.kind";

/// The order of writes, key by key.
#[derive(Debug)]
pub(crate) struct Locks {
    locks: Vec<Mutex<()>>,
    /// Whether the shards know all durable keys, so that a key that they do not know is not in the catalog.
    are_loaded: AtomicBool,
}

impl Default for Locks {
    fn default() -> Self {
        Self { locks: (0..LOCKS).map(|_| Mutex::default()).collect(), are_loaded: false.into() }
    }
}

impl Locks {
    /// Says that there may be durable keys that the shards do not know.
    pub(super) fn unload(&self) {
        self.are_loaded.store(false, Ordering::Relaxed);
    }

    async fn lock(&self, key: &str) -> MutexGuard<'_, ()> {
        self.locks[(spread(key) % LOCKS as u64) as usize].lock().await
    }
}

/// Counts the durable values that are in the catalog and belong here.
pub(super) async fn load(node: &Arc<Node>, is_ours: impl Fn(&str) -> bool) -> Result<(), ValueError> {
    let mut after = None;
    loop {
        let scan = Scan { prefix: PREFIX.into(), after, limit: SCAN_STEP, contents: false };
        let page = node.catalog.scan(&scan, Consistency::Quorum).await?;
        for entry in page.entries {
            let Some(key) = key_of(&entry.key).filter(|key| is_ours(key)) else { continue };
            let _order = node.values.lock(&key).await;
            if node.engine.value(&key, 0).await?.is_none() {
                count_durable(node, &key, &entry).await?;
            }
        }
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    node.values.are_loaded.store(true, Ordering::Relaxed);
    Ok(())
}

/// Counts what is in the catalog, be there room for it or not.
async fn count_durable(node: &Node, key: &str, entry: &Entry) -> Result<(), ValueError> {
    let ttl_ms = entry.expires_ms.map(|end| end.saturating_sub(Clock::calendar_ms()).max(1));
    let held = Held {
        content: HeldContent::Catalog,
        kind: Kind::Json as u8,
        size: size_of(key, Keep::Durable, entry.size),
        is_fixed: true,
        ttl_ms,
        used_ms: entry.updated_ms,
    };
    Ok(node.engine.put_value_anyway(key, held).await?)
}

/// Makes room for a value before its bytes take memory. What cannot fit displaces nothing.
pub(super) async fn make_room(node: &Node, key: &str, length: u64) -> Result<(), ValueError> {
    let old = node.engine.value(key, 0).await?;
    node.engine.reserve_value(size_of(key, Keep::Memory, length), old.as_ref()).await?;
    Ok(())
}

/// Writes a value whose bytes, if they are a chunk, stay somewhere until this returns; with `if_absent` only where there
/// is none.
pub(super) async fn write(
    node: &Arc<Node>,
    key: &str,
    value: Value,
    if_absent: bool,
) -> Result<(), ValueError> {
    let _order = node.values.lock(key).await;
    if !if_absent && let Some(written) = write_simply(node, key, &value).await {
        return written;
    }
    // Looking at it is a use, so that it does not go to make room for what may fail to come in its place.
    let old = node.engine.value(key, Clock::calendar_ms()).await?;
    if if_absent && (old.is_some() || read_durable(node, key).await?.is_some()) {
        return Ok(());
    }
    // What comes from a node that has another GPU stays in memory here.
    let is_lost = matches!(value.keep, Keep::Gpu(index) if usize::from(index) >= node.engine.gpus().len());
    let value = if if_absent && is_lost { Value { keep: Keep::Pinned, ..value } } else { value };
    replace(node, key, value, old).await
}

/// Writes a small value as nearly all are written: what is there is small too, or nothing, and there is room. `None` where it
/// is otherwise; then nothing was written. It takes one answer of the shard, where any other write takes several.
async fn write_simply(node: &Arc<Node>, key: &str, value: &Value) -> Option<Result<(), ValueError>> {
    let Content::Inline(bytes) = &value.content else { return None };
    let size = size_of(key, value.keep, value.content.length());
    match value.keep {
        Keep::Gpu(_) => None,
        Keep::Durable => {
            let room = node.engine.reserve_value_amply(size)?;
            Some(write_durable(node, key, value, room).await)
        }
        Keep::Memory | Keep::Pinned => {
            // Else the catalog would have to be asked whether it has the key.
            node.values.are_loaded.load(Ordering::Relaxed).then_some(())?;
            let held = held(key, value, HeldContent::Inline(bytes.as_ref().into()));
            match node.engine.swap_value(key, held).await {
                Ok(true) => Some(Ok(())),
                Ok(false) => None,
                Err(error) => Some(Err(error.into())),
            }
        }
    }
}

/// Writes a durable value, for which room was reserved, while the order of writes is held.
async fn write_durable(
    node: &Arc<Node>,
    key: &str,
    value: &Value,
    room: Reservation,
) -> Result<(), ValueError> {
    let put = Operation::Put(durable(key, value)?);
    node.catalog.write(Write { conditions: Vec::new(), operations: vec![put] }).await?;
    let old = node.engine.put_value(key, held(key, value, HeldContent::Catalog), room).await?;
    leave_gpu(node, old.as_ref(), value.keep).await
}

/// What a shard is told of a value.
fn held(key: &str, value: &Value, content: HeldContent) -> Held {
    Held {
        content,
        kind: value.kind as u8,
        size: size_of(key, value.keep, value.content.length()),
        is_fixed: value.keep != Keep::Memory,
        ttl_ms: value.ttl_ms,
        used_ms: Clock::calendar_ms(),
    }
}

/// Keeps a value in another way; how it was kept before. Writes come before or after it, and its bytes stay the same.
pub(super) async fn rekeep(node: &Arc<Node>, key: &str, keep: Keep) -> Result<Option<Keep>, ValueError> {
    let _order = node.values.lock(key).await;
    let Some(value) = read_in_order(node, key).await? else { return Ok(None) };
    let before = value.keep;
    if before == keep {
        return Ok(Some(before));
    }
    let old = node.engine.value(key, 0).await?;
    let chunk = match value.content {
        Content::Chunk(chunk) => chunk,
        Content::Inline(_) => {
            replace(node, key, Value { keep, ..value }, old).await?;
            return Ok(Some(before));
        }
    };
    // What is small is a chunk on a GPU alone.
    if chunk.geometry.size() <= INLINE_VALUE_MAX as u64 && !matches!(keep, Keep::Gpu(_)) {
        let bytes = large::Opened::open(node, chunk).await?.all_bytes().await?;
        replace(node, key, Value { keep, content: Content::Inline(bytes), ..value }, old).await?;
        return Ok(Some(before));
    }
    node.collector.hold(chunk.id).await;
    let moved = async {
        if keep == Keep::Durable {
            node.engine.fetch(chunk, Device::Nvme, Priority::Normal).await?;
        }
        replace(node, key, Value { keep, ..value }, old).await
    };
    let moved = moved.await;
    node.collector.release([chunk.id]);
    moved.map(|()| Some(before))
}

/// Puts a value in the place of what is there, while the order of writes is held.
async fn replace(node: &Arc<Node>, key: &str, value: Value, old: Option<Held>) -> Result<(), ValueError> {
    let size = size_of(key, value.keep, value.content.length());
    let room = node.engine.reserve_value(size, old.as_ref()).await?;
    if value.keep == Keep::Durable {
        return write_durable(node, key, &value, room).await;
    }
    let content = match (&value.content, value.keep) {
        (Content::Inline(bytes), Keep::Gpu(index)) => {
            let written = large::put(node, bytes.clone(), Device::Gpu(index)).await?;
            keep_chunk(node, written.reference(), value.keep).await?
        }
        (Content::Inline(bytes), _) => HeldContent::Inline(bytes.as_ref().into()),
        (Content::Chunk(chunk), keep) => keep_chunk(node, *chunk, keep).await?,
    };
    if let Err(error) = remove_durable(node, key, old.as_ref()).await {
        if let HeldContent::Chunk { chunk, handle, .. } = content {
            dropped(node, chunk.id, handle).await;
        }
        return Err(error);
    }
    node.engine.put_value(key, held(key, &value, content), room).await?;
    leave_gpu(node, old.as_ref(), value.keep).await
}

/// Frees the memory of a GPU that a value was in, when the same bytes are kept elsewhere from then on. A chunk that is not kept at
/// all goes by itself.
async fn leave_gpu(node: &Arc<Node>, old: Option<&Held>, keep: Keep) -> Result<(), ValueError> {
    let Some(HeldContent::Chunk { chunk, gpu: Some(index), .. }) = old.map(|held| &held.content) else {
        return Ok(());
    };
    let is_there = |held: &Held| matches!(&held.content, HeldContent::Chunk { chunk: other, gpu, .. } if other.id == chunk.id && *gpu == Some(*index));
    let values = node.engine.list_values().await?;
    // A chunk of the pool with these bytes may have nothing but what is on the GPU.
    let is_needed = keep != Keep::Durable && keys::references(node, &[chunk.id]).await?.contains(&true);
    if !is_needed && !values.iter().any(|listed| is_there(&listed.held)) {
        node.engine.drop_replica(chunk.id, Some(Device::Gpu(*index)), true).await?;
    }
    Ok(())
}

/// Brings a chunk to where it is kept on this node, and keeps it there until [`dropped`].
async fn keep_chunk(node: &Arc<Node>, chunk: ChunkReference, keep: Keep) -> Result<HeldContent, ValueError> {
    node.collector.hold(chunk.id).await;
    let kept = async {
        node.engine.fetch(chunk, keep.device(), Priority::Normal).await?;
        node.engine.open(chunk, Priority::Normal).await
    };
    let gpu = if let Keep::Gpu(index) = keep { Some(index) } else { None };
    match kept.await {
        Ok(opened) => Ok(HeldContent::Chunk { chunk, handle: opened.handle, gpu }),
        Err(error) => {
            node.collector.release([chunk.id]);
            Err(error.into())
        }
    }
}

/// Lets go of the chunk of a value that is gone.
pub(crate) async fn dropped(node: &Node, chunk: ChunkId, handle: u64) {
    let _ = node.engine.close(handle).await;
    node.collector.release([chunk]);
    node.collector.hurry();
}

/// Removes what the catalog has under a key, if it has anything; whether it had.
async fn remove_durable(node: &Node, key: &str, held: Option<&Held>) -> Result<bool, ValueError> {
    let name = name_of(key);
    let is_known = match held {
        Some(held) => held.content == HeldContent::Catalog,
        None => false,
    };
    if !is_known && (held.is_some() || node.values.are_loaded.load(Ordering::Relaxed)) {
        return Ok(false);
    }
    let delete = vec![Operation::Delete { key: name }];
    let written = node.catalog.write(Write { conditions: Vec::new(), operations: delete }).await?;
    Ok(written.versions.first().is_some_and(|version| *version > 0))
}

/// Reads a value. A durable one comes from the catalog, which is the truth also where the shards know nothing.
pub(super) async fn read(node: &Arc<Node>, key: &str) -> Result<Option<Value>, ValueError> {
    let held = node.engine.value(key, Clock::calendar_ms()).await?;
    let is_durable = held.as_ref().is_some_and(|held| held.content == HeldContent::Catalog);
    let found = shown(node, key, held).await?;
    if found.is_some() || !is_durable {
        return Ok(found);
    }
    // It went from the catalog since the shard was asked, maybe only to be kept in memory.
    let _order = node.values.lock(key).await;
    read_in_order(node, key).await
}

/// Reads a value while the order of writes is held.
async fn read_in_order(node: &Arc<Node>, key: &str) -> Result<Option<Value>, ValueError> {
    let held = node.engine.value(key, Clock::calendar_ms()).await?;
    shown(node, key, held).await
}

/// The value of which a shard knows this much.
async fn shown(node: &Arc<Node>, key: &str, held: Option<Held>) -> Result<Option<Value>, ValueError> {
    let Some(held) = held else {
        return read_durable(node, key).await;
    };
    let keep = keep_of(&held);
    let Held { content, kind, ttl_ms, .. } = held;
    let content = match content {
        HeldContent::Catalog => return read_durable(node, key).await,
        HeldContent::Inline(bytes) => Content::Inline(hyper::body::Bytes::from_owner(bytes)),
        HeldContent::Chunk { chunk, .. } => Content::Chunk(chunk),
    };
    let kind = if kind == Kind::Pickle as u8 { Kind::Pickle } else { Kind::Json };
    Ok(Some(Value { kind, content, keep, ttl_ms }))
}

/// How what a shard keeps is kept.
fn keep_of(held: &Held) -> Keep {
    match (&held.content, held.is_fixed) {
        (HeldContent::Catalog, _) => Keep::Durable,
        (HeldContent::Chunk { gpu: Some(index), .. }, _) => Keep::Gpu(*index),
        (_, true) => Keep::Pinned,
        (_, false) => Keep::Memory,
    }
}

/// When a value was used last, milliseconds since 1970; 0 when the shards do not know it.
pub(super) async fn used_ms(node: &Node, key: &str) -> Result<u64, ValueError> {
    Ok(node.engine.value(key, 0).await?.map_or(0, |held| held.used_ms))
}

/// Gives a value that is in memory to the node that it belongs to, by `send`, and keeps it no more.
pub(super) async fn hand_over(
    node: &Arc<Node>,
    key: &str,
    send: impl AsyncFnOnce(Value) -> Result<(), ValueError>,
) -> Result<(), ValueError> {
    let _order = node.values.lock(key).await;
    let held = node.engine.value(key, 0).await?;
    let Some(held) = held else { return Ok(()) };
    if held.content != HeldContent::Catalog
        && let Some(value) = read_in_order(node, key).await?
    {
        match send(value).await {
            Err(ValueError::Full) => {
                tracing::info!("a value was dropped: the node that it belongs to is full")
            }
            sent => sent?,
        }
    }
    node.engine.remove_value(key).await?;
    Ok(())
}

pub(super) async fn read_durable(node: &Node, key: &str) -> Result<Option<Value>, ValueError> {
    let name = name_of(key);
    let found = node.catalog.get(std::slice::from_ref(&name), Consistency::Quorum).await?;
    let Some(entry) = found.entries.into_iter().next().flatten() else { return Ok(None) };
    let ttl_ms = entry.expires_ms.map(|end| end.saturating_sub(Clock::calendar_ms()).max(1));
    let label = entry.labels.get(KIND).map(String::as_str);
    let kind = if label == Some("pickle") { Kind::Pickle } else { Kind::Json };
    let content = match entry.content {
        Some(catalog::Content::Value(bytes)) if label.is_none() => Content::Inline(as_json(bytes).into()),
        Some(catalog::Content::Value(bytes)) => Content::Inline(bytes.into()),
        Some(catalog::Content::Manifest(root)) => {
            let chunk = label.and(only_chunk(&root));
            Content::Chunk(chunk.ok_or_else(|| {
                failure::invalid(format!("key '{name}' of the catalog holds files"), "`shoal get` reads them")
            })?)
        }
        None => return Err(failure::internal("the catalog gave an entry without its content").into()),
    };
    Ok(Some(Value { kind, content, keep: Keep::Durable, ttl_ms }))
}

/// A value that came through another door, as a JSON text.
fn as_json(bytes: Vec<u8>) -> Vec<u8> {
    let text = String::from_utf8_lossy(&bytes);
    serde_json::to_vec(&text).expect("a text can be written as JSON")
}

pub(super) async fn release(node: &Arc<Node>, key: &str) -> Result<bool, ValueError> {
    let _order = node.values.lock(key).await;
    let held = node.engine.value(key, 0).await?;
    let in_memory = held.as_ref().is_some_and(|held| held.content != HeldContent::Catalog);
    let in_catalog = if in_memory {
        false
    } else {
        let name = name_of(key);
        let delete = vec![Operation::Delete { key: name }];
        let written = node.catalog.write(Write { conditions: Vec::new(), operations: delete }).await?;
        written.versions.first().is_some_and(|version| *version > 0)
    };
    node.engine.remove_value(key).await?;
    Ok(in_memory || in_catalog)
}

pub(super) async fn list(node: &Arc<Node>) -> Result<Vec<About>, ValueError> {
    let listed = node.engine.list_values().await?;
    let about = |listed: engine::Listed| {
        let engine::Listed { key, held } = listed;
        let keep = keep_of(&held);
        let size = match &held.content {
            HeldContent::Chunk { chunk, .. } => chunk.geometry.size(),
            _ => held.size.saturating_sub(key.len() as u64),
        };
        About { key, keep, size, used_ms: held.used_ms }
    };
    Ok(listed.into_iter().map(about).collect())
}

fn durable(key: &str, value: &Value) -> Result<Put, ValueError> {
    let content = match &value.content {
        Content::Inline(bytes) => catalog::Content::Value(bytes.to_vec()),
        Content::Chunk(chunk) => catalog::Content::Manifest(manifest_of(chunk).encode()),
    };
    let mut put = Put::new(name_of(key), content);
    put.ttl_ms = value.ttl_ms;
    let kind = if value.kind == Kind::Pickle { "pickle" } else { "json" };
    put.labels.insert(KIND.into(), kind.into());
    Ok(put)
}

/// What names one chunk as a stream of bytes.
pub(crate) fn manifest_of(chunk: &ChunkReference) -> Manifest {
    let size = chunk.geometry.size();
    let entry = ChunkEntry {
        id: chunk.id.0,
        size,
        piece_size: chunk.geometry.piece_size(),
        descriptor_digest: chunk.descriptor_digest,
    };
    let extents = vec![Extent { file_offset: 0, chunk: 0, chunk_offset: 0, length: size }];
    let kind = FileKind::Regular { size, digest: chunk.id.0, extents };
    let file = FileEntry { path: Vec::new(), kind, mode: 0o644, mtime_ns: 0 };
    Manifest {
        shape: Shape::Stream,
        size,
        file_count: 1,
        chunks: vec![entry],
        files: Files::Inline(vec![file]),
    }
}

/// The chunk of which a manifest is all.
pub(crate) fn only_chunk(root: &[u8]) -> Option<ChunkReference> {
    let manifest = Manifest::decode(root).ok()?;
    let [chunk] = manifest.chunks.as_slice() else { return None };
    let is_all = manifest.shape == Shape::Stream && manifest.size == chunk.size;
    let geometry = Geometry::new(chunk.size, chunk.piece_size).ok().filter(|_| is_all)?;
    Some(ChunkReference { id: ChunkId(chunk.id), geometry, descriptor_digest: chunk.descriptor_digest })
}
