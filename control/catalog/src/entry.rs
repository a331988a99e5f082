//! What a key has.

use std::collections::BTreeMap;

/// The largest value that is kept inline, in bytes. What is larger is put as chunks, and the key has their manifest.
pub const VALUE_SIZE_MAX: usize = 64 << 10;
/// Largest manifest root, in bytes.
pub const MANIFEST_SIZE_MAX: usize = 1 << 20;
/// Most labels of one entry.
pub const LABELS_MAX: usize = 32;
/// Longest name or value of a label, and longest name of a service, in bytes.
pub const LABEL_LENGTH_MAX: usize = 256;

/// A key as one write has left it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// Counts the writes of this key from 1. A key that was deleted and is put again goes on counting.
    pub version: u64,
    /// The revision of the catalog that wrote it. Revisions order all writes of all keys.
    pub revision: u64,
    /// When the key came to be, milliseconds since 1970: the first put since it was last absent.
    pub created_ms: u64,
    /// When this version was written, milliseconds since 1970.
    pub updated_ms: u64,
    /// When it expires, milliseconds since 1970; from that moment on it is absent.
    pub expires_ms: Option<u64>,
    /// The service that owns it, which takes it along when it ends.
    pub owner: Option<String>,
    /// What its writer says about it.
    pub labels: BTreeMap<String, String>,
    /// Bytes of the value, or of all files of the manifest.
    pub size: u64,
    /// How many files the manifest has; 0 of a value.
    pub files: u64,
    /// What it holds; `None` where only the names were asked for.
    pub content: Option<Content>,
}

/// What a key holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// A small value, up to [`VALUE_SIZE_MAX`].
    Value(Vec<u8>),
    /// The root of a manifest ([`plan::manifest::Manifest`]), up to [`MANIFEST_SIZE_MAX`].
    Manifest(Vec<u8>),
}
