//! The daemon: one node of a cluster.
//!
//! It boots the engine's shards, opens the doors and runs the control plane of the node beside them, on one thread.
//! What can be decided without I/O is decided in `plan` and `flow`; what moves bytes is the engine. The modules are
//! listed from the outside in.

mod data_dir; // the directory that a node owns
pub mod doctor; // what the machine offers
mod serve; // the process of a node: its log, its limits, the signals that end it
mod nodes; // many nodes in one process
mod running; // one node, from its settings until it is stopped
mod settings; // flags, environment and configuration file
mod size; // sizes in bytes, as people write them

mod door; // sockets, handshakes, and where a connection goes
mod http; // requests over HTTP
mod frames; // frames over a stream
mod link; // one control connection to another node
mod neighbours; // the memory of other nodes on this host
mod peers; // the control connections that are open
mod replies; // answers on one connection
mod service; // one node that asks another
mod session; // one client

mod cluster; // the head's and the members' part in membership
mod collect; // chunks that nobody refers to
mod dial; // data connections that the engine asks for
mod failure; // refusals in words
mod keys; // keys of files, as those who put and get ask for them
mod kv; // the catalog, for clients and for members
mod life; // what goes on by itself for a node
mod leases; // version leases that clients of this node hold
mod members; // who is in the cluster, as this node knows it
mod node; // what all parts of the daemon share
mod pool; // chunks under numbers
mod outgoing; // requests over HTTP to others
mod operate; // what operators ask for
mod transactions; // transactions that are open on this node
mod values; // values of any size under any key
mod trackers; // who has which chunk, and who wants it

pub use data_dir::DataDirError;
pub use engine::{Executors, StartError};
pub use http::parse_write;
pub use nodes::Nodes;
pub use running::{NodeError, Running};
pub use serve::{allow_many_files, serve};
pub use settings::{Flags, Settings, SettingsError, Transports, default_data_dir};
