//! What is posted is the device's until the completion gives it back.

use verbs::{QueuePair, Segments};

struct Lease;

fn twice(pair: &QueuePair<Lease>, lease: Lease) {
    let _ = pair.post_receive(Segments::none(), lease);
    let _ = pair.post_receive(Segments::none(), lease);
}

fn main() {}
