//! What all parts of the daemon share.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use catalog::Catalog;
use flow::time::Instant;
use flow::wire::control::{NodeId, NodeRecord, NodeState, ReplicaRecord};
use flow::wire::handshake::Token;
use flow::wire::session::Failure;

use crate::cluster::{Equal, Head};
use crate::collect::Collector;
use crate::failure;
use crate::kv::Snapshots;
use crate::leases::Leases;
use crate::life::Life;
use crate::members::Members;
use crate::neighbours::Neighbours;
use crate::outgoing::Reach;
use crate::peers::Peers;
use crate::pool::Tasks;
use crate::trackers::Trackers;
use crate::transactions::Transactions;
use crate::values;

/// One running node.
pub(crate) struct Node {
    pub(crate) identity: Identity,
    pub(crate) engine: engine::Handle,
    /// The arena once more, for pieces that come and go over sockets.
    pub(crate) mapping: memory::Mapping,
    pub(crate) findings: Vec<engine::Finding>,
    pub(crate) seat: Seat,
    pub(crate) members: Arc<Members>,
    /// Names and what they have: on this node, at the head that is asked, or on etcd.
    pub(crate) catalog: Arc<dyn Catalog>,
    pub(crate) snapshots: Snapshots,
    pub(crate) transactions: Transactions,
    pub(crate) values: values::Locks,
    /// What may be asked of the world outside.
    pub(crate) reach: Reach,
    /// Moves of chunks of the pool.
    pub(crate) tasks: Tasks,
    pub(crate) peers: Arc<Peers>,
    pub(crate) neighbours: Neighbours,
    pub(crate) trackers: Trackers,
    pub(crate) leases: Leases,
    pub(crate) collector: Collector,
    pub(crate) clock: Clock,
    pub(crate) life: Life,
    pub(crate) activity: Activity,
    pub(crate) nvme_used: AtomicU64,
}

/// Who this node is.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    pub(crate) node: NodeId,
    pub(crate) name: String,
    pub(crate) address: String,
    pub(crate) rack: String,
    pub(crate) shards: u16,
    pub(crate) incarnation: u64,
    pub(crate) token: Token,
    /// Whether only this machine can reach its port.
    pub(crate) listens_locally: bool,
    pub(crate) data_dir: PathBuf,
}

/// Where the node sits at the table.
pub(crate) enum Seat {
    /// It holds the catalog and decides who is a member.
    Head(Head),
    /// It asks the head at this address.
    Member {
        /// `HOST:PORT`.
        head: String,
        /// Whether it answered when it was asked last.
        reached: AtomicBool,
    },
    /// It shares a catalog on etcd with others like it.
    Equal(Box<Equal>),
}

impl Node {
    pub(crate) fn id(&self) -> NodeId {
        self.identity.node
    }

    /// This node as it describes itself.
    pub(crate) fn record(&self) -> NodeRecord {
        let Identity { node, name, address, rack, shards, incarnation, .. } = self.identity.clone();
        let state = self.members.view().node(node).map_or(NodeState::Alive, |known| known.state);
        let arena = self.engine.arena();
        NodeRecord {
            node,
            name,
            address,
            rack,
            shards,
            incarnation,
            state,
            head: matches!(self.seat, Seat::Head(_)),
            memory_limit: arena.size(),
            memory_used: arena.size() - arena.free_bytes(),
            nvme_used: self.nvme_used.load(Ordering::Relaxed),
        }
    }

    /// Refuses work that would bring chunks to a node that is leaving.
    pub(crate) fn check_takes_chunks(&self) -> Result<(), Failure> {
        self.activity.check_running()?;
        let draining =
            self.members.view().node(self.id()).is_some_and(|known| known.state == NodeState::Draining);
        if draining { Err(failure::draining(&self.identity.name)) } else { Ok(()) }
    }

    /// What is on this node.
    pub(crate) async fn replicas(
        &self,
        chunk: Option<flow::chunk::ChunkId>,
    ) -> Result<Vec<ReplicaRecord>, Failure> {
        let replicas = self.engine.replicas(chunk).await;
        replicas.map_err(|error| error.failure())
    }
}

/// Bytes of a chunk of which `pieces` are there; exact when all are.
pub(crate) fn bytes_of(record: &ReplicaRecord, pieces: u32) -> u64 {
    let whole = u64::from(pieces) * u64::from(record.geometry.piece_size());
    whole.min(record.geometry.size())
}

/// Time since the node started, for what takes time as an argument, and the calendar.
#[derive(Debug)]
pub(crate) struct Clock {
    start: std::time::Instant,
}

impl Clock {
    pub(crate) fn start() -> Self {
        Self { start: std::time::Instant::now() }
    }

    pub(crate) fn now(&self) -> Instant {
        Instant::from_micros(self.start.elapsed().as_micros() as u64)
    }

    /// Milliseconds since the node started. It never jumps.
    pub(crate) fn uptime_ms(&self) -> u64 {
        self.start.elapsed().as_millis() as u64
    }

    /// Milliseconds since 1970.
    pub(crate) fn calendar_ms() -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        since.map_or(0, |since| since.as_millis() as u64)
    }
}

/// What goes on for clients, so that a shutdown can wait for it.
#[derive(Debug, Default)]
pub(crate) struct Activity {
    stopping: AtomicBool,
    busy: Arc<AtomicUsize>,
    /// Chunks that clients see whole, in memory that they have mapped.
    seen: Arc<AtomicUsize>,
    begun: AtomicUsize,
}

/// What a client does consists of several requests; a pause of this length between two of them is not its end.
const PAUSE: Duration = Duration::from_millis(250);
/// As [`PAUSE`], for a client that sees all that it asked for, and may be copying it.
const PAUSE_SEEING: Duration = Duration::from_secs(2);

/// Something goes on until it is dropped.
#[derive(Debug)]
pub(crate) struct Busy(Arc<AtomicUsize>);

impl Activity {
    pub(crate) fn begin(&self) -> Busy {
        self.begun.fetch_add(1, Ordering::Relaxed);
        self.busy.fetch_add(1, Ordering::Relaxed);
        Busy(self.busy.clone())
    }

    /// A client sees all of a chunk. It may do so for ever: what it has mapped stays there when the node is gone, and nobody
    /// writes to it then. So this keeps the node from stopping only while that client, or another, asks for something.
    pub(crate) fn begin_seeing(&self) -> Busy {
        self.seen.fetch_add(1, Ordering::Relaxed);
        Busy(self.seen.clone())
    }

    pub(crate) fn check_running(&self) -> Result<(), Failure> {
        if self.stopping.load(Ordering::Relaxed) { Err(failure::stopping()) } else { Ok(()) }
    }

    /// Lets nothing begin any more, and waits until what goes on is over; at most `limit`. Returns how much is left.
    pub(crate) async fn drain(&self, limit: Duration) -> usize {
        self.stopping.store(true, Ordering::Relaxed);
        let idle = async {
            loop {
                let begun = self.begun.load(Ordering::Relaxed);
                let is_seen = self.seen.load(Ordering::Relaxed) > 0;
                tokio::time::sleep(if is_seen { PAUSE_SEEING } else { PAUSE }).await;
                if self.busy.load(Ordering::Relaxed) == 0 && self.begun.load(Ordering::Relaxed) == begun {
                    return;
                }
            }
        };
        let _ = tokio::time::timeout(limit, idle).await;
        self.busy.load(Ordering::Relaxed)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Random bytes that nobody can guess.
pub(crate) fn random_bytes<const LENGTH: usize>() -> [u8; LENGTH] {
    let mut bytes = [0; LENGTH];
    getrandom::fill(&mut bytes).expect("Linux gives random bytes to every process once it has booted");
    bytes
}

/// A random number that nobody can guess.
pub(crate) fn random_number() -> u64 {
    u64::from_le_bytes(random_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drain_waits_for_what_goes_on() {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let activity = Activity::default();
            let busy = activity.begin();
            assert!(activity.check_running().is_ok());
            assert_eq!(activity.drain(Duration::from_secs(10)).await, 1);
            assert!(activity.check_running().is_err());
            let seeing = activity.begin_seeing();
            drop(busy);
            let begin = tokio::time::Instant::now();
            assert_eq!(activity.drain(Duration::from_secs(10)).await, 0);
            assert_eq!(begin.elapsed(), PAUSE_SEEING);
            drop(seeing);
            assert_eq!(activity.drain(Duration::from_secs(10)).await, 0);
            assert_eq!(begin.elapsed(), PAUSE_SEEING + PAUSE);
        });
    }
}
