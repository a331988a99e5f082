//! Who fetches which piece from whom, and what a source sends next.

pub mod fetch; // the receiver of one chunk
pub mod patience; // how long a fetch goes on while nothing is under way
pub mod priority; // which transfers come first
pub mod serve; // the source side of one shard
pub mod tracker; // who takes part in which swarm
pub mod uplinks; // what the links between racks carry

pub use fetch::{Action, Arrival, Counters, Fetch, Settings};
pub use priority::{NoPriority, Priority};
pub use serve::{Holdings, QueueFull, Serve, Upload};
pub use tracker::Tracker;
pub use uplinks::{NoUplinks, Uplinks};
