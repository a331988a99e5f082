//! Chunks that nobody refers to.

mod ledger; // when a chunk may go: pure

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use flow::chunk::ChunkId;
use flow::wire::control::ReplicaRecord;
use ledger::Ledger;

use crate::node::Node;
use crate::{keys, peers};

/// Time between two rounds.
const ROUND: Duration = Duration::from_secs(15);
/// The first round after the start: by then the node has joined.
const FIRST_ROUND: Duration = Duration::from_secs(3);

/// What is known of the chunks on this node.
#[derive(Debug)]
pub(crate) struct Collector {
    start: std::time::Instant,
    ledger: Mutex<Ledger>,
}

impl Collector {
    pub(crate) fn new() -> Self {
        Self { start: std::time::Instant::now(), ledger: Mutex::default() }
    }

    /// Somebody has just written or fetched the chunk, and may be about to refer to it.
    pub(crate) fn touch(&self, chunk: ChunkId) {
        let now_ms = self.now_ms();
        self.lock().touch(chunk, now_ms);
    }

    fn now_ms(&self) -> u64 {
        self.start.elapsed().as_millis() as u64
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Drops what nobody refers to, round by round. It never returns.
pub(crate) async fn collect(node: Arc<Node>) {
    tokio::time::sleep(FIRST_ROUND).await;
    loop {
        round(&node).await;
        tokio::time::sleep(ROUND).await;
    }
}

async fn round(node: &Arc<Node>) {
    let Ok(replicas) = node.replicas(None).await else { return };
    let chunks: Vec<ChunkId> =
        replicas.iter().filter(|replica| may_be_dropped(replica)).map(|replica| replica.chunk).collect();
    let referenced = match keys::references(node, &chunks).await {
        Ok(referenced) => referenced,
        Err(failure) => {
            // Without an answer nothing is known, so nothing is dropped and the round does not count.
            if !peers::is_away(&failure) {
                tracing::warn!(reason = failure.message, "which chunks are referenced is not known");
            }
            return;
        }
    };
    let now_ms = node.collector.now_ms();
    let answers = chunks.into_iter().zip(referenced);
    let unwanted = node.collector.lock().on_round(answers, now_ms);
    for chunk in unwanted {
        match node.engine.drop_replica(chunk, None, false).await {
            Ok(true) => tracing::info!(%chunk, "a chunk that no key refers to was dropped"),
            Ok(false) => {}
            Err(error) => tracing::debug!(%chunk, %error, "a chunk that no key refers to stays for now"),
        }
    }
}

fn may_be_dropped(replica: &ReplicaRecord) -> bool {
    let pieces = replica.geometry.pieces();
    let whole = replica.dram_pieces >= pieces || replica.nvme_pieces >= pieces;
    whole && !replica.pinned && !replica.fetching
}
