//! The pool: chunks under numbers, brought in from files and over HTTP, placed on devices, moved between nodes.
//!
//! A chunk of the pool is an entry of the catalog below [`PREFIX`], whose manifest is one chunk of bytes and whose labels say
//! the rest. So every node knows it, and its bytes stay for as long as the entry does. Where they are is asked of the nodes.

mod device; // devices as gswarm calls them
mod record; // an entry of the catalog
mod source; // where bytes come from, and which may be read
mod tasks; // moves that go on

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use catalog::{CatalogError, Condition, Consistency, Entry, Operation, Put, Scan, Write};
use flow::swarm::Priority;
use flow::wire::control::{NodeId, NodeRecord, NodeState, ReplicaRecord};
use flow::wire::session::{ChunkPin, ChunkPlace, ChunkReference, Device, Failure, FailureCode};

use crate::members::View;
use crate::node::{Clock, Node};
use crate::{failure, operate, peers};

pub(crate) use device::{device_of, device_on, is_on};
use record::place_of;
pub(crate) use record::{Body, Record};
pub(crate) use source::{SourceError, Sources};
pub(crate) use tasks::{State, TaskError, TaskShown, Tasks, Work};

/// What the names of all entries begin with.
const PREFIX: &str = "gswarm-pool/";
/// What the names of entries begin with that say what the makers of chunks say about them.
const METADATA_PREFIX: &str = "gswarm-pool-metadata/";
/// The entry that has the last number that was given out.
const NUMBERS: &str = "gswarm-pool-number";
/// How often a write is tried again that others came before.
const ATTEMPTS: usize = 64;
/// How long it takes to look again at a node that does not answer, or has what it should not.
const LOOK_REST: Duration = Duration::from_millis(100);
/// How often a move is undone before its copy is left.
const UNDO_ATTEMPTS: usize = 600;
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
    /// A JSON object, or nothing.
    pub(crate) metadata: String,
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
    let Some(written) = read else {
        return enter(node, &given, Body::empty_on(&node.identity.name, device)).await;
    };
    let chunk = written.reference();
    let set_pin = async |pinned| node.engine.pin(chunk.id, pinned).await.map_err(|error| error.failure());
    if device == Device::Dram {
        // What is in memory alone would go when room is wanted.
        set_pin(true).await?;
    }
    let entered = enter(node, &given, Body::Chunk(chunk)).await;
    if entered.is_err() && device == Device::Dram {
        set_pin(false).await?;
    }
    entered
}

/// Gives a chunk that was read the next number.
async fn enter(node: &Node, given: &Given, body: Body) -> Result<Record, PoolError> {
    for _ in 0..ATTEMPTS {
        let (last, version) = number(node).await?;
        let record = Record {
            id: format!("chunk-{:08}", last + 1),
            kind: given.kind.clone(),
            format: given.format.clone(),
            body: body.clone(),
            metadata: given.metadata.clone(),
            created_by: node.identity.name.clone(),
            created_ms: Clock::calendar_ms(),
            accessed_ms: None,
            accesses: 0,
            references: Vec::new(),
            version: 0,
        };
        let numbered = catalog::Content::Value((last + 1).to_string().into_bytes());
        let conditions = vec![
            Condition::Version { key: NUMBERS.into(), version },
            Condition::Version { key: record.name(), version: 0 },
        ];
        let mut operations = vec![Operation::Put(Put::new(NUMBERS, numbered)), Operation::Put(record.put())];
        operations.extend(record.put_metadata());
        match node.catalog.write(Write { conditions, operations }).await {
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
    let mut records = Vec::new();
    let described = entries(node, METADATA_PREFIX).await?;
    for entry in entries(node, PREFIX).await?.values() {
        let Some(mut record) = Record::of(entry) else { continue };
        if let Some(entry) = described.get(&Record::metadata_name(&record.id)) {
            record.describe(entry);
        }
        records.push(record);
    }
    Ok(records)
}

/// All entries whose names begin so, by name.
async fn entries(node: &Node, prefix: &str) -> Result<BTreeMap<String, Entry>, PoolError> {
    let (mut entries, mut after) = (BTreeMap::new(), None);
    loop {
        let scan = Scan { prefix: prefix.into(), after, limit: SCAN_STEP, contents: true };
        let page = node.catalog.scan(&scan, Consistency::Quorum).await?;
        entries.extend(page.entries.into_iter().map(|entry| (entry.key.clone(), entry)));
        after = page.next;
        if after.is_none() {
            return Ok(entries);
        }
    }
}

/// A chunk, without counting the look.
pub(crate) async fn record(node: &Node, id: &str) -> Result<Record, PoolError> {
    let none = || PoolError::NoChunk(id.chars().take(80).collect());
    let name = Record::name_of(id).ok_or_else(none)?;
    let found = node.catalog.get(&[name, Record::metadata_name(id)], Consistency::Quorum).await?;
    let mut found = found.entries.into_iter();
    let mut record = found.next().flatten().as_ref().and_then(Record::of).ok_or_else(none)?;
    if let Some(entry) = found.next().flatten() {
        record.describe(&entry);
    }
    Ok(record)
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
    let chunk = match &record.body {
        Body::Chunk(chunk) => chunk,
        Body::Empty(places) => {
            let ours = |place: &str| match place.split_once(':') {
                Some((name, device)) if name == node.identity.name => device.to_owned(),
                _ => place.to_owned(),
            };
            return places.iter().map(|place| (ours(place), true)).collect();
        }
    };
    let view = node.members.view();
    let found = operate::survey(node, chunk.id).await;
    let mut places = Vec::new();
    for replica in &found.replicas {
        let name = name_of(node, &view, replica.node).unwrap_or("?");
        let place = |device: &str| match replica.node == node.id() {
            true => device.to_owned(),
            false => format!("{name}:{device}"),
        };
        let whole = chunk.geometry.pieces();
        for (device, pieces) in replica.devices() {
            places.push((place(&device.to_string()), pieces >= whole));
        }
    }
    places
}

/// What a node is called. A node that has just started knows itself before it knows that it is a member.
fn name_of<'a>(node: &'a Node, view: &'a View, id: NodeId) -> Option<&'a str> {
    let ours = (id == node.id()).then_some(node.identity.name.as_str());
    ours.or_else(|| Some(view.node(id)?.name.as_str()))
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
        operations: [record.name(), Record::metadata_name(id)].map(|key| Operation::Delete { key }).into(),
    };
    node.catalog.write(write).await?;
    let Body::Chunk(ChunkReference { id, .. }) = record.body else { return Ok(()) };
    // The same bytes may be in the pool under another number.
    let has_it = |other: &Record| matches!(&other.body, Body::Chunk(chunk) if chunk.id == id);
    if !records(node).await?.iter().any(has_it) {
        let unpin = ChunkPin { id, pinned: false, node: String::new() };
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

/// Carries out a move: the bytes are at the other place, and checked there, when this returns. Before anything goes from
/// where it was, it asks whether the move still stands.
pub(crate) async fn carry_out(
    node: &Arc<Node>,
    work: &Work,
    priority: Priority,
    stands: impl FnOnce() -> bool,
) -> Result<(), Failure> {
    let device = work.device;
    let cancelled = || failure::conflict("the move was cancelled", "");
    let Body::Chunk(ChunkReference { id, .. }) = work.body else {
        return if stands() { note_place(node, work).await } else { Err(cancelled()) };
    };
    let place = ChunkPlace {
        id,
        node: work.node.clone(),
        device,
        remove_source: work.removes_source,
        from: work.from.clone(),
    };
    // What is in memory alone would go when room is wanted.
    let brought = operate::bring(node, place, device == Device::Dram, priority).await?;
    match stands() {
        true if !work.removes_source => return Ok(()),
        true => brought.take_sources(node).await?,
        false => return Err(cancelled()),
    }
    if device.is_gpu() {
        // What is on a GPU stays there, and copies of it in memory need not.
        operate::pin(node, ChunkPin { id, pinned: false, node: work.node.clone() }).await?;
    }
    Ok(())
}

/// What the node at the end of a move has of the chunk.
#[derive(Debug, Clone, Default)]
pub(crate) struct Standing {
    devices: Vec<Device>,
    /// Whether more is coming to it.
    is_fetching: bool,
    is_pinned: bool,
}

impl Standing {
    fn has(&self, device: Device) -> bool {
        let is_there = |there: &Device| *there == device || (device == Device::AnyGpu && there.is_gpu());
        self.is_fetching || self.devices.iter().any(is_there)
    }
}

/// The node at the end of a move, which must live.
fn end_of(node: &Node, work: &Work) -> Result<NodeRecord, Failure> {
    if work.node == node.identity.name {
        return Ok(node.record());
    }
    let view = node.members.view();
    let record = view.named(&work.node)?;
    if record.state == NodeState::Dead {
        let text = format!("node '{}' is gone", work.node);
        return Err(failure::unavailable(text, "`shoal node ls` shows which nodes are alive"));
    }
    Ok(record.clone())
}

/// Looks at what the node at the end of a move has, as soon as it tells; fails when it is gone.
pub(crate) async fn look_ahead(node: &Arc<Node>, work: &Work) -> Result<Standing, Failure> {
    let Body::Chunk(chunk) = &work.body else { return Ok(Standing::default()) };
    loop {
        let target = end_of(node, work)?.node;
        let found = operate::survey(node, chunk.id).await;
        if !found.silent.contains(&work.node) {
            let there = found.replicas.iter().find(|replica| replica.node == target);
            return Ok(there.map_or_else(Standing::default, |replica| Standing {
                devices: replica.devices().map(|(device, _)| device).collect(),
                is_fetching: replica.fetching,
                is_pinned: replica.pinned,
            }));
        }
        tokio::time::sleep(LOOK_REST).await;
    }
}

/// Takes back what a move has brought that was cancelled, as soon as the node answers that it went to. What others read
/// there meanwhile stays, and goes when its room is wanted.
pub(crate) async fn undo(node: &Arc<Node>, work: &Work, before: Standing) -> Result<(), Failure> {
    let Body::Chunk(ChunkReference { id, .. }) = work.body else { return Ok(()) };
    if before.has(work.device) {
        return Ok(());
    }
    for _ in 0..UNDO_ATTEMPTS {
        let target = end_of(node, work)?;
        let now = look_ahead(node, work).await?;
        let came = now.devices.into_iter().find(|device| !before.devices.contains(device));
        // With nothing there before, all of it goes, and what is still coming does not come.
        let device = (!before.devices.is_empty()).then(|| came.unwrap_or(work.device));
        match operate::take_back(node, &target, id, device, before.is_pinned).await {
            Err(failure) if !peers::is_away(&failure) => return Err(failure),
            Ok(()) if !look_ahead(node, work).await?.has(work.device) => return Ok(()),
            _ => tokio::time::sleep(LOOK_REST).await,
        }
    }
    Err(failure::conflict("others bring it there all the time", ""))
}

/// Says where a chunk without bytes is from then on.
async fn note_place(node: &Node, work: &Work) -> Result<(), Failure> {
    let changed = change(node, &work.id, |record| {
        if let Body::Empty(places) = &mut record.body {
            let stays =
                |place: &String| !work.from.is_empty() && !place.starts_with(&format!("{}:", work.from));
            places.retain(|place| !work.removes_source || stays(place));
            places.insert(place_of(&work.node, work.device));
        }
        Ok(())
    });
    match changed.await {
        Ok(_) => Ok(()),
        Err(PoolError::Failed(failure)) => Err(failure),
        Err(error) => Err(failure::not_found(error.to_string(), "")),
    }
}

/// A node that has the chunk, this one if it does.
pub(crate) async fn holder(node: &Arc<Node>, record: &Record) -> Result<String, PoolError> {
    let chunk = match &record.body {
        Body::Chunk(chunk) => chunk,
        Body::Empty(places) => {
            let mut names = places.iter().filter_map(|place| Some(place.split_once(':')?.0));
            let ours = names.clone().find(|name| *name == node.identity.name);
            return Ok(ours.or(names.next()).unwrap_or(&node.identity.name).to_owned());
        }
    };
    let found = operate::survey(node, chunk.id).await;
    let whole: Vec<&ReplicaRecord> = found.replicas.iter().filter(|replica| replica.is_whole()).collect();
    let ours = whole.iter().find(|replica| replica.node == node.id());
    let view = node.members.view();
    let holder = ours.or(whole.first()).and_then(|replica| name_of(node, &view, replica.node));
    holder.map(str::to_owned).ok_or_else(|| {
        let text = format!("no live node has all of chunk '{}'", record.id);
        failure::unavailable(text, "what was in memory alone is gone with its node").into()
    })
}

/// How much of a move is done: pieces at its end, of all.
pub(crate) async fn progress(node: &Arc<Node>, work: &Work) -> f64 {
    let Body::Chunk(chunk) = &work.body else { return 0.0 };
    let view = node.members.view();
    let found = operate::survey(node, chunk.id).await;
    let is_end = |replica: &&ReplicaRecord| name_of(node, &view, replica.node) == Some(work.node.as_str());
    let there = found.replicas.iter().find(is_end);
    let pieces = there.map_or(0, |replica| replica.pieces_on(work.device));
    f64::from(pieces) / f64::from(chunk.geometry.pieces().max(1))
}
