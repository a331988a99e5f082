//! Pieces on their way in.

use std::rc::Rc;
use std::sync::Arc;

use flow::limits::PIECE_SIZE_MAX;
use flow::swarm::fetch::Arrival;
use flow::wire::control::NodeId;
use flow::wire::data::{PieceData, PiecePart};
use futures_lite::future::yield_now;

use super::Shard;
use super::counters::add;
use super::fetching::Fetching;
use crate::transport::{ConnectionError, Filling, PeerShard, Reader};
use crate::{Event, Fault};

/// A piece of which more is to come.
pub(super) struct Incoming {
    head: PieceData,
    left: u32,
    /// Where it goes, if anybody wants it.
    place: Option<(Underway, Filling)>,
}

/// A fetch that waits for the rest of a piece.
pub(super) struct Underway(Rc<Fetching>);

impl Underway {
    pub(super) fn new(fetching: Rc<Fetching>) -> Self {
        fetching.arriving.set(fetching.arriving.get() + 1);
        Self(fetching)
    }

    pub(super) fn fetching(&self) -> &Rc<Fetching> {
        &self.0
    }
}

impl Drop for Underway {
    fn drop(&mut self) {
        self.0.arriving.set(self.0.arriving.get() - 1);
    }
}

impl Shard {
    /// The head of a piece was read; the first part of its payload comes next on the connection.
    pub(super) async fn begin_piece(
        self: &Rc<Self>,
        peer: PeerShard,
        reader: &mut Reader,
        head: PieceData,
    ) -> Result<Option<Incoming>, ConnectionError> {
        if head.length > PIECE_SIZE_MAX {
            return Err(ConnectionError::Protocol("a piece is larger than any may be"));
        }
        let place = self.place_for(peer, &head);
        if place.is_none() {
            add(&self.counters.pieces_unwanted, 1);
        }
        let (left, part) = (head.length, head.part);
        self.receive_part(peer, reader, Incoming { head, left, place }, part).await
    }

    /// The head of another part was read. Gives the piece back unless it is complete.
    pub(super) async fn continue_piece(
        self: &Rc<Self>,
        peer: PeerShard,
        reader: &mut Reader,
        incoming: Option<Incoming>,
        head: PiecePart,
    ) -> Result<Option<Incoming>, ConnectionError> {
        match incoming {
            Some(incoming) if incoming.head.grant == head.grant => {
                self.receive_part(peer, reader, incoming, head.part).await
            }
            _ => Err(ConnectionError::Protocol("a part of a piece that was not begun")),
        }
    }

    async fn receive_part(
        self: &Rc<Self>,
        peer: PeerShard,
        reader: &mut Reader,
        incoming: Incoming,
        part: u32,
    ) -> Result<Option<Incoming>, ConnectionError> {
        let Incoming { head, left, place } = incoming;
        let Some(left) = left.checked_sub(part) else {
            return Err(ConnectionError::Protocol("more of a piece arrives than it has"));
        };
        let place = match place {
            None => {
                reader.skip_payload(part).await?;
                None
            }
            Some((underway, filling)) => Some((underway, reader.payload_into(filling, part).await?)),
        };
        if left > 0 {
            return Ok(Some(Incoming { head, left, place }));
        }
        if let Some((underway, filling)) = place {
            self.on_piece_received(underway, peer.node, &head, filling);
        }
        // Otherwise what is asked for next would leave only when everything that has arrived was read.
        yield_now().await;
        Ok(None)
    }

    /// The slot that was granted for a piece that arrives, unless the piece is not wanted.
    pub(super) fn place_for(&self, peer: PeerShard, head: &PieceData) -> Option<(Underway, Filling)> {
        let fetching = self.fetches.borrow().get(&head.chunk).cloned()?;
        if head.length != fetching.replica.geometry.length(head.piece) || head.length == 0 {
            return None;
        }
        if fetching.replica.descriptor.get().is_none() {
            // The checksums were to come first; nothing can be said of a piece without them.
            fetching.leases.borrow_mut().remove(&head.grant);
            fetching.fetch.borrow_mut().on_declined(self.now(), peer.node, head.grant);
            return None;
        }
        let arrival = fetching.fetch.borrow_mut().on_arriving(self.now(), peer.node, head.grant, head.piece);
        let lease = fetching.leases.borrow_mut().remove(&head.grant);
        match (arrival, lease) {
            (Arrival::Accept, Some((_, lease))) if lease.length() >= head.length => {
                Some((Underway::new(fetching), Filling::new(lease)))
            }
            _ => None,
        }
    }

    pub(super) fn on_piece_received(
        self: &Rc<Self>,
        underway: Underway,
        node: NodeId,
        head: &PieceData,
        filled: Filling,
    ) {
        let fetching = &underway.0.clone();
        drop(underway);
        let (mut lease, checksum) = filled.finish();
        let (replica, piece, grant) = (&fetching.replica, head.piece, head.grant);
        lease.truncate(head.length);
        let expected = replica.descriptor.get().map(|descriptor| descriptor.checksums[piece as usize]);
        if expected != Some(checksum) {
            drop(lease);
            add(&self.counters.pieces_corrupt, 1);
            *fetching.spoilers.borrow_mut().entry(node).or_default() += 1;
            let message = "the bytes that arrived fail their checksum".to_owned();
            self.tell(Event::Fault(Fault { chunk: replica.id, piece, peer: Some(node), message }));
            fetching.fetch.borrow_mut().on_corrupt(self.now(), grant);
            return self.drive(fetching);
        }
        add(&self.counters.pieces_received, 1);
        add(&self.counters.bytes_received, head.length.into());
        if self.mesh.borrow().is_near(node) {
            add(&self.counters.bytes_received_near, head.length.into());
        }
        if !replica.state.borrow().have.contains(piece) {
            lease.zero_after(head.length);
            self.store_piece(replica, piece, Arc::new(lease));
        }
        {
            let mut fetch = fetching.fetch.borrow_mut();
            fetch.on_verified(self.now(), grant);
            // The grant may have ended while its last bytes arrived; the piece is good all the same.
            if !fetch.have().contains(piece) {
                fetch.on_local(self.now(), piece);
            }
            fetching.note_progress(self.now(), fetch.have().count());
        }
        self.drive(fetching);
    }
}
