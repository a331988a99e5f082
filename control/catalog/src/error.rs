//! What can go wrong.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use plan::key::KeyError;
use plan::manifest::ManifestError;

/// Why the catalog did not do what was asked. Unless it says otherwise nothing was changed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CatalogError {
    /// The text is not a key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The manifest is not one that this build may trust.
    #[error("the manifest of key '{key}' cannot be used")]
    Manifest {
        /// The key.
        key: String,
        /// Why.
        source: ManifestError,
    },
    /// The manifest root is too large.
    #[error(
        "the manifest of key '{key}' has {size} bytes, at most {} fit; move its list of files into a chunk or \
         split the key",
        crate::MANIFEST_SIZE_MAX
    )]
    ManifestSize {
        /// The key.
        key: String,
        /// Bytes of the manifest.
        size: usize,
    },
    /// The current version is not the one expected. Version 0 stands for no version.
    #[error(
        "key '{key}' has version {found}, version {expected} was expected (0 means absent); read it again"
    )]
    Conflict {
        /// The key.
        key: String,
        /// What the caller expected.
        expected: u64,
        /// What there is.
        found: u64,
    },
    /// A key changed after the revision that a write depends on.
    #[error("keys that begin with '{prefix}' were changed after revision {revision}; read them again")]
    Changed {
        /// The prefix, or the key.
        prefix: String,
        /// The revision that the caller knew.
        revision: u64,
    },
    /// An operation needs a key that is not there.
    #[error("there is no key '{key}'")]
    NoKey {
        /// The key.
        key: String,
    },
    /// A key that lives for ever was to live longer.
    #[error("key '{key}' does not expire, so that nothing can be added to its time; set one instead")]
    NoExpiry {
        /// The key.
        key: String,
    },
    /// A write is larger than every engine takes.
    #[error("a write has {found} {what}, at most {most} fit; split it")]
    TooLarge {
        /// What of.
        what: &'static str,
        /// How many there are.
        found: usize,
        /// How many fit.
        most: usize,
    },
    /// A value is too large to be kept inline.
    #[error(
        "the value of key '{key}' has {size} bytes, at most {} fit; put it as chunks instead",
        crate::VALUE_SIZE_MAX
    )]
    ValueSize {
        /// The key.
        key: String,
        /// Bytes of the value.
        size: usize,
    },
    /// Two operations of a write name the same key.
    #[error("a write names key '{key}' twice")]
    Twice {
        /// The key.
        key: String,
    },
    /// A text or number that cannot be.
    #[error("{what} cannot be {found}: {reason}")]
    Invalid {
        /// What it is.
        what: &'static str,
        /// What was given, shortened.
        found: String,
        /// Why not.
        reason: &'static str,
    },
    /// A service that nobody keeps alive cannot own anything.
    #[error("there is no service '{name}'; register it first (`shoal service add`)")]
    NoService {
        /// Its name.
        name: String,
    },
    /// Changes that were asked for are not kept any more.
    #[error(
        "changes up to revision {asked} are wanted, but only those after {kept} are kept; read the keys anew and follow \
         from there"
    )]
    ChangesGone {
        /// The revision after which changes were wanted.
        asked: u64,
        /// The revision after which they are kept.
        kept: u64,
    },
    /// A snapshot is too old to be read from.
    #[error("the catalog at revision {revision} is not kept any more; begin again")]
    SnapshotGone {
        /// Its revision.
        revision: u64,
    },
    /// A transaction has taken too long.
    #[error(
        "the transaction was to take at most {timeout_ms} ms and was rolled back; begin again, with more time"
    )]
    TransactionTimeout {
        /// How long it was to take, in milliseconds.
        timeout_ms: u64,
    },
    /// The catalog cannot be reached. Whether a write was carried out is not known when `maybe_done`.
    #[error("the catalog cannot be reached: {reason}; try again in {retry_ms} ms")]
    Unreachable {
        /// Who did not answer, and why.
        reason: String,
        /// When it makes sense to try again, in milliseconds.
        retry_ms: u64,
        /// Whether a write may have been carried out all the same.
        maybe_done: bool,
    },
    /// A transaction has ended before.
    #[error(
        "transaction {number:016x} is not open: it was committed, rolled back, or over its time; begin again"
    )]
    NoTransaction {
        /// Its number.
        number: u64,
    },
    /// A live node that may have a replica has not said that it has it, or no node has.
    #[error("the data of key '{key}' is not acknowledged by every replica: {reason}")]
    Unacknowledged {
        /// The key.
        key: String,
        /// Which chunk, and who.
        reason: String,
    },
    /// etcd was reached and does not do it.
    #[error("etcd refused the request: {reason}; check its health, its space and this user's rights")]
    Refused {
        /// What it said.
        reason: String,
    },
    /// The node that keeps the catalog has failed, in a way that only its own log tells in full.
    #[error("the node that keeps the catalog failed: {message}")]
    Elsewhere {
        /// What it said.
        message: String,
    },
    /// There are too many leases.
    #[error(
        "{} versions are leased, which is the most; close readers or wait until their leases expire",
        crate::LEASES_MAX
    )]
    Leases,
    /// A record fails its checksum or contradicts another.
    #[error(
        "the catalog's record of {subject} is damaged on disk; restore the catalog's directory from a copy"
    )]
    Damaged {
        /// What the record is about.
        subject: String,
    },
    /// A record was written by a newer or older build.
    #[error(
        "the catalog's record of {subject} has format {format}, which this build does not read; use the build that wrote it, \
         or begin with an empty directory and put the keys again"
    )]
    Format {
        /// What the record is about.
        subject: String,
        /// The format.
        format: u8,
    },
    /// Writes that were acknowledged are not there.
    #[error(
        "the catalog in {} ends at revision {found}, but revision {fenced} was acknowledged: its journal is damaged; \
         restore the directory from a copy, or delete the file 'fence' in it to go on without the lost writes",
        directory.display()
    )]
    LostWrites {
        /// The catalog's directory.
        directory: PathBuf,
        /// The last revision that is there.
        found: u64,
        /// The last revision that was there for certain.
        fenced: u64,
    },
    /// Another process uses the directory.
    #[error("the catalog in {} is in use by another process; stop that one first", .0.display())]
    Locked(PathBuf),
    /// The storage engine failed. Whether a write was carried out shows after a restart.
    #[error("{doing} failed; check the disk, then restart the node")]
    Engine {
        /// What was being done, on what.
        doing: String,
        /// Why it failed.
        source: Arc<fjall::Error>,
    },
    /// The file system failed.
    #[error("{doing} {} failed; check the disk and its permissions", path.display())]
    File {
        /// What was being done.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: Arc<io::Error>,
    },
    /// The operating system gives no random numbers.
    #[error("the operating system gives no random numbers: {0}")]
    Random(getrandom::Error),
    /// The writer thread is gone: the catalog was closed, or a defect has ended it.
    #[error("the catalog is closed; if the node goes on without it, restart it and report its log")]
    Stopped,
}

impl CatalogError {
    pub(crate) fn engine(doing: impl Into<String>) -> impl FnOnce(fjall::Error) -> Self {
        let doing = doing.into();
        |source| CatalogError::Engine { doing, source: Arc::new(source) }
    }

    pub(crate) fn file(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| CatalogError::File { doing, path, source: Arc::new(source) }
    }
}
