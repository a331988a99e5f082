//! Queues of work requests.

mod endpoint; // who talks to whom, and how
mod pair; // the queue pair and its states
mod shared_receive; // receives of several queue pairs
mod work; // work requests

pub use endpoint::{Attachment, Endpoint, Reliability};
pub use pair::{Initialised, Managed, QueuePair, Ready, ReceiveReady, Reset, Sizes, TakesReceives};
pub use shared_receive::SharedReceiveQueue;
pub use work::{Operation, Refused, Segments};
