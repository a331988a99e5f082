//! Frames, messages and the handshake: everything that crosses a socket.
//!
//! A frame is a fixed [`frame::Header`] of 32 bytes, a body, and for [`data::PieceData`] and [`data::PiecePart`] alone a payload. Bodies
//! are rkyv archives, checked before they are read. A message type never changes; a change is a new type.

pub mod catalog; // client to node, node to head: entries, changes, transactions
pub mod control; // node to node: membership, trackers
pub mod cursor; // where a listing goes on, as people and programs are told
pub mod data; // shard to shard: grants, pieces, who has what
pub mod frame; // the header
pub mod handshake; // who is there, which version, is the token right
pub mod lane; // shard to shard: pieces over RDMA
pub mod message; // the list of all messages and their numbers
pub mod session; // client to node: keys, chunks, slots
pub mod values; // node to node: values, which one node keeps for all

pub use frame::{Header, HeaderError};
pub use message::{Message, MessageError};
