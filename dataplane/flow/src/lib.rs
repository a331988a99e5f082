//! The decisions of Shoal's data plane.
//!
//! Nothing here does I/O, reads a clock or spawns: time is an argument ([`time::Instant`]), operations and
//! their results are data, and the same code runs in production and in the simulator. The modules are
//! listed in the order a chunk travels.
#![forbid(unsafe_code)]

pub mod limits; // every bound of the data plane, in one place
pub mod time; // time as an argument
pub mod bitmap; // which pieces of a chunk
pub mod chunk; // what a chunk is, how it is cut into pieces, what vouches for it
pub mod wire; // frames, messages, handshake
pub mod swarm; // who fetches which piece from whom, and what a source sends next
pub mod connections; // how many connections a shard has to others, and which it keeps
pub mod part_length; // how much of a piece is handed to a connection at a time
pub mod verify; // checksums of pieces, digests of chunks
pub mod backoff; // when something that failed is tried again
pub mod eviction; // what leaves memory when room is wanted
pub mod values; // small values of one shard: which are there, and which go first
