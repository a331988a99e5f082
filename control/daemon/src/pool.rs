//! The pool: chunks under numbers, brought in from files and over HTTP, placed on devices, moved between nodes.
//!
//! A chunk of the pool is an entry of the catalog below [`PREFIX`], whose manifest is one chunk of bytes and whose labels say
//! the rest. So every node knows it, and its bytes stay for as long as the entry does. Where they are is asked of the nodes.

mod device; // devices as gswarm calls them
mod record; // an entry of the catalog
mod source; // where bytes come from, and which may be read
mod tasks; // moves that go on

use std::sync::Arc;

use catalog::{CatalogError, Condition, Consistency, Operation, Put, Scan, Write};
use flow::wire::control::ReplicaRecord;
use flow::wire::session::{ChunkPin, ChunkPlace, ChunkReference, Device, Failure, FailureCode};

use crate::node::{Clock, Node};
use crate::{failure, operate};

pub(crate) use device::{device_of, device_on, is_on};
pub(crate) use record::Record;
pub(crate) use source::{SourceError, Sources};
pub(crate) use tasks::{Priority, State, TaskError, TaskShown, Tasks, Work};

/// What the names of all entries begin with.
const PREFIX: &str = "gswarm-pool/";
/// The entry that has the last number that was given out.
const NUMBERS: &str = "gswarm-pool-number";
/// How often a write is tried again that others came before.
const ATTEMPTS: usize = 64;
/// Entries of the catalog that are read at once.
const SCAN_STEP: usize = 1024;

/// Why something was not done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PoolError {
    #[error("Data chunk '{0}' not found")]
    NoChunk(String),
    #[error("there is no device '{device}' on {place}; those that there are: {there}")]
    NoDevice { device: String, place: String, there: String },
    #[error("Cannot delete chunk '{id}': still referenced by {}", .references.join(", "))]
    Referenced { id: String, references: Vec<String> },
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error("{}", .0.message)]
    Failed(Failure),
}

impl From<Failure> for PoolError {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl From<CatalogError> for PoolError {
    fn from(error: CatalogError) -> Self {
        Self::Failed(failure::of_catalog(&error))
    }
}

/// What a chunk is made of.
#[derive(Debug)]
pub(crate) struct Given {
    pub(crate) source: String,
    pub(crate) device: String,
    pub(crate) kind: String,
    pub(crate) format: String,
}

/// A chunk of the pool and where its bytes are.
#[derive(Debug)]
pub(crate) struct Chunk {
    pub(crate) record: Record,
    /// Devices as this node calls them, and whether all of the chunk is there.
    pub(crate) places: Vec<(String, bool)>,
}

/// Reads a source into a device of this node, and gives the chunk a number.
pub(crate) async fn create(node: &Arc<Node>, given: Given) -> Result<Record, PoolError> {
    let device = device_on(node, &node.identity.name, &given.device).await?;
    node.check_takes_chunks()?;
    let read = source::read(node, &given.source, device).await?;
    if device == Device::Dram {
        // What is in memory alone would go when room is wanted.
        node.engine.pin(read.reference().id, true).await.map_err(|error| error.failure())?;
    }
    let chunk = read.reference();
    let entered = enter(node, &given, chunk).await;
    if entered.is_err() && device == Device::Dram {
        node.engine.pin(chunk.id, false).await.map_err(|error| error.failure())?;
    }
    entered
}

/// Gives a chunk that was read the next number.
async fn enter(node: &Node, given: &Given, chunk: ChunkReference) -> Result<Record, PoolError> {
    for _ in 0..ATTEMPTS {
        let (last, version) = number(node).await?;
        let record = Record {
            id: format!("chunk-{:08}", last + 1),
            kind: given.kind.clone(),
            format: given.format.clone(),
            chunk,
            created_by: node.identity.name.clone(),
            created_ms: Clock::calendar_ms(),
            accessed_ms: None,
            accesses: 0,
            references: Vec::new(),
            version: 0,
        };
        let numbered = catalog::Content::Value((last + 1).to_string().into_bytes());
        let write = Write {
            conditions: vec![
                Condition::Version { key: NUMBERS.into(), version },
                Condition::Version { key: record.name(), version: 0 },
            ],
            operations: vec![Operation::Put(Put::new(NUMBERS, numbered)), Operation::Put(record.put())],
        };
        match node.catalog.write(write).await {
            Ok(_) => return Ok(record),
            Err(CatalogError::Conflict { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(failure::conflict("others take the numbers of chunks all the time", "try again").into())
}

/// The last number that was given out, and the version of its entry.
async fn number(node: &Node) -> Result<(u64, u64), PoolError> {
    let found = node.catalog.get(&[NUMBERS.to_owned()], Consistency::Quorum).await?;
    let Some(entry) = found.entries.into_iter().next().flatten() else { return Ok((0, 0)) };
    let last = match &entry.content {
        Some(catalog::Content::Value(text)) => {
            std::str::from_utf8(text).ok().and_then(|text| text.parse().ok())
        }
        _ => None,
    };
    let damaged = || failure::conflict(format!("key '{NUMBERS}' holds no number"), "remove it");
    Ok((last.ok_or_else(damaged)?, entry.version))
}

/// A chunk. Looking at it counts.
pub(crate) async fn look_at(node: &Arc<Node>, id: &str) -> Result<Chunk, PoolError> {
    let record = change(node, id, |record| {
        record.accesses += 1;
        record.accessed_ms = Some(Clock::calendar_ms());
        Ok(())
    });
    let record = record.await?;
    let places = places(node, &record).await;
    Ok(Chunk { record, places })
}

/// All chunks, in the order of their numbers.
pub(crate) async fn list(node: &Arc<Node>) -> Result<Vec<Chunk>, PoolError> {
    let mut chunks = Vec::new();
    for record in records(node).await? {
        let places = places(node, &record).await;
        chunks.push(Chunk { record, places });
    }
    Ok(chunks)
}

async fn records(node: &Node) -> Result<Vec<Record>, PoolError> {
    let (mut records, mut after) = (Vec::new(), None);
    loop {
        let scan = Scan { prefix: PREFIX.into(), after, limit: SCAN_STEP, contents: true };
        let page = node.catalog.scan(&scan, Consistency::Quorum).await?;
        records.extend(page.entries.iter().filter_map(Record::of));
        after = page.next;
        if after.is_none() {
            return Ok(records);
        }
    }
}

/// A chunk, without counting the look.
pub(crate) async fn record(node: &Node, id: &str) -> Result<Record, PoolError> {
    let none = || PoolError::NoChunk(id.chars().take(80).collect());
    let name = Record::name_of(id).ok_or_else(none)?;
    let found = node.catalog.get(&[name], Consistency::Quorum).await?;
    let entry = found.entries.into_iter().next().flatten().ok_or_else(none)?;
    Record::of(&entry).ok_or_else(none)
}

/// Changes what is said about a chunk.
pub(crate) async fn change(
    node: &Node,
    id: &str,
    change: impl Fn(&mut Record) -> Result<(), PoolError>,
) -> Result<Record, PoolError> {
    for _ in 0..ATTEMPTS {
        let mut changed = record(node, id).await?;
        change(&mut changed)?;
        let condition = Condition::Version { key: changed.name(), version: changed.version };
        let write = Write { conditions: vec![condition], operations: vec![Operation::Put(changed.put())] };
        match node.catalog.write(write).await {
            Ok(_) => return Ok(changed),
            Err(CatalogError::Conflict { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(failure::conflict(format!("chunk '{id}' is changed by others all the time"), "try again").into())
}

/// Where the bytes of a chunk are: `dram` and `nvme` on this node, `NODE:dram` and `NODE:nvme` on others.
async fn places(node: &Arc<Node>, record: &Record) -> Vec<(String, bool)> {
    let view = node.members.view();
    let found = operate::survey(node, record.chunk.id).await;
    let mut places = Vec::new();
    for replica in &found.replicas {
        let name = view.node(replica.node).map_or("?", |known| &known.name);
        let place = |device: &str| match replica.node == node.id() {
            true => device.to_owned(),
            false => format!("{name}:{device}"),
        };
        let whole = record.chunk.geometry.pieces();
        for (device, pieces) in replica.devices() {
            places.push((place(&device.to_string()), pieces >= whole));
        }
    }
    places
}

/// Takes a chunk out of the pool. Its bytes go when nothing else refers to them.
pub(crate) async fn delete(node: &Arc<Node>, id: &str, force: bool) -> Result<(), PoolError> {
    let record = record(node, id).await?;
    if !force && !record.references.is_empty() {
        return Err(PoolError::Referenced { id: record.id, references: record.references });
    }
    let version = record.version;
    let write = Write {
        conditions: if force { Vec::new() } else { vec![Condition::Version { key: record.name(), version }] },
        operations: vec![Operation::Delete { key: record.name() }],
    };
    node.catalog.write(write).await?;
    // The same bytes may be in the pool under another number.
    if !records(node).await?.iter().any(|other| other.chunk.id == record.chunk.id) {
        let unpin = ChunkPin { id: record.chunk.id, pinned: false, node: String::new() };
        match operate::pin(node, unpin).await {
            Ok(_) | Err(Failure { code: FailureCode::NotFound, .. }) => {}
            Err(failure) => {
                tracing::info!(reason = failure.message, "the bytes of a deleted chunk may stay pinned")
            }
        }
    }
    node.collector.hurry();
    Ok(())
}

/// Carries out a move: the bytes are at the other place, and checked there, when this returns.
pub(crate) async fn carry_out(node: &Arc<Node>, work: &Work) -> Result<(), Failure> {
    let (id, device) = (work.chunk.id, work.device);
    let place = ChunkPlace {
        id,
        node: work.node.clone(),
        device,
        remove_source: work.removes_source,
        from: work.from.clone(),
    };
    operate::place(node, place).await?;
    // What is on a GPU stays there, and copies of it in memory need not.
    if device == Device::Dram || (device.is_gpu() && work.removes_source) {
        let pinned = device == Device::Dram;
        operate::pin(node, ChunkPin { id, pinned, node: work.node.clone() }).await?;
    }
    Ok(())
}

/// A node that has the chunk, this one if it does.
pub(crate) async fn holder(node: &Arc<Node>, record: &Record) -> Result<String, PoolError> {
    let found = operate::survey(node, record.chunk.id).await;
    let whole: Vec<&ReplicaRecord> = found.replicas.iter().filter(|replica| replica.is_whole()).collect();
    let ours = whole.iter().find(|replica| replica.node == node.id());
    let view = node.members.view();
    let holder = ours.or(whole.first()).and_then(|replica| view.node(replica.node));
    holder.map(|holder| holder.name.clone()).ok_or_else(|| {
        let text = format!("no live node has all of chunk '{}'", record.id);
        failure::unavailable(text, "what was in memory alone is gone with its node").into()
    })
}

/// How much of a move is done: pieces at its end, of all.
pub(crate) async fn progress(node: &Arc<Node>, work: &Work) -> f64 {
    let view = node.members.view();
    let found = operate::survey(node, work.chunk.id).await;
    let there = found
        .replicas
        .iter()
        .find(|replica| view.node(replica.node).is_some_and(|known| known.name == work.node));
    let pieces = there.map_or(0, |replica| replica.pieces_on(work.device));
    f64::from(pieces) / f64::from(work.chunk.geometry.pieces().max(1))
}
