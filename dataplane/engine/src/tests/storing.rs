//! Chunks on one engine.

use std::os::unix::fs::FileExt;

use flow::wire::session::Device;
use futures_lite::future::block_on;

use crate::EngineError;
use crate::tests::cluster::{Cluster, bytes, config, get, put};

#[test]
fn what_was_written_is_read() {
    for shards in [1, 3] {
        let cluster = Cluster::new(&[shards], 64 << 20);
        for (seed, (length, durable)) in
            (0..).zip([(1, true), (4096, false), (5 << 20, true), ((3 << 20) + 17, false)])
        {
            let content = bytes(seed, length);
            let chunk = put(cluster.handle(1), &content, durable).unwrap();
            assert!(get(cluster.handle(1), chunk).unwrap() == content);
            assert_eq!(block_on(cluster.handle(1).verify(chunk.id)), Ok(chunk.id));
        }
        cluster.stop();
    }
}

#[test]
fn durable_chunks_survive_a_restart_and_volatile_ones_do_not() {
    let cluster = Cluster::new(&[2], 64 << 20);
    let content = bytes(1, (6 << 20) + 5);
    let durable = put(cluster.handle(1), &content, true).unwrap();
    let volatile = put(cluster.handle(1), &bytes(2, 100), false).unwrap();
    let directory = cluster.stop();
    let (engine, _events) = crate::Engine::start(config(directory.path(), 1, 1, 64 << 20)).unwrap();
    assert!(get(engine.handle(), durable).unwrap() == content);
    assert_eq!(block_on(engine.handle().verify(volatile.id)), Err(EngineError::NoChunk(volatile.id)));
    engine.stop();
}

#[test]
fn a_flipped_byte_on_disk_is_found() {
    let cluster = Cluster::new(&[1], 64 << 20);
    let chunk = put(cluster.handle(1), &bytes(1, 3 << 20), true).unwrap();
    flip_byte(cluster.directory.path(), 1, (1 << 20) + 7);
    assert_eq!(block_on(cluster.handle(1).drop_replica(chunk.id, Some(Device::Dram), false)), Ok(true));
    assert_eq!(get(cluster.handle(1), chunk), Err(EngineError::Corrupt { chunk: chunk.id, piece: 1 }));
    let faults = cluster.faults();
    assert_eq!((faults.len(), faults[0].1.piece, faults[0].1.peer), (1, 1, None));
    cluster.stop();
}

/// Damages the only chunk file of a node.
pub fn flip_byte(directory: &std::path::Path, node: u64, at: u64) {
    let chunks = directory.join(node.to_string()).join("chunks");
    let files = std::fs::read_dir(chunks).unwrap().map(|entry| entry.unwrap().path());
    let files = files.filter(|path| path.file_name().unwrap() != "tmp");
    let file = files.flat_map(|path| std::fs::read_dir(path).unwrap()).next().unwrap().unwrap().path();
    let file = std::fs::OpenOptions::new().read(true).write(true).open(file).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
    file.sync_all().unwrap();
}

#[test]
fn calls_that_make_no_sense_are_refused() {
    let cluster = Cluster::new(&[1], 64 << 20);
    let handle = cluster.handle(1);
    block_on(async {
        assert!(handle.create(0, 1 << 20, Device::Dram).await.is_err());
        assert!(handle.create(10, 5, Device::Dram).await.is_err());
        assert_eq!(handle.lease(99, 0, 1).await, Err(EngineError::NoHandle(99)));
        assert!(handle.lease(u64::MAX, 0, 1).await.is_err());
        let writing = handle.create(3 << 20, 1 << 20, Device::Dram).await.unwrap();
        assert!(handle.lease(writing, 3, 1).await.is_err());
        assert_eq!(handle.lease(writing, 0, 2).await.unwrap().len(), 2);
        assert!(handle.lease(writing, 1, 1).await.is_err(), "a piece is leased twice");
        let id = flow::chunk::ChunkId([1; 32]);
        assert!(handle.seal(writing, id, 3 << 20).await.is_err(), "a chunk is sealed before it is filled");
        handle.abort(writing).await.unwrap();
        assert_eq!(handle.lease(writing, 0, 1).await, Err(EngineError::NoHandle(writing)));
        assert_eq!(handle.arena().free_bytes(), handle.arena().size());
    });
    cluster.stop();
}
