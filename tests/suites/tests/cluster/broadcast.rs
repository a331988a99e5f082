//! One key on its way to several nodes.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use client::{ChunkId, Client};
use flow::wire::control::{NodeId, ReplicaRecord};
use suites::{Node, Outcome, Running, Shoal, assert_same_tree, shoal, write_noise};
use tempfile::TempDir;

/// Time between two looks at how far a broadcast is. It is short, since the transfers of a test are.
const LOOK: Duration = Duration::from_millis(2);
/// Broadcasts that may not suit, or be too far when they are first looked at.
const ATTEMPTS: u64 = 100;

/// A key that was put on one node and is being got on others.
pub struct Broadcast {
    pub key: String,
    pub chunk: ChunkId,
    folder: TempDir,
    gets: Vec<Running>,
}

impl Broadcast {
    /// Puts `size` bytes, at most one chunk, on `source`, does what `prepare` says, and begins to get them on all
    /// `receivers`. Returns when pieces have arrived and every receiver has begun, and while each still lacks at least half of
    /// them.
    pub fn catch(source: &Node, receivers: &[&Node], size: u64, prepare: impl Fn(&Self)) -> Self {
        Self::catch_one(source, receivers, size, |_| true, prepare)
    }

    /// As [`Broadcast::catch`], with a chunk that `suits`.
    pub fn catch_one(
        source: &Node,
        receivers: &[&Node],
        size: u64,
        suits: impl Fn(&ChunkId) -> bool,
        prepare: impl Fn(&Self),
    ) -> Self {
        for seed in 0..ATTEMPTS {
            let Some(mut broadcast) = Self::put(source, size, seed, &suits) else { continue };
            prepare(&broadcast);
            broadcast.gets = receivers.iter().enumerate().map(|(at, node)| broadcast.get(at, node)).collect();
            if broadcast.is_caught(source, receivers) {
                return broadcast;
            }
            broadcast.finish().into_iter().for_each(|outcome| drop(outcome.success()));
            shoal(source, ["rm", &broadcast.key]).success();
        }
        panic!("{ATTEMPTS} broadcasts were too far when they were first looked at, or did not suit");
    }

    fn put(source: &Node, size: u64, seed: u64, suits: &impl Fn(&ChunkId) -> bool) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let key = format!("broadcast/{seed}");
        let file = folder.path().join("original");
        // One file is one chunk, which is called by the digest of its bytes.
        let chunk = ChunkId(write_noise(&file, seed, size));
        if !suits(&chunk) {
            return None;
        }
        Shoal::at(source).args(["put", &key, "--src"]).arg(file).run().success();
        assert_eq!(only_chunk(source, &key), chunk);
        Some(Self { key, chunk, folder, gets: Vec::new() })
    }

    fn get(&self, at: usize, node: &Node) -> Running {
        Shoal::at(node).args(["get", &self.key, "--dest"]).arg(self.copy(at)).start()
    }

    fn is_caught(&self, source: &Node, receivers: &[&Node]) -> bool {
        let watcher = source.client();
        let receivers: Vec<NodeId> = receivers.iter().map(|node| id_of(node)).collect();
        loop {
            let there = replicas(&watcher, self.chunk);
            let most = receivers.iter().filter_map(|node| there.get(node)).map(share).fold(0.0, f64::max);
            if most > 0.0 && receivers.iter().all(|node| there.contains_key(node)) {
                return most < 0.5;
            }
            thread::sleep(LOOK);
        }
    }

    /// Waits for all gets and gives how they ended, in the order of the receivers.
    pub fn finish(&mut self) -> Vec<Outcome> {
        self.gets.drain(..).map(Running::wait).collect()
    }

    /// What was put.
    pub fn original(&self) -> PathBuf {
        self.folder.path().join("original")
    }

    /// Where the copy of a receiver belongs.
    pub fn copy(&self, at: usize) -> PathBuf {
        self.folder.path().join(format!("copy-{at}"))
    }

    /// Gets the key once more and expects it to be what was put.
    pub fn get_again(&self, node: &Node) {
        let copy = self.folder.path().join("again");
        Shoal::at(node).args(["get", &self.key, "--verify", "--dest"]).arg(&copy).run().success();
        assert_same_tree(&self.original(), &copy);
        std::fs::remove_file(copy).unwrap();
    }

    /// Expects the copies of these receivers, whole and right, and nothing else.
    pub fn assert_copies(&self, arrived: &[usize]) {
        for &at in arrived {
            assert_same_tree(&self.original(), &self.copy(at));
        }
        let there = std::fs::read_dir(self.folder.path()).unwrap().map(|entry| entry.unwrap().file_name());
        let there: Vec<_> = there.collect();
        assert_eq!(there.len(), arrived.len() + 1, "{there:?}");
    }
}

/// The only chunk of a key.
pub fn only_chunk(node: &Node, key: &str) -> ChunkId {
    let chunks = node.client().info(key).unwrap().references().unwrap();
    assert_eq!(chunks.len(), 1, "{key} is in one chunk");
    chunks[0].id
}

/// What the nodes that answer have of a chunk.
pub fn replicas(client: &Client, chunk: ChunkId) -> BTreeMap<NodeId, ReplicaRecord> {
    let listing = client.replicas(Some(chunk)).unwrap();
    listing.replicas.into_iter().map(|replica| (replica.node, replica)).collect()
}

/// How much of its chunk a replica has: 1 is all.
pub fn share(replica: &ReplicaRecord) -> f64 {
    let held = replica.dram_pieces.max(replica.nvme_pieces);
    f64::from(held) / f64::from(replica.geometry.pieces())
}

/// The number that names a node.
pub fn id_of(node: &Node) -> NodeId {
    node.client().status().unwrap().node.node
}

/// A counter of a node since it started.
pub fn counter(node: &Node, name: &str) -> u64 {
    let counters = node.client().status().unwrap().counters;
    let found = counters.into_iter().find(|(counter, _)| counter == name);
    found.unwrap_or_else(|| panic!("there is no counter {name}")).1
}
