//! The durable truth: keys, versions, manifests.
//!
//! A key has one current version; each version is a manifest root that names chunks. What is acknowledged is on
//! disk. All writes pass through one thread, which carries out whatever has queued up as one atomic group with one
//! fsync. Reads do not wait for it and see acknowledged or about-to-be-acknowledged writes only, never half a group.
//!
//! A version that is superseded or removed stays for [`GRACE_MS`], and for as long as somebody holds a lease on
//! it; until then its chunks count as referenced. [`Catalog::sweep`] forgets it afterwards.
//!
//! No async runtime is needed: the futures wait for a channel, and any executor, or a plain `block_on`, drives
//! them.
#![forbid(unsafe_code)]

mod catalog; // the handle: what callers ask
mod error; // what can go wrong
mod fence; // notices writes that were lost
mod group; // what a group of writes does, as one batch
mod lease; // who still reads which version
mod record; // how a value lies on disk
mod rows; // which values there are
mod writer; // the thread that writes

pub use catalog::{Catalog, Committed, Entry, Summary};
pub use error::CatalogError;

/// A superseded or removed version stays for this long, in milliseconds. Whoever reads for longer holds a lease.
pub const GRACE_MS: u64 = 2_000;
/// Versions from before the catalog was opened stay for this long after it was, in milliseconds: the leases on them were
/// lost with the process that had granted them.
pub const REOPENED_GRACE_MS: u64 = 60_000;
/// A lease lasts this long unless it is renewed, in milliseconds.
pub const LEASE_MS: u64 = 30_000;
/// Most leases at once.
pub const LEASES_MAX: usize = 1 << 20;
/// Largest manifest root, in bytes.
pub const MANIFEST_SIZE_MAX: usize = 1 << 20;
/// Most lines of one listing.
pub const LIST_ENTRIES_MAX: usize = 10_000;

#[cfg(test)]
mod tests;
