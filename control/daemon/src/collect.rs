//! Chunks that nobody refers to.

mod ledger; // when a chunk may go: pure

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use flow::chunk::ChunkId;
use flow::wire::control::ReplicaRecord;
use ledger::Ledger;
use tokio::sync::Notify;

use crate::node::Node;
use crate::{keys, peers};

/// Time between two rounds when nothing is about to go.
const ROUND: Duration = Duration::from_secs(15);
/// Time between two rounds when something is.
const ROUND_SOON: Duration = Duration::from_secs(1);
/// What the head shall not spend more on than this, whatever the size of the cluster: time for one chunk of one member.
const QUESTION: Duration = Duration::from_micros(10);
/// The first round after the start: by then the node has joined.
const FIRST_ROUND: Duration = Duration::from_secs(3);

/// What is known of the chunks on this node.
#[derive(Debug)]
pub(crate) struct Collector {
    start: std::time::Instant,
    state: Mutex<State>,
    dropped: Notify,
    hurry: Notify,
}

#[derive(Debug, Default)]
struct State {
    ledger: Ledger,
    /// The chunk that is being dropped.
    dropping: Option<ChunkId>,
}

impl Collector {
    pub(crate) fn new() -> Self {
        Self {
            start: std::time::Instant::now(),
            state: Mutex::default(),
            dropped: Notify::new(),
            hurry: Notify::new(),
        }
    }

    /// Somebody fetches the chunk, until what is returned is dropped, and may be about to refer to it. After its removal
    /// nobody is.
    pub(crate) fn touch(&self, chunk: ChunkId) -> Touched<'_> {
        let now_ms = self.now_ms();
        self.lock().ledger.touch(chunk, now_ms);
        Touched { collector: self, chunk }
    }

    /// The chunk is removed from all nodes, so that what comes of it afterwards goes soon.
    pub(crate) fn remove(&self, chunk: ChunkId) {
        let now_ms = self.now_ms();
        self.lock().ledger.remove(chunk, now_ms);
    }

    /// Keeps the chunk until it is released as often as it was held: somebody writes it and is going to refer to it. The
    /// same bytes may be here already, and if they are just being dropped, that comes to its end first.
    pub(crate) async fn hold(&self, chunk: ChunkId) {
        loop {
            let dropped = self.dropped.notified();
            {
                let mut state = self.lock();
                if state.dropping != Some(chunk) {
                    return state.ledger.hold(chunk);
                }
            }
            dropped.await;
        }
    }

    /// Undoes holds, because a key refers to the chunks or because none will.
    pub(crate) fn release(&self, chunks: impl IntoIterator<Item = ChunkId>) {
        let now_ms = self.now_ms();
        let mut state = self.lock();
        chunks.into_iter().for_each(|chunk| state.ledger.release(chunk, now_ms));
    }

    /// Nobody is about to refer to the chunk who does not hold it: it goes when no key refers to it.
    pub(crate) fn settle(&self, chunk: ChunkId) {
        let now_ms = self.now_ms();
        self.lock().ledger.settle(chunk, now_ms);
        self.hurry();
    }

    /// Looks soon, because some chunk may have lost its last reference.
    pub(crate) fn hurry(&self) {
        self.hurry.notify_one();
    }

    /// Begins to drop a chunk, unless somebody holds it.
    fn begin_drop(&self, chunk: ChunkId) -> bool {
        let mut state = self.lock();
        let free = !state.ledger.is_held(&chunk);
        state.dropping = free.then_some(chunk);
        free
    }

    fn end_drop(&self) {
        self.lock().dropping = None;
        self.dropped.notify_waiters();
    }

    fn now_ms(&self) -> u64 {
        self.start.elapsed().as_millis() as u64
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A chunk that is being fetched.
#[must_use]
#[derive(Debug)]
pub(crate) struct Touched<'a> {
    collector: &'a Collector,
    chunk: ChunkId,
}

impl Drop for Touched<'_> {
    fn drop(&mut self) {
        let now_ms = self.collector.now_ms();
        let is_removed = self.collector.lock().ledger.is_removed(&self.chunk, now_ms);
        if is_removed {
            self.collector.settle(self.chunk);
        }
    }
}

/// Drops what nobody refers to, round by round. It never returns.
pub(crate) async fn collect(node: Arc<Node>) {
    tokio::time::sleep(FIRST_ROUND).await;
    loop {
        let asked = round(&node).await;
        if !node.collector.lock().ledger.is_about_to_drop() {
            // It returns at once when it was called since the last round began.
            let _ = tokio::time::timeout(ROUND, node.collector.hurry.notified()).await;
        }
        tokio::time::sleep(rest(asked, node.members.view().live().count())).await;
    }
}

/// Time between two rounds at least, after one of `chunks` chunks.
fn rest(chunks: usize, members: usize) -> Duration {
    let questions = u32::try_from(chunks.saturating_mul(members)).unwrap_or(u32::MAX);
    QUESTION.saturating_mul(questions).clamp(ROUND_SOON, ROUND)
}

/// Asks about all chunks that are here; gives how many.
async fn round(node: &Arc<Node>) -> usize {
    let Ok(replicas) = node.replicas(None).await else { return 0 };
    let chunks: Vec<ChunkId> =
        replicas.iter().filter(|replica| may_be_dropped(replica)).map(|replica| replica.chunk).collect();
    let referenced = match keys::references(node, &chunks).await {
        Ok(referenced) => referenced,
        Err(failure) => {
            // Without an answer nothing is known, so nothing is dropped and the round does not count.
            if !peers::is_away(&failure) {
                tracing::warn!(reason = failure.message, "which chunks are referenced is not known");
            }
            return 0;
        }
    };
    let asked = chunks.len();
    let now_ms = node.collector.now_ms();
    let answers = chunks.into_iter().zip(referenced);
    let unwanted = node.collector.lock().ledger.on_round(answers, now_ms);
    for chunk in unwanted.into_iter().filter(|chunk| node.collector.begin_drop(*chunk)) {
        match node.engine.drop_replica(chunk, None, false).await {
            Ok(true) => tracing::info!(%chunk, "a chunk that no key refers to was dropped"),
            Ok(false) => {}
            Err(error) => tracing::debug!(%chunk, %error, "a chunk that no key refers to stays for now"),
        }
        node.collector.end_drop();
    }
    asked
}

fn may_be_dropped(replica: &ReplicaRecord) -> bool {
    // What is here in part is left from a fetch that was cancelled.
    !replica.pinned && !replica.fetching
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_cancelled_fetch_has_left_may_go() {
        let whole = ReplicaRecord {
            chunk: ChunkId([1; 32]),
            geometry: flow::chunk::Geometry::new(4 << 20, 1 << 20).unwrap(),
            descriptor_digest: [0; 32],
            node: 1,
            dram_pieces: 4,
            nvme_pieces: 0,
            gpus: Vec::new(),
            pinned: false,
            fetching: false,
        };
        assert!(may_be_dropped(&whole));
        assert!(may_be_dropped(&ReplicaRecord { dram_pieces: 1, ..whole.clone() }));
        assert!(!may_be_dropped(&ReplicaRecord { fetching: true, ..whole.clone() }));
        assert!(!may_be_dropped(&ReplicaRecord { pinned: true, ..whole }));
    }

    #[test]
    fn rounds_leave_the_head_time_for_all_members() {
        assert_eq!(rest(0, 1), ROUND_SOON);
        assert_eq!(rest(1000, 200), 2 * ROUND_SOON);
        assert_eq!(rest(usize::MAX, 2), ROUND);
    }

    #[test]
    fn a_chunk_is_not_held_while_it_is_dropped_nor_dropped_while_it_is_held() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (collector, chunk) = (Collector::new(), ChunkId([1; 32]));
            assert!(collector.begin_drop(chunk));
            let held = std::cell::Cell::new(false);
            let hold = async {
                collector.hold(chunk).await;
                held.set(true);
            };
            let drop = async {
                collector.hold(ChunkId([2; 32])).await;
                assert!(!held.get());
                collector.end_drop();
            };
            tokio::join!(hold, drop);
            assert!(held.get() && !collector.begin_drop(chunk));
            collector.release([chunk]);
            assert!(collector.begin_drop(chunk));
        });
    }
}
