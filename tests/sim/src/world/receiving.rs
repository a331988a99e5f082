//! The receiver's part of the engine: what a fetch wants done, and what arrives for it.

use flow::bitmap::Bitmap;
use flow::swarm::{Action, Arrival, Fetch};

use super::{World, id, index};
use crate::event::{Event, Message};
use crate::node::Slot;

impl World<'_> {
    pub(super) fn fetching(&mut self, node: usize) -> Option<&mut Fetch> {
        let node = &mut self.nodes[node];
        if node.alive { node.fetch.as_mut() } else { None }
    }

    pub(super) fn on_join(&mut self, node: usize) {
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
    pub(super) fn drive(&mut self, node: usize) {
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

    pub(super) fn act(&mut self, node: usize, action: Action) {
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
                self.nodes[node].last_grant = Some(grant);
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

    pub(super) fn tell(&mut self, from: usize, to: usize, message: Message) {
        self.messages += 1;
        let at_ns = self.queue.now_ns() + self.scenario.latency_ns;
        self.queue.plan(at_ns, Event::Message { from, to, message });
    }

    /// A grant has ended: its slot is free, or will be when the bytes that are arriving are through.
    pub(super) fn end(&mut self, node: usize, grant: u64) {
        let Some(slot) = self.nodes[node].slots.get_mut(&grant) else { return };
        if slot.arriving {
            slot.draining = true;
        } else {
            self.nodes[node].slots.remove(&grant);
        }
    }

    pub(super) fn on_header(&mut self, stream: usize) {
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

    pub(super) fn on_arrived(&mut self, stream: usize) {
        let now = self.now();
        let arrived = self.network.stream(stream).clone();
        if !arrived.accepted || !self.nodes[arrived.to].alive {
            return;
        }
        let Some(slot) = self.nodes[arrived.to].slots.remove(&arrived.grant) else { return };
        let lies = self.nodes[arrived.from].lies;
        if !slot.draining {
            if !lies {
                self.nodes[arrived.to].verified.insert(arrived.piece);
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

    pub(super) fn on_announced(&mut self, from: usize, piece: u32) {
        let now = self.now();
        if !self.nodes[from].alive {
            return;
        }
        let links = std::mem::take(&mut self.nodes[from].links);
        for &to in &links {
            if let Some(fetch) = self.fetching(to) {
                fetch.on_have(now, id(from), &[piece]);
                self.drive(to);
            }
        }
        self.nodes[from].links = links;
    }
}
