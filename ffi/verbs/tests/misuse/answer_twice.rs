//! A request is answered once.

use verbs::{QueuePair, Request, Reset};

fn twice(request: Request, pair: QueuePair<(), Reset>) {
    let _ = request.reject(b"no");
    let _ = request.attach(pair);
}

fn main() {}
