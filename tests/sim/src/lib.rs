//! A seeded world that drives the scheduler of `flow` as it runs in production: 1,024 nodes in seconds.
//!
//! What the world models:
//! - each node's uplink and downlink rate, full duplex; a piece travels in slices, a source's streams share its uplink
//!   slice by slice, a receiver's share its downlink in the order of arrival, and a stream whose receiver is busy
//!   leaves the uplink to the others, which comes close to max-min sharing;
//! - one latency for every message and every byte; connections take two of them;
//! - the engine's part, in its simplest form: connections, interests, announcements, slots, upload slots;
//! - a tracker, which may fall silent; nodes that join late, run slow, die, or send wrong bytes. A node that dies
//!   takes what it was sending with it and is missed by others only after a time.
//!
//! What it does not model: the network between the nodes (full bisection, no racks' uplinks, no congestion, no loss of
//! packets), the cost of a message or of a checksum, memory, NVMe and GPUs, several chunks at once, several shards of a
//! node. Its numbers say how good the decisions are, not how fast a cluster is.
//!
//! With every event the world checks that no piece is visible that was not verified, that no slot has two users, and
//! that grants, connections, uploads and memory keep within their bounds. A violation names the seed.

pub mod comparator; // star and chain, in the same network
pub mod event; // what happens next
pub mod network; // links, streams, slices
pub mod node; // one node and its part of the engine
pub mod outcome; // what came of a run
pub mod scenario; // who is slow, late, dead, or lies
pub mod world; // runs a scenario

pub use outcome::Outcome;
pub use scenario::Scenario;
