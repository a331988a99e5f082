//! How many connections a shard keeps. `flow::connections` decides; this carries it out.

use std::collections::HashSet;
use std::rc::Rc;

use flow::connections::{Asker, Occasion, Standing};

use super::Shard;
use super::counters::add;
use super::mesh::Connection;
use crate::transport::PeerShard;

impl Shard {
    /// Whether another connection is taken that a peer asks for. Where there is no room for it, one that nobody uses closes.
    pub(super) fn has_room_for_peer(&self) -> bool {
        let closed = self.close_surplus(Occasion::Request);
        let open = self.mesh.borrow().connections().saturating_sub(closed);
        let has_room = self.keeper.borrow().has_room(open, Asker::Peer);
        if !has_room {
            add(&self.counters.connections_refused, 1);
        }
        has_room
    }

    /// Closes connections that nobody uses, if there are too many, and says how many these are.
    pub(super) fn close_surplus(&self, occasion: Occasion) -> usize {
        let (now, mesh) = (self.now(), self.mesh.borrow());
        if !self.keeper.borrow_mut().shall_look(now, mesh.connections(), occasion) {
            return 0;
        }
        let lacking = self.lacking_peers();
        let standing = |connection: &Connection| Standing {
            heard: connection.heard.get(),
            is_used: !connection.writer.is_idle()
                || lacking.contains(&connection.peer)
                || self.is_source(connection.peer),
        };
        let all = mesh.all().map(|connection| (connection, standing(connection)));
        let surplus: Vec<Rc<Connection>> =
            self.keeper.borrow().surplus(now, occasion, all).into_iter().cloned().collect();
        drop(mesh);
        surplus.iter().for_each(|connection| connection.close());
        surplus.len()
    }

    /// Peers that lack pieces of a chunk in whose swarm they are with this shard.
    fn lacking_peers(&self) -> HashSet<PeerShard> {
        let mut lacking = HashSet::new();
        for replica in self.replicas.borrow().values() {
            let state = replica.state.borrow();
            lacking.extend(state.interested.iter().filter(|(_, lacks)| **lacks > 0).map(|(peer, _)| *peer));
        }
        lacking
    }

    /// Whether a fetch of this shard knows a peer.
    fn is_source(&self, peer: PeerShard) -> bool {
        self.fetches.borrow().values().any(|fetching| fetching.fetch.borrow().is_acquainted(peer.node))
    }
}
