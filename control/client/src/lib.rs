//! The Rust client of Shoal.
//!
//! ```no_run
//! use client::{Address, Client, GetOptions, PutOptions, Silent, Source};
//!
//! let client = Client::connect(&Address::parse("/var/lib/shoal/shoal.sock")?, None)?;
//! client.put("models/seven", Source::Path("weights".into()), &PutOptions::default(), &Silent)?;
//! client.get("models/seven", "copy".as_ref(), &GetOptions { verify: true, ..GetOptions::default() }, &Silent)?;
//! # Ok::<(), client::ClientError>(())
//! ```
//!
//! A client on the node's own host connects to its local socket and shares the node's arena: bytes are read from
//! files straight into the arena and written from it straight into files. A client elsewhere connects to the node's
//! TCP port, and pieces travel on that connection. A [`Client`] may be used from several threads at once.
//!
//! The modules are listed from the outside in.
#![forbid(unsafe_code)]

mod address; // where a node listens
mod client; // keys, chunks and nodes: one method for each thing a user can ask
pub mod kv; // small values in the catalog
mod error; // what can go wrong, and what to do about it
mod progress; // how far a put or get has come

mod put; // files → chunks → a key
mod walk; // what is in a source, before anything is read
mod packing; // which bytes of which file go into which chunk
mod upload; // the workers that carry a plan out
mod upload_memory; // bytes in memory → chunks
mod stage; // memory on its way into a slot
mod ordered; // bytes in order → chunks
mod digest; // BLAKE3 of a chunk whose pieces are hashed in any order
mod chunk_writer; // one chunk: slots leased, filled, sealed

mod get; // a key → files
mod open_file; // one file of a key, read anywhere or seen in place
mod view; // chunks where they lie in the node's memory
mod key; // one version of a key, held open
mod destination; // where the files of a key go
mod staging; // a temporary directory whose content appears in place at once
mod layout; // which file bytes each piece holds
mod sink; // files that receive their bytes in any order
mod confined; // directories entered without following a link
mod memory_output; // memory that receives its bytes in order
mod verify; // files read back and compared with their digests
mod parallel; // many small things in a few threads
mod chunk_reader; // one chunk: pieces viewed, released

mod connection; // requests and replies, from several threads
mod replies; // read by those who wait for them
mod patience; // what a thread looks at while it waits
mod handshake; // from an address to an authenticated socket
mod socket; // a stream socket, local or TCP

pub use address::Address;
pub use client::{Client, KeyInfo};
pub use error::ClientError;
pub use get::{GetOptions, GetReport};
pub use memory::Access;
pub use open_file::OpenFile;
pub use patience::looking;
pub use progress::{Progress, Silent};
pub use put::{Naming, PutOptions, PutReport, Source};

pub use upload_memory::Memory;
pub use view::View;

pub use flow::chunk::{ChunkId, Geometry};
pub use flow::swarm::Priority;
pub use flow::wire::handshake::Token;
