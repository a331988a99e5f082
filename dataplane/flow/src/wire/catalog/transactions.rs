//! Transactions, which are open on the node that a client talks to.

use rkyv::{Archive, Deserialize, Serialize};
use serde::Serialize as Json;

use super::CatalogOperation;

/// Begins a transaction on this node, which ends with the connection; answered by [`TransactionBegun`].
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct TransactionBegin {
    /// What it may see of others.
    pub isolation: TransactionIsolation,
    /// Milliseconds after which it is rolled back.
    pub timeout_ms: u64,
}

/// What a transaction may see of others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Archive, Serialize, Deserialize, Json)]
#[serde(rename_all = "snake_case")]
pub enum TransactionIsolation {
    /// Each read sees what was committed last.
    ReadCommitted,
    /// All reads see one revision, and nobody else may have written what it writes.
    #[default]
    Snapshot,
    /// As snapshot, and nobody may have written what it read either.
    Serializable,
}

/// The transaction is open.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct TransactionBegun {
    /// Its number, never 0.
    pub transaction: u64,
}

/// Reads keys in a transaction; answered by [`super::CatalogFound`], whose revision is 0.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct TransactionGet {
    /// The transaction.
    pub transaction: u64,
    /// The keys.
    pub keys: Vec<String>,
}

/// Reads a page of entries in a transaction; answered by [`super::CatalogPage`].
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct TransactionScan {
    /// The transaction.
    pub transaction: u64,
    /// Only keys that begin with it; empty for all.
    pub prefix: String,
    /// Only keys after this one.
    pub after: Option<String>,
    /// Most entries of the page.
    pub limit: u32,
    /// Whether contents are wanted.
    pub contents: bool,
}

/// Adds operations to a transaction; nobody else sees them before it commits. Answered by `Done`.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct TransactionWrite {
    /// The transaction.
    pub transaction: u64,
    /// What is done.
    pub operations: Vec<CatalogOperation>,
}

/// Carries a transaction out and ends it; answered by [`super::CatalogWritten`], with the versions in
/// the order of the keys.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct TransactionCommit {
    /// The transaction.
    pub transaction: u64,
}

/// Ends a transaction without a trace; answered by `Done`.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct TransactionRollback {
    /// The transaction.
    pub transaction: u64,
}
