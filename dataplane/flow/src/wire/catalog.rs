//! The catalog: clients ask any node, and a node that does not keep it asks the head, with the same messages.
//!
//! A refusal is a [`CatalogRefused`], which programs can act on, or a plain [`Failure`](super::session::Failure). Every limit is that of the catalog,
//! whose largest write and whose pages fit into a frame.

mod changes; // in the order of revisions
mod reading; // keys, pages, counts, snapshots, leases
mod refusal; // why it was not done
mod services; // who may own keys
mod transactions; // open on the node that a client talks to
mod writing; // conditions and operations

pub use changes::*;
pub use reading::*;
pub use refusal::*;
pub use services::*;
pub use transactions::*;
pub use writing::*;

use rkyv::{Archive, Deserialize, Serialize};

/// A key as one write has left it.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct CatalogEntry {
    /// The key.
    pub key: String,
    /// Counts the writes of this key from 1, across deletions.
    pub version: u64,
    /// The revision of the catalog that wrote it.
    pub revision: u64,
    /// When the key came to be, milliseconds since 1970.
    pub created_ms: u64,
    /// When this version was written, milliseconds since 1970.
    pub updated_ms: u64,
    /// When it expires, milliseconds since 1970.
    pub expires_ms: Option<u64>,
    /// The service that owns it.
    pub owner: Option<String>,
    /// What its writer says about it, ascending by name.
    pub labels: Vec<(String, String)>,
    /// Bytes of the value, or of all files of the manifest.
    pub size: u64,
    /// How many files the manifest has; 0 of a value.
    pub files: u64,
    /// What it holds; absent where only the names were asked for.
    pub content: Option<CatalogContent>,
}

/// What a key holds.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub enum CatalogContent {
    /// A small value, inline.
    Value(Vec<u8>),
    /// The root of a manifest, as `plan` encodes it.
    Manifest(Vec<u8>),
}
