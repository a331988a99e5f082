//! The receiver's part of the engine: what a fetch wants done, and what arrives for it.

use flow::bitmap::Bitmap;
use flow::swarm::{Action, Arrival, Fetch, Settings};

use super::{World, id, index};
use crate::cluster::time_ns;
use crate::event::{Event, Message};
use crate::node::{Seat, Slot};

impl World<'_> {
    pub(super) fn fetching(&mut self, node: usize, chunk: usize) -> Option<&mut Fetch> {
        let node = &mut self.nodes[node];
        if node.alive { node.seats[chunk].fetch.as_mut() } else { None }
    }

    pub(super) fn on_join(&mut self, node: usize, chunk: usize) {
        if !self.nodes[node].alive {
            return;
        }
        let start_ns = self.scenario.cluster.start_ns;
        if self.queue.now_ns() < self.joins_ns(node, chunk) + start_ns {
            return self.queue.plan(self.queue.now_ns() + start_ns, Event::Join { node, chunk });
        }
        let have = Bitmap::new(self.scenario.pieces_of(chunk));
        let number = (node * self.scenario.transfers() + chunk) as u64;
        let seed = self.scenario.seed.wrapping_mul(1_000_003).wrapping_add(number);
        let pieces_at_once = self.pieces_at_once();
        let settings = Settings { node: id(node), pieces_at_once, ..self.scenario.settings.clone() };
        let fetch = Fetch::new(settings, have, seed, self.now());
        let seat = &mut self.nodes[node].seats[chunk];
        seat.fetch = Some(fetch);
        seat.joined = true;
        self.share_out(node);
        self.drive(node, chunk);
    }

    fn pieces_at_once(&self) -> usize {
        self.scenario.settings.pieces_at_once * self.scenario.cluster.nics
    }

    /// Divides what a node asks for at once among its fetches.
    fn share_out(&mut self, node: usize) {
        let (scenario, all) = (self.scenario, self.pieces_at_once());
        let seats = &mut self.nodes[node].seats;
        let is_under_way = |seat: &Seat| seat.fetch.is_some() && seat.finished_ns.is_none();
        let under_way = (0..).zip(seats.iter()).filter(|(_, seat)| is_under_way(seat));
        let highest = under_way.map(|(chunk, _)| scenario.priority_of(chunk)).max().unwrap_or_default();
        for (chunk, seat) in seats.iter_mut().enumerate() {
            if let Some(fetch) = &mut seat.fetch {
                fetch.set_pieces_at_once(scenario.priority_of(chunk).pieces_at_once(highest, all));
            }
        }
    }

    pub(super) fn on_wake(&mut self, node: usize, chunk: usize) {
        // Only the wake that was planned last counts.
        let seat = &mut self.nodes[node].seats[chunk];
        if seat.wake_ns == Some(self.queue.now_ns()) {
            seat.wake_ns = None;
            self.drive(node, chunk);
        }
    }

    /// Does what the fetch of a node wants done.
    pub(super) fn drive(&mut self, node: usize, chunk: usize) {
        let now = self.now();
        loop {
            let seat = &self.nodes[node].seats[chunk];
            let free = self.scenario.slots.saturating_sub(seat.slots.len() + seat.unwritten);
            let Some(fetch) = self.fetching(node, chunk) else { return };
            let Some(action) = fetch.poll(now, free) else { break };
            self.act(node, chunk, action);
        }
        self.check(node, chunk);
        let seat = &mut self.nodes[node].seats[chunk];
        let Some(due) = seat.fetch.as_ref().and_then(Fetch::next_deadline) else { return };
        let due_ns = due.as_micros() * 1000;
        if seat.wake_ns.is_none_or(|planned| due_ns < planned) {
            // What is due already and could not be done waits for something else to happen, a slot most often.
            let due_ns = due_ns.max(self.queue.now_ns() + 1000);
            seat.wake_ns = Some(due_ns);
            self.queue.plan(due_ns, Event::Wake { node, chunk });
        }
    }

    fn act(&mut self, node: usize, chunk: usize, action: Action) {
        let now_ns = self.queue.now_ns();
        match action {
            Action::Connect { peer } => {
                let cluster = &self.scenario.cluster;
                let to = index(peer);
                let takes_ns = 2 * cluster.latency_between(node, to) + cluster.connect_ns;
                self.queue.plan(now_ns + takes_ns, Event::Connected { from: node, to, chunk });
            }
            Action::Disconnect { peer } => {
                self.tell(node, index(peer), chunk, Message::Leave);
                self.untie(node, index(peer), chunk);
            }
            Action::Grant { peer, grant, want } => {
                self.check_grant(node, chunk, index(peer), grant);
                let slot = Slot { peer: index(peer), arriving: false, draining: false };
                let seat = &mut self.nodes[node].seats[chunk];
                seat.slots.push(grant, slot);
                seat.last_grant = Some(grant);
                self.tell(node, index(peer), chunk, Message::Grant { grant, want });
            }
            Action::Coming { peer, piece, importer } => {
                self.tell(node, index(peer), chunk, Message::Coming { piece, importer: index(importer) });
            }
            Action::Revoke { peer, grant } => {
                self.end(node, chunk, grant);
                self.tell(node, index(peer), chunk, Message::Revoke { grant });
            }
            Action::Announce { piece } => {
                let seat = &mut self.nodes[node].seats[chunk];
                let seen = seat.verified.contains(piece);
                seat.log.push(piece);
                let is_telling = std::mem::replace(&mut seat.is_telling, true);
                self.require(seen, node, "announces a piece that was not verified");
                if !is_telling {
                    self.flush(node, chunk);
                }
            }
            Action::AskTracker => {
                self.outcome.messages += 1;
                let at_ns = now_ns + self.scenario.cluster.latency_ns;
                self.queue.plan(at_ns, Event::Asked { node, chunk, attempt: 0 });
            }
            Action::Complete => self.on_complete(node, chunk),
        }
    }

    fn on_complete(&mut self, node: usize, chunk: usize) {
        let now_ns = self.queue.now_ns();
        let full = self.nodes[node].seats[chunk].verified.is_full();
        self.require(full, node, "is complete without having all");
        let landed_ns = self.nodes[node].landing.done_ns(now_ns, 0);
        let seat = &mut self.nodes[node].seats[chunk];
        seat.finished_ns = Some(landed_ns);
        if !seat.given_up {
            self.unfinished -= 1;
        }
        self.share_out(node);
        self.leave_sources(node, chunk);
        let at_ns = now_ns + self.scenario.cluster.latency_ns;
        self.queue.plan(at_ns, Event::Finished { node, chunk });
    }

    /// A grant has ended: its slot is free, or will be when the bytes that are arriving are through.
    pub(super) fn end(&mut self, node: usize, chunk: usize, grant: u64) {
        let slots = &mut self.nodes[node].seats[chunk].slots;
        let Some(slot) = slots.find(grant) else { return };
        if slot.arriving {
            slot.draining = true;
        } else {
            slots.remove(grant);
        }
    }

    pub(super) fn on_header(&mut self, stream: usize) {
        let now = self.now();
        let arriving = self.network.stream(stream);
        let (from, to, chunk) = (arriving.from, arriving.to, arriving.chunk);
        let (grant, piece) = (arriving.grant, arriving.piece);
        let Some(fetch) = self.fetching(to, chunk) else { return };
        if fetch.on_arriving(now, id(from), grant, piece) == Arrival::Accept {
            let slot = self.nodes[to].seats[chunk].slots.find(grant);
            let ready = slot.is_some_and(|slot| {
                let free = !slot.arriving && !slot.draining && slot.peer == from;
                slot.arriving = true;
                free
            });
            self.require(ready, to, "accepts a piece into a slot that is not granted");
            self.network.stream(stream).accepted = true;
        }
        self.drive(to, chunk);
    }

    /// All of a piece is here: its checksum is next.
    pub(super) fn on_arrived(&mut self, stream: usize) {
        let arrived = self.network.stream(stream);
        let (to, length, accepted) = (arrived.to, arrived.length, arrived.accepted);
        if !accepted || !self.nodes[to].alive {
            return self.network.end(stream);
        }
        let checked_ns = self.work(to, self.check_ns(length));
        self.queue.plan(checked_ns, Event::Checked(stream));
    }

    pub(super) fn on_checked(&mut self, stream: usize) {
        let now = self.now();
        let arrived = self.network.stream(stream).clone();
        self.network.end(stream);
        let (to, chunk) = (arrived.to, arrived.chunk);
        if !self.nodes[to].alive {
            return;
        }
        let Some(slot) = self.nodes[to].seats[chunk].slots.remove(arrived.grant) else { return };
        self.require(
            slot.peer == arrived.from,
            to,
            "takes a piece from another than the slot was granted to",
        );
        if !slot.draining {
            match self.nodes[arrived.from].lies {
                true => {
                    if let Some(fetch) = self.fetching(to, chunk) {
                        fetch.on_corrupt(now, arrived.grant);
                    }
                }
                false => {
                    self.keep(to, chunk, arrived.piece, arrived.length);
                    if let Some(fetch) = self.fetching(to, chunk) {
                        fetch.on_verified(now, arrived.grant);
                    }
                }
            }
        }
        self.drive(to, chunk);
    }

    /// A verified piece goes to the node's GPUs, and to its disk where memory is short.
    fn keep(&mut self, node: usize, chunk: usize, piece: u32, length: u64) {
        let (now_ns, cluster) = (self.queue.now_ns(), &self.scenario.cluster);
        let through_disk = self.goes_through_disk();
        let receiver = &mut self.nodes[node];
        let seat = &mut receiver.seats[chunk];
        if !seat.verified.insert(piece) {
            return;
        }
        self.advanced_ns = now_ns;
        if cluster.gpus > 0 {
            receiver.landing.done_ns(now_ns, time_ns(length, cluster.landing_gbps()));
        }
        if through_disk {
            let slots = self.scenario.slots as u64 * u64::from(self.scenario.piece_bytes);
            let room = cluster.memory_bytes.saturating_sub(slots) / u64::from(self.scenario.piece_bytes);
            seat.resident.push_back(piece);
            while seat.resident.len() as u64 > room {
                seat.resident.pop_front();
            }
            seat.unwritten += 1;
            let written_ns = receiver.writing.done_ns(now_ns, time_ns(length, cluster.nvme_write_gbps));
            self.queue.plan(written_ns, Event::Written { node, chunk });
        }
    }

    pub(super) fn on_written(&mut self, node: usize, chunk: usize) {
        self.nodes[node].seats[chunk].unwritten -= 1;
        self.drive(node, chunk);
    }
}
