//! One version of a key, held open.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use flow::wire::catalog::CatalogGet;
use flow::wire::session::{FailureCode, KeyEntry, KeyOpen, LeaseRelease};
use plan::manifest::{FileEntry, Files, Manifest, ManifestError, decode_files};

use crate::ClientError;
use crate::chunk_reader::{read_whole, reference};
use crate::connection::Connection;
use crate::kv::{Consistency, Content, Found};
use crate::layout::too_deep;
use crate::put::LIST_MAX;

/// A version of a key whose chunks the node keeps until the value is dropped.
pub(crate) struct OpenKey<'c> {
    connection: &'c Connection,
    pub(crate) entry: KeyEntry,
    /// Whether it is what the node has read before.
    pub(crate) stale: bool,
    pub(crate) manifest: Manifest,
    pub(crate) files: Vec<FileEntry>,
}

impl<'c> OpenKey<'c> {
    /// Opens the current version of a key and reads its list of files. With [`Consistency::One`] it may be what the node has
    /// read before, when the catalog is out of reach; nothing but its own readers keeps the chunks of that.
    pub(crate) fn open(
        connection: &'c Connection,
        key: &str,
        consistency: Consistency,
    ) -> Result<Self, ClientError> {
        let (entry, stale) = match consistency {
            Consistency::One => leased_or_remembered(connection, key)?,
            Consistency::Quorum | Consistency::Serial => (leased(connection, key)?, false),
            Consistency::All => (confirmed(connection, key)?, false),
        };
        Self::of(connection, entry, stale)
    }

    /// What an entry is, whose lease is released by this from here on.
    pub(crate) fn of(connection: &'c Connection, entry: KeyEntry, stale: bool) -> Result<Self, ClientError> {
        let key = entry.key.clone();
        let wrong = |source| ClientError::Manifest { key: key.clone(), source };
        let manifest = Manifest::decode(&entry.manifest).map_err(wrong)?;
        let mut open = Self { connection, entry, stale, manifest, files: Vec::new() };
        open.files = match &mut open.manifest.files {
            Files::Inline(files) => std::mem::take(files),
            Files::Chunk(chunk) if chunk.size > LIST_MAX => {
                return Err(wrong(ManifestError::Inconsistent("its list of files is too large")));
            }
            Files::Chunk(chunk) => {
                let list = read_whole(connection, reference(chunk).map_err(wrong)?)?;
                decode_files(&list).map_err(wrong)?
            }
        };
        open.manifest.check_files(&open.files).map_err(wrong)?;
        match too_deep(&open.files) {
            Some(file) => Err(ClientError::TooDeep(OsStr::from_bytes(&file.path).into())),
            None => Ok(open),
        }
    }
}

fn leased(connection: &Connection, key: &str) -> Result<KeyEntry, ClientError> {
    connection.call(KeyOpen { key: key.into(), lease: true })
}

fn leased_or_remembered(connection: &Connection, key: &str) -> Result<(KeyEntry, bool), ClientError> {
    match leased(connection, key) {
        Err(error) if error.code() == Some(FailureCode::Unavailable) => {
            let (entry, stale) = read(connection, key, Consistency::One)?;
            // A node that remembers nothing of the key knows as little as one without a catalog.
            Ok((entry.ok_or(error)?, stale))
        }
        entry => Ok((entry?, false)),
    }
}

/// The entry, of which every replica has said that it is there.
fn confirmed(connection: &Connection, key: &str) -> Result<KeyEntry, ClientError> {
    loop {
        let entry = leased(connection, key)?;
        let (found, _) = read(connection, key, Consistency::All)?;
        if found.is_some_and(|found| found.version == entry.version) {
            return Ok(entry);
        }
        // It was written in between; what is there since then has to be confirmed.
        connection.send(LeaseRelease { lease: entry.lease })?;
    }
}

/// The entry without a lease, if it is one of files; and whether it is what the node has read before.
fn read(
    connection: &Connection,
    key: &str,
    consistency: Consistency,
) -> Result<(Option<KeyEntry>, bool), ClientError> {
    let request = CatalogGet { keys: vec![key.into()], consistency, snapshot: 0 };
    let Found { mut entries, stale, .. } = connection.call(request)?;
    let entry = entries.pop().flatten().and_then(|entry| match entry.content {
        Some(Content::Manifest(manifest)) => Some(KeyEntry {
            key: entry.key,
            version: entry.version,
            revision: entry.revision,
            created_ms: entry.updated_ms,
            manifest,
            lease: 0,
        }),
        _ => None,
    });
    Ok((entry, stale))
}

impl OpenKey<'_> {
    /// Gives the lease to the caller, who has to release it.
    pub(crate) fn keep_lease(&mut self) -> u64 {
        std::mem::take(&mut self.entry.lease)
    }

    /// Releases a lease that was kept.
    pub(crate) fn release(connection: &Connection, lease: u64) {
        if lease != 0 {
            // When the connection has ended, the node releases the lease by itself.
            let _ = connection.send(LeaseRelease { lease });
        }
    }
}

impl Drop for OpenKey<'_> {
    fn drop(&mut self) {
        Self::release(self.connection, self.entry.lease);
    }
}
