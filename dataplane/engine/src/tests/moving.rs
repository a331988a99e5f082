//! Chunks from engine to engine.

use flow::swarm::Priority;
use flow::wire::session::Device;
use futures_lite::future::block_on;

use crate::EngineError;
use crate::tests::cluster::{Cluster, bytes, get, put};
use crate::tests::storing::flip_byte;

#[test]
fn a_chunk_reaches_nvme_through_little_memory() {
    let cluster = Cluster::new(&[1, 1], 32 << 20);
    let content = bytes(1, 100 << 20);
    let chunk = put(cluster.handle(1), &content, true).unwrap();
    block_on(cluster.handle(2).fetch(chunk, Device::Nvme, Priority::Normal)).unwrap();
    assert!(get(cluster.handle(2), chunk).unwrap() == content);
    let directory = cluster.stop();
    let files = std::fs::read_dir(directory.path().join("2/chunks")).unwrap().count();
    assert_eq!(files, 2, "one directory with the chunk, and the empty one for temporary files");
}

#[test]
fn damage_on_disk_is_mended_from_another_engine() {
    let cluster = Cluster::new(&[1, 1], 128 << 20);
    let content = bytes(1, 8 << 20);
    let chunk = put(cluster.handle(1), &content, true).unwrap();
    block_on(cluster.handle(2).fetch(chunk, Device::Dram, Priority::Normal)).unwrap();
    flip_byte(cluster.directory.path(), 1, (5 << 20) + 1);
    block_on(cluster.handle(1).drop_replica(chunk.id, Some(Device::Dram), false)).unwrap();
    assert!(get(cluster.handle(1), chunk).unwrap() == content);
    assert_eq!(cluster.faults().len(), 1);
    assert_eq!(block_on(cluster.handle(1).drop_replica(chunk.id, Some(Device::Dram), true)), Ok(true));
    assert_eq!(block_on(cluster.handle(1).verify(chunk.id)), Ok(chunk.id), "the file is whole again");
    assert_eq!(cluster.faults().len(), 1);
    cluster.stop();
}

#[test]
fn what_nobody_has_and_what_nobody_sends_rightly_is_told_apart() {
    let cluster = Cluster::with(&[1, 2], 64 << 20, |config| config.corrupt_one_in = 1);
    let chunk = put(cluster.handle(1), &bytes(1, 6 << 20), false).unwrap();
    let senders = vec![("n1".to_owned(), 3)];
    let spoiled = EngineError::Spoiled { chunk: chunk.id, pieces: 0, of: 6, senders };
    assert_eq!(
        block_on(cluster.handle(2).fetch(chunk, Device::Dram, Priority::Normal)),
        Err(spoiled.clone())
    );
    assert_eq!(get(cluster.handle(2), chunk), Err(spoiled));
    block_on(cluster.handle(1).drop_replica(chunk.id, None, false)).unwrap();
    let missing = EngineError::Unavailable { chunk: chunk.id, pieces: 0, of: 6 };
    assert_eq!(
        block_on(cluster.handle(2).fetch(chunk, Device::Dram, Priority::Normal)),
        Err(missing.clone())
    );
    assert_eq!(get(cluster.handle(2), chunk), Err(missing));
    cluster.stop();
}

#[test]
fn a_fetch_that_nobody_wants_any_more_ends() {
    let cluster = Cluster::new(&[1, 1], 64 << 20);
    let chunk = put(cluster.handle(1), &bytes(1, 3 << 20), false).unwrap();
    block_on(cluster.handle(1).drop_replica(chunk.id, None, false)).unwrap();
    block_on(async {
        let handle = cluster.handle(2);
        let reading = handle.open(chunk, Priority::Normal).await.unwrap().handle;
        assert!(handle.replicas(Some(chunk.id)).await.unwrap()[0].fetching);
        handle.close(reading).await.unwrap();
        assert_eq!(handle.replicas(Some(chunk.id)).await, Ok(vec![]));
    });
    cluster.stop();
}

#[test]
fn what_was_in_memory_before_reaches_the_file_too() {
    let cluster = Cluster::new(&[1, 1], 64 << 20);
    let content = bytes(1, 24 << 20);
    let chunk = put(cluster.handle(1), &content, true).unwrap();
    block_on(async {
        let handle = cluster.handle(2);
        let reading = handle.open(chunk, Priority::Normal).await.unwrap().handle;
        handle.next(reading, 0, chunk.geometry.pieces(), 1).await.unwrap();
        handle.close(reading).await.unwrap();
        handle.fetch(chunk, Device::Nvme, Priority::Normal).await.unwrap();
        assert_eq!(handle.replicas(Some(chunk.id)).await.unwrap()[0].nvme_pieces, 24);
        assert_eq!(handle.drop_replica(chunk.id, Some(Device::Dram), false).await, Ok(true));
        assert_eq!(handle.verify(chunk.id).await, Ok(chunk.id));
    });
    cluster.stop();
}
