//! What can go wrong, and what to do about it.

use std::io;
use std::path::{Path, PathBuf};

use flow::wire::catalog::CatalogRefused;
use flow::wire::handshake::HandshakeError;
use flow::wire::session::{Failure, FailureCode};
use plan::manifest::ManifestError;

use crate::Address;

/// Why an operation failed. Unless its message says otherwise, nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// A text that is no address.
    #[error("'{0}' is not the address of a node")]
    Address(String),
    /// Nobody answers.
    #[error("cannot connect to a node at {address}: {source}")]
    Connect {
        /// Where.
        address: Address,
        /// Why.
        source: io::Error,
    },
    /// Somebody answers, but not as a node of this cluster should.
    #[error("the node at {address} and this client cannot work together: {source}")]
    Handshake {
        /// Where.
        address: Address,
        /// Why.
        source: HandshakeError,
    },
    /// The connection ended.
    #[error("the node {node} closed the connection")]
    Closed {
        /// Name of the node.
        node: String,
    },
    /// The node said something that makes no sense.
    #[error("the node {node} does not keep to the protocol: {what}")]
    Protocol {
        /// Name of the node.
        node: String,
        /// What it said.
        what: String,
    },
    /// The node refused.
    #[error("{}", .0.message)]
    Failure(Failure),
    /// The catalog refused, for a reason that a program can act on.
    #[error("{}", .0.failure.message)]
    Catalog(Box<CatalogRefused>),
    /// [`Client::cancel`](crate::Client::cancel) was called.
    #[error("the operation was cancelled")]
    Cancelled,
    /// A file, a directory or a link could not be read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    File {
        /// What was tried, such as `read`.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A source holds something that has no bytes to put.
    #[error("cannot put {}: it is {kind}", path.display())]
    Unsupported {
        /// The thing.
        path: PathBuf,
        /// What it is, such as `a socket`.
        kind: &'static str,
    },
    /// A file was written to while it was read.
    #[error("{} changed while it was read", .0.display())]
    Changed(PathBuf),
    /// Two sources of one put have the same name.
    #[error("two of the sources are named '{0}'")]
    SameName(String),
    /// Reading the stream that is put failed.
    #[error("cannot read the stream to put: {0}")]
    Input(io::Error),
    /// Writing the stream that a get fills failed.
    #[error("cannot write the bytes of the key: {0}")]
    Output(io::Error),
    /// There are more files than one key can hold.
    #[error("the source has {entries} entries, and their list is larger than one key can hold")]
    TooManyFiles {
        /// Files, directories and links.
        entries: usize,
    },
    /// The manifest of a key cannot be used.
    #[error("the key '{key}' cannot be read: {source}")]
    Manifest {
        /// The key.
        key: String,
        /// What is wrong with it.
        source: ManifestError,
    },
    /// An entry of a tree is below too many directories.
    #[error("{} is below more than 512 directories", .0.display())]
    TooDeep(PathBuf),
    /// A tree was to be written to one stream.
    #[error("the key '{0}' is a directory and cannot be written to a stream")]
    NotOneFile(String),
    /// Bytes were wanted that a key does not have.
    #[error("the key '{key}' has {size} bytes, and some behind them were asked for")]
    OutOfRange {
        /// The key.
        key: String,
        /// Its size in bytes.
        size: u64,
    },
    /// Something at the destination cannot be replaced.
    #[error("cannot write {}: {what} is in the way", path.display())]
    InTheWay {
        /// Where.
        path: PathBuf,
        /// What is there, such as `a directory`.
        what: &'static str,
    },
    /// Bytes differ from what was put.
    #[error("{0} is not what was put: its BLAKE3 digest differs")]
    Digest(String),
    /// There is no digest to compare bytes with.
    #[error(
        "{0} was put without a digest that it could be compared with; the checksums of its pieces are compared whenever they \
         move, so get it without --verify"
    )]
    NoDigest(String),
    /// No chunk has this id.
    #[error("no chunk has an id that begins with '{0}'")]
    UnknownChunk(String),
    /// Several chunks have ids that begin so.
    #[error("{count} chunks have ids that begin with '{prefix}', among them {examples}")]
    AmbiguousChunk {
        /// The prefix.
        prefix: String,
        /// How many.
        count: usize,
        /// A few of them.
        examples: String,
    },
    /// Not the beginning of a chunk id.
    #[error("'{0}' is not a chunk id nor the beginning of one")]
    ChunkPrefix(String),
}

impl ClientError {
    /// What to do about it, when there is something.
    pub fn hint(&self) -> Option<&str> {
        match self {
            ClientError::Failure(failure) => Some(failure.hint.as_str()).filter(|hint| !hint.is_empty()),
            ClientError::Catalog(refused) => {
                Some(refused.failure.hint.as_str()).filter(|hint| !hint.is_empty())
            }
            ClientError::Address(_) => Some("give HOST:PORT or the path of a node's local socket"),
            ClientError::Connect { .. } => {
                Some("check that a node runs there (`shoal serve`) and that the address is right")
            }
            ClientError::Closed { .. } => Some("look at the node's log, then try again"),
            ClientError::Protocol { .. } => Some("let node and client be of the same version"),
            ClientError::Unsupported { .. } => {
                Some("files, directories and symbolic links can be put; leave it out of the source")
            }
            ClientError::Changed(_) => Some("put it again when nobody writes to it; nothing was stored"),
            ClientError::SameName(_) => Some("put the directory that holds them, or rename one"),
            ClientError::TooDeep(_) => Some("put the deep part as a key of its own"),
            ClientError::TooManyFiles { .. } => Some("put its subdirectories as keys of their own"),
            ClientError::NotOneFile(_) => Some("get it into a directory"),
            ClientError::InTheWay { .. } => Some("move it away or choose another destination"),
            ClientError::UnknownChunk(_) => Some("`shoal chunk ls` lists the chunks"),
            ClientError::AmbiguousChunk { .. } => Some("give more digits"),
            ClientError::ChunkPrefix(_) => Some("it consists of up to 64 hexadecimal digits"),
            _ => None,
        }
    }

    /// The kind of failure, when the node gave one or it is clear without the node.
    pub fn code(&self) -> Option<FailureCode> {
        match self {
            ClientError::Failure(failure) => Some(failure.code),
            ClientError::Catalog(refused) => Some(refused.failure.code),
            ClientError::Connect { .. } | ClientError::Closed { .. } => Some(FailureCode::Unavailable),
            ClientError::Address(_)
            | ClientError::NotOneFile(_)
            | ClientError::NoDigest(_)
            | ClientError::OutOfRange { .. }
            | ClientError::ChunkPrefix(_)
            | ClientError::AmbiguousChunk { .. } => Some(FailureCode::Invalid),
            ClientError::UnknownChunk(_) => Some(FailureCode::NotFound),
            ClientError::Digest(_) => Some(FailureCode::Corrupt),
            _ => None,
        }
    }

    /// The failure of `action` on `path`.
    pub(crate) fn file(action: &'static str, path: &Path, source: impl Into<io::Error>) -> Self {
        ClientError::File { action, path: path.to_path_buf(), source: source.into() }
    }
}
