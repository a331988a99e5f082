//! Small values on one engine.

use std::sync::Arc;

use futures_lite::future::block_on;

use crate::tests::cluster::Cluster;
use crate::{Held, HeldContent};

fn held(bytes: u64, content: HeldContent) -> Held {
    Held { content, kind: 0, size: bytes, is_fixed: false, ttl_ms: None, used_ms: 7 }
}

fn inline(bytes: u64) -> Held {
    held(bytes, HeldContent::Inline(Arc::from(vec![b'x'; bytes as usize])))
}

#[test]
fn what_is_simple_is_swapped_and_counted_and_nothing_else_is() {
    let cluster = Cluster::new(&[2], 16 << 20);
    let handle = cluster.handle(1);
    let swap = |key: &str, held: Held| block_on(handle.swap_value(key, held)).unwrap();
    let used = || block_on(handle.value_totals()).unwrap().bytes;
    block_on(handle.limit_values(1000)).unwrap();
    assert_eq!((swap("a", inline(600)), used()), (true, 600));
    assert_eq!((swap("a", inline(700)), used()), (true, 700), "what it replaces makes room");
    assert_eq!((swap("a", inline(300)), used()), (true, 300));
    // Room has to be made by whoever knows what may go.
    assert_eq!((swap("b", inline(800)), used()), (false, 300));
    // What is in the catalog has to go there first, and what is to go there is no matter of a swap.
    let durable = held(100, HeldContent::Catalog);
    let room = block_on(handle.reserve_value(100, None)).unwrap();
    assert_eq!(block_on(handle.put_value("c", durable.clone(), room)).unwrap(), None);
    assert!(!swap("c", inline(10)) && !swap("d", durable));
    assert_eq!(used(), 400);
    cluster.stop();
}

#[test]
fn room_is_ample_only_where_much_is_left() {
    let cluster = Cluster::new(&[1], 16 << 20);
    let handle = cluster.handle(1);
    block_on(handle.limit_values(1000)).unwrap();
    assert!(handle.reserve_value_amply(501).is_none());
    let room = handle.reserve_value_amply(500).unwrap();
    assert!(handle.reserve_value_amply(1).is_none());
    assert_eq!(block_on(handle.value_totals()).unwrap().bytes, 500);
    let first = held(500, HeldContent::Catalog);
    assert_eq!(block_on(handle.put_value("a", first.clone(), room)).unwrap(), None);
    block_on(handle.limit_values(4000)).unwrap();
    let room = handle.reserve_value_amply(200).unwrap();
    let replaced = block_on(handle.put_value("a", held(200, HeldContent::Catalog), room)).unwrap();
    assert_eq!(replaced.map(|held| held.size), Some(500));
    assert_eq!(block_on(handle.value_totals()).unwrap().bytes, 200);
    drop(handle.reserve_value_amply(300).unwrap());
    assert_eq!(block_on(handle.value_totals()).unwrap().bytes, 200);
    cluster.stop();
}
