//! Who is asked at all: connections, the tracker, trust.

use std::time::Duration;

use super::peer::{Peer, Stage};
use super::{Action, Fetch};
use crate::limits::{BAD_PIECES_PER_PEER, NODES_MAX};
use crate::time::Instant;
use crate::wire::control::NodeId;

/// How long a connection may take before the peer is given up.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// How long a fetch waits for peers to come by themselves before it connects to more.
const ARRIVALS: Duration = Duration::from_millis(50);
/// How long a peer is not tried again that was lost before it delivered anything.
const AVOIDED_FOR: Duration = Duration::from_millis(250);
/// Most peers that are avoided at once.
const AVOIDED_MAX: usize = 1024;
/// Of the peers that a fetch connects to, so many shall be nearby where uplinks are scarce, in hundredths.
const NEAR_PERCENT: usize = 60;
/// Longest pause between two questions to the tracker.
const ASK_PAUSE_MAX: Duration = Duration::from_secs(10);

impl Fetch {
    /// The place of a peer that is connected: its own, or one of those for peers that come by themselves.
    pub(super) fn place_for(&mut self, node: NodeId, near: bool, complete: bool) -> Option<usize> {
        if let Some(at) = self.peers.place(node) {
            return Some(at);
        }
        let incoming = self.peers.incoming();
        let active = self.peers.iter().filter(|peer| peer.stage != Stage::Named).count();
        if incoming >= self.settings.peers / 2 || active >= self.settings.peers {
            return None;
        }
        let mut peer = Peer::new(node, near, complete, self.have.len());
        peer.incoming = true;
        self.peers.push(peer);
        Some(self.peers.len() - 1)
    }

    /// Most peers that the fetch connects to, as long as others may still come by themselves.
    fn outgoing_max(&self) -> usize {
        self.settings.peers.div_ceil(2)
    }

    /// Connects to a peer that the tracker named, if there is room.
    pub(super) fn connect(&mut self, now: Instant) -> Option<Action> {
        let (incoming, outgoing) = (self.peers.incoming(), self.peers.outgoing());
        let few_came = now >= self.began + ARRIVALS && incoming + outgoing < self.settings.peers * 7 / 12;
        if outgoing >= self.outgoing_max() && !few_came {
            return None;
        }
        let at = self.next_named()?;
        self.peers.enter(at, Stage::Connecting(now + CONNECT_DEADLINE));
        Some(Action::Connect { peer: self.peers[at].node })
    }

    /// The peer to connect to next: where uplinks are scarce, so many nearby as shall be.
    fn next_named(&self) -> Option<usize> {
        let is_named = |peer: &Peer| peer.stage == Stage::Named;
        if self.imports.is_none() {
            return self.peers.iter().position(is_named);
        }
        let [all, near] = [|_: &&Peer| true, |peer: &&Peer| peer.near]
            .map(|is_meant| self.peers.iter().filter(|peer| !is_named(peer)).filter(is_meant).count());
        let wants_near = near * 100 < (all + 1) * NEAR_PERCENT;
        let wanted = self.peers.iter().position(|peer| is_named(peer) && peer.near == wants_near);
        wanted.or_else(|| self.peers.iter().position(is_named))
    }

    /// Asks the tracker, if there is reason to and the last question is long enough ago.
    pub(super) fn ask(&mut self, now: Instant) -> Option<Action> {
        if !self.wants_peers() || now < self.ask_at {
            return None;
        }
        self.ask_at = now + self.ask_pause;
        self.ask_pause = (self.ask_pause * 2).min(ASK_PAUSE_MAX);
        Some(Action::AskTracker)
    }

    pub(super) fn wants_peers(&self) -> bool {
        let named = self.peers.len() - self.peers.incoming();
        self.grants.in_time() == 0 || named < self.outgoing_max()
    }

    /// Makes room for a peer when nothing comes from those that are known.
    pub(super) fn drop_useless(&mut self) {
        let useless = |peer: &&Peer| peer.open == 0 && (peer.exhausted || peer.stage == Stage::Named);
        if self.grants.len() == 0
            && let Some(node) = self.peers.iter().find(useless).map(|peer| peer.node)
        {
            self.disconnect(node);
        }
    }

    /// Gives peers up that were to be connected by now.
    pub(super) fn give_up_silent(&mut self, now: Instant) {
        let silent = |peer: &&Peer| matches!(peer.stage, Stage::Connecting(until) if until <= now);
        let silent: Vec<NodeId> = self.peers.iter().filter(silent).map(|peer| peer.node).collect();
        silent.into_iter().for_each(|peer| self.disconnect(peer));
    }

    /// Ends a peer's grants one by one, and the acquaintance.
    pub(super) fn disconnect(&mut self, peer: NodeId) {
        for number in self.grants.numbers(|grant| grant.peer == peer) {
            self.revoke(number);
        }
        if self.peers.find(peer).is_some_and(|known| known.stage != Stage::Named) {
            self.pending.push_back(Action::Disconnect { peer });
        }
        self.forget(peer);
    }

    /// Does not try a peer again for a while.
    pub(super) fn avoid(&mut self, now: Instant, peer: NodeId) {
        if self.avoided.len() >= AVOIDED_MAX {
            self.avoided.retain(|_, &mut until| until > now);
        }
        if self.avoided.len() < AVOIDED_MAX {
            self.avoided.insert(peer, now + AVOIDED_FOR);
        }
    }

    /// Refuses a peer, known or not.
    pub(super) fn turn_away(&mut self, peer: NodeId) {
        if self.peers.find(peer).is_some_and(|known| known.stage != Stage::Named) {
            self.disconnect(peer);
        } else {
            self.pending.push_back(Action::Disconnect { peer });
        }
    }

    pub(super) fn forget(&mut self, peer: NodeId) {
        if let Some(at) = self.peers.place(peer) {
            self.count_holder(at, false);
            self.leave_nearby(at);
            if let Some(imports) = &mut self.imports {
                imports.lost(peer);
            }
            self.peers.remove(at);
        }
        self.reopen();
    }

    /// Counts a bad piece against a peer.
    pub(super) fn blame(&mut self, peer: NodeId, piece: Option<u32>) {
        let Some(known) = self.peer_mut(peer) else { return };
        known.bad += 1;
        known.spoiled.extend(piece);
        if known.bad >= BAD_PIECES_PER_PEER {
            if self.banned.len() < NODES_MAX {
                self.banned.insert(peer);
            }
            self.disconnect(peer);
        }
    }

    pub(super) fn peer_mut(&mut self, node: NodeId) -> Option<&mut Peer> {
        self.peers.find_mut(node)
    }

    /// How long a grant to a peer may take.
    pub(super) fn patience(&self, node: NodeId) -> Duration {
        let peer = self.peers.find(node);
        let (service, missed) = peer.map_or((None, 0), |peer| (peer.service, peer.missed));
        self.tempo.patience(service, missed, self.settings.deadline_min)
    }

    /// Counts what a peer has among what is held, or takes it out again.
    pub(super) fn count_holder(&mut self, at: usize, present: bool) {
        let known = &self.peers[at];
        if known.origin {
            return;
        }
        for piece in known.have.iter() {
            let holders = &mut self.holders[piece as usize];
            *holders = if present { holders.saturating_add(1) } else { holders.saturating_sub(1) };
            match *holders {
                0 => self.held.remove(piece),
                _ => self.held.insert(piece),
            };
        }
    }
}
