//! What is asked to be read.

use crate::entry::Entry;

/// Most entries of one page of a scan.
pub const SCAN_LIMIT_MAX: usize = 10_000;
/// Most bytes of contents in one page of a scan, about; a page has at least one entry.
pub const SCAN_SIZE_MAX: usize = 4 << 20;
/// Most keys of one multi-get.
pub const GET_KEYS_MAX: usize = 1024;

/// How fresh a read must be. On the embedded engine every read is linearizable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Consistency {
    /// What one place knows: it may be stale, and it answers also when the catalog cannot be reached.
    One,
    /// Linearizable: every write that was acknowledged before the read began is seen.
    #[default]
    Quorum,
    /// Linearizable, as [`Consistency::Quorum`].
    Serial,
    /// Linearizable; and every live node that has a replica of what the key refers to has said that it has it. The catalog
    /// itself treats it as [`Consistency::Quorum`]; whoever knows the nodes asks them.
    All,
}

/// Which keys to scan, in the order of their bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scan {
    /// Only keys that begin with it; empty for all.
    pub prefix: String,
    /// Only keys after this one, by what [`Page::next`] said.
    pub after: Option<String>,
    /// Most entries of the page, up to [`SCAN_LIMIT_MAX`].
    pub limit: usize,
    /// Whether contents are wanted, or only what is said about them.
    pub contents: bool,
}

/// A page of a scan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The revision that it shows.
    pub revision: u64,
    /// The entries, ascending by key.
    pub entries: Vec<Entry>,
    /// The key after which the next page begins; `None` when this is the last.
    pub next: Option<String>,
}

/// What a multi-get found, all at one revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The revision that it shows.
    pub revision: u64,
    /// For each key in the order asked, what there is.
    pub entries: Vec<Option<Entry>>,
    /// Whether this is what was read earlier, since the catalog cannot be reached. Only [`Consistency::One`] gets it; what is
    /// not remembered makes the read fail.
    pub stale: bool,
}
