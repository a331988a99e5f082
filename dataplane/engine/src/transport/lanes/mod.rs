//! Pieces over RDMA and UCX: the receiver grants a slot of its arena, the sender writes into it, and a number that comes with
//! the write, or in a message after it, tells the receiver that its bytes are there. Both are of the caller's choice, and pass
//! over the connection that the two shards have anyway; no byte of a piece does.
//!
//! One [`Adapter`] for each device of the node has the arena registered. Each shard has one [`Endpoint`] for each
//! adapter, and in it a lane, one queue pair, for each shard of a peer:
//!
//! ```text
//! receiver                                    sender
//! offer() ────────── LaneAddress ───────────► offer(), accept(LaneAddress)
//! accept(LaneAddress) ◄───── LaneAddress ────
//! grant(tag, lease) ─ RemoteSlot, tag ──────► write(lease, RemoteSlot, tag)
//! Arrived { tag, lease } ◄════ the bytes ════ Sent { tag, lease }
//! ```
//!
//! *Memory that a device may touch belongs to the endpoint.* A lease that is written from comes back when the device has
//! said that it is done, and a slot that was granted when its tag has arrived, when the sender has said that it will not
//! write, or when the lane is closed; see [`slots`].
//!
//! The key of a lane opens the whole arena to its peer, as the key of the memory does: who is let into the cluster is
//! trusted with its memory. A slot is safe from writes that are late, not from a peer that wants to do harm.

mod error; // what fails, and what to do
pub(crate) mod fabric; // what is needed of a device
mod adapter; // a device with the arena registered
mod verbs; // on libibverbs, by numbers of queue pairs
mod iwarp; // on libibverbs and librdmacm, by address
mod ucx; // on libucp
mod devices; // which devices to use
mod subnet; // which device reaches which
mod slots; // memory that peers may write to: pure
mod polling; // whether to poll again or to wait: pure
mod endpoint; // lanes of one shard

/// What lanes go over, and how it is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LaneSettings {
    /// RDMA devices, through libibverbs.
    Rdma(RdmaSettings),
    /// UCX, over whichever transports it chooses.
    Ucx(UcxSettings),
}

pub use devices::RdmaSettings;
pub use ucx::UcxSettings;

pub(crate) use adapter::VerbsAdapter;
pub(crate) use endpoint::{Endpoint, LaneEvent, ROOM};
pub(crate) use error::LaneError;
pub(crate) use fabric::{Adapter, Fabric, Health, LaneId, LaneKind, RemoteSlot, Write};
pub(crate) use polling::Next;
pub(crate) use subnet::answering_rail;
pub(crate) use ucx::UcxAdapter;

#[cfg(test)]
mod conformance; // what every fabric must do
#[cfg(test)]
pub(crate) mod model; // a fabric in memory, with faults
#[cfg(test)]
mod tests;
