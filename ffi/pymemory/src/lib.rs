//! Memory that Rust and Python share, without a copy between them.
//!
//! Python's buffer protocol (PEP 3118) and DLPack pass addresses, so both directions need `unsafe`: [`Bytes`] shows memory
//! of Rust to Python, [`Source`] lets Rust copy out of memory of Python, [`Targets`] into it. It builds without Python: the extension module
//! finds the interpreter's functions in the process that loads it.
#![allow(unsafe_code)]

mod bytes; // memory of Rust as a Python object
mod dlpack; // the same for whoever speaks DLPack
mod layout; // where the bytes of an array lie
mod source; // memory of Python to be copied from
mod targets; // memory of Python to be copied into

pub use bytes::{Bytes, Stable};
pub use source::Source;
pub use targets::Targets;
