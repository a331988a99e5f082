//! RDMA: libibverbs and librdmacm, loaded at run time.
//!
//! [`Library::get`] finds the library or says what to install. From it come [`devices`], and from each other:
//!
//! ```text
//! Device ─► Context ─► ProtectionDomain ─► MemoryRegion ─► Segment        (Arc: shared by threads)
//!              │               └─► QueuePair, SharedReceiveQueue          (Rc: of one thread)
//!              └─► CompletionChannel ─► CompletionQueue ◄─┘
//! ```
//!
//! A queue pair is connected with what both ends told each other ([`Endpoint`]), or by address: a [`ConnectionChannel`]
//! makes [`Identifier`]s that call and [`Listener`]s that are called.
//!
//! Everything holds what it depends on, so nothing can be closed too early. *Posting a work request consumes what it
//! works on; the completion returns it*: a [`CompletionQueue`] keeps the segments of every request, and a value of the
//! caller's choice, until the hardware is done with them.
//!
//! The sources are the man pages of libibverbs and librdmacm, named where they apply; they come with the packages
//! `libibverbs-dev` and `librdmacm-dev`.
//!
//! It is one of the few rooms where `unsafe` is allowed; every block says why it is sound.
#![allow(unsafe_code)]

mod sys; // the C structures
mod load; // finding the libraries
mod error; // what fails, and what to do
mod device; // devices, ports, addresses, events
mod memory; // protection domains and registered memory
mod completion; // completion queues and what they keep
mod queue; // queue pairs and work requests
mod connection; // connections by address

pub use completion::{Completion, CompletionChannel, CompletionQueue, Opcode, WorkError, WorkRequestId};
pub use connection::{
    AddressResolved, Answerer, Attached, Caller, ConnectError, Connecting, Connection, ConnectionChannel,
    ConnectionEvent, Established, Identifier, IdentifierNumber, Listener, PRIVATE_BYTES_MAX, Reached,
    Request, RouteResolved, Unresolved, addresses,
};
pub use device::{
    Attributes, Context, Device, Event, Gid, GidEntry, GidKind, LinkLayer, Mtu, Port, PortState, Transport,
    choose_gid, devices,
};
pub use error::Error;
pub use load::{Library, LoadError, connection_manager};
pub use memory::{Access, HostMemory, Mapping, MemoryRegion, ProtectionDomain, RemoteRange, Segment};
pub use queue::{
    Attachment, Endpoint, Initialised, Managed, Operation, QueuePair, Ready, ReceiveReady, Refused,
    Reliability, Reset, Segments, SharedReceiveQueue, Sizes, TakesReceives,
};
