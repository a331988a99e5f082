//! Who dies, falls silent, or is cut off.

use super::World;
use crate::event::Event;

impl World<'_> {
    pub(super) fn on_die(&mut self, node: usize) {
        if !self.nodes[node].alive {
            return;
        }
        self.give_up(node);
        self.nodes[node].alive = false;
        self.network.cut(node);
        let missed_ns = self.queue.now_ns() + self.scenario.faults.detection_ns;
        for at in self.acquaintances(node) {
            self.queue.plan(missed_ns, Event::Lost { at, peer: node });
        }
        self.queue.plan(missed_ns, Event::Missed(node));
    }

    pub(super) fn on_mute(&mut self, node: usize) {
        if self.nodes[node].alive {
            self.give_up(node);
            self.nodes[node].heard = false;
            self.network.mute(node);
            // The cluster misses it like a dead one. Who is connected to it must find out by itself.
            let missed_ns = self.queue.now_ns() + self.scenario.faults.detection_ns;
            self.queue.plan(missed_ns, Event::Missed(node));
        }
    }

    pub(super) fn on_trackers_die(&mut self) {
        for node in self.trackers.nodes() {
            self.on_die(node);
        }
    }

    /// Nobody waits for a node any more.
    fn give_up(&mut self, node: usize) {
        if node < self.scenario.origins {
            return;
        }
        for seat in &mut self.nodes[node].seats {
            if seat.finished_ns.is_none() && !seat.given_up {
                seat.given_up = true;
                self.unfinished -= 1;
            }
        }
    }

    pub(super) fn on_part(&mut self, parted: bool) {
        self.network.part(&mut self.queue, parted);
        if !parted || !self.is_noticed() {
            return;
        }
        let lost_ns = self.queue.now_ns() + self.scenario.faults.detection_ns;
        for node in 0..self.nodes.len() {
            for peer in self.acquaintances(node) {
                if self.network.separates(node, peer) {
                    self.queue.plan(lost_ns, Event::Lost { at: node, peer });
                }
            }
        }
    }

    /// Whether the network is apart for so long that connections break.
    pub(super) fn is_noticed(&self) -> bool {
        self.heals_ns().is_some_and(|(lasts_ns, _)| lasts_ns > self.scenario.faults.detection_ns)
    }

    /// How long the network is apart, and when it is whole again, in nanoseconds.
    pub(super) fn heals_ns(&self) -> Option<(u64, u64)> {
        let partition = self.scenario.faults.partition?;
        let at_ns = |moment: f64| (moment * self.scenario.ideal_ns() as f64) as u64;
        Some((at_ns(partition.lasts), at_ns(partition.begins + partition.lasts)))
    }

    /// All that a node has to do with, each once.
    fn acquaintances(&self, node: usize) -> Vec<usize> {
        let seats = &self.nodes[node].seats;
        let mut peers: Vec<usize> = seats.iter().flat_map(|seat| seat.ties.peers()).collect();
        peers.sort_unstable();
        peers.dedup();
        peers
    }
}
