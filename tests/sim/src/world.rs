//! Runs a scenario.

mod checks; // what must hold at each event
mod meeting; // how nodes meet, talk and part
mod receiving; // what a fetch wants done, and what arrives
mod sending; // what a source sends

use std::collections::BTreeMap;

use fastrand::Rng;
use flow::bitmap::Bitmap;
use flow::swarm::{Fetch, Serve, Tracker};
use flow::time::Instant;
use flow::wire::control::{Holding, NodeId};

use crate::event::{Event, Queue};
use crate::network::Network;
use crate::node::{CHUNK, Node};
use crate::outcome::{Outcome, Receiver};
use crate::scenario::{Fate, Scenario};

/// A run that takes longer than this many times the ideal, and this many seconds more, is given up.
const GIVE_UP: (u64, u64) = (40, 120);

/// Runs a scenario until every survivor has all, or nothing happens any more.
pub fn run(scenario: &Scenario) -> Outcome {
    let mut world = World::new(scenario);
    let limit = scenario.ideal_ns() * GIVE_UP.0 + GIVE_UP.1 * 1_000_000_000;
    while world.unfinished > 0
        && let Some(event) = world.queue.next_event()
    {
        if world.queue.now_ns() > limit {
            break;
        }
        world.happen(event);
    }
    world.outcome()
}

struct World<'a> {
    scenario: &'a Scenario,
    queue: Queue,
    network: Network,
    nodes: Vec<Node>,
    fates: Vec<Fate>,
    tracker: Tracker,
    unfinished: usize,
    messages: u64,
    between_racks: u64,
}

fn id(node: usize) -> NodeId {
    node as NodeId + 1
}

fn index(node: NodeId) -> usize {
    node as usize - 1
}

impl<'a> World<'a> {
    fn new(scenario: &'a Scenario) -> Self {
        let mut rng = Rng::with_seed(scenario.seed);
        let mut fates = vec![Fate::default(); scenario.origins];
        for fate in &mut fates {
            fate.dies_ns = scenario.origins_die_at.map(|pieces| pieces * scenario.piece_ns);
        }
        fates.extend(scenario.fates(&mut rng));
        let mut world = Self {
            scenario,
            queue: Queue::default(),
            network: Network::new(scenario.latency_ns),
            nodes: Vec::new(),
            fates,
            tracker: Tracker::new(rng.u64(..)),
            unfinished: scenario.receivers,
            messages: 0,
            between_racks: 0,
        };
        for node in 0..world.fates.len() {
            world.add(node);
        }
        world
    }

    fn add(&mut self, node: usize) {
        let (scenario, fate) = (self.scenario, &self.fates[node]);
        let piece_ns = if fate.slow { scenario.piece_ns * scenario.slowness } else { scenario.piece_ns };
        self.network.connect(piece_ns, piece_ns);
        let origin = node < scenario.origins;
        let pieces = scenario.pieces;
        self.nodes.push(Node {
            fetch: None,
            serve: Serve::new(scenario.uploads_at_once),
            verified: if origin { Bitmap::full(pieces) } else { Bitmap::new(pieces) },
            links: Vec::new(),
            slots: BTreeMap::new(),
            last_grant: None,
            wake_ns: None,
            alive: true,
            joined: origin,
            finished_ns: None,
            lies: fate.lies,
            rack: node / scenario.rack_size,
        });
        if let Some(dies_ns) = fate.dies_ns {
            self.queue.plan(dies_ns, Event::Die(node));
        }
        if origin {
            self.queue.plan(0, Event::Finished(node));
        } else {
            self.queue.plan(fate.joins_ns, Event::Join(node));
        }
    }

    fn now(&self) -> Instant {
        Instant::from_micros(self.queue.now_ns() / 1000)
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::UplinkFree(node) => self.on_uplink_free(node),
            Event::SliceDone(stream) => self.network.on_slice_done(&mut self.queue, stream),
            Event::Header(stream) => self.on_header(stream),
            Event::Arrived(stream) => self.on_arrived(stream),
            Event::Message { from, to, message } => self.on_message(from, to, message),
            Event::Announced { from, piece } => self.on_announced(from, piece),
            Event::Connected { from, to } => self.on_connected(from, to),
            Event::Lost { at, peer } => self.on_lost(at, peer),
            Event::Asked(node) => self.on_asked(node),
            Event::Named { node, peers } => {
                let now = self.now();
                if let Some(fetch) = self.fetching(node) {
                    fetch.on_peers(now, &peers);
                }
                self.drive(node);
            }
            Event::Finished(node) if self.tracker_answers() => {
                let (now, rack) = (self.now(), self.rack(node));
                self.tracker.on_announce(now, id(node), &rack, CHUNK, Holding::Complete);
            }
            Event::Finished(_) => {}
            // Only the wake that was planned last counts.
            Event::Wake(node) if self.nodes[node].wake_ns == Some(self.queue.now_ns()) => {
                self.nodes[node].wake_ns = None;
                self.drive(node);
            }
            Event::Wake(_) => {}
            Event::Join(node) => self.on_join(node),
            Event::Die(node) => self.on_die(node),
        }
    }

    fn outcome(self) -> Outcome {
        let origins = self.scenario.origins;
        let receivers = self.nodes.iter().zip(&self.fates).skip(origins).map(|(node, fate)| Receiver {
            joined_ns: fate.joins_ns,
            finished_ns: node.finished_ns,
            died: !node.alive,
            slow: fate.slow,
            late: fate.joins_ns > 0,
            counters: node.fetch.as_ref().map(Fetch::counters).unwrap_or_default(),
        });
        Outcome {
            seed: self.scenario.seed,
            ideal_ns: self.scenario.ideal_ns(),
            receivers: receivers.collect(),
            events: self.queue.planned(),
            pieces_sent: self.network.streams(),
            pieces_between_racks: self.between_racks,
            messages: self.messages,
        }
    }
}
