//! How nodes meet, talk and part, and what the tracker hears of it.

use flow::bitmap::Bitmap;

use super::{World, id};
use crate::event::{Event, Message};
use crate::node::CHUNK;

impl World<'_> {
    pub(super) fn on_message(&mut self, from: usize, to: usize, message: Message) {
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

    pub(super) fn on_connected(&mut self, from: usize, to: usize) {
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

    pub(super) fn on_interest(&mut self, from: usize, to: usize, have: Bitmap, reply: bool) {
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

    pub(super) fn link(&mut self, node: usize, peer: usize) {
        if !self.nodes[node].links.contains(&peer) {
            self.nodes[node].links.push(peer);
        }
        let bound =
            node < self.scenario.origins || self.nodes[node].links.len() <= 4 * self.scenario.settings.peers;
        self.require(bound, node, "is connected to too many");
    }

    pub(super) fn on_lost(&mut self, at: usize, peer: usize) {
        if self.nodes[at].alive {
            self.part(at, peer);
        }
    }

    /// A node learns that another does not take part any more.
    pub(super) fn part(&mut self, node: usize, peer: usize) {
        let now = self.now();
        self.unlink(node, peer);
        self.nodes[node].slots.retain(|_, slot| slot.peer != peer);
        if let Some(fetch) = self.fetching(node) {
            fetch.on_lost(now, id(peer));
        }
        self.pump(node);
        self.drive(node);
    }

    pub(super) fn unlink(&mut self, node: usize, peer: usize) {
        self.nodes[node].links.retain(|&link| link != peer);
        self.nodes[node].serve.on_lost(id(peer));
        // What is under way still arrives, unless there is nobody for it to arrive at.
        if !self.nodes[peer].alive {
            self.network.forget(&mut self.queue, node, peer);
        }
    }

    pub(super) fn on_die(&mut self, node: usize) {
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

    pub(super) fn tracker_answers(&self) -> bool {
        let silent_at = self.scenario.tracker_silent_at;
        silent_at.is_none_or(|pieces| self.queue.now_ns() < pieces * self.scenario.piece_ns)
    }

    pub(super) fn on_asked(&mut self, node: usize) {
        if self.tracker_answers() && self.nodes[node].alive {
            let (now, rack, limit) = (self.now(), self.rack(node), self.scenario.settings.peers);
            let peers = self.tracker.join(now, CHUNK, id(node), &rack, limit);
            let at_ns = self.queue.now_ns() + self.scenario.latency_ns;
            self.queue.plan(at_ns, Event::Named { node, peers });
        }
    }

    pub(super) fn rack(&self, node: usize) -> String {
        format!("rack-{}", self.nodes[node].rack)
    }
}
