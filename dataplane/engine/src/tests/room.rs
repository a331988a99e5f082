//! Memory that runs short.

use std::time::Duration;

use flow::chunk::ChunkId;
use flow::swarm::Priority;
use flow::verify::checksum_of;
use flow::wire::session::{Device, FilledPiece};
use futures_lite::future::{block_on, poll_once};
use memory::Mapping;

use crate::EngineError;
use crate::tests::cluster::{Cluster, bytes, get, put};

#[test]
fn volatile_chunks_make_room_unless_pinned() {
    let cluster = Cluster::new(&[2], 64 << 20);
    let handle = cluster.handle(1);
    let pinned = put(handle, &bytes(0, 20 << 20), false).unwrap();
    assert_eq!(block_on(handle.pin(pinned.id, true)), Ok(true));
    let first = put(handle, &bytes(1, 20 << 20), false).unwrap();
    for seed in 2..8 {
        put(handle, &bytes(seed, 20 << 20), false).unwrap();
    }
    assert_eq!(block_on(handle.verify(pinned.id)), Ok(pinned.id));
    assert_eq!(block_on(handle.verify(first.id)), Err(EngineError::NoChunk(first.id)));
    cluster.stop();
}

#[test]
fn memory_full_of_pinned_chunks_is_a_clear_error_until_one_is_unpinned() {
    let cluster = Cluster::new(&[1], 32 << 20);
    let handle = cluster.handle(1);
    let pinned = put(handle, &bytes(0, 30 << 20), false).unwrap();
    block_on(handle.pin(pinned.id, true)).unwrap();
    let refused = put(handle, &bytes(1, 10 << 20), false);
    assert!(matches!(refused, Err(EngineError::MemoryFull { limit: 33_554_432, .. })), "{refused:?}");
    block_on(handle.pin(pinned.id, false)).unwrap();
    put(handle, &bytes(1, 10 << 20), false).unwrap();
    cluster.stop();
}

#[test]
fn what_is_prepared_takes_its_share_of_free_memory_and_no_more() {
    let cluster = Cluster::new(&[1], 64 << 20);
    let handle = cluster.handle(1);
    let prepare = |size| block_on(handle.prepare(size, 1 << 20));
    let first = prepare(3 << 20).unwrap();
    assert_eq!(first.slots.len(), 3);
    assert_eq!(
        prepare((1 << 20) + 1),
        Err(EngineError::MemoryFull { wanted: (1 << 20) + 1, limit: 4 << 20 })
    );
    let second = prepare(1 << 20).unwrap();
    // What is given up, and what is sealed, leaves its share to others.
    block_on(handle.abort(first.handle)).unwrap();
    let bytes_of_it = bytes(1, 1 << 20);
    let arena = handle.arena();
    let mapping = Mapping::map_shared(arena.read_write_fd(), arena.size(), true).unwrap();
    mapping.writer(second.slots[0].offset, 1 << 20).unwrap().copy_from_slice(&bytes_of_it);
    let filled = FilledPiece { piece: 0, length: 1 << 20, checksum: checksum_of(&bytes_of_it) };
    let id = ChunkId(blake3::hash(&bytes_of_it).into());
    let sealed = block_on(handle.fill_and_seal(second.handle, vec![filled], id, 1 << 20)).unwrap();
    assert_eq!(block_on(handle.verify(id)), Ok(id));
    block_on(handle.close(sealed.handle)).unwrap();
    let third = prepare(4 << 20).unwrap();
    block_on(handle.abort(third.handle)).unwrap();

    let volatile = put(handle, &bytes(2, 63 << 20), false).unwrap();
    assert!(matches!(prepare(2 << 20), Err(EngineError::MemoryFull { .. })));
    assert_eq!(block_on(handle.verify(volatile.id)), Ok(volatile.id), "nothing is evicted for it");
    cluster.stop();
}

#[test]
fn a_durable_chunk_larger_than_memory_is_written_and_read() {
    let cluster = Cluster::new(&[1], 16 << 20);
    let content = bytes(3, 70 << 20);
    let chunk = put(cluster.handle(1), &content, true).unwrap();
    assert!(get(cluster.handle(1), chunk).unwrap() == content);
    let record = block_on(cluster.handle(1).replicas(Some(chunk.id))).unwrap().remove(0);
    assert_eq!(record.nvme_pieces, 70);
    assert!(record.dram_pieces <= 16);
    assert_eq!(block_on(cluster.handle(1).drop_replica(chunk.id, Some(Device::Nvme), false)), Ok(true));
    cluster.stop();
}

#[test]
fn a_large_chunk_that_memory_has_room_for_needs_no_file() {
    let cluster = Cluster::new(&[1, 1], 64 << 20);
    let chunk = put(cluster.handle(1), &bytes(1, 40 << 20), false).unwrap();
    block_on(cluster.handle(2).fetch(chunk, Device::Dram, Priority::Normal)).unwrap();
    let record = block_on(cluster.handle(2).replicas(Some(chunk.id))).unwrap().remove(0);
    assert_eq!((record.dram_pieces, record.nvme_pieces), (40, 0));
    cluster.stop();
}

#[test]
fn a_fetch_that_runs_out_of_memory_goes_on_through_a_file() {
    let cluster = Cluster::new(&[1, 1], 64 << 20);
    let handle = cluster.handle(2);
    let pinned = put(handle, &bytes(0, 44 << 20), false).unwrap();
    block_on(handle.pin(pinned.id, true)).unwrap();
    let content = bytes(1, 30 << 20);
    let chunk = put(cluster.handle(1), &content, false).unwrap();
    assert!(get(handle, chunk).unwrap() == content);
    // Ten pieces more than there was memory for.
    assert!(block_on(handle.replicas(Some(chunk.id))).unwrap()[0].nvme_pieces >= 10);
    cluster.stop();
}

#[test]
fn large_chunks_that_come_at_once_share_memory() {
    let cluster = Cluster::new(&[1, 1], 64 << 20);
    let contents = [1, 2].map(|seed| bytes(seed, 40 << 20));
    let chunks = contents.each_ref().map(|content| put(cluster.handle(1), content, true).unwrap());
    std::thread::scope(|scope| {
        for (content, chunk) in contents.iter().zip(chunks) {
            let handle = cluster.handle(2);
            scope.spawn(move || assert!(get(handle, chunk).unwrap() == *content));
        }
    });
    cluster.stop();
}

#[test]
fn a_handle_that_nobody_waited_for_keeps_nothing() {
    let cluster = Cluster::new(&[1], 64 << 20);
    let handle = cluster.handle(1);
    let chunk = put(handle, &bytes(1, 40 << 20), false).unwrap();
    // Dropped before the shard has heard of it, after it has answered, or between.
    for delay_us in [0, 50, 100, 200, 500, 1000, 2000, 5000, 20_000, 50_000] {
        let mut opening = Box::pin(handle.open(chunk, Priority::Normal));
        if let Some(opened) = block_on(poll_once(&mut opening)) {
            block_on(handle.close(opened.unwrap().handle)).unwrap();
        }
        std::thread::sleep(Duration::from_micros(delay_us));
    }
    // The chunk makes room unless somebody reads it.
    put(handle, &bytes(2, 40 << 20), false).unwrap();
    cluster.stop();
}
