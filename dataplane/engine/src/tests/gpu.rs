//! Chunks on GPUs, which are stand-ins here.

use flow::swarm::Priority;
use flow::wire::session::Device;
use futures_lite::future::block_on;

use crate::tests::cluster::{Cluster, bytes, get, put, put_on};
use crate::{Config, EngineError, GpuSource, Handle};

const PIECE: usize = 1 << 20;
const GPU: Device = Device::Gpu(0);

/// Gives a node stand-ins with that many pieces of memory each.
fn with_gpus(count: u16, pieces: usize) -> impl Fn(&mut Config) {
    move |config| config.gpus.source = GpuSource::Emulated { count, bytes: (pieces * PIECE) as u64 }
}

fn used(handle: &Handle) -> Vec<usize> {
    handle.gpus().iter().map(|gpu| gpu.used_bytes as usize / PIECE).collect()
}

/// Pieces of the only chunk: in memory, on NVMe, and on each GPU that has any.
fn places(handle: &Handle) -> (u32, u32, Vec<(u16, u32)>) {
    let replicas = block_on(handle.replicas(None)).unwrap();
    let [record] = replicas.as_slice() else { panic!("there are {} chunks", replicas.len()) };
    let gpus = record.gpus.iter().map(|there| (there.gpu, there.pieces)).collect();
    (record.dram_pieces, record.nvme_pieces, gpus)
}

#[test]
fn a_chunk_passes_through_little_memory_onto_a_gpu_and_to_another_node() {
    let cluster = Cluster::with(&[2, 1], 32 << 20, with_gpus(1, 100));
    let content = bytes(1, 100 * PIECE);
    let chunk = put_on(cluster.handle(1), &content, Device::AnyGpu).unwrap();
    assert_eq!(places(cluster.handle(1)), (0, 0, vec![(0, 100)]));
    let fetched = block_on(cluster.handle(2).fetch(chunk, GPU, Priority::Normal)).unwrap();
    assert_eq!(fetched.pieces_local, 0);
    assert_eq!(places(cluster.handle(2)), (0, 0, vec![(0, 100)]));
    assert_eq!(block_on(cluster.handle(2).verify(chunk.id)), Ok(chunk.id));
    assert_eq!(
        places(cluster.handle(2)),
        (0, 0, vec![(0, 100)]),
        "looking at it does not bring it into memory"
    );
    // What is only on the GPU of the other node is here, and is read out of it.
    block_on(cluster.handle(1).drop_replica(chunk.id, None, false)).unwrap();
    assert_eq!((used(cluster.handle(1)), used(cluster.handle(2))), (vec![0], vec![100]));
    assert!(get(cluster.handle(2), chunk).unwrap() == content);
    assert!(get(cluster.handle(1), chunk).unwrap() == content);
    cluster.stop();
}

#[test]
fn a_chunk_moves_between_the_devices_of_a_node() {
    let cluster = Cluster::with(&[2], 64 << 20, with_gpus(2, 8));
    let handle = cluster.handle(1);
    let content = bytes(2, 5 * PIECE + 77);
    let chunk = put(handle, &content, false).unwrap();
    let drop = |device, force| block_on(handle.drop_replica(chunk.id, Some(device), force)).unwrap();
    let bring = |device| block_on(handle.fetch(chunk, device, Priority::Normal)).unwrap();
    bring(GPU);
    assert_eq!(places(handle), (6, 0, vec![(0, 6)]), "what was in memory before stays there");
    drop(Device::Dram, false);
    bring(Device::AnyGpu);
    assert_eq!(places(handle), (0, 0, vec![(0, 6)]), "any is the one that has it");
    bring(Device::Gpu(1));
    drop(GPU, false);
    assert_eq!(places(handle), (0, 0, vec![(1, 6)]));
    bring(Device::Nvme);
    drop(Device::AnyGpu, false);
    drop(Device::Dram, false);
    assert_eq!((places(handle), used(handle)), ((0, 6, vec![]), vec![0, 0]));
    bring(GPU);
    assert_eq!(places(handle), (0, 6, vec![(0, 6)]), "what passes through memory does not stay there");
    drop(Device::Nvme, false);
    bring(Device::Dram);
    drop(GPU, false);
    assert_eq!((places(handle), used(handle)), ((6, 0, vec![]), vec![0, 0]));
    assert!(get(handle, chunk).unwrap() == content);
    cluster.stop();
}

#[test]
fn what_does_not_fit_a_gpu_leaves_nothing_behind() {
    let cluster = Cluster::with(&[1, 1], 64 << 20, with_gpus(1, 6));
    let (small, large) = (bytes(3, 4 * PIECE), bytes(4, 3 * PIECE));
    put_on(cluster.handle(1), &small, GPU).unwrap();
    let full = |gpu| EngineError::GpuFull { gpu, wanted: 3 << 20, free: 2 << 20, limit: 6 << 20 };
    assert_eq!(put_on(cluster.handle(1), &large, Device::AnyGpu), Err(full(0)));
    let chunk = put(cluster.handle(2), &large, false).unwrap();
    assert_eq!(block_on(cluster.handle(1).fetch(chunk, GPU, Priority::Normal)), Err(full(0)));
    let none = |wanted| EngineError::NoGpu { wanted, count: 1 };
    assert_eq!(
        block_on(cluster.handle(1).fetch(chunk, Device::Gpu(1), Priority::Normal)),
        Err(none(Device::Gpu(1)))
    );
    assert_eq!(
        (used(cluster.handle(1)), block_on(cluster.handle(1).replicas(Some(chunk.id)))),
        (vec![4], Ok(vec![]))
    );
    // A chunk that nobody has brings no memory of a GPU to stay taken either.
    block_on(cluster.handle(2).drop_replica(chunk.id, None, false)).unwrap();
    assert!(matches!(
        block_on(cluster.handle(2).fetch(chunk, GPU, Priority::Normal)),
        Err(EngineError::Unavailable { .. })
    ));
    assert_eq!(used(cluster.handle(2)), [0]);
    cluster.stop();
}
