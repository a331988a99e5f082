//! Fetches that do not go on: whether memory or peers are wanting, and what is told when nobody can help.

use std::rc::Rc;
use std::time::Duration;

use flow::chunk::ChunkId;
use flow::limits::{BAD_PIECES_PER_PEER, PEERS_PER_RECEIVER};
use flow::swarm::patience::{Activity, Verdict};
use flow::wire::control::{NodeId, TrackerPeer};

use super::Shard;
use super::fetching::Fetching;
use super::replica::Replica;
use crate::{EngineError, Event};

/// Time in which a fetch that begins should have got to know somebody.
const ACQUAINTED_WITHIN: Duration = Duration::from_secs(5);

impl Shard {
    /// Doubts a fetch for which nothing is under way, and in the end gives it up.
    pub(super) fn look_after_idle(self: &Rc<Self>, fetching: &Rc<Fetching>) {
        if fetching.finishing.get() {
            return;
        }
        let is_starved = fetching.starved.get();
        let is_connecting =
            || self.mesh.borrow().is_dialling(&fetching.replica.id) || self.is_getting_acquainted(fetching);
        let activity = match () {
            () if fetching.is_busy() || !fetching.ready.get() => Activity::Busy,
            // It is memory that is wanting, not peers.
            () if !is_starved && is_connecting() => Activity::Connecting,
            () => Activity::Idle,
        };
        let verdict = fetching.patience.borrow_mut().look(self.now(), activity);
        match verdict {
            Verdict::Ask { nodes } if !is_starved => {
                self.tell(Event::FindHolders { chunk: fetching.replica.id, nodes });
            }
            Verdict::Ask { .. } if fetching.replica.leads_nowhere() => self.lead_through_file(fetching),
            Verdict::Ask { .. } | Verdict::Wait => {}
            Verdict::GiveUp => self.end_fetch(fetching, Err(self.why_stuck(fetching))),
        }
    }

    /// Whether a fetch that has just begun waits for its trackers, or for a peer to say what it has: when many begin at once,
    /// that takes a while.
    fn is_getting_acquainted(&self, fetching: &Fetching) -> bool {
        self.now().since(fetching.started) < ACQUAINTED_WITHIN
            && (fetching.asks_trackers.get() || fetching.fetch.borrow().is_getting_acquainted())
    }

    /// Ends a fetch that nobody can help, else takes those that can for peers, in case its trackers forgot them.
    pub(super) fn on_holders(self: &Rc<Self>, chunk: &ChunkId, holders: &[(NodeId, u32)], are_all: bool) {
        let Some(fetching) = self.fetches.borrow().get(chunk).cloned() else { return };
        if fetching.finishing.get() || fetching.is_busy() {
            return;
        }
        if are_all && fetching.fetch.borrow().is_stuck(holders) {
            return self.end_fetch(&fetching, Err(self.why_stuck(&fetching)));
        }
        let untold = fetching.fetch.borrow().untold(holders);
        untold.into_iter().for_each(|node| self.connect(node, *chunk));
        let pieces = fetching.replica.geometry.pieces();
        let peer = |&(node, held): &(NodeId, u32)| {
            let near = self.mesh.borrow().is_near(node);
            TrackerPeer { node, complete: held >= pieces, near }
        };
        let peers: Vec<TrackerPeer> = holders.iter().take(PEERS_PER_RECEIVER).map(peer).collect();
        self.on_peers(chunk, &peers);
    }

    /// Why a fetch does not go on.
    fn why_stuck(&self, fetching: &Fetching) -> EngineError {
        let replica = &fetching.replica;
        if fetching.starved.get() {
            let wanted = replica.geometry.piece_size().into();
            return EngineError::MemoryFull { wanted, limit: self.arena.size() };
        }
        let spoilers = fetching.spoilers.borrow();
        if spoilers.values().all(|&bad| bad < BAD_PIECES_PER_PEER) {
            return self.lacking(replica);
        }
        let mesh = self.mesh.borrow();
        let name = |node: NodeId| mesh.name(node).map_or_else(|| format!("{node:016x}"), str::to_owned);
        let senders = spoilers.iter().map(|(&node, &bad)| (name(node), bad)).collect();
        let (pieces, of) = (replica.state.borrow().have.count(), replica.geometry.pieces());
        EngineError::Spoiled { chunk: replica.id, pieces, of, senders }
    }

    pub(super) fn lacking(&self, replica: &Replica) -> EngineError {
        let pieces = replica.state.borrow().have.count();
        EngineError::Unavailable { chunk: replica.id, pieces, of: replica.geometry.pieces() }
    }

    /// Why pieces of a chunk that is not being fetched cannot be had.
    pub(super) fn fetch_failure(&self, replica: &Replica) -> EngineError {
        replica.failure.borrow().clone().unwrap_or_else(|| self.lacking(replica))
    }
}
