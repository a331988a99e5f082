//! How pieces travel.

use std::time::{Duration, Instant};

use flow::swarm::Priority;
use flow::wire::session::{ChunkFetched, ChunkReference, Device};
use futures_lite::future::block_on;

use crate::tests::cluster::{Cluster, bytes, counter, put};
use crate::transport::lanes::model::{Faults, Network};
use crate::{Config, EngineError, Handle, LaneSettings, RdmaSettings, Sharing, UcxSettings};

/// How pieces travel between the engines of a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Over the connection that messages take.
    Tcp,
    /// The receiver copies them out of the sender's memory.
    Memory,
    /// The sender's RDMA device writes them into the receiver's memory.
    Rdma,
    /// UCX moves them, over the transports that its environment leaves.
    Ucx,
    /// As over RDMA, on devices in memory that do things late and in any order.
    Model,
}

impl Way {
    fn configure(self, config: &mut Config) {
        match self {
            Self::Tcp | Self::Model => {}
            Self::Memory => {
                config.sharing = Some(Sharing { boot_id: "here".into(), socket: "/unused".into() });
            }
            Self::Rdma => config.lanes = vec![LaneSettings::Rdma(RdmaSettings::default())],
            Self::Ucx => config.lanes = vec![LaneSettings::Ucx(UcxSettings::default())],
        }
    }

    /// Whether this machine has what the way needs. With `VERBS_REQUIRE_DEVICE=1` it must have an RDMA device, and with
    /// `UCX_REQUIRE=1` UCX.
    pub fn is_here(self) -> bool {
        match self {
            Self::Rdma => Self::has_device(),
            Self::Ucx => Self::has_ucx(),
            _ => true,
        }
    }

    fn has_ucx() -> bool {
        let loaded = ucx::Library::get().inspect_err(|error| println!("skipped: {error}"));
        assert!(loaded.is_ok() || std::env::var_os("UCX_REQUIRE").is_none(), "there is no UCX");
        loaded.is_ok()
    }

    fn has_device() -> bool {
        let devices = std::fs::read_dir("/sys/class/infiniband");
        let has_device = devices.is_ok_and(|mut devices| devices.next().is_some());
        assert!(has_device || std::env::var_os("VERBS_REQUIRE_DEVICE").is_none(), "there is no RDMA device");
        if !has_device {
            println!("skipped: there is no RDMA device");
        }
        has_device
    }

    /// The counter of bytes that came this way; none for the one that all others fall back to.
    fn counter(self) -> Option<&'static str> {
        match self {
            Self::Tcp => None,
            Self::Memory => Some("bytes_received_shm"),
            Self::Rdma | Self::Model => Some("bytes_received_rdma"),
            Self::Ucx => Some("bytes_received_ucx"),
        }
    }

    /// Bytes that an engine has received this way.
    pub fn received(self, handle: &Handle) -> u64 {
        counter(handle, self.counter().unwrap_or("bytes_received"))
    }

    /// Engines with one shard each.
    pub fn cluster(self, engines: usize, memory_bytes: u64) -> Cluster {
        self.cluster_with(&vec![1; engines], memory_bytes, |_| {})
    }

    /// One engine for each number of shards, with configurations adjusted.
    pub fn cluster_with(self, shards: &[u16], memory_bytes: u64, adjust: impl Fn(&mut Config)) -> Cluster {
        let adjust = |config: &mut Config| {
            self.configure(config);
            adjust(config);
        };
        if self != Self::Model {
            return Cluster::with(shards, memory_bytes, adjust);
        }
        let network = Network::new(memory_bytes, Faults { late: 8, ..Faults::default() });
        Cluster::on(&network, shards, memory_bytes, adjust)
    }

    /// Moves small chunks from one engine to another until they take this way, which is prepared from the first one on.
    pub fn settle(self, cluster: &Cluster, from: usize, to: usize) {
        let [source, receiver] = [from, to].map(|node| cluster.handle(node));
        let before = self.received(receiver);
        eventually("the way is taken", || {
            let seed = 1000 + counter(receiver, "pieces_received");
            let chunk = put(source, &bytes(seed, 4096), false).unwrap();
            block_on(receiver.fetch(chunk, Device::Dram, Priority::Normal)).unwrap();
            for handle in [source, receiver] {
                block_on(handle.drop_replica(chunk.id, None, true)).unwrap();
            }
            self.received(receiver) > before
        });
    }
}

/// Waits for what must come to pass.
pub fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < Duration::from_secs(30), "it does not come to pass that {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Drops every replica of an engine; all its memory must come back.
pub fn drop_all(handle: &Handle) {
    for replica in block_on(handle.replicas(None)).unwrap() {
        block_on(handle.drop_replica(replica.chunk, None, true)).unwrap();
    }
    eventually("all memory is free again", || handle.arena().free_bytes() == handle.arena().size());
}

/// A fetch that runs beside the test.
pub fn fetching(
    handle: &Handle,
    chunk: ChunkReference,
) -> std::thread::JoinHandle<Result<ChunkFetched, EngineError>> {
    let handle = handle.clone();
    std::thread::spawn(move || block_on(handle.fetch(chunk, Device::Dram, Priority::Normal)))
}
