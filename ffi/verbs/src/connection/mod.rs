//! Connections by address (`rdma_cm(7)`): for iWARP devices, which connect in no other way, and for networks where the ends
//! know each other by IP address alone.
//!
//! ```text
//! ConnectionChannel: next_event
//! Identifier<Unresolved> ─► <AddressResolved> ─► <RouteResolved> ─attach─► Attached ─connect─┐
//! Listener: an event has a Request ────────────────────────────── attach ─► Attached ─accept─┤
//!                 └ reject                                                                   ▼
//!                                                            Connection ◄─established─ Connecting
//! ```
//!
//! A step that takes time ends with an event, and the event has the proof that the next step asks for. Queue pairs,
//! domains and regions are those of a [`crate::Context`] of one's own, so that memory is registered once, however the
//! queue pairs were connected. Nothing waits but the drop of a [`Connecting`]. The driver of an iWARP device may open its TCP
//! connection within a call, which is therefore made in a thread of its own.

mod address; // socket addresses of the system's
mod addresses; // which addresses of this machine a device has
mod channel; // where events come from
mod establish; // from a queue pair to a connection
mod event; // what happened
mod identifier; // one end of a connection, without its queue pair

pub use addresses::addresses;
pub use channel::ConnectionChannel;
pub use establish::{Answerer, Attached, Caller, Connecting, Connection};
pub use event::{ConnectError, ConnectionEvent, Established, Reached};
pub use identifier::{
    AddressResolved, Identifier, IdentifierNumber, Listener, Request, RouteResolved, Unresolved,
};

/// Most bytes of private data that are sent with a connect, an accept or a reject: what InfiniBand and RoCE carry with a
/// connect. The other end may see zeros after them.
pub const PRIVATE_BYTES_MAX: usize = 56;
