//! A queue pair whose other end has not answered cannot send.

use verbs::{Connecting, Operation, Segments};

fn early(calling: &Connecting<()>) {
    let _ = calling.queue_pair().post(Operation::Send { immediate: None }, Segments::none(), ());
}

fn main() {}
