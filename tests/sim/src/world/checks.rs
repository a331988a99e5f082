//! What must hold at each event.

use super::World;
use crate::outcome::Violation;

/// As long as anybody who can be reached has what is missing, some piece is verified within this time, in nanoseconds: a
/// fetch asks the tracker every 10 s at the latest.
const STILL_MAX_NS: u64 = 60_000_000_000;

impl World<'_> {
    /// Checks the bounds of one node.
    pub(super) fn check(&mut self, node: usize, chunk: usize) {
        let seat = &self.nodes[node].seats[chunk];
        let Some(fetch) = &seat.fetch else { return };
        let same = fetch.have().count() == seat.verified.count();
        let open = seat.slots.len() + seat.unwritten;
        // Who has everything lets everybody come, like an origin.
        let ties = if seat.finished_ns.is_some() { 0 } else { seat.ties.len() };
        self.outcome.degree_max = self.outcome.degree_max.max(ties);
        self.require(same, node, "has pieces that were not verified, or misses some that were");
        self.require(open <= self.scenario.slots, node, "uses more slots than it has");
        self.require(ties <= 4 * self.scenario.settings.peers, node, "is connected to too many");
    }

    pub(super) fn check_grant(&mut self, node: usize, chunk: usize, peer: usize, grant: u64) {
        let seat = &self.nodes[node].seats[chunk];
        let settings = &self.scenario.settings;
        let open = seat.slots.iter().filter(|slot| !slot.draining);
        let (count, to_peer) =
            open.fold((1, 1), |(all, one), slot| (all + 1, one + usize::from(slot.peer == peer)));
        let is_fresh = seat.last_grant.is_none_or(|last| grant > last);
        let has_slot = seat.slots.len() + seat.unwritten < self.scenario.slots;
        self.require(count <= settings.grants_at_once, node, "opens too many grants");
        self.require(to_peer <= settings.grants_per_peer, node, "opens too many grants towards one peer");
        self.require(is_fresh, node, "uses the number of a grant twice");
        self.require(has_slot, node, "grants a slot that is in use");
    }

    /// Some piece arrives somewhere while a source lives that has what somebody lacks, and that it knows or can hear of.
    pub(super) fn check_progress(&mut self) {
        if self.queue.now_ns() < self.advanced_ns + STILL_MAX_NS {
            return;
        }
        // What was sent by nodes whose bytes get lost keeps nobody waiting for ever, but may keep some for long.
        let sources: Vec<usize> = self.sources().collect();
        let helped = (self.scenario.origins..self.nodes.len()).find(|&node| {
            let receiver = &self.nodes[node];
            let lacks = |chunk: usize| {
                let seat = &receiver.seats[chunk];
                let helps = |&&source: &&usize| {
                    let theirs = &self.nodes[source].seats[chunk].verified;
                    let words = theirs.words().iter().zip(seat.verified.words());
                    source != node
                        && (seat.ties.peers().any(|peer| peer == source) || self.is_tracked(node, chunk))
                        && self.network.reaches(source, node)
                        && words.clone().any(|(theirs, ours)| theirs & !ours != 0)
                };
                seat.joined && seat.finished_ns.is_none() && sources.iter().any(|source| helps(&source))
            };
            // Those to whom a node lied want nothing to do with it, not even to send.
            let may_be_helped = receiver.alive && receiver.heard && !receiver.lies;
            may_be_helped && (0..self.scenario.transfers()).any(lacks)
        });
        if let Some(node) = helped {
            self.require(false, node, "gets nothing, though somebody lives who has what it lacks");
        }
    }

    fn sources(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.nodes.len()).filter(|&node| {
            let source = &self.nodes[node];
            source.alive && source.heard && !source.lies
        })
    }

    /// When all have finished, every grant has ended.
    pub(super) fn check_end(&mut self) {
        if self.unfinished > 0 || self.violation.is_some() {
            return;
        }
        let kept = (0..self.nodes.len()).find(|&node| {
            let receiver = &self.nodes[node];
            let is_kept = |slot: &crate::node::Slot| {
                let source = &self.nodes[slot.peer];
                source.alive && source.heard && !self.network.separates(node, slot.peer)
            };
            let slots = receiver.seats.iter().filter(|seat| seat.finished_ns.is_some());
            receiver.alive && receiver.heard && slots.flat_map(|seat| seat.slots.iter()).any(is_kept)
        });
        if let Some(node) = kept {
            self.require(false, node, "has a grant that has not ended after all have finished");
        }
    }

    pub(super) fn require(&mut self, holds: bool, node: usize, otherwise: &str) {
        if !holds && self.violation.is_none() {
            self.violation = Some(Violation {
                seed: self.scenario.seed,
                node,
                at_us: self.queue.now_ns() / 1000,
                what: otherwise.to_owned(),
            });
        }
    }
}
