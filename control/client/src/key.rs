//! One version of a key, held open.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use flow::wire::session::{KeyEntry, KeyOpen, LeaseRelease};
use plan::manifest::{FileEntry, Files, Manifest, ManifestError, decode_files};

use crate::ClientError;
use crate::chunk_reader::{read_whole, reference};
use crate::connection::Connection;
use crate::layout::too_deep;
use crate::put::LIST_MAX;

/// A version of a key whose chunks the node keeps until the value is dropped.
pub(crate) struct OpenKey<'c> {
    connection: &'c Connection,
    pub(crate) entry: KeyEntry,
    pub(crate) manifest: Manifest,
    pub(crate) files: Vec<FileEntry>,
}

impl<'c> OpenKey<'c> {
    /// Opens the current version of a key and reads its list of files.
    pub(crate) fn open(connection: &'c Connection, key: &str) -> Result<Self, ClientError> {
        let entry: KeyEntry = connection.call(KeyOpen { key: key.into(), lease: true })?;
        let wrong = |source| ClientError::Manifest { key: key.into(), source };
        let manifest = Manifest::decode(&entry.manifest).map_err(wrong)?;
        let mut open = Self { connection, entry, manifest, files: Vec::new() };
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

impl Drop for OpenKey<'_> {
    fn drop(&mut self) {
        if self.entry.lease != 0 {
            // When the connection has ended, the node releases the lease by itself.
            let _ = self.connection.send(LeaseRelease { lease: self.entry.lease });
        }
    }
}
