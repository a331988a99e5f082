//! Names, membership and placement: what the control plane decides, without I/O.
#![forbid(unsafe_code)]

pub mod manifest; // what a key's version consists of
