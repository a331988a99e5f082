//! How nodes meet, talk and part.

use std::collections::BTreeSet;

use flow::bitmap::Bitmap;
use flow::connections::{Asker, Keeper};
use flow::swarm::Priority;

use super::{World, id};
use crate::event::{Event, Letter, Message};
use crate::node::{Tie, chunk_id};

/// Shortest time between two messages that only tell of pieces that are here, in nanoseconds; the engine's.
const NEWS_PAUSE_NS: u64 = 2_000_000;

impl World<'_> {
    pub(super) fn tell(&mut self, from: usize, to: usize, chunk: usize, message: Message) {
        self.outcome.messages += 1;
        self.work(from, self.scenario.cluster.message_ns);
        let seat = &self.nodes[from].seats[chunk];
        let letter = Letter { from, to, chunk, news: seat.log.len() as u32, is_read: false, message };
        let at_ns = self.network.message_at_ns(self.queue.now_ns(), from, to);
        self.queue.plan(at_ns, Event::Message(Box::new(letter)));
    }

    pub(super) fn on_message(&mut self, mut letter: Box<Letter>) {
        let (from, to, chunk) = (letter.from, letter.to, letter.chunk);
        if !letter.is_read && !self.network.reaches(from, to) {
            // What a short interruption holds up comes later; connections that break take it with them.
            if self.network.separates(from, to)
                && !self.is_noticed()
                && let Some((_, heals_ns)) = self.heals_ns()
            {
                self.queue.plan(heals_ns + self.scenario.cluster.latency_ns, Event::Message(letter));
            }
            return;
        }
        if !self.nodes[to].alive {
            return;
        }
        if !letter.is_read {
            letter.is_read = true;
            let message_ns = self.scenario.cluster.message_ns;
            let read_ns = self.work(to, message_ns);
            if read_ns > self.queue.now_ns() + message_ns {
                return self.queue.plan(read_ns, Event::Message(letter));
            }
        }
        self.hear(from, to, chunk, letter.news);
        let now = self.now();
        match letter.message {
            Message::Interest { have, reply } => self.on_interest(from, to, chunk, have, reply),
            Message::Preference { priority } => {
                self.nodes[to].serve.on_preference(id(from), chunk_id(chunk), priority);
                self.pump(to);
            }
            Message::Coming { piece, importer } => {
                if let Some(fetch) = self.fetching(to, chunk) {
                    fetch.on_coming(now, id(from), piece, id(importer));
                    self.drive(to, chunk);
                }
            }
            Message::Room => {
                if let Some(fetch) = self.fetching(to, chunk) {
                    fetch.on_room(id(from));
                    self.drive(to, chunk);
                }
            }
            Message::Leave => self.part(to, from, chunk),
            Message::Grant { grant, want } => {
                let node = &mut self.nodes[to];
                // What was granted before the peer heard that it was sent away is void.
                let takes_part = node.seats[chunk].ties.find(from).is_some();
                let name = chunk_id(chunk);
                if !takes_part || node.serve.on_grant(now, id(from), name, grant, want).is_err() {
                    self.tell(to, from, chunk, Message::Decline { grant });
                }
                self.pump(to);
            }
            Message::Revoke { grant } => {
                self.nodes[to].serve.on_revoke(id(from), grant);
                self.pump(to);
            }
            Message::Decline { grant } => {
                self.end(to, chunk, grant);
                if let Some(fetch) = self.fetching(to, chunk) {
                    fetch.on_declined(now, id(from), grant);
                }
                self.drive(to, chunk);
            }
        }
    }

    pub(super) fn on_connected(&mut self, from: usize, to: usize, chunk: usize) {
        if !self.nodes[from].alive {
            return;
        }
        if !self.network.reaches(from, to) || !self.network.reaches(to, from) {
            let at_ns = self.queue.now_ns() + self.scenario.cluster.latency_ns;
            return self.queue.plan(at_ns, Event::Lost { at: from, peer: to });
        }
        self.tell_preference(from, to, chunk);
        let have = self.nodes[from].seats[chunk].verified.clone();
        let lacks = self.scenario.pieces_of(chunk);
        self.tie(from, to, chunk, lacks);
        self.tell(from, to, chunk, Message::Interest { have, reply: true });
    }

    fn tell_preference(&mut self, from: usize, to: usize, chunk: usize) {
        let priority = self.scenario.priority_of(chunk);
        if priority != Priority::Normal && self.fetching(from, chunk).is_some() {
            self.tell(from, to, chunk, Message::Preference { priority });
        }
    }

    fn on_interest(&mut self, from: usize, to: usize, chunk: usize, have: Bitmap, reply: bool) {
        if !self.nodes[to].seats[chunk].joined {
            return self.tell(to, from, chunk, Message::Leave);
        }
        let is_done = self.nodes[to].seats[chunk].finished_ns.is_some() || to < self.scenario.origins;
        if !reply && have.is_full() && is_done {
            // The fetch that asked has ended, and the peer wants nothing.
            return self.tell(to, from, chunk, Message::Leave);
        }
        if reply && !self.has_room_for(to, from) {
            // Its node refuses the connection a latency earlier.
            return self.tell(to, from, chunk, Message::Leave);
        }
        let cluster = &self.scenario.cluster;
        let (now, near) = (self.now(), cluster.rack(from) == cluster.rack(to));
        let lacks = have.len() - have.count();
        let may_stay =
            self.fetching(to, chunk).is_none_or(|fetch| fetch.on_interest(now, id(from), near, have));
        if may_stay {
            self.tie(to, from, chunk, lacks);
        }
        if may_stay && reply {
            self.tell_preference(to, from, chunk);
            let have = self.nodes[to].seats[chunk].verified.clone();
            self.tell(to, from, chunk, Message::Interest { have, reply: false });
        }
        self.drive(to, chunk);
    }

    /// Whether a node is connected to another, or takes the connection. What nobody uses does not count: it is closed.
    fn has_room_for(&mut self, node: usize, peer: usize) -> bool {
        let seats = &mut self.nodes[node].seats;
        let ties: usize = seats.iter().map(|seat| seat.ties.len()).sum();
        let keeper = Keeper::new(self.scenario.connections);
        if keeper.has_room(ties, Asker::Peer) || seats.iter_mut().any(|seat| seat.ties.find(peer).is_some()) {
            return true;
        }
        let used = seats.iter_mut().flat_map(|seat| {
            let fetch = seat.fetch.as_ref().filter(|_| seat.finished_ns.is_none());
            let is_source = move |peer| fetch.is_some_and(|fetch| fetch.is_acquainted(id(peer)));
            let used = seat.ties.iter_mut().filter(move |(peer, tie)| tie.lacks > 0 || is_source(*peer));
            used.map(|(peer, _)| peer)
        });
        let used: BTreeSet<usize> = used.collect();
        self.require(used.len() <= self.scenario.connections.all, node, "has too many connections");
        keeper.has_room(used.len(), Asker::Peer)
    }

    fn tie(&mut self, node: usize, peer: usize, chunk: usize, lacks: u32) {
        let seat = &mut self.nodes[node].seats[chunk];
        let heard = seat.log.len() as u32;
        match seat.ties.find(peer) {
            Some(tie) => tie.lacks = lacks,
            None => seat.ties.push(peer, Tie { heard, lacks }),
        }
    }

    /// Tells who lacks pieces of those that came here, unless that was done just now.
    pub(super) fn flush(&mut self, node: usize, chunk: usize) {
        let now_ns = self.queue.now_ns();
        let seat = &mut self.nodes[node].seats[chunk];
        seat.is_telling = false;
        if let Some(due_ns) = seat.told_ns.map(|told_ns| told_ns + NEWS_PAUSE_NS)
            && due_ns > now_ns
        {
            seat.is_telling = true;
            return self.queue.plan(due_ns, Event::Flush { node, chunk });
        }
        seat.told_ns = Some(now_ns);
        let upto = seat.log.len() as u32;
        let cluster = &self.scenario.cluster;
        let (mut told, mut is_far) = (0, [false; 2]);
        let rack = cluster.rack(node);
        for (peer, _) in seat.ties.iter_mut().filter(|(_, tie)| tie.lacks > 0 && tie.heard < upto) {
            told += 1;
            is_far[usize::from(cluster.rack(peer) != rack)] = true;
        }
        self.work(node, told * cluster.message_ns);
        let (near_ns, far_ns) = (cluster.latency_ns, cluster.latency_ns + cluster.spine_latency_ns);
        for (far, latency_ns) in [(false, near_ns), (true, far_ns)] {
            if is_far[usize::from(far)] {
                self.queue.plan(now_ns + latency_ns, Event::News { from: node, chunk, upto, far });
            }
        }
    }

    pub(super) fn on_news(&mut self, from: usize, chunk: usize, upto: u32, far: bool) {
        let cluster = &self.scenario.cluster;
        let rack = cluster.rack(from);
        let mut later_ns = None;
        // Nothing that a peer learns changes at once whom this node knows.
        let mut ties = std::mem::take(&mut self.nodes[from].seats[chunk].ties);
        for (peer, tie) in ties.iter_mut() {
            let is_meant = (cluster.rack(peer) != rack) == far;
            if !is_meant || tie.lacks == 0 || tie.heard >= upto || !self.network.reaches(from, peer) {
                continue;
            }
            let stalled_ns = self.network.stalled_ns(from, peer);
            if stalled_ns > self.queue.now_ns() {
                later_ns = later_ns.max(Some(stalled_ns));
                continue;
            }
            let heard = std::mem::replace(&mut tie.heard, upto);
            self.work(peer, cluster.message_ns);
            self.learn(from, peer, chunk, heard, upto);
        }
        let seat = &mut self.nodes[from].seats[chunk];
        seat.ties = ties;
        if let Some(later_ns) = later_ns {
            self.queue.plan(later_ns, Event::News { from, chunk, upto, far });
        }
    }

    /// A message brings the news that its sender had for its receiver.
    fn hear(&mut self, from: usize, to: usize, chunk: usize, upto: u32) {
        let seat = &mut self.nodes[from].seats[chunk];
        if seat.log.is_empty() {
            return;
        }
        let Some(tie) = seat.ties.find(to) else { return };
        let heard = tie.heard;
        if heard < upto && tie.lacks > 0 {
            tie.heard = upto;
            self.learn(from, to, chunk, heard, upto);
        }
    }

    /// A node hears of pieces that another has.
    fn learn(&mut self, from: usize, to: usize, chunk: usize, heard: u32, upto: u32) {
        let now = self.now();
        let (source, receiver) = match from < to {
            true => {
                let (low, high) = self.nodes.split_at_mut(to);
                (&low[from], &mut high[0])
            }
            false => {
                let (low, high) = self.nodes.split_at_mut(from);
                (&high[0], &mut low[to])
            }
        };
        let seat = &mut receiver.seats[chunk];
        let Some(tie) = seat.ties.find(from) else { return };
        tie.lacks = tie.lacks.saturating_sub(upto - heard);
        if let Some(fetch) = seat.fetch.as_mut().filter(|_| receiver.alive) {
            fetch.on_have(now, id(from), &source.seats[chunk].log[heard as usize..upto as usize]);
            self.drive(to, chunk);
        }
    }

    pub(super) fn on_lost(&mut self, at: usize, peer: usize) {
        if !self.nodes[at].alive || (self.network.reaches(at, peer) && self.network.reaches(peer, at)) {
            return;
        }
        for chunk in 0..self.scenario.transfers() {
            self.part(at, peer, chunk);
        }
    }

    /// Tells those that have every piece that a node wants none any more.
    pub(super) fn leave_sources(&mut self, node: usize, chunk: usize) {
        let ties = self.nodes[node].seats[chunk].ties.iter_mut();
        let left: Vec<usize> = ties.filter(|(_, tie)| tie.lacks == 0).map(|(peer, _)| peer).collect();
        for peer in left {
            self.tell(node, peer, chunk, Message::Leave);
            self.untie(node, peer, chunk);
        }
    }

    /// A node learns that another does not take part any more.
    pub(super) fn part(&mut self, node: usize, peer: usize, chunk: usize) {
        let now = self.now();
        self.untie(node, peer, chunk);
        self.nodes[node].seats[chunk].slots.forget(peer);
        if let Some(fetch) = self.fetching(node, chunk) {
            fetch.on_lost(now, id(peer));
        }
        self.pump(node);
        self.drive(node, chunk);
    }

    pub(super) fn untie(&mut self, node: usize, peer: usize, chunk: usize) {
        self.nodes[node].seats[chunk].ties.remove(peer);
        self.nodes[node].serve.on_preference(id(peer), chunk_id(chunk), Priority::Normal);
        // A short interruption only holds up what is under way.
        let breaks = self.network.separates(node, peer) && self.is_noticed();
        let reaches = |from, to| self.network.reaches_when_whole(from, to) && !breaks;
        let is_gone = !reaches(peer, node) || !reaches(node, peer);
        if is_gone || self.nodes[node].seats.iter_mut().all(|seat| seat.ties.find(peer).is_none()) {
            self.nodes[node].serve.on_lost(id(peer));
        }
        // What is under way still arrives, unless there is nobody for it to arrive at.
        if is_gone {
            self.network.forget(&mut self.queue, node, peer);
        }
    }
}
