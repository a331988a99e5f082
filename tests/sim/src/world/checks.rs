//! What must hold at each event.

use super::World;

impl World<'_> {
    /// Checks the bounds of one node.
    pub(super) fn check(&self, node: usize) {
        let checked = &self.nodes[node];
        let Some(fetch) = &checked.fetch else { return };
        let same = fetch.have().count() == checked.verified.count();
        self.require(same, node, "has pieces that were not verified, or misses some that were");
        let open = checked.slots.len();
        self.require(open <= self.scenario.slots, node, "uses more slots than it has");
    }

    pub(super) fn check_grant(&self, node: usize, peer: usize, grant: u64) {
        let checked = &self.nodes[node];
        let settings = &self.scenario.settings;
        let open = checked.slots.values().filter(|slot| !slot.draining);
        let (count, to_peer) =
            open.fold((1, 1), |(all, one), slot| (all + 1, one + usize::from(slot.peer == peer)));
        self.require(count <= settings.grants_at_once, node, "opens too many grants");
        self.require(to_peer <= settings.grants_per_peer, node, "opens too many grants towards one peer");
        self.require(
            checked.last_grant.is_none_or(|last| grant > last),
            node,
            "uses the number of a grant twice",
        );
        self.require(checked.slots.len() < self.scenario.slots, node, "grants a slot that is in use");
    }

    pub(super) fn require(&self, holds: bool, node: usize, otherwise: &str) {
        assert!(
            holds,
            "node {node} {otherwise}, {} us after the start of the world with seed {}",
            self.queue.now_ns() / 1000,
            self.scenario.seed
        );
    }
}
