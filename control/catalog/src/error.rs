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
    /// A record was written by a newer build.
    #[error(
        "the catalog's record of {subject} has format {format}, which this build does not know; upgrade it"
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
    /// The writer thread is gone, which only a defect brings about.
    #[error("the catalog's writer has stopped because of a defect; restart the node and report its log")]
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
