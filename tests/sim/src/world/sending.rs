//! The source's part of the engine: what is sent.

use flow::swarm::Upload;

use super::{World, id, index};
use crate::event::Message;
use crate::node::{Node, Verified};

impl World<'_> {
    /// Sends what a node's source side wants sent.
    pub(super) fn pump(&mut self, node: usize) {
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
                    self.between_racks += u64::from(self.nodes[node].rack != self.nodes[to].rack);
                    self.network.send(&mut self.queue, node, to, grant, piece);
                }
            }
        }
    }

    pub(super) fn on_uplink_free(&mut self, node: usize) {
        if let Some(stream) = self.network.on_uplink_free(&mut self.queue, node) {
            let (to, grant) = (self.network.stream(stream).to, self.network.stream(stream).grant);
            self.nodes[node].serve.on_sent(id(to), grant);
            self.pump(node);
        }
    }
}
