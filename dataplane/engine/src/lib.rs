//! The execution of Shoal's data plane: shards on glommio executors, one ring for chunk bytes each, the stores and
//! the transports.
//!
//! The control plane drives it through [`Handle`] and listens to [`Event`]s; what is decided is decided in `flow`.

mod command; // what the control plane asks of a shard
mod error; // why a request to the engine failed
mod event; // what a shard asks of the control plane
mod executors; // the threads that shards run on
mod gpu; // GPUs as devices: memory that is reached by copies
mod handle; // the engine as the control plane sees it
mod machine; // what the machine offers
mod notify; // wakes tasks of one shard
mod ring; // our own io_uring, for chunk bytes
mod shard; // one executor: replicas, fetches, serving
mod store; // chunk files on NVMe
mod values; // small values, as the control plane sees them
mod transport; // frames and pieces over a connection

#[cfg(test)]
mod tests; // engines beside each other

pub use command::{Begun, Sealed};
pub use error::EngineError;
pub use event::{Event, Fault};
pub use executors::Executors;
pub use gpu::{GpuLimit, GpuSettings, GpuSource};
pub use handle::{Config, Engine, Handle, Sharing, StartError};
pub use machine::{Finding, machine_memory_bytes, probe};
pub use store::{Footer, FooterError};
pub use transport::lanes::{LaneSettings, RdmaSettings, UcxSettings};
pub use values::{Held, HeldContent, Listed, Reservation, Totals};

/// A member as the shards need to know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// The node.
    pub node: flow::wire::control::NodeId,
    /// What it is called.
    pub name: String,
    /// How many shards it runs.
    pub shards: u16,
    /// Whether it stands in this node's rack.
    pub near: bool,
    /// Whether it runs on this node's host.
    pub here: bool,
}
