//! What the catalog and the wire call the same things.

use catalog::{
    CatalogError, Change, ChangeKind, Condition, Consistency, Content, Entry, Expiry, Found, Operation, Page,
    Put, Scan, Selector, Service, Start, Write, Written,
};
use flow::wire::catalog::*;
use flow::wire::session::{Failure, FailureCode};

use crate::failure;

/// Bytes of entries in one page, so that it fits into a frame.
const PAGE_BYTES_MAX: usize = 6 << 20;
/// When it makes sense to ask again somebody who cannot answer just then.
const RETRY_MS: u64 = 1_000;

pub(crate) fn consistency(read: ReadConsistency) -> Consistency {
    match read {
        ReadConsistency::One => Consistency::One,
        ReadConsistency::Quorum => Consistency::Quorum,
        ReadConsistency::Serial => Consistency::Serial,
        ReadConsistency::All => Consistency::All,
    }
}

pub(super) fn read_consistency(consistency: Consistency) -> ReadConsistency {
    match consistency {
        Consistency::One => ReadConsistency::One,
        Consistency::Quorum => ReadConsistency::Quorum,
        Consistency::Serial => ReadConsistency::Serial,
        Consistency::All => ReadConsistency::All,
    }
}

pub(crate) fn to_wire(entry: Entry) -> CatalogEntry {
    CatalogEntry {
        key: entry.key,
        version: entry.version,
        revision: entry.revision,
        created_ms: entry.created_ms,
        updated_ms: entry.updated_ms,
        expires_ms: entry.expires_ms,
        owner: entry.owner,
        labels: entry.labels.into_iter().collect(),
        size: entry.size,
        files: entry.files,
        content: entry.content.map(content_to_wire),
    }
}

pub(super) fn from_wire(entry: CatalogEntry) -> Entry {
    Entry {
        key: entry.key,
        version: entry.version,
        revision: entry.revision,
        created_ms: entry.created_ms,
        updated_ms: entry.updated_ms,
        expires_ms: entry.expires_ms,
        owner: entry.owner,
        labels: entry.labels.into_iter().collect(),
        size: entry.size,
        files: entry.files,
        content: entry.content.map(content_from_wire),
    }
}

fn content_to_wire(content: Content) -> CatalogContent {
    match content {
        Content::Value(bytes) => CatalogContent::Value(bytes),
        Content::Manifest(root) => CatalogContent::Manifest(root),
    }
}

fn content_from_wire(content: CatalogContent) -> Content {
    match content {
        CatalogContent::Value(bytes) => Content::Value(bytes),
        CatalogContent::Manifest(root) => Content::Manifest(root),
    }
}

pub(crate) fn found(found: Found) -> CatalogFound {
    let entries = found.entries.into_iter().map(|entry| entry.map(to_wire)).collect();
    CatalogFound { revision: found.revision, entries, stale: found.stale }
}

pub(super) fn scan(scan: CatalogScan) -> Scan {
    let CatalogScan { prefix, after, limit, contents, .. } = scan;
    Scan { prefix, after, limit: limit as usize, contents }
}

/// The page as far as it fits into a frame; the next one begins where it is cut.
pub(crate) fn page(page: Page) -> CatalogPage {
    let Page { revision, entries, mut next } = page;
    let mut room = PAGE_BYTES_MAX;
    let mut kept: Vec<CatalogEntry> = Vec::with_capacity(entries.len());
    for entry in entries {
        let size = size_of_entry(&entry);
        if size > room && !kept.is_empty() {
            next = kept.last().map(|last| last.key.clone());
            break;
        }
        room = room.saturating_sub(size);
        kept.push(to_wire(entry));
    }
    CatalogPage { revision, entries: kept, next }
}

/// Bytes that an entry takes in a frame, about.
pub(super) fn size_of_entry(entry: &Entry) -> usize {
    let labels: usize = entry.labels.iter().map(|(name, value)| name.len() + value.len() + 16).sum();
    let content = match &entry.content {
        Some(Content::Value(bytes) | Content::Manifest(bytes)) => bytes.len(),
        None => 0,
    };
    size_of::<CatalogEntry>()
        + entry.key.len()
        + entry.owner.as_ref().map_or(0, String::len)
        + labels
        + content
}

pub(super) fn write(write: CatalogWrite) -> Write {
    let CatalogWrite { conditions, operations } = write;
    let condition = |condition| match condition {
        CatalogCondition::Version(KeyVersion { key, version }) => Condition::Version { key, version },
        CatalogCondition::Unchanged(UnchangedSince { prefix, exact, revision }) => {
            Condition::Unchanged { prefix, exact, revision }
        }
    };
    Write {
        conditions: conditions.into_iter().map(condition).collect(),
        operations: operations.into_iter().map(operation).collect(),
    }
}

pub(crate) fn operation(operation: CatalogOperation) -> Operation {
    match operation {
        CatalogOperation::Put(CatalogPut { key, content, ttl_ms, owner, labels }) => {
            let (content, labels) = (content_from_wire(content), labels.into_iter().collect());
            Operation::Put(Put { key, content, ttl_ms, owner, labels })
        }
        CatalogOperation::Delete(key) => Operation::Delete { key },
        CatalogOperation::Expire(CatalogExpire { key, when }) => Operation::Expire {
            key,
            when: match when {
                CatalogExpiry::In(span_ms) => Expiry::In(span_ms),
                CatalogExpiry::Later(span_ms) => Expiry::Later(span_ms),
                CatalogExpiry::Never => Expiry::Never,
            },
        },
    }
}

pub(crate) fn write_to_wire(write: Write) -> CatalogWrite {
    let condition = |condition| match condition {
        Condition::Version { key, version } => CatalogCondition::Version(KeyVersion { key, version }),
        Condition::Unchanged { prefix, exact, revision } => {
            CatalogCondition::Unchanged(UnchangedSince { prefix, exact, revision })
        }
    };
    let operation = |operation| match operation {
        Operation::Put(Put { key, content, ttl_ms, owner, labels }) => {
            let (content, labels) = (content_to_wire(content), labels.into_iter().collect());
            CatalogOperation::Put(CatalogPut { key, content, ttl_ms, owner, labels })
        }
        Operation::Delete { key } => CatalogOperation::Delete(key),
        Operation::Expire { key, when } => CatalogOperation::Expire(CatalogExpire {
            key,
            when: match when {
                Expiry::In(span_ms) => CatalogExpiry::In(span_ms),
                Expiry::Later(span_ms) => CatalogExpiry::Later(span_ms),
                Expiry::Never => CatalogExpiry::Never,
            },
        }),
    };
    CatalogWrite {
        conditions: write.conditions.into_iter().map(condition).collect(),
        operations: write.operations.into_iter().map(operation).collect(),
    }
}

pub(crate) fn written(written: Written) -> CatalogWritten {
    CatalogWritten { revision: written.revision, versions: written.versions }
}

pub(super) fn start(start: CatalogStart) -> Start {
    match start {
        CatalogStart::Now => Start::Now,
        CatalogStart::After(revision) => Start::After(revision),
        CatalogStart::At(time_ms) => Start::At(time_ms),
    }
}

pub(super) fn start_to_wire(start: Start) -> CatalogStart {
    match start {
        Start::Now => CatalogStart::Now,
        Start::After(revision) => CatalogStart::After(revision),
        Start::At(time_ms) => CatalogStart::At(time_ms),
    }
}

pub(super) fn selector(selector: CatalogSelector) -> Selector {
    match selector {
        CatalogSelector::Key(key) => Selector::Key(key),
        CatalogSelector::Prefix(prefix) => Selector::Prefix(prefix),
        CatalogSelector::Glob(pattern) => Selector::Glob(pattern),
    }
}

pub(super) fn selector_to_wire(selector: &Selector) -> CatalogSelector {
    match selector.clone() {
        Selector::Key(key) => CatalogSelector::Key(key),
        Selector::Prefix(prefix) => CatalogSelector::Prefix(prefix),
        Selector::Glob(pattern) => CatalogSelector::Glob(pattern),
    }
}

pub(super) fn change_to_wire(change: Change) -> CatalogChange {
    let Change { revision, at_ms, key, kind } = change;
    let kind = match kind {
        ChangeKind::Put(entry) => CatalogChangeKind::Put(to_wire(entry)),
        ChangeKind::Delete { version } => CatalogChangeKind::Delete(version),
        ChangeKind::Expire { version } => CatalogChangeKind::Expire(version),
        ChangeKind::OwnerEnded { version } => CatalogChangeKind::OwnerEnded(version),
    };
    CatalogChange { revision, at_ms, key, kind }
}

pub(super) fn change(change: CatalogChange) -> Change {
    let CatalogChange { revision, at_ms, key, kind } = change;
    let kind = match kind {
        CatalogChangeKind::Put(entry) => ChangeKind::Put(from_wire(entry)),
        CatalogChangeKind::Delete(version) => ChangeKind::Delete { version },
        CatalogChangeKind::Expire(version) => ChangeKind::Expire { version },
        CatalogChangeKind::OwnerEnded(version) => ChangeKind::OwnerEnded { version },
    };
    Change { revision, at_ms, key, kind }
}

pub(super) fn services(services: Vec<Service>) -> CatalogServiceListing {
    let record = |service| {
        let Service { name, ttl_ms, left_ms, keys } = service;
        ServiceRecord { name, ttl_ms, left_ms, keys }
    };
    CatalogServiceListing { services: services.into_iter().map(record).collect() }
}

/// A refusal of the catalog as the wire has it.
pub(crate) fn refused(error: &CatalogError) -> CatalogRefused {
    CatalogRefused { failure: failure::of_catalog(error), reason: reason(error) }
}

fn reason(error: &CatalogError) -> CatalogReason {
    match error.clone() {
        CatalogError::Conflict { key, expected, found } => {
            CatalogReason::Conflict(VersionConflict { key, expected, found })
        }
        CatalogError::Changed { prefix, revision } => {
            CatalogReason::Changed(UnchangedSince { prefix, exact: false, revision })
        }
        CatalogError::NoKey { key } => CatalogReason::NoKey(key),
        CatalogError::NoExpiry { key } => CatalogReason::NoExpiry(key),
        CatalogError::NoService { name } => CatalogReason::NoService(name),
        CatalogError::ChangesGone { asked, kept } => CatalogReason::ChangesGone(ChangesKept { asked, kept }),
        CatalogError::SnapshotGone { revision } => CatalogReason::SnapshotGone(revision),
        CatalogError::NoTransaction { number } => CatalogReason::TransactionGone(number),
        CatalogError::Unreachable { retry_ms, maybe_done, .. } => {
            CatalogReason::Unreachable(TryAgain { retry_ms, maybe_done })
        }
        _ => CatalogReason::Other,
    }
}

/// The error that the other node had, as far as it can be told here.
pub(super) fn error(refused: CatalogRefused) -> CatalogError {
    let Failure { code, message, .. } = refused.failure;
    match refused.reason {
        CatalogReason::Conflict(VersionConflict { key, expected, found }) => {
            CatalogError::Conflict { key, expected, found }
        }
        CatalogReason::Changed(UnchangedSince { prefix, revision, .. }) => {
            CatalogError::Changed { prefix, revision }
        }
        CatalogReason::NoKey(key) => CatalogError::NoKey { key },
        CatalogReason::NoExpiry(key) => CatalogError::NoExpiry { key },
        CatalogReason::NoService(name) => CatalogError::NoService { name },
        CatalogReason::ChangesGone(ChangesKept { asked, kept }) => CatalogError::ChangesGone { asked, kept },
        CatalogReason::SnapshotGone(revision) => CatalogError::SnapshotGone { revision },
        CatalogReason::Unreachable(TryAgain { retry_ms, maybe_done }) => {
            CatalogError::Unreachable { reason: message, retry_ms, maybe_done }
        }
        CatalogReason::Other if code == FailureCode::Unavailable => {
            CatalogError::Unreachable { reason: message, retry_ms: RETRY_MS, maybe_done: false }
        }
        CatalogReason::TransactionGone(_) | CatalogReason::Other => CatalogError::Elsewhere { message },
    }
}
