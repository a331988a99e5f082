//! A step from one state to the next is taken once.

use verbs::{QueuePair, ReceiveReady};

fn twice(pair: QueuePair<(), ReceiveReady>) {
    let _ = pair.make_ready();
    let _ = pair.make_ready();
}

fn main() {}
