//! The extension module `shoal._shoal`: the Rust client as Python sees it, one class or function for each thing that
//! blocks. What is pleasant to use is written in Python above it.
#![forbid(unsafe_code)]

mod connection; // a connection to one node, and what is asked on it
mod blocking; // calls that wait, without the interpreter's lock
mod error; // errors as exceptions
mod file; // one file of a key
mod memory; // memory of both sides
mod kv; // small values
mod transaction; // reads and writes that are committed together
mod watch; // changes as they come

use pyo3::prelude::*;

/// The module.
#[pymodule]
#[pyo3(name = "_shoal")]
mod module {
    #[pymodule_export]
    use super::connection::Connection;
    #[pymodule_export]
    use super::file::File;
    #[pymodule_export]
    use super::transaction::Transaction;
    #[pymodule_export]
    use super::watch::Watch;
    #[pymodule_export]
    use pymemory::Bytes;
}
