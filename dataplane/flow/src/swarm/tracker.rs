//! Who takes part in which swarm, as far as one node tracks it: soft state, rebuilt from announcements.

use std::collections::BTreeMap;

use fastrand::Rng;

use crate::chunk::ChunkId;
use crate::limits::SWARM_MEMBERS_MAX;
use crate::time::Instant;
use crate::wire::control::{Holding, NodeId, TrackerPeer};

/// Most swarms that one node tracks; further chunks are not tracked.
const SWARMS_MAX: usize = 1 << 20;
/// Members that are looked at for each one named, so that the least named of them can be taken.
const LOOKS_PER_NAME: usize = 3;

/// The swarms that one node tracks.
#[derive(Debug)]
pub struct Tracker {
    swarms: BTreeMap<ChunkId, Swarm>,
    rng: Rng,
}

/// The members of one swarm. Lists are in no order; each member knows its place in them.
#[derive(Debug, Default)]
struct Swarm {
    members: BTreeMap<NodeId, Member>,
    complete: Vec<NodeId>,
    partial: Vec<NodeId>,
    /// Members of each rack, complete or not.
    racks: BTreeMap<String, Vec<NodeId>>,
}

#[derive(Debug)]
struct Member {
    rack: String,
    complete: bool,
    /// How many receivers were told of it: about the number of its connections.
    named: u32,
    /// Its place in the list of complete or partial members.
    place: usize,
    /// Its place in the list of its rack.
    rack_place: usize,
}

impl Tracker {
    /// A tracker of nothing.
    pub fn new(seed: u64) -> Self {
        Self { swarms: BTreeMap::new(), rng: Rng::with_seed(seed) }
    }

    /// A node says what it holds of a chunk.
    pub fn on_announce(&mut self, _now: Instant, node: NodeId, rack: &str, chunk: ChunkId, holding: Holding) {
        match holding {
            Holding::None => self.remove(node, &chunk),
            Holding::Complete => self.insert(node, rack, chunk, true),
            Holding::Partial => self.insert(node, rack, chunk, false),
        }
    }

    /// A node is gone from the cluster.
    pub fn on_node_lost(&mut self, node: NodeId) {
        self.swarms.retain(|_, swarm| {
            swarm.remove(node);
            !swarm.members.is_empty()
        });
    }

    /// A receiver joins a swarm and is told of at most `limit` others: complete holders first, about three quarters
    /// from its own rack.
    pub fn join(
        &mut self,
        _now: Instant,
        chunk: ChunkId,
        node: NodeId,
        rack: &str,
        limit: usize,
    ) -> Vec<TrackerPeer> {
        let known = self.swarms.get(&chunk).and_then(|swarm| swarm.members.get(&node));
        if known.is_none_or(|member| member.rack != rack) {
            self.insert(node, rack, chunk, false);
        }
        match self.swarms.get_mut(&chunk) {
            Some(swarm) => swarm.name(node, rack, limit, &mut self.rng),
            None => Vec::new(),
        }
    }

    /// At most `limit` nodes that have all of a chunk, which nobody joins by this.
    pub fn complete(&self, chunk: &ChunkId, rack: &str, limit: usize) -> Vec<TrackerPeer> {
        let Some(swarm) = self.swarms.get(chunk) else { return Vec::new() };
        let peer = |&node: &NodeId| {
            let near = !rack.is_empty() && swarm.members.get(&node).is_some_and(|member| member.rack == rack);
            TrackerPeer { node, complete: true, near }
        };
        swarm.complete.iter().take(limit).map(peer).collect()
    }

    fn insert(&mut self, node: NodeId, rack: &str, chunk: ChunkId, complete: bool) {
        if self.swarms.contains_key(&chunk) || self.swarms.len() < SWARMS_MAX {
            self.swarms.entry(chunk).or_default().insert(node, rack, complete);
        }
    }

    fn remove(&mut self, node: NodeId, chunk: &ChunkId) {
        if let Some(swarm) = self.swarms.get_mut(chunk) {
            swarm.remove(node);
            if swarm.members.is_empty() {
                self.swarms.remove(chunk);
            }
        }
    }
}

impl Swarm {
    fn insert(&mut self, node: NodeId, rack: &str, complete: bool) {
        let named = self.members.get(&node).map_or(0, |member| member.named);
        self.remove(node);
        if self.members.len() >= SWARM_MEMBERS_MAX {
            return;
        }
        let list = if complete { &mut self.complete } else { &mut self.partial };
        let place = list.len();
        list.push(node);
        let neighbours = self.racks.entry(rack.to_owned()).or_default();
        let rack_place = neighbours.len();
        neighbours.push(node);
        self.members.insert(node, Member { rack: rack.to_owned(), complete, named, place, rack_place });
    }

    fn remove(&mut self, node: NodeId) {
        let Some(member) = self.members.remove(&node) else {
            return;
        };
        let list = if member.complete { &mut self.complete } else { &mut self.partial };
        list.swap_remove(member.place);
        if let Some(moved) = list.get(member.place).and_then(|moved| self.members.get_mut(moved)) {
            moved.place = member.place;
        }
        let Some(neighbours) = self.racks.get_mut(&member.rack) else {
            return;
        };
        neighbours.swap_remove(member.rack_place);
        if let Some(moved) = neighbours.get(member.rack_place).and_then(|moved| self.members.get_mut(moved)) {
            moved.rack_place = member.rack_place;
        }
        if neighbours.is_empty() {
            self.racks.remove(&member.rack);
        }
    }

    /// Chooses members for a receiver.
    fn name(&mut self, node: NodeId, rack: &str, limit: usize, rng: &mut Rng) -> Vec<TrackerPeer> {
        let mut names = Names { node, limit, chosen: Vec::with_capacity(limit.min(self.members.len())) };
        names.extend(limit.div_ceil(8), &self.complete, &self.members, rng);
        let far = limit / 4;
        if !rack.is_empty()
            && let Some(neighbours) = self.racks.get(rack)
        {
            let near = limit.saturating_sub(far).saturating_sub(names.chosen.len());
            names.extend(near, neighbours, &self.members, rng);
        }
        // A list is drawn from at random, so partial and complete members come as often as there are of each.
        let both = self.complete.len() + self.partial.len();
        let left = limit.saturating_sub(names.chosen.len());
        let complete = (left * self.complete.len()).div_ceil(both.max(1));
        names.extend(complete, &self.complete, &self.members, rng);
        names.extend(limit, &self.partial, &self.members, rng);
        names.extend(limit, &self.complete, &self.members, rng);
        for chosen in &names.chosen {
            if let Some(member) = self.members.get_mut(chosen) {
                member.named = member.named.saturating_add(1);
            }
        }
        let mut peers: Vec<TrackerPeer> = names
            .chosen
            .iter()
            .filter_map(|chosen| {
                let member = self.members.get(chosen)?;
                let near = !rack.is_empty() && member.rack == rack;
                Some(TrackerPeer { node: *chosen, complete: member.complete, near })
            })
            .collect();
        rng.shuffle(&mut peers);
        peers.sort_by_key(|peer| !peer.complete);
        peers
    }
}

/// The members chosen for one receiver so far.
struct Names {
    node: NodeId,
    limit: usize,
    chosen: Vec<NodeId>,
}

impl Names {
    /// Chooses up to `count` more from a list: of a few drawn at random, the one that was named least.
    fn extend(&mut self, count: usize, list: &[NodeId], members: &BTreeMap<NodeId, Member>, rng: &mut Rng) {
        let count = count.min(self.limit.saturating_sub(self.chosen.len()));
        let named = |node: NodeId| members.get(&node).map_or(u32::MAX, |member| member.named);
        if list.len() <= 2 * count {
            let mut rest: Vec<NodeId> = list.iter().copied().filter(|&node| self.is_free(node)).collect();
            rng.shuffle(&mut rest);
            rest.sort_by_key(|&node| named(node));
            self.chosen.extend(rest.into_iter().take(count));
            return;
        }
        for _ in 0..count {
            let looks = (0..2 * LOOKS_PER_NAME).map(|_| list[rng.usize(..list.len())]);
            let looks: Vec<NodeId> = looks.filter(|&node| self.is_free(node)).take(LOOKS_PER_NAME).collect();
            self.chosen.extend(looks.into_iter().min_by_key(|&node| named(node)));
        }
    }

    fn is_free(&self, node: NodeId) -> bool {
        node != self.node && !self.chosen.contains(&node)
    }
}
