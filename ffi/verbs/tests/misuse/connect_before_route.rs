//! An identifier that does not know the way takes no queue pair.

use verbs::{AddressResolved, Identifier, QueuePair, Reset};

fn early(identifier: Identifier<AddressResolved>, pair: QueuePair<(), Reset>) {
    let _ = identifier.attach(pair);
}

fn main() {}
