//! Completion queues, and what they keep for work requests under way.

mod channel; // the descriptor that wakes
mod outcome; // what a completion says
mod pending; // what work requests under way work on: pure
mod poll; // the queue

pub use channel::CompletionChannel;
pub use outcome::{Completion, Opcode, WorkError, WorkRequestId};
pub use poll::CompletionQueue;

pub(crate) use pending::Owner;
pub(crate) use poll::NO_OPERATION;
