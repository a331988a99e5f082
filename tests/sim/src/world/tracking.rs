//! Who is told of whom: the trackers, chosen by `plan`, and what nodes ask them.

use std::collections::BTreeMap;

use flow::swarm::Tracker;
use flow::wire::control::{Holding, NodeId, TrackerPeer};
use plan::rendezvous;

use super::{World, id, index};
use crate::event::Event;
use crate::node::{Worker, chunk_id};
use crate::scenario::Scenario;

/// Trackers of a chunk.
const TRACKERS: usize = 2;
/// Pauses before a tracker that knew no source is asked again, in nanoseconds.
const SECOND_THOUGHTS_NS: [u64; 3] = [5_000_000, 20_000_000, 50_000_000];
/// How long a tracker may take to answer, and before the other one is asked as well, in nanoseconds.
const TIMEOUT_NS: u64 = 1_000_000_000;
const HEDGE_NS: u64 = 50_000_000;

/// The nodes that track, and what each of them knows.
#[derive(Debug)]
pub(super) struct Trackers {
    seed: u64,
    /// The trackers of each chunk, the first one foremost.
    chosen: Vec<Vec<NodeId>>,
    known: BTreeMap<NodeId, (Tracker, Worker)>,
}

impl Trackers {
    pub(super) fn new(scenario: &Scenario, seed: u64) -> Self {
        let mut trackers = Self { seed, chosen: Vec::new(), known: BTreeMap::new() };
        let nodes = scenario.origins + scenario.receivers;
        trackers.choose(scenario.transfers(), |_| true, nodes);
        trackers
    }

    /// Chooses the trackers among the nodes that are believed to live; returns the chunks with trackers that did not track
    /// them before.
    fn choose(&mut self, chunks: usize, lives: impl Fn(usize) -> bool, nodes: usize) -> Vec<(usize, NodeId)> {
        let live: Vec<NodeId> = (0..nodes).filter(|&node| lives(node)).map(id).collect();
        let trackers_of =
            |chunk: usize| rendezvous::trackers(&chunk_id(chunk).0, live.iter().copied(), TRACKERS);
        let chosen: Vec<Vec<NodeId>> = (0..chunks).map(trackers_of).collect();
        let before = std::mem::replace(&mut self.chosen, chosen);
        let mut fresh = Vec::new();
        for (chunk, trackers) in self.chosen.iter().enumerate() {
            for &tracker in trackers {
                let seed = self.seed ^ tracker;
                self.known.entry(tracker).or_insert_with(|| (Tracker::new(seed), Worker::default()));
                if before.get(chunk).is_none_or(|before| !before.contains(&tracker)) {
                    fresh.push((chunk, tracker));
                }
            }
        }
        fresh
    }

    /// The nodes that track.
    pub(super) fn nodes(&self) -> Vec<usize> {
        let mut nodes: Vec<usize> = self.chosen.iter().flatten().map(|&tracker| index(tracker)).collect();
        nodes.sort_unstable();
        nodes.dedup();
        nodes
    }
}

impl World<'_> {
    fn trackers_are_silent(&self) -> bool {
        let silent_at = self.scenario.faults.trackers_silent_at;
        silent_at.is_some_and(|moment| self.queue.now_ns() as f64 >= moment * self.scenario.ideal_ns() as f64)
    }

    pub(super) fn rack(&self, node: usize) -> String {
        format!("rack-{}", self.scenario.cluster.rack(node))
    }

    /// Whether a tracker hears a node and is heard by it.
    fn answers(&self, tracker: NodeId, node: usize) -> bool {
        let tracker = index(tracker);
        let reaches =
            tracker == node || (self.network.reaches(node, tracker) && self.network.reaches(tracker, node));
        self.nodes[tracker].alive && reaches && !self.trackers_are_silent()
    }

    /// Whether some tracker of a chunk answers a node.
    pub(super) fn is_tracked(&self, node: usize, chunk: usize) -> bool {
        self.trackers.chosen[chunk].iter().any(|&tracker| self.answers(tracker, node))
    }

    /// A node joins the swarm at the first tracker that answers, and at the other one when the first knows nobody.
    pub(super) fn on_asked(&mut self, node: usize, chunk: usize, attempt: u32) {
        if !self.nodes[node].alive {
            return;
        }
        let (now, now_ns) = (self.now(), self.queue.now_ns());
        let (rack, limit) = (self.rack(node), self.scenario.settings.peers);
        let (mut at_ns, mut silent_until_ns) = (now_ns, now_ns);
        let mut peers: Vec<TrackerPeer> = Vec::new();
        for tracker in self.trackers.chosen[chunk].clone() {
            if !self.answers(tracker, node) {
                silent_until_ns = at_ns + TIMEOUT_NS;
                at_ns += HEDGE_NS;
                continue;
            }
            let Some((tracker, worker)) = self.trackers.known.get_mut(&tracker) else { continue };
            at_ns = worker.done_ns(at_ns, self.scenario.cluster.message_ns);
            peers = tracker.join(now, chunk_id(chunk), id(node), &rack, limit);
            peers.retain(|peer| peer.node != id(node));
            if !peers.is_empty() {
                break;
            }
        }
        if peers.is_empty() {
            at_ns = at_ns.max(silent_until_ns);
        }
        let has_source = peers.iter().any(|peer| peer.complete);
        at_ns += self.scenario.cluster.latency_ns;
        if !has_source && let Some(pause_ns) = SECOND_THOUGHTS_NS.get(attempt as usize) {
            self.queue.plan(at_ns + pause_ns, Event::Asked { node, chunk, attempt: attempt + 1 });
        }
        if attempt == 0 || has_source {
            self.queue.plan(at_ns, Event::Named { node, chunk, peers });
        }
    }

    pub(super) fn on_named(&mut self, node: usize, chunk: usize, peers: &[TrackerPeer]) {
        let now = self.now();
        if let Some(fetch) = self.fetching(node, chunk) {
            fetch.on_peers(now, peers);
        }
        self.drive(node, chunk);
    }

    /// Both trackers hear that a node has a whole chunk.
    pub(super) fn on_finished(&mut self, node: usize, chunk: usize) {
        for tracker in self.trackers.chosen[chunk].clone() {
            self.announce(tracker, node, chunk);
        }
    }

    fn announce(&mut self, tracker: NodeId, node: usize, chunk: usize) {
        let seat = &self.nodes[node].seats[chunk];
        let holding = match seat.verified.is_full() {
            true => Holding::Complete,
            false => Holding::Partial,
        };
        if !self.nodes[node].alive || !seat.joined || !self.answers(tracker, node) {
            return;
        }
        let (now, rack) = (self.now(), self.rack(node));
        if let Some((tracker, _)) = self.trackers.known.get_mut(&tracker) {
            tracker.on_announce(now, id(node), &rack, chunk_id(chunk), holding);
        }
    }

    /// The cluster learns that a node is gone: others may track in its place, and hear what all nodes have.
    pub(super) fn on_missed(&mut self, node: usize) {
        for (tracker, _) in self.trackers.known.values_mut() {
            tracker.on_node_lost(id(node));
        }
        let tracked = self.trackers.known.remove(&id(node)).is_some();
        if !tracked {
            return;
        }
        let nodes = &self.nodes;
        let lives = |node: usize| nodes[node].alive && nodes[node].heard;
        let fresh = self.trackers.choose(self.scenario.transfers(), lives, nodes.len());
        for (chunk, tracker) in fresh {
            (0..self.nodes.len()).for_each(|node| self.announce(tracker, node, chunk));
        }
    }
}
