//! Fetches that do not go on: whether memory or peers are wanting, and what is told when nobody can help.

use std::rc::Rc;

use flow::chunk::ChunkId;
use flow::limits::{BAD_PIECES_PER_PEER, PEERS_PER_RECEIVER};
use flow::swarm::patience::Verdict;
use flow::wire::control::{NodeId, TrackerPeer};

use super::Shard;
use super::fetching::Fetching;
use super::replica::Replica;
use crate::{EngineError, Event};

/// So many times nobody is asked while connections are being made.
const QUESTIONS_SPARED: u32 = 2;

impl Shard {
    /// Doubts a fetch for which nothing is under way, and in the end gives it up.
    pub(super) fn look_after_idle(self: &Rc<Self>, fetching: &Rc<Fetching>) {
        if fetching.finishing.get() {
            return;
        }
        let busy = fetching.is_busy() || !fetching.ready.get();
        let verdict = fetching.patience.borrow_mut().look(self.now(), busy);
        let is_dialling = || self.mesh.borrow().is_dialling(&fetching.replica.id);
        match verdict {
            Verdict::Ask if !fetching.starved.get() => {
                let questions = fetching.patience.borrow().questions();
                // When many begin at once, connecting takes a while, and they would make it longer for each other.
                if questions <= QUESTIONS_SPARED && is_dialling() {
                    return;
                }
                self.tell(Event::FindHolders { chunk: fetching.replica.id, questions });
            }
            Verdict::Ask if fetching.replica.leads_nowhere() => self.lead_through_file(fetching),
            // Dials end by themselves, and who is reached may have everything.
            Verdict::GiveUp if is_dialling() => {}
            Verdict::Ask | Verdict::Wait => {}
            Verdict::GiveUp => self.end_fetch(fetching, Err(self.why_stuck(fetching))),
        }
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
