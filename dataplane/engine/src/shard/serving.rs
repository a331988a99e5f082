//! Pieces on their way out.

use std::cell::Ref;
use std::collections::HashMap;
use std::ops::Deref;
use std::rc::Rc;
use std::sync::Arc;

use flow::bitmap::Bitmap;
use flow::chunk::ChunkId;
use flow::limits::ROOM_TOLD;
use flow::swarm::Priority;
use flow::swarm::serve::{Holdings, Upload};
use flow::wire::control::NodeId;
use flow::wire::data::{Decline, Description, Grant, Interest, Leave, PieceData, Preference, Room, Want};
use futures_lite::future::yield_now;
use memory::SharedLease;

use super::Shard;
use super::counters::add;
use super::replica::Replica;
use crate::transport::{PeerShard, PieceSent, Writer};

/// What this shard has, as the scheduler asks for it.
struct Local<'a>(Ref<'a, HashMap<ChunkId, Rc<Replica>>>);

impl Holdings for Local<'_> {
    fn pieces(&self, chunk: &ChunkId) -> Option<impl Deref<Target = Bitmap>> {
        let replica = self.0.get(chunk)?;
        Some(Ref::map(replica.state.borrow(), |state| &state.have))
    }
}

impl Shard {
    /// A peer takes part in a chunk's swarm.
    pub(super) fn on_interest(self: &Rc<Self>, peer: PeerShard, writer: &Writer, interest: Interest) {
        let Interest { chunk, pieces, have, reply } = interest;
        let replica = self.replica(&chunk).filter(|replica| replica.geometry.pieces() == pieces);
        let bitmap = Bitmap::from_words(pieces, have);
        let (Some(replica), Some(bitmap)) = (replica, bitmap) else {
            return writer.message(Leave { chunk });
        };
        if !reply && bitmap.is_full() && !self.fetches.borrow().contains_key(&chunk) {
            // The fetch that asked has ended, and the peer wants nothing.
            return writer.message(Leave { chunk });
        }
        if !self.may_stay(peer.node, &chunk, bitmap.clone()) {
            return self.drive_fetch(&chunk);
        }
        let words = {
            let mut state = replica.state.borrow_mut();
            state.interested.insert(peer, pieces - bitmap.count());
            state.have.words().to_vec()
        };
        if reply {
            self.tell_preference(writer, &chunk);
            writer.message(Interest { chunk, pieces, have: words, reply: false });
        }
        self.drive_fetch(&chunk);
    }

    /// A peer says how much a chunk matters to it.
    pub(super) fn on_preference(self: &Rc<Self>, peer: PeerShard, preference: &Preference) {
        let Preference { chunk, priority } = *preference;
        if self.replica(&chunk).is_some() {
            self.serve.borrow_mut().on_preference(peer.node, chunk, priority);
            self.pump();
        }
    }

    pub(super) fn on_leave(self: &Rc<Self>, peer: PeerShard, chunk: &ChunkId) {
        self.serve.borrow_mut().on_preference(peer.node, *chunk, Priority::Normal);
        if let Some(replica) = self.replica(chunk) {
            replica.state.borrow_mut().interested.remove(&peer);
        }
        self.on_source_lost(peer.node, chunk);
    }

    pub(super) fn on_describe(&self, writer: &Writer, chunk: &ChunkId) {
        let replica = self.replica(chunk);
        match replica.as_ref().and_then(|replica| replica.descriptor.get()) {
            Some(descriptor) => writer.message(Description { descriptor: descriptor.clone() }),
            None => writer.message(Leave { chunk: *chunk }),
        }
    }

    /// A peer has a slot ready for a piece.
    pub(super) fn on_grant(self: &Rc<Self>, peer: PeerShard, writer: &Writer, grant: Grant) {
        let Grant { chunk, grant, want } = grant;
        let known = self.replica(&chunk).is_some_and(|replica| {
            let pieces = replica.geometry.pieces();
            // What was granted before the peer heard that it was sent away is void.
            let takes_part = replica.state.borrow().interested.contains_key(&peer);
            takes_part
                && match &want {
                    Want::Piece(piece) => *piece < pieces,
                    Want::LeastSent(words) => words.len() == pieces.div_ceil(64) as usize,
                }
        });
        let queued =
            known && self.serve.borrow_mut().on_grant(self.now(), peer.node, chunk, grant, want).is_ok();
        if queued {
            return self.pump();
        }
        self.take_placed(peer.node, grant);
        writer.message(Decline { chunk, grant });
    }

    /// Sends what may be sent.
    pub(super) fn pump(self: &Rc<Self>) {
        loop {
            let upload = self.serve.borrow_mut().poll(self.now(), &Local(self.replicas.borrow()));
            match upload {
                None => return,
                Some(Upload::Decline { peer, chunk, grant }) => self.decline(peer, chunk, grant),
                Some(Upload::Room { chunk }) => self.tell_room(chunk),
                Some(Upload::Send { peer, chunk, grant, piece }) => {
                    self.send_piece(peer, chunk, grant, piece)
                }
            }
        }
    }

    pub(super) fn on_piece_sent(self: &Rc<Self>, node: NodeId, piece: &PieceSent) {
        add(&self.counters.pieces_sent, 1);
        add(&self.counters.bytes_sent, piece.length.into());
        self.serve.borrow_mut().on_sent(node, piece.grant);
        self.pump();
    }

    /// Tells everybody who wants to know that a piece is here.
    pub(super) fn announce_piece(&self, replica: &Replica, piece: u32) {
        let state = replica.state.borrow();
        let mesh = self.mesh.borrow();
        for peer in state.interested.iter().filter(|(_, lacks)| **lacks > 0).map(|(peer, _)| *peer) {
            if let Some(writer) = mesh.writer(peer) {
                writer.have(replica.id, piece);
            }
        }
    }

    /// Tells some of those that lack pieces of a chunk that nobody asks this shard for anything.
    fn tell_room(&self, chunk: ChunkId) {
        let Some(replica) = self.replica(&chunk) else { return };
        let state = replica.state.borrow();
        let lacking = state.interested.iter().filter(|(_, lacks)| **lacks > 0).map(|(peer, _)| *peer);
        let mesh = self.mesh.borrow();
        for peer in fastrand::choose_multiple(lacking, ROOM_TOLD) {
            if let Some(writer) = mesh.writer(peer) {
                writer.message(Room { chunk });
                add(&self.counters.room_told, 1);
            }
        }
    }

    /// Tells everybody who wanted to know that nothing is here any more.
    pub(super) fn leave_swarm(&self, replica: &Replica) {
        self.leave_peers(replica, |_| true);
        self.serve.borrow_mut().forget(&replica.id);
    }

    /// Tells peers that have every piece that this shard wants none any more, so that they need not stay connected: those
    /// that lack some may want what is here.
    pub(super) fn leave_sources(&self, replica: &Replica) {
        self.leave_peers(replica, |lacks| lacks == 0);
    }

    /// Ends what this shard and some peers are to each other in a chunk's swarm, by how many pieces they lack.
    fn leave_peers(&self, replica: &Replica, is_left: impl Fn(u32) -> bool) {
        let mesh = self.mesh.borrow();
        let mut state = replica.state.borrow_mut();
        for (peer, _) in state.interested.extract_if(|_, lacks| is_left(*lacks)) {
            if let Some(writer) = mesh.writer(peer) {
                writer.message(Leave { chunk: replica.id });
            }
        }
    }

    fn send_piece(self: &Rc<Self>, node: NodeId, chunk: ChunkId, grant: u64, piece: u32) {
        let Some(replica) = self.replica(&chunk) else { return self.give_up(node, chunk, grant) };
        replica.last_used.set(self.number());
        let in_memory = replica.state.borrow().dram[piece as usize].clone();
        match in_memory {
            Some(lease) => self.send_lease(node, &replica, grant, piece, lease),
            None => {
                let shard = self.clone();
                glommio::spawn_local(async move {
                    match shard.piece(&replica, piece).await {
                        Ok(lease) => {
                            shard.send_lease(node, &replica, grant, piece, lease);
                            shard.pump();
                        }
                        Err(error) => {
                            tracing::debug!(%error, "a piece that was asked for cannot be read");
                            shard.give_up(node, chunk, grant);
                        }
                    }
                })
                .detach();
            }
        }
    }

    fn send_lease(
        self: &Rc<Self>,
        node: NodeId,
        replica: &Replica,
        grant: u64,
        piece: u32,
        lease: SharedLease,
    ) {
        let chunk = replica.id;
        let mesh = self.mesh.borrow();
        let connection = mesh.owner(node, &chunk).and_then(|peer| mesh.connection(peer));
        drop(mesh);
        let (Some(connection), Some(descriptor)) = (connection, replica.descriptor.get()) else {
            return self.give_up(node, chunk, grant);
        };
        let checksum = descriptor.checksums[piece as usize];
        let length = replica.geometry.length(piece);
        let head = PieceData { chunk, grant, piece, length, checksum, part: length };
        if let Err(lease) = self.write_on_lane(&connection, &head, self.perhaps_corrupted(lease))
            && connection.writer.piece(head, lease)
        {
            // The peer copies it by itself, so it takes nobody's turn.
            self.serve.borrow_mut().on_released(node, grant);
        }
    }

    /// The piece cannot be sent after all. That may be found out while the scheduler is asked, so it is not asked again
    /// here.
    fn give_up(self: &Rc<Self>, node: NodeId, chunk: ChunkId, grant: u64) {
        self.decline(node, chunk, grant);
        let shard = self.clone();
        glommio::spawn_local(async move {
            yield_now().await;
            shard.serve.borrow_mut().on_released(node, grant);
            shard.pump();
        })
        .detach();
    }

    fn decline(&self, node: NodeId, chunk: ChunkId, grant: u64) {
        self.take_placed(node, grant);
        let mesh = self.mesh.borrow();
        if let Some(writer) = mesh.owner(node, &chunk).and_then(|peer| mesh.writer(peer)) {
            writer.message(Decline { chunk, grant });
        }
    }

    /// For tests of what happens to damaged pieces: flips a bit in a copy of one in so many.
    fn perhaps_corrupted(self: &Rc<Self>, lease: SharedLease) -> SharedLease {
        let (one_in, number) = (u64::from(self.config.corrupt_one_in), self.pieces_queued.get());
        self.pieces_queued.set(number + 1);
        if one_in == 0 || !number.is_multiple_of(one_in) {
            return lease;
        }
        let Some(mut copy) = self.try_acquire(lease.length()) else { return lease };
        copy.as_mut_slice().copy_from_slice(lease.as_slice());
        copy.as_mut_slice()[0] ^= 1;
        Arc::new(copy)
    }
}
