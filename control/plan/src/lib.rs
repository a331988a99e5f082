//! Names, membership and placement: what the control plane decides, without I/O.
//!
//! Nothing here reads a clock, opens a file or spawns. Time is an argument, in milliseconds; nodes are numbers
//! and chunks 32 bytes, so that production and the simulator drive the same code.
#![forbid(unsafe_code)]

pub mod key; // what a key may look like
pub mod manifest; // what a key's version consists of
pub mod membership; // who is in the cluster, as its head sees it
pub mod heartbeat; // how often a member says that it lives
pub mod placement; // which node shall hold a chunk
pub mod registry; // who is in the cluster, as its nodes have registered themselves
pub mod rendezvous; // which nodes track a chunk
