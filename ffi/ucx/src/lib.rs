//! UCX: libucp, loaded at run time.
//!
//! [`Library::get`] finds the library or says what to install. From it come, and from each other:
//!
//! ```text
//! Context ─► Region ─► Segment        (Arc: shared by threads)
//!    └─────► Worker ─► endpoints      (of one thread)
//! ```
//!
//! A worker sends active messages: a short header, and data that the receiver fetches into memory of its choice or does
//! not. Whoever has another's [`Address`] can make an endpoint to it.
//!
//! Everything holds what it depends on, so nothing can be closed too early. *Sending or receiving consumes what is worked
//! on; the event of its end returns it*: a [`Worker`] keeps the segments of every request, and a value of the caller's
//! choice, until the library is done with them. What the library calls back only notes what happened; it is told by
//! [`Worker::poll`].
//!
//! The source is the documentation in `ucp/api/ucp.h`, which comes with the package `libucx-dev`. UCX reads its settings
//! from `UCX_…` in the environment and from its own files.
//!
//! It is one of the few rooms where `unsafe` is allowed; every block says why it is sound.
#![allow(unsafe_code)]

mod sys; // the C structures
mod load; // finding the libraries
mod log; // what UCX has to say
mod error; // what fails, and what to do
mod address; // where a worker is
mod context; // settings, transports, registered memory
mod worker; // sending and receiving
mod callback; // what the library calls

pub use address::{Address, AddressError};
pub use context::{Context, Region, Segment};
pub use error::{Error, Status};
pub use load::{Library, LoadError};
pub use log::{Severity, on_log};
pub use worker::{EndpointId, Event, HEADER_BYTES_MAX, OfferId, Refused, Worker};
