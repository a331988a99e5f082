//! One key on its way to several nodes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use client::{ChunkId, Client};
use flow::wire::control::{NodeId, ReplicaRecord};
use suites::{Node, Outcome, Running, Shoal, shoal, write_noise};
use tempfile::TempDir;

/// Time between two looks at how far a broadcast is. It is short, since the transfers of a test are.
const LOOK: Duration = Duration::from_millis(2);
/// Broadcasts that may be over before they are looked at.
const ATTEMPTS: u64 = 20;

/// A key that was put on one node and is being fetched by others.
pub struct Broadcast {
    pub key: String,
    pub chunk: ChunkId,
    /// What was put.
    pub file: PathBuf,
    gets: Vec<Running>,
    folder: TempDir,
}

impl Broadcast {
    /// Puts `size` bytes, at most one chunk, on `source`, does what `prepare` says, and begins to get them on all
    /// `receivers`. Returns when pieces have arrived, and while every receiver still lacks at least half of them.
    pub fn catch(
        source: &Node,
        receivers: &[&Node],
        size: u64,
        prepare: impl Fn(ChunkId),
    ) -> Self {
        for attempt in 0..ATTEMPTS {
            let broadcast = Self::begin(source, receivers, size, attempt, &prepare);
            if broadcast.is_caught(source, receivers) {
                return broadcast;
            }
            broadcast.end().into_iter().for_each(|(outcome, _)| drop(outcome.success()));
            shoal(source, ["rm", &broadcast.key]).success();
        }
        panic!("{ATTEMPTS} broadcasts were over before they could be looked at");
    }

    fn begin(
        source: &Node,
        receivers: &[&Node],
        size: u64,
        attempt: u64,
        prepare: &impl Fn(ChunkId),
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("original");
        let key = format!("broadcast/{attempt}");
        write_noise(&file, size + attempt, size);
        shoal(source, ["put", &key, "--src", file.to_str().unwrap()]).success();
        let chunk = only_chunk(source, &key);
        prepare(chunk);
        let copy = |at: usize| folder.path().join(format!("copy-{at}"));
        let gets = receivers.iter().enumerate();
        let gets = gets.map(|(at, node)| Shoal::at(node).args(["get", &key, "--dest"]).arg(copy(at)).start());
        let gets = gets.collect();
        Self { key, chunk, file, gets, folder }
    }

    fn is_caught(&self, source: &Node, receivers: &[&Node]) -> bool {
        let watcher = source.client();
        let receivers: Vec<NodeId> = receivers.iter().map(|node| id_of(node)).collect();
        loop {
            let there = pieces(&watcher, self.chunk);
            let shares = receivers.iter().filter_map(|node| there.get(node));
            let most = shares.map(|&(held, of)| f64::from(held) / f64::from(of)).fold(0.0, f64::max);
            if most >= 0.5 {
                return false;
            }
            if most > 0.0 {
                return true;
            }
            thread::sleep(LOOK);
        }
    }

    /// Waits for all gets; gives how each ended and where its copy belongs.
    pub fn end(&self) -> Vec<(Outcome, PathBuf)> {
        unimplemented_end(self)
    }

    /// Where everything that the broadcast wrote lies.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}
