//! Runs a scenario.

use std::collections::BTreeMap;

use fastrand::Rng;
use flow::bitmap::Bitmap;
use flow::swarm::{Action, Arrival, Fetch, Serve, Tracker, Upload};
use flow::time::Instant;
use flow::wire::control::{Holding, NodeId};

use crate::event::{Event, Message, Queue};
use crate::network::Network;
use crate::node::{CHUNK, Node, Slot, Verified};
use crate::outcome::{Outcome, Receiver};
use crate::scenario::{Fate, Scenario};

/// A run that takes longer than this many times the ideal, and this many seconds more, is given up.
const GIVE_UP: (u64, u64) = (40, 120);

/// Runs a scenario until every survivor has all, or nothing happens any more.
pub fn run(scenario: &Scenario) -> Outcome {
    let mut world = World::new(scenario);
    let mut snaps = 0;
    let limit = scenario.ideal_ns() * GIVE_UP.0 + GIVE_UP.1 * 1_000_000_000;
    while world.unfinished > 0
        && let Some(event) = world.queue.next_event()
    {
        if world.queue.now_ns() > limit {
            break;
        }
        world.happen(event);
        if world.debug && world.queue.now_ns() > std::env::var("AT").map_or(u64::MAX, |v| v.parse().unwrap()) && snaps == 1 { snaps = 2; for (i, n) in world.nodes.iter().enumerate() { if n.alive && !n.verified.is_full() { let t = format!("{:?}", n.fetch); println!("LATE {i} missing {:?} slots {:?} {} dead {:?}", n.verified.missing().collect::<Vec<_>>(), t, &t[t.find("grants: Grants").unwrap()..][..1], world.nodes.iter().enumerate().filter(|x| !x.1.alive).map(|x| x.0).collect::<Vec<_>>()); } } }
        if world.debug && world.queue.now_ns() > scenario.ideal_ns() * 98 / 100 && snaps < 1 {
            snaps += 1;
            let mut arr = vec![0; 12];
            let mut wait = vec![0; 12];
            let mut up = vec![0; 12];
            let mut inc = vec![0usize; world.nodes.len()];
            let mut stalled = vec![0; 12];
            for n in 0..world.nodes.len() {
                let (s, st, tos) = world.network.debug(n);
                up[s] += 1;
                stalled[st] += 1;
                for t in tos {
                    inc[t] += 1;
                }
            }
            let mut incd = vec![0; 12];
            for i in &inc {
                incd[(*i).min(11)] += 1;
            }
            for n in &world.nodes {
                let a = n.slots.values().filter(|s| s.arriving).count();
                arr[a.min(11)] += 1;
                wait[(n.slots.len() - a).min(11)] += 1;
            }
            let mut miss: Vec<u32> =
                world.nodes.iter().skip(1).map(|n| scenario.pieces - n.verified.count()).collect();
            miss.sort();
            let mut copies: Vec<usize> = (0..scenario.pieces)
                .map(|p| world.nodes.iter().filter(|n| n.verified.contains(p)).count())
                .collect();
            copies.sort();
            println!(
                "T={} missing {:?}",
                world.queue.now_ns() as f64 / scenario.ideal_ns() as f64,
                [
                    miss[0],
                    miss[miss.len() / 10],
                    miss[miss.len() / 2],
                    miss[miss.len() * 9 / 10],
                    miss[miss.len() - 1]
                ]
            );
            println!(
                "copies deciles {:?}",
                (0..=20).map(|d| copies[(copies.len() - 1) * d / 20]).collect::<Vec<_>>()
            );
            println!(
                "missing:links {}",
                world
                    .nodes
                    .iter()
                    .skip(1)
                    .map(|n| format!(
                        "{}:{}/{}",
                        scenario.pieces - n.verified.count(),
                        n.links.iter().filter(|l| world.nodes[**l].rack == n.rack).count(),
                        n.links.len()
                    ))
                    .step_by(8)
                    .collect::<Vec<_>>()
                    .join(" ")
            );
            println!(
                "arriving {arr:?}\nwaiting {wait:?}\nuploads {up:?}\nstalled uploads {stalled:?}\nincoming {incd:?}"
            );
        }
    }
    if scenario.receivers == 1 {
        println!("{} {:?} {:?}", world.queue.now_ns(), world.nodes[1].slots, world.nodes[1].fetch);
    }
    if std::env::var("DBG").is_ok() {
        let n = scenario.receivers as f64 * scenario.pieces as f64 / 20.0;
        println!(
            "verified/5%: {:?}",
            world.dbg[0].iter().map(|v| (*v as f64 / n * 100.0) as u32).collect::<Vec<_>>()
        );
        println!("origin sends: {:?}", world.dbg[1]);
        println!("origin first sends: {:?}", world.dbg[2]);
        println!(
            "wasted arrivals: {:?}",
            world.dbg[3].iter().map(|v| (*v as f64 / n * 100.0) as u32).collect::<Vec<_>>()
        );
        println!("open grants x100/node: {:?}", world.dbg[4]);
    }
    let end = world.queue.now_ns(); if world.debug { println!("END {end}"); }
    world.outcome()
}

thread_local! { /// x
pub static KINDS: std::cell::RefCell<BTreeMap<String, u64>> = Default::default(); }
struct World<'a> {
    debug: bool,
    dbg: [Vec<u64>; 5],
    sent_first: Bitmap,
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
            debug: std::env::var_os("DBG").is_some(),
            dbg: std::array::from_fn(|_| vec![0; 60]),
            sent_first: Bitmap::new(scenario.pieces),
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
            serve: Serve::new(if origin {
                std::env::var("UO").map_or(scenario.uploads_at_once, |v| v.parse().unwrap())
            } else {
                scenario.uploads_at_once
            }),
            verified: if origin { Bitmap::full(pieces) } else { Bitmap::new(pieces) },
            links: Vec::new(),
            slots: BTreeMap::new(),
            last_grant: 0,
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

    fn mark(&mut self, which: usize, n: u64) {
        let at = (self.queue.now_ns() * 20 / self.scenario.ideal_ns()).min(59) as usize;
        self.dbg[which][at] += n;
    }

    fn now(&self) -> Instant {
        Instant::from_micros(self.queue.now_ns() / 1000)
    }

    fn happen(&mut self, event: Event) {
        if self.debug {
            KINDS.with(|k| {
                let n = match &event {
                    Event::Message { message, .. } => {
                        format!("{message:?}").split(' ').next().unwrap().to_string()
                    }
                    e => format!("{e:?}").split(|c| c == '(' || c == ' ').next().unwrap().to_string(),
                };
                *k.borrow_mut().entry(n).or_insert(0) += 1;
            });
        }
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

// ---- receivers -----------------------------------------------------------------------------------------

impl World<'_> {
    fn fetching(&mut self, node: usize) -> Option<&mut Fetch> {
        let node = &mut self.nodes[node];
        if node.alive { node.fetch.as_mut() } else { None }
    }

    fn on_join(&mut self, node: usize) {
        if !self.nodes[node].alive {
            return;
        }
        let have = Bitmap::new(self.scenario.pieces);
        let seed = self.scenario.seed.wrapping_mul(1_000_003).wrapping_add(node as u64);
        let fetch = Fetch::new(self.scenario.settings.clone(), have, seed, self.now());
        self.nodes[node].fetch = Some(fetch);
        self.nodes[node].joined = true;
        self.drive(node);
    }

    /// Does what the fetch of a node wants done.
    fn drive(&mut self, node: usize) {
        let now = self.now();
        loop {
            let slots = self.scenario.slots;
            let free = slots - self.nodes[node].slots.len();
            let Some(fetch) = self.fetching(node) else { return };
            let Some(action) = fetch.poll(now, free) else { break };
            self.act(node, action);
        }
        self.check(node);
        let Some(due) = self.nodes[node].fetch.as_ref().and_then(Fetch::next_deadline) else { return };
        let due_ns = due.as_micros() * 1000;
        if self.nodes[node].wake_ns.is_none_or(|planned| due_ns < planned) {
            self.nodes[node].wake_ns = Some(due_ns);
            self.queue.plan(due_ns, Event::Wake(node));
        }
    }

    fn act(&mut self, node: usize, action: Action) {
        let soon = self.queue.now_ns() + self.scenario.latency_ns;
        match action {
            Action::Connect { peer } => {
                let at_ns = soon + self.scenario.latency_ns;
                self.queue.plan(at_ns, Event::Connected { from: node, to: index(peer) });
            }
            Action::Disconnect { peer } => {
                self.tell(node, index(peer), Message::Leave);
                self.unlink(node, index(peer));
            }
            Action::Grant { peer, grant, want } => {
                self.check_grant(node, index(peer), grant);
                let slot = Slot { peer: index(peer), arriving: false, draining: false };
                self.nodes[node].slots.insert(grant, slot);
                self.tell(node, index(peer), Message::Grant { grant, want });
            }
            Action::Revoke { peer, grant } => {
                self.end(node, grant);
                self.tell(node, index(peer), Message::Revoke { grant });
            }
            Action::Announce { piece } => {
                let seen = self.nodes[node].verified.contains(piece);
                self.require(seen, node, "announces a piece that was not verified");
                self.queue.plan(soon, Event::Announced { from: node, piece });
            }
            Action::AskTracker => {
                self.messages += 1;
                self.queue.plan(soon, Event::Asked(node));
            }
            Action::Complete => {
                let full = self.nodes[node].verified.is_full();
                self.require(full, node, "is complete without having all");
                self.nodes[node].finished_ns = Some(self.queue.now_ns());
                self.unfinished -= 1;
                self.queue.plan(soon, Event::Finished(node));
            }
        }
    }

    fn tell(&mut self, from: usize, to: usize, message: Message) {
        self.messages += 1;
        let at_ns = self.queue.now_ns() + self.scenario.latency_ns;
        self.queue.plan(at_ns, Event::Message { from, to, message });
    }

    /// A grant has ended: its slot is free, or will be when the bytes that are arriving are through.
    fn end(&mut self, node: usize, grant: u64) {
        let Some(slot) = self.nodes[node].slots.get_mut(&grant) else { return };
        if slot.arriving {
            slot.draining = true;
        } else {
            self.nodes[node].slots.remove(&grant);
        }
    }

    fn on_header(&mut self, stream: usize) {
        let now = self.now();
        let (from, to) = (self.network.stream(stream).from, self.network.stream(stream).to);
        let (grant, piece) = (self.network.stream(stream).grant, self.network.stream(stream).piece);
        let Some(fetch) = self.fetching(to) else { return };
        if fetch.on_arriving(now, id(from), grant, piece) == Arrival::Accept {
            let slot = self.nodes[to].slots.get_mut(&grant);
            let ready = slot.is_some_and(|slot| {
                let free = !slot.arriving && !slot.draining && slot.peer == from;
                slot.arriving = true;
                free
            });
            self.require(ready, to, "accepts a piece into a slot that is not granted");
            self.network.stream(stream).accepted = true;
        }
        self.drive(to);
    }

    fn on_arrived(&mut self, stream: usize) {
        let now = self.now();
        let arrived = self.network.stream(stream).clone();
        if !arrived.accepted {
            self.mark(3, 1);
        }
        if !arrived.accepted || !self.nodes[arrived.to].alive {
            return;
        }
        let Some(slot) = self.nodes[arrived.to].slots.remove(&arrived.grant) else { return };
        let lies = self.nodes[arrived.from].lies;
        if !slot.draining {
            if !lies {
                self.nodes[arrived.to].verified.insert(arrived.piece);
                self.mark(0, 1);
            }
            if let Some(fetch) = self.fetching(arrived.to) {
                match lies {
                    true => fetch.on_corrupt(now, arrived.grant),
                    false => fetch.on_verified(now, arrived.grant),
                }
            }
        }
        self.drive(arrived.to);
    }

    fn on_announced(&mut self, from: usize, piece: u32) {
        let now = self.now();
        if !self.nodes[from].alive {
            return;
        }
        let links = std::mem::take(&mut self.nodes[from].links);
        for &to in &links {
            self.nodes[to].serve.on_have(&CHUNK, &[piece]);
            if let Some(fetch) = self.fetching(to) {
                fetch.on_have(now, id(from), &[piece]);
                self.drive(to);
            }
        }
        self.nodes[from].links = links;
    }
}

// ---- sources -------------------------------------------------------------------------------------------

impl World<'_> {
    /// Sends what a node's source side wants sent.
    fn pump(&mut self, node: usize) {
        let now = self.now();
        loop {
            let Node { serve, verified, alive, .. } = &mut self.nodes[node];
            if !*alive {
                return;
            }
            match serve.poll(now, &Verified(verified)) {
                None => return,
                Some(Upload::Decline { peer, grant, .. }) => {
                    self.tell(node, index(peer), Message::Decline { grant });
                }
                Some(Upload::Send { peer, grant, piece, .. }) => {
                    let held = self.nodes[node].verified.contains(piece);
                    self.require(held, node, "sends a piece that it has not verified");
                    let to = index(peer);
                    if node == 0 {
                        self.mark(1, 1);
                        if self.sent_first.insert(piece) {
                            self.mark(2, 1);
                        }
                    }
                    self.between_racks += u64::from(self.nodes[node].rack != self.nodes[to].rack);
                    self.network.send(&mut self.queue, node, to, grant, piece);
                }
            }
        }
    }

    fn on_uplink_free(&mut self, node: usize) {
        if let Some(stream) = self.network.on_uplink_free(&mut self.queue, node) {
            let (to, grant) = (self.network.stream(stream).to, self.network.stream(stream).grant);
            self.nodes[node].serve.on_sent(id(to), grant);
            self.pump(node);
        }
    }
}

// ---- messages ------------------------------------------------------------------------------------------

impl World<'_> {
    fn on_message(&mut self, from: usize, to: usize, message: Message) {
        if !self.nodes[to].alive {
            return;
        }
        let now = self.now();
        match message {
            Message::Interest { have, reply } => self.on_interest(from, to, have, reply),
            Message::Leave => self.part(to, from),
            Message::Grant { grant, want } => {
                let granted = self.nodes[to].serve.on_grant(now, id(from), CHUNK, grant, want);
                if granted.is_err() {
                    self.tell(to, from, Message::Decline { grant });
                }
                self.pump(to);
            }
            Message::Revoke { grant } => {
                self.nodes[to].serve.on_revoke(id(from), grant);
                self.pump(to);
            }
            Message::Decline { grant } => {
                self.end(to, grant);
                if let Some(fetch) = self.fetching(to) {
                    fetch.on_declined(now, id(from), grant);
                }
                self.drive(to);
            }
        }
    }

    fn on_connected(&mut self, from: usize, to: usize) {
        if !self.nodes[from].alive {
            return;
        }
        if !self.nodes[to].alive {
            self.queue
                .plan(self.queue.now_ns() + self.scenario.latency_ns, Event::Lost { at: from, peer: to });
            return;
        }
        self.link(from, to);
        let have = self.nodes[from].verified.clone();
        self.tell(from, to, Message::Interest { have, reply: true });
    }

    fn on_interest(&mut self, from: usize, to: usize, have: Bitmap, reply: bool) {
        if !self.nodes[to].takes_part() {
            return self.tell(to, from, Message::Leave);
        }
        self.link(to, from);
        if reply {
            let have = self.nodes[to].verified.clone();
            self.tell(to, from, Message::Interest { have, reply: false });
        }
        let (now, near) = (self.now(), self.nodes[from].rack == self.nodes[to].rack);
        if let Some(fetch) = self.fetching(to) {
            fetch.on_interest(now, id(from), near, have);
        }
        self.drive(to);
    }

    fn link(&mut self, node: usize, peer: usize) {
        if !self.nodes[node].links.contains(&peer) {
            self.nodes[node].links.push(peer);
        }
        let bound =
            node < self.scenario.origins || self.nodes[node].links.len() <= 4 * self.scenario.settings.peers;
        self.require(bound, node, "is connected to too many");
    }

    fn on_lost(&mut self, at: usize, peer: usize) {
        if self.nodes[at].alive {
            self.part(at, peer);
        }
    }

    /// A node learns that another does not take part any more.
    fn part(&mut self, node: usize, peer: usize) {
        let now = self.now();
        self.unlink(node, peer);
        self.nodes[node].slots.retain(|_, slot| slot.peer != peer);
        if let Some(fetch) = self.fetching(node) {
            fetch.on_lost(now, id(peer));
        }
        self.pump(node);
        self.drive(node);
    }

    fn unlink(&mut self, node: usize, peer: usize) {
        self.nodes[node].links.retain(|&link| link != peer);
        self.nodes[node].serve.on_lost(id(peer));
        self.network.forget(&mut self.queue, node, peer);
    }

    fn on_die(&mut self, node: usize) {
        self.nodes[node].alive = false;
        self.network.cut(node);
        if node >= self.scenario.origins && self.nodes[node].finished_ns.is_none() {
            self.unfinished -= 1;
        }
        let missed_ns = self.queue.now_ns() + self.scenario.detection_ns;
        for at in self.nodes[node].links.clone() {
            self.queue.plan(missed_ns, Event::Lost { at, peer: node });
        }
        self.tracker.on_node_lost(id(node));
    }

    fn tracker_answers(&self) -> bool {
        let silent_at = self.scenario.tracker_silent_at;
        silent_at.is_none_or(|pieces| self.queue.now_ns() < pieces * self.scenario.piece_ns)
    }

    fn on_asked(&mut self, node: usize) {
        if self.tracker_answers() && self.nodes[node].alive {
            let (now, rack, limit) = (self.now(), self.rack(node), self.scenario.settings.peers);
            let peers = self.tracker.join(now, CHUNK, id(node), &rack, limit);
            let at_ns = self.queue.now_ns() + self.scenario.latency_ns;
            self.queue.plan(at_ns, Event::Named { node, peers });
        }
    }

    fn rack(&self, node: usize) -> String {
        format!("rack-{}", self.nodes[node].rack)
    }
}

// ---- what must always hold -----------------------------------------------------------------------------

impl World<'_> {
    /// Checks the bounds of one node.
    fn check(&self, node: usize) {
        let checked = &self.nodes[node];
        let Some(fetch) = &checked.fetch else { return };
        let same = fetch.have().count() == checked.verified.count();
        self.require(same, node, "has pieces that were not verified, or misses some that were");
        let open = checked.slots.len();
        self.require(open <= self.scenario.slots, node, "uses more slots than it has");
    }

    fn check_grant(&self, node: usize, peer: usize, grant: u64) {
        let checked = &self.nodes[node];
        let settings = &self.scenario.settings;
        let open = checked.slots.values().filter(|slot| !slot.draining);
        let (count, to_peer) =
            open.fold((1, 1), |(all, one), slot| (all + 1, one + usize::from(slot.peer == peer)));
        if false {
            self.require(count <= settings.grants_at_once, node, "opens too many grants");
        }
        self.require(to_peer <= settings.grants_per_peer, node, "opens too many grants towards one peer");
        self.require(!checked.slots.contains_key(&grant), node, "uses the number of a grant twice");
        self.require(checked.slots.len() < self.scenario.slots, node, "grants a slot that is in use");
    }

    fn require(&self, holds: bool, node: usize, otherwise: &str) {
        assert!(
            holds,
            "node {node} {otherwise}, {} us after the start of the world with seed {}",
            self.queue.now_ns() / 1000,
            self.scenario.seed
        );
    }
}
