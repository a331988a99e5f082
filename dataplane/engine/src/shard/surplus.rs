//! How many connections a shard keeps: those that somebody uses, and a few more.
//!
//! Each fetch connects to peers of its own, and some of them send it away because they have enough. What is left of that
//! serves the next fetch if it happens to have the same peers, and costs descriptors and buffers at both ends meanwhile.

use std::rc::Rc;
use std::time::Duration;

use flow::limits::PEERS_PER_RECEIVER;

use super::Shard;
use super::mesh::Connection;

/// Connections up to which none is closed: those of one fetch, and some of the one before.
const CONNECTIONS_KEPT: usize = PEERS_PER_RECEIVER + 8;
/// What came on a connection lately may be the beginning of something.
const SILENT_FOR: Duration = Duration::from_secs(1);
/// Shortest time between two looks.
const LOOK: Duration = Duration::from_millis(250);

impl Shard {
    /// Closes connections that nobody uses, the longest silent first, as long as there are more than are kept.
    pub(super) fn close_surplus(&self) {
        let now = self.now();
        let count = self.mesh.borrow().connections();
        if count <= CONNECTIONS_KEPT || now.since(self.surplus_looked.get()) < LOOK {
            return;
        }
        self.surplus_looked.set(now);
        let is_silent = |connection: &Rc<Connection>| now.since(connection.heard.get()) >= SILENT_FOR;
        let silent: Vec<_> = self.mesh.borrow().all().filter(|one| is_silent(one)).cloned().collect();
        let mut unused: Vec<_> = silent.into_iter().filter(|connection| !self.is_used(connection)).collect();
        unused.sort_by_key(|connection| connection.heard.get());
        unused.iter().take(count - CONNECTIONS_KEPT).for_each(|connection| connection.close());
    }

    /// Whether a fetch of this shard or of the peer needs a connection, as far as is known here.
    fn is_used(&self, connection: &Connection) -> bool {
        let peer = connection.peer;
        let serves = || {
            let replicas = self.replicas.borrow();
            let lacks = |replica: &super::Replica| replica.state.borrow().interested.get(&peer).copied();
            replicas.values().any(|replica| lacks(replica).is_some_and(|lacks| lacks > 0))
        };
        let fetches = || {
            self.fetches.borrow().values().any(|fetching| fetching.fetch.borrow().is_acquainted(peer.node))
        };
        !connection.writer.is_idle() || serves() || fetches()
    }
}
