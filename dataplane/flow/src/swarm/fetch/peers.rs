//! The sources that are known, by name.

use std::ops::{Deref, DerefMut};

use super::peer::{Peer, Stage};
use crate::wire::control::NodeId;

/// The sources that are known, in the order in which they were first heard of.
///
/// Their names lie beside each other: each message from a peer looks for one, and what is known of a peer is so much that
/// to go through all of them for it would cost more than all else.
#[derive(Debug, Default)]
pub(super) struct Peers {
    names: Vec<NodeId>,
    peers: Vec<Peer>,
    /// How many of them came by themselves.
    incoming: usize,
    /// How many of the others are connected, or about to be.
    outgoing: usize,
}

impl Peers {
    /// The place of a peer.
    pub(super) fn place(&self, node: NodeId) -> Option<usize> {
        self.names.iter().position(|&name| name == node)
    }

    pub(super) fn find(&self, node: NodeId) -> Option<&Peer> {
        self.place(node).and_then(|at| self.peers.get(at))
    }

    pub(super) fn find_mut(&mut self, node: NodeId) -> Option<&mut Peer> {
        self.place(node).and_then(|at| self.peers.get_mut(at))
    }

    /// How many peers came by themselves.
    pub(super) fn incoming(&self) -> usize {
        self.incoming
    }

    /// How many of those that did not are connected, or about to be.
    pub(super) fn outgoing(&self) -> usize {
        self.outgoing
    }

    /// Adds a peer that is not known.
    pub(super) fn push(&mut self, peer: Peer) {
        self.incoming += usize::from(peer.incoming);
        self.outgoing += usize::from(peer.is_outgoing());
        self.names.push(peer.node);
        self.peers.push(peer);
    }

    pub(super) fn remove(&mut self, at: usize) {
        self.names.remove(at);
        let peer = self.peers.remove(at);
        self.incoming -= usize::from(peer.incoming);
        self.outgoing -= usize::from(peer.is_outgoing());
    }

    /// The acquaintance with a peer has come further.
    pub(super) fn enter(&mut self, at: usize, stage: Stage) {
        let peer = &mut self.peers[at];
        self.outgoing -= usize::from(peer.is_outgoing());
        peer.stage = stage;
        self.outgoing += usize::from(peer.is_outgoing());
    }
}

impl Deref for Peers {
    type Target = [Peer];

    fn deref(&self) -> &[Peer] {
        &self.peers
    }
}

impl DerefMut for Peers {
    fn deref_mut(&mut self) -> &mut [Peer] {
        &mut self.peers
    }
}
