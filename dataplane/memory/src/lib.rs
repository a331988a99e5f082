//! The memory that pieces live in.
//!
//! A node owns one [`Arena`]: a memfd, mapped once, cut into power-of-two slots that are leased piece by piece.
//! Local clients receive its descriptors and make a [`Mapping`] of their own, so that bytes pass between client and
//! node without a socket. This is a crate of its own because node and client both need it and the client must
//! never link the engine.
//!
//! It is one of the few rooms where `unsafe` is allowed; every block says why it is sound.
#![allow(unsafe_code)]

mod arena; // the memfd and its backing
mod buddy; // which ranges are free: pure
mod lease; // the right to one slot
mod mapping; // a client's view
mod stitched; // scattered pieces as one slice
mod pages; // large pages under a mapping
mod condense; // copies that leave behind what a checksum takes
mod copy; // copies that leave the cache alone

pub use arena::{Arena, ArenaError, Backing};
pub use condense::{CONDENSED_LENGTH, Condenser};
pub use copy::copy_past_cache;
pub use lease::{Lease, SharedLease};
pub use mapping::{Mapping, SlotWriter};
pub use stitched::{Access, Stitched};

/// Smallest slot, in bytes: one page.
pub const SLOT_SIZE_MIN: u64 = 4 << 10;
/// Largest slot, in bytes: the largest piece.
pub const SLOT_SIZE_MAX: u64 = 16 << 20;
