//! The source's part of the engine: what is sent.

use flow::limits::ROOM_TOLD;
use flow::swarm::Upload;

use super::{World, id, index};
use crate::cluster::time_ns;
use crate::event::{Event, Message};
use crate::network::Piece;
use crate::node::{Node, Verified, chunk_id};

impl World<'_> {
    /// Sends what a node's source side wants sent.
    pub(super) fn pump(&mut self, node: usize) {
        let now = self.now();
        loop {
            let Node { serve, seats, alive, .. } = &mut self.nodes[node];
            if !*alive {
                return;
            }
            match serve.poll(now, &Verified(seats)) {
                None => return,
                Some(Upload::Decline { peer, chunk, grant }) => {
                    let chunk = self.number(chunk);
                    self.tell(node, index(peer), chunk, Message::Decline { grant });
                }
                Some(Upload::Room { chunk }) => self.tell_room(node, self.number(chunk)),
                Some(Upload::Send { peer, chunk, grant, piece }) => {
                    let chunk = self.number(chunk);
                    let held = self.nodes[node].seats[chunk].verified.contains(piece);
                    self.require(held, node, "sends a piece that it has not verified");
                    let (to, length) = (index(peer), self.scenario.length(chunk, piece));
                    self.send(Piece { from: node, to, chunk, grant, piece, length });
                }
            }
        }
    }

    /// Tells some of those that lack pieces of a chunk that nobody asks this node for anything.
    fn tell_room(&mut self, node: usize, chunk: usize) {
        let ties = self.nodes[node].seats[chunk].ties.iter_mut();
        let lacking = ties.filter(|(_, tie)| tie.lacks > 0).map(|(peer, _)| peer);
        for peer in self.rng.choose_multiple(lacking, ROOM_TOLD) {
            self.tell(node, peer, chunk, Message::Room);
        }
    }

    fn number(&self, chunk: flow::chunk::ChunkId) -> usize {
        (0..self.scenario.transfers()).find(|&number| chunk_id(number) == chunk).unwrap_or(0)
    }

    fn send(&mut self, piece: Piece) {
        let Piece { from, to, length, .. } = piece;
        let racks = [from, to].map(|node| self.scenario.cluster.rack(node));
        self.outcome.carry(racks, length);
        self.work(from, self.scenario.cluster.operation_ns);
        let seat = &self.nodes[from].seats[piece.chunk];
        let is_resident = !self.goes_through_disk() || seat.resident.contains(&piece.piece);
        if is_resident {
            return self.network.send(&mut self.queue, piece);
        }
        let takes_ns = time_ns(length, self.scenario.cluster.nvme_read_gbps);
        let read_ns = self.nodes[from].reading.done_ns(self.queue.now_ns(), takes_ns);
        self.queue.plan(read_ns, Event::Begin(Box::new(piece)));
    }

    pub(super) fn on_port_free(&mut self, port: usize) {
        if let Some(stream) = self.network.on_port_free(&mut self.queue, port) {
            let stream = self.network.stream(stream);
            let (node, to, grant) = (stream.from, stream.to, stream.grant);
            self.nodes[node].serve.on_sent(id(to), grant);
            self.pump(node);
        }
    }
}
