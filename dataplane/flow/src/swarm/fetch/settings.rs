//! How a fetch behaves.

use std::time::Duration;

use crate::limits::{
    GRANTS_PER_CHUNK, GRANTS_PER_PEER, PEERS_ON_ONE_HOST, PEERS_PER_RECEIVER, PIECES_AT_ONCE_ON_ONE_HOST,
    UPLOADS_AT_ONCE,
};
use crate::swarm::Uplinks;
use crate::wire::control::NodeId;

/// How a fetch behaves.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The name of this node, as its neighbours know it.
    pub node: NodeId,
    /// What the links between racks carry.
    pub uplinks: Uplinks,
    /// Most sources kept at once.
    pub peers: usize,
    /// Most grants open towards one source.
    pub grants_per_peer: usize,
    /// Most grants open over all sources.
    pub grants_at_once: usize,
    /// Pieces asked for by name at once over all sources; twice as many while nothing arrives.
    pub pieces_at_once: usize,
    /// Shortest time a grant may take before its piece is asked for elsewhere.
    pub deadline_min: Duration,
    /// At the end, pieces are asked for twice when fewer than this arrive.
    pub duplicates_below: u32,
    /// Pieces from the one wanted next on that come before all others.
    pub window_pieces: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            node: 0,
            uplinks: Uplinks::Full,
            peers: PEERS_PER_RECEIVER,
            grants_per_peer: GRANTS_PER_PEER,
            grants_at_once: GRANTS_PER_CHUNK,
            pieces_at_once: UPLOADS_AT_ONCE,
            deadline_min: Duration::from_millis(50),
            duplicates_below: 1,
            window_pieces: 2 * GRANTS_PER_CHUNK as u32,
        }
    }
}

impl Settings {
    /// Of a node whose peers are all on its own host.
    pub fn on_one_host() -> Self {
        Self { peers: PEERS_ON_ONE_HOST, pieces_at_once: PIECES_AT_ONCE_ON_ONE_HOST, ..Self::default() }
    }
}
