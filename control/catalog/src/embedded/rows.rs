//! Which values there are.
//!
//! | table | key | value |
//! |---|---|---|
//! | meta | name | a number: the cluster's id, the last revision |
//! | current | key | [`Current`]: what a listing shows |
//! | buried | key of which nothing is current | the last version it had |
//! | versions | key, NUL, version | [`Version`], then the manifest as it was given |
//! | retired | time of retirement, revision that retired it | [`Retired`]: a version that is not current |
//! | chunks | chunk | how many versions, current or retired, refer to it |
//!
//! Numbers in keys are big-endian, so that they sort.

use std::ops::Bound;
use std::path::Path;

use fjall::{Database, Keyspace, KeyspaceCreateOptions, OwnedWriteBatch, PersistMode, Readable, Snapshot};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::record::{self, RecordError};
use crate::error::CatalogError;

/// Memory for blocks that are read often, in bytes.
const CACHE_SIZE: u64 = 64 << 20;
/// Most bytes of journal, which an opening catalog reads: the engine's own 512 MiB take seconds.
const JOURNAL_SIZE_MAX: u64 = 128 << 20;
/// Threads that flush and compact.
const BACKGROUND_THREADS: usize = 2;

/// The current version of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Current {
    pub(crate) version: u64,
    pub(crate) revision: u64,
    pub(crate) created_ms: u64,
    pub(crate) size: u64,
    pub(crate) files: u64,
}

/// A version of a key; its manifest follows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Version {
    pub(crate) revision: u64,
    pub(crate) created_ms: u64,
}

/// A version that was superseded or removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Retired {
    pub(crate) key: String,
    pub(crate) version: u64,
    /// The revision that wrote it.
    pub(crate) revision: u64,
}

/// Where a value belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Table {
    Meta,
    Current,
    Buried,
    Versions,
    Retired,
    Chunks,
}

const TABLES: [Table; 6] =
    [Table::Meta, Table::Current, Table::Buried, Table::Versions, Table::Retired, Table::Chunks];

/// The cluster's id, in [`Table::Meta`].
pub(crate) const CLUSTER: &[u8] = b"cluster";
/// The last revision, in [`Table::Meta`].
pub(crate) const REVISION: &[u8] = b"revision";

/// The storage engine and its tables.
pub(crate) struct Rows {
    database: Database,
    keyspaces: Vec<Keyspace>,
}

/// The tables at one moment.
pub(crate) struct View<'a> {
    rows: &'a Rows,
    snapshot: Snapshot,
}

/// Changes that are made together or not at all.
pub(crate) struct Batch<'a> {
    rows: &'a Rows,
    writes: OwnedWriteBatch,
    /// Bytes of the values written.
    pub(crate) size: usize,
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

    pub(crate) fn view(&self) -> View<'_> {
        View { rows: self, snapshot: self.database.snapshot() }
    }

    pub(crate) fn batch(&self) -> Batch<'_> {
        let writes = self.database.batch().durability(Some(PersistMode::SyncData));
        Batch { rows: self, writes, size: 0 }
    }

    fn table(&self, table: Table) -> &Keyspace {
        &self.keyspaces[table as usize]
    }
}

impl View<'_> {
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

    /// The values from one key on, in the order of their keys.
    pub(crate) fn range<T: DeserializeOwned>(
        &self,
        table: Table,
        from: Bound<&[u8]>,
    ) -> impl Iterator<Item = Result<(Vec<u8>, T), CatalogError>> {
        let range = (from, Bound::Unbounded);
        self.snapshot.range::<&[u8], _>(self.rows.table(table), range).map(move |guard| {
            let (key, bytes) = guard.into_inner().map_err(CatalogError::engine(table.scanning()))?;
            let (value, _) = record::open(table.name(), &key, &bytes).map_err(table.wrong_on(&key))?;
            Ok((key.to_vec(), value))
        })
    }

    /// The keys from one on, in order.
    pub(crate) fn range_of_keys(
        &self,
        table: Table,
        from: Bound<&[u8]>,
    ) -> impl Iterator<Item = Result<Vec<u8>, CatalogError>> {
        let range = (from, Bound::Unbounded);
        self.snapshot.range::<&[u8], _>(self.rows.table(table), range).map(move |guard| {
            let key = guard.key().map_err(CatalogError::engine(table.scanning()))?;
            Ok(key.to_vec())
        })
    }
}

impl Batch<'_> {
    pub(crate) fn put<T: Serialize>(&mut self, table: Table, key: &[u8], value: &T) {
        self.put_with_tail(table, key, value, &[]);
    }

    pub(crate) fn put_with_tail<T: Serialize>(&mut self, table: Table, key: &[u8], value: &T, tail: &[u8]) {
        let bytes = record::seal(table.name(), key, value, tail);
        self.size += bytes.len();
        self.writes.insert(self.rows.table(table), key, bytes);
    }

    pub(crate) fn remove(&mut self, table: Table, key: &[u8]) {
        self.writes.remove(self.rows.table(table), key);
    }

    /// Makes the changes; they are on disk when this returns.
    pub(crate) fn write(self) -> Result<(), CatalogError> {
        self.writes.commit().map_err(CatalogError::engine("writing to the catalog"))
    }
}

impl Table {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Table::Meta => "meta",
            Table::Current => "current",
            Table::Buried => "buried",
            Table::Versions => "versions",
            Table::Retired => "retired",
            Table::Chunks => "chunks",
        }
    }

    /// What the record under `key` is about, for errors.
    pub(crate) fn subject(self, key: &[u8]) -> String {
        let text = String::from_utf8_lossy;
        match self {
            Table::Meta => format!("its own number '{}'", text(key)),
            Table::Current | Table::Buried => format!("key '{}'", text(key)),
            Table::Versions => match key.iter().position(|&byte| byte == 0) {
                Some(at) => format!("key '{}', version {}", text(&key[..at]), number(&key[at + 1..])),
                None => format!("a version of key '{}'", text(key)),
            },
            Table::Retired => format!("a version that was replaced at {} ms since 1970", number(key)),
            Table::Chunks => {
                let digits: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
                format!("the references to chunk {digits}")
            }
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

/// The key of a version in [`Table::Versions`].
pub(crate) fn version_row(key: &str, version: u64) -> Vec<u8> {
    [key.as_bytes(), &[0], &version.to_be_bytes()].concat()
}

/// The key of a version that `revision` retires, in [`Table::Retired`].
pub(crate) fn retired_row(retired_ms: u64, revision: u64) -> Vec<u8> {
    [retired_ms.to_be_bytes(), revision.to_be_bytes()].concat()
}

/// The number at the beginning of a key: in [`Table::Retired`], when it was retired. Missing bytes count as zero.
pub(crate) fn number(key: &[u8]) -> u64 {
    key.iter().chain(&[0; 8]).take(8).fold(0, |number, &byte| number << 8 | u64::from(byte))
}
