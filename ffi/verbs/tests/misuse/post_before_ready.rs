//! A queue pair that only receives cannot send.

use verbs::{Operation, QueuePair, ReceiveReady, Segments};

fn early(pair: &QueuePair<(), ReceiveReady>) {
    let _ = pair.post(Operation::Send { immediate: None }, Segments::none(), ());
}

fn main() {}
