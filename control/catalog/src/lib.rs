//! The durable truth: keys, and what they have.
//!
//! A key has a current version, which is a small value or a manifest root that names chunks. [`Catalog`] says what every
//! engine does; docs/catalog.md says it for users. [`Embedded`] is the engine in one process: all writes pass through one
//! thread, which carries out whatever has queued up as one atomic group with one fsync. Reads do not wait for it and see
//! acknowledged or about-to-be-acknowledged writes only, never half a group. [`Transaction`] runs on any engine.
//!
//! A manifest that is superseded or removed stays for [`GRACE_MS`], and for as long as somebody holds a lease on
//! it; until then its chunks count as referenced. [`Catalog::sweep`] forgets it afterwards.
//!
//! [`Embedded`] needs no async runtime: its futures wait for channels, and any executor, or a plain `block_on`, drives
//! them.
#![forbid(unsafe_code)]

mod catalog; // what every engine does
mod entry; // what a key has
mod read; // what is asked to be read
mod write; // what is asked to be written
mod change; // what has been written, in order
mod error; // what can go wrong
pub mod check; // what every engine refuses
mod selection; // whose changes are wanted
mod transaction; // reads at once, writes when it commits
mod embedded; // the engine in one process, on disk
mod etcd; // the engine on etcd, for many nodes

pub use catalog::{Catalog, Service, Snapshot, Swept};
pub use change::{Change, ChangeKind, ChangeStream, Selector, Start};
pub use embedded::{Clock, Embedded, Settings, SystemClock};
pub use entry::{Content, Entry, LABEL_LENGTH_MAX, LABELS_MAX, MANIFEST_SIZE_MAX, VALUE_SIZE_MAX};
pub use error::CatalogError;
pub use etcd::{
    Enrolled, Enrolment, Etcd, EtcdAddress, EtcdSettings, EtcdTls, NODE_LEASE_S, Roster, RosterChange,
    RosterNews,
};
pub use read::{Consistency, Found, GET_KEYS_MAX, Page, SCAN_LIMIT_MAX, SCAN_SIZE_MAX, Scan};
pub use selection::Selection;
pub use transaction::{Isolation, TRANSACTION_TIMEOUT_MAX_MS, Transaction};
pub use write::{
    Condition, Expiry, OPERATIONS_MAX, Operation, Put, TTL_MAX_MS, WRITE_SIZE_MAX, Write, Written,
};

/// A superseded or removed version stays for this long, in milliseconds. Whoever reads for longer holds a lease.
pub const GRACE_MS: u64 = 2_000;
/// Versions from before the catalog was opened stay for this long after it was, in milliseconds: the leases on them were
/// lost with the process that had granted them.
pub const REOPENED_GRACE_MS: u64 = 60_000;
/// A lease lasts this long unless it is renewed, in milliseconds.
pub const LEASE_MS: u64 = 30_000;
/// Most leases at once.
pub const LEASES_MAX: usize = 1 << 20;
