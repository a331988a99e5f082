//! Which values there are.
//!
//! | table | key | value |
//! |---|---|---|
//! | meta | name | the cluster's id; [`State`] |
//! | current | key | [`Current`], then the value if it is small |
//! | buried | key of which nothing is current | [`Buried`] |
//! | contents | key, NUL, version | [`Stored`], then a large value, or a manifest as it was given |
//! | retired | time of retirement, revision that retired it, index | [`Retired`]: a manifest that is not current |
//! | chunks | chunk | how many manifests, current or retired, refer to it |
//! | changes | revision, index | [`Logged`], then the content of a put |
//! | expiries | time of expiry, key | nothing |
//! | owned | service, NUL, key | nothing |
//! | services | name | [`Registered`] |
//!
//! Numbers in keys are big-endian, so that they sort.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;

use fjall::{Database, Keyspace, KeyspaceCreateOptions, OwnedWriteBatch, PersistMode, Readable, Snapshot};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::record::{self, RecordError};
use crate::entry::{Content, Entry};
use crate::error::CatalogError;

/// Memory for blocks that are read often, in bytes.
const CACHE_SIZE: u64 = 64 << 20;
/// Most bytes of journal, which an opening catalog reads: the engine's own 512 MiB take seconds.
const JOURNAL_SIZE_MAX: u64 = 128 << 20;
/// Threads that flush and compact.
const BACKGROUND_THREADS: usize = 2;

/// How far the catalog has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct State {
    /// The last revision.
    pub(crate) revision: u64,
    /// When it was written, milliseconds since 1970.
    pub(crate) written_ms: u64,
    /// The revision after which changes are kept.
    pub(crate) kept_after: u64,
    /// When that was written.
    pub(crate) kept_after_ms: u64,
    /// Bytes of the changes that are kept.
    pub(crate) changes_size: u64,
}

/// The current version of a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Current {
    pub(crate) version: u64,
    pub(crate) revision: u64,
    pub(crate) created_ms: u64,
    pub(crate) updated_ms: u64,
    pub(crate) expires_ms: Option<u64>,
    pub(crate) owner: Option<String>,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) size: u64,
    pub(crate) files: u64,
    pub(crate) place: Place,
}

/// What a content is, and where it lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Place {
    /// A value behind the record of its key.
    Inline,
    /// A value among the contents.
    Apart,
    /// A manifest among the contents.
    Manifest,
}

/// What is left of a key that is absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Buried {
    /// The last version that it had.
    pub(crate) version: u64,
    /// The revision that ended it.
    pub(crate) revision: u64,
}

/// A content, which follows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stored {
    pub(crate) revision: u64,
}

/// A manifest that was superseded or removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Retired {
    pub(crate) key: String,
    pub(crate) version: u64,
    /// The revision that wrote it.
    pub(crate) revision: u64,
}

/// A change. The content of a put follows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Logged {
    pub(crate) at_ms: u64,
    pub(crate) key: String,
    pub(crate) what: LoggedKind,
}

/// As [`crate::ChangeKind`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum LoggedKind {
    Put(Current),
    Delete(u64),
    Expire(u64),
    OwnerEnded(u64),
}

/// A service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Registered {
    pub(crate) ttl_ms: u64,
    /// It has ended, and what it owned is being removed.
    pub(crate) ending: bool,
}

/// Where a value belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Table {
    Meta,
    Current,
    Buried,
    Contents,
    Retired,
    Chunks,
    Changes,
    Expiries,
    Owned,
    Services,
}

const TABLES: [Table; 10] = [
    Table::Meta,
    Table::Current,
    Table::Buried,
    Table::Contents,
    Table::Retired,
    Table::Chunks,
    Table::Changes,
    Table::Expiries,
    Table::Owned,
    Table::Services,
];

/// The cluster's id, in [`Table::Meta`].
pub(crate) const CLUSTER: &[u8] = b"cluster";
/// The [`State`], in [`Table::Meta`].
pub(crate) const STATE: &[u8] = b"state";

/// The storage engine and its tables.
pub(crate) struct Rows {
    database: Database,
    keyspaces: Vec<Keyspace>,
}

/// The tables at one moment.
pub(crate) struct View {
    rows: Arc<Rows>,
    snapshot: Snapshot,
}

/// Changes that are made together or not at all. It may write a row once at most.
pub(crate) struct Batch {
    rows: Arc<Rows>,
    writes: OwnedWriteBatch,
    /// Bytes of the values written.
    pub(crate) size: usize,
}

/// Changes that were made, and may not be on disk yet.
#[must_use]
pub(crate) struct Made {
    /// Where they were made, unless there were none.
    rows: Option<Arc<Rows>>,
}

impl Rows {
    pub(crate) fn open(directory: &Path) -> Result<Self, CatalogError> {
        let opened = Database::builder(directory)
            .cache_size(CACHE_SIZE)
            .worker_threads(BACKGROUND_THREADS)
            .max_journaling_size(JOURNAL_SIZE_MAX)
            .open();
        let database = opened.map_err(|error| match error {
            fjall::Error::Locked => CatalogError::Locked(directory.into()),
            error => CatalogError::engine(format!("opening the catalog in {}", directory.display()))(error),
        })?;
        let keyspace = |table: Table| database.keyspace(table.name(), KeyspaceCreateOptions::default);
        let keyspaces = TABLES.into_iter().map(keyspace).collect::<Result<_, _>>();
        let keyspaces = keyspaces.map_err(CatalogError::engine("opening the catalog's tables"))?;
        Ok(Self { database, keyspaces })
    }

    pub(crate) fn view(self: &Arc<Self>) -> View {
        View { rows: self.clone(), snapshot: self.database.snapshot() }
    }

    pub(crate) fn batch(self: &Arc<Self>) -> Batch {
        let writes = self.database.batch().durability(Some(PersistMode::Buffer));
        Batch { rows: self.clone(), writes, size: 0 }
    }

    fn table(&self, table: Table) -> &Keyspace {
        &self.keyspaces[table as usize]
    }
}

impl View {
    /// One value.
    pub(crate) fn get<T: DeserializeOwned>(
        &self,
        table: Table,
        key: &[u8],
    ) -> Result<Option<T>, CatalogError> {
        Ok(self.get_with_tail(table, key)?.map(|(value, _)| value))
    }

    /// One value and the bytes that follow it.
    pub(crate) fn get_with_tail<T: DeserializeOwned>(
        &self,
        table: Table,
        key: &[u8],
    ) -> Result<Option<(T, Vec<u8>)>, CatalogError> {
        let bytes = self.snapshot.get(self.rows.table(table), key).map_err(table.failed_on(key))?;
        let Some(bytes) = bytes else { return Ok(None) };
        let (value, tail) = record::open(table.name(), key, &bytes).map_err(table.wrong_on(key))?;
        Ok(Some((value, tail.to_vec())))
    }

    /// The values from one key on, in the order of their keys, with the bytes that follow each.
    pub(crate) fn range<T: DeserializeOwned>(
        &self,
        table: Table,
        from: Bound<&[u8]>,
    ) -> impl Iterator<Item = Result<(Vec<u8>, T, Vec<u8>), CatalogError>> + use<T> {
        let range = (from, Bound::Unbounded);
        self.snapshot.range::<&[u8], _>(self.rows.table(table), range).map(move |guard| {
            let (key, bytes) = guard.into_inner().map_err(CatalogError::engine(table.scanning()))?;
            let (value, tail) = record::open(table.name(), &key, &bytes).map_err(table.wrong_on(&key))?;
            Ok((key.to_vec(), value, tail.to_vec()))
        })
    }

    /// The keys from one on, in order.
    pub(crate) fn range_of_keys(
        &self,
        table: Table,
        from: Bound<&[u8]>,
    ) -> impl Iterator<Item = Result<Vec<u8>, CatalogError>> + use<> {
        let range = (from, Bound::Unbounded);
        self.snapshot.range::<&[u8], _>(self.rows.table(table), range).map(move |guard| {
            let key = guard.key().map_err(CatalogError::engine(table.scanning()))?;
            Ok(key.to_vec())
        })
    }

    /// The content of a key's current version, of which `tail` follows its record.
    pub(crate) fn content(
        &self,
        key: &str,
        current: &Current,
        tail: Vec<u8>,
    ) -> Result<Vec<u8>, CatalogError> {
        if current.place == Place::Inline {
            return Ok(tail);
        }
        let row = content_row(key, current.version);
        let stored = self.get_with_tail::<Stored>(Table::Contents, &row)?;
        match stored {
            Some((stored, content)) if stored.revision == current.revision => Ok(content),
            _ => Err(CatalogError::Damaged { subject: Table::Contents.subject(&row) }),
        }
    }
}

impl Batch {
    pub(crate) fn put<T: Serialize>(&mut self, table: Table, key: &[u8], value: &T) {
        self.put_with_tail(table, key, value, &[]);
    }

    pub(crate) fn put_with_tail<T: Serialize>(&mut self, table: Table, key: &[u8], value: &T, tail: &[u8]) {
        let bytes = record::seal(table.name(), key, value, tail);
        self.size += key.len() + bytes.len();
        self.writes.insert(self.rows.table(table), key, bytes);
    }

    pub(crate) fn remove(&mut self, table: Table, key: &[u8]) {
        self.size += key.len();
        self.writes.remove(self.rows.table(table), key);
    }

    /// Makes the changes. The operating system has them when this returns: the end of the process does not undo them, while the
    /// end of its machine may.
    pub(crate) fn write(self) -> Result<Made, CatalogError> {
        let rows = (!self.writes.is_empty()).then_some(self.rows);
        self.writes.commit().map_err(CatalogError::engine("writing to the catalog"))?;
        Ok(Made { rows })
    }
}

impl Made {
    /// Returns when the changes are on disk.
    pub(crate) fn sync(self) -> Result<(), CatalogError> {
        let Some(rows) = self.rows else { return Ok(()) };
        rows.database.persist(PersistMode::SyncData).map_err(CatalogError::engine("writing to the catalog"))
    }
}

impl Current {
    /// Whether the key is still there at a time.
    pub(crate) fn lives_at(&self, at_ms: u64) -> bool {
        self.expires_ms.is_none_or(|expires_ms| expires_ms > at_ms)
    }

    /// What callers see of it.
    pub(crate) fn into_entry(self, key: String, content: Option<Vec<u8>>) -> Entry {
        let Current { version, revision, created_ms, updated_ms, expires_ms, .. } = self;
        let content = content.map(|content| match self.place {
            Place::Manifest => Content::Manifest(content),
            Place::Inline | Place::Apart => Content::Value(content),
        });
        let (owner, labels, size, files) = (self.owner, self.labels, self.size, self.files);
        Entry {
            key,
            version,
            revision,
            created_ms,
            updated_ms,
            expires_ms,
            owner,
            labels,
            size,
            files,
            content,
        }
    }
}

impl Table {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Table::Meta => "meta",
            Table::Current => "current",
            Table::Buried => "buried",
            Table::Contents => "contents",
            Table::Retired => "retired",
            Table::Chunks => "chunks",
            Table::Changes => "changes",
            Table::Expiries => "expiries",
            Table::Owned => "owned",
            Table::Services => "services",
        }
    }

    /// What the record under `key` is about, for errors.
    pub(crate) fn subject(self, key: &[u8]) -> String {
        let text = String::from_utf8_lossy;
        match self {
            Table::Meta => format!("its own '{}'", text(key)),
            Table::Current | Table::Buried => format!("key '{}'", text(key)),
            Table::Contents => match key.iter().position(|&byte| byte == 0) {
                Some(at) => format!("key '{}', version {}", text(&key[..at]), number(&key[at + 1..])),
                None => format!("a version of key '{}'", text(key)),
            },
            Table::Retired => format!("a version that was replaced at {} ms since 1970", number(key)),
            Table::Chunks => {
                let digits: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
                format!("the references to chunk {digits}")
            }
            Table::Changes => format!("a change of revision {}", number(key)),
            Table::Expiries => format!("a key that expires at {} ms since 1970", number(key)),
            Table::Owned => format!("what is owned by a service: '{}'", text(key)),
            Table::Services => format!("service '{}'", text(key)),
        }
    }

    fn failed_on(self, key: &[u8]) -> impl FnOnce(fjall::Error) -> CatalogError {
        move |error| CatalogError::engine(format!("reading the record of {}", self.subject(key)))(error)
    }

    fn wrong_on(self, key: &[u8]) -> impl FnOnce(RecordError) -> CatalogError {
        move |error| match error {
            RecordError::Damaged => CatalogError::Damaged { subject: self.subject(key) },
            RecordError::Format(format) => CatalogError::Format { subject: self.subject(key), format },
        }
    }

    fn scanning(self) -> String {
        format!("reading the catalog's table '{}'", self.name())
    }
}

/// The key of a content in [`Table::Contents`].
pub(crate) fn content_row(key: &str, version: u64) -> Vec<u8> {
    [key.as_bytes(), &[0], &version.to_be_bytes()].concat()
}

/// The key of a manifest that `revision` retires, as its change number `index`, in [`Table::Retired`].
pub(crate) fn retired_row(retired_ms: u64, revision: u64, index: u16) -> Vec<u8> {
    [&retired_ms.to_be_bytes()[..], &change_row(revision, index)].concat()
}

/// The key of a change in [`Table::Changes`].
pub(crate) fn change_row(revision: u64, index: u16) -> Vec<u8> {
    [&revision.to_be_bytes()[..], &index.to_be_bytes()].concat()
}

/// The key of an expiry in [`Table::Expiries`].
pub(crate) fn expiry_row(expires_ms: u64, key: &str) -> Vec<u8> {
    [&expires_ms.to_be_bytes(), key.as_bytes()].concat()
}

/// The key that a row of [`Table::Expiries`] is about.
pub(crate) fn key_of_expiry(row: &[u8]) -> String {
    String::from_utf8_lossy(row.get(8..).unwrap_or_default()).into_owned()
}

/// The key of a possession in [`Table::Owned`].
pub(crate) fn owned_row(owner: &str, key: &str) -> Vec<u8> {
    [owner.as_bytes(), &[0], key.as_bytes()].concat()
}

/// The number at the beginning of a key: in [`Table::Retired`], when it was retired. Missing bytes count as zero.
pub(crate) fn number(key: &[u8]) -> u64 {
    key.iter().chain(&[0; 8]).take(8).fold(0, |number, &byte| number << 8 | u64::from(byte))
}
