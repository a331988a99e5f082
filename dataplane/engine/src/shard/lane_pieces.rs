//! Pieces over lanes: the receiver grants a slot of its arena, the sender writes into it.
//!
//! Two things must come before a piece counts as arrived, in any order: the tag, by the lane, which says that the bytes
//! are there, and [`PieceWritten`], by the connection, which says what they are. A slot whose grant has ended stays
//! with the endpoint until the peer cannot write to it any more.

use std::rc::Rc;

use flow::chunk::ChunkId;
use flow::limits::GRANTS_QUEUED_PER_PEER;
use flow::swarm::fetch::Arrival;
use flow::wire::control::NodeId;
use flow::wire::data::{Decline, Grant, PieceData, Revoke, Want};
use flow::wire::lane::{LaneGrant, PieceWritten};
use futures_lite::future::yield_now;
use memory::{Lease, SharedLease};

use super::Shard;
use super::arriving::Underway;
use super::counters::add;
use super::fetching::Fetching;
use super::lanes::Lane;
use super::mesh::Connection;
use crate::transport::lanes::{RemoteSlot, Write};
use crate::transport::{ConnectionError, Filling, PeerShard, PieceSent};

/// Bytes that are checked before other tasks of the shard have a turn.
const TURN: u32 = 4 << 20;

/// A slot of this node that a peer may write to, and what has come of it.
pub(super) struct Granted {
    chunk: ChunkId,
    grant: u64,
    underway: Underway,
    /// Which piece it is, and how long.
    piece: Option<(u32, u32)>,
    /// The slot, when its bytes are there, and how many those are.
    arrived: Option<(Lease, u32)>,
}

/// A slot of a peer.
pub(super) struct Placed {
    chunk: ChunkId,
    tag: u32,
    slot: RemoteSlot,
}

/// A piece that is being written into a peer's slot.
pub(super) struct Writing {
    chunk: ChunkId,
    sent: PieceSent,
}

impl Shard {
    /// Grants a slot on a lane. Gives it back where there is none, or a better way.
    pub(super) fn grant_on_lane(
        self: &Rc<Self>,
        connection: &Rc<Connection>,
        fetching: &Rc<Fetching>,
        grant: u64,
        want: &Want,
        lease: Lease,
    ) -> Result<(), Lease> {
        let is_on_this_host = connection.memory.borrow().is_some()
            || self.mesh.borrow().mapping.values().any(|mapping| Rc::ptr_eq(mapping, connection));
        if is_on_this_host || self.rails.is_empty() {
            return Err(lease);
        }
        let lanes = connection.lanes.borrow();
        let connected = lanes.iter().filter(|lane| lane.is_connected());
        let Some(lane) = connected.min_by_key(|lane| (lane.rail.rank, lane.load())).cloned() else {
            drop(lanes);
            self.offer_lanes(connection);
            return Err(lease);
        };
        drop(lanes);
        let tag = lane.next_tag.replace(lane.next_tag.get().wrapping_add(1));
        let granted = lane.rail.endpoint.borrow_mut().grant(lane.id, tag, lease, self.now());
        let (slot, theirs) = match (granted, lane.theirs()) {
            (Ok(slot), Some(theirs)) => (slot, theirs),
            (Err((_, lease)), _) => return Err(lease),
            // A lane is granted on only when it is connected.
            (Ok(_), None) => {
                lane.close();
                return Ok(());
            }
        };
        let chunk = fetching.replica.id;
        let underway = Underway::new(fetching.clone());
        let state = Granted { chunk, grant, underway, piece: None, arrived: None };
        lane.granted.borrow_mut().insert(tag, state);
        let RemoteSlot { offset, length } = slot;
        let want = want.clone();
        connection.writer.message(LaneGrant { chunk, grant, want, lane: theirs, tag, offset, length });
        Ok(())
    }

    /// A grant has ended before its piece came. Its slot stays with the lane.
    pub(super) fn revoke_on_lanes(&self, node: NodeId, grant: u64) {
        for lane in self.lanes_to(node) {
            let tag = lane.tag_of(grant);
            if let Some(tag) = tag {
                lane.granted.borrow_mut().remove(&tag);
                if lane.rail.endpoint.borrow_mut().revoke(lane.id, tag, self.now()) {
                    lane.revoked.borrow_mut().insert(grant, tag);
                }
            }
        }
    }

    /// Ends the grants of a chunk, towards one node or all.
    pub(super) fn revoke_chunk_on_lanes(&self, chunk: &ChunkId, node: Option<NodeId>) {
        let lanes: Vec<_> = self.rails.lanes.borrow().values().cloned().collect();
        for lane in lanes.into_iter().filter(|lane| node.is_none_or(|node| lane.peer.node == node)) {
            let granted = lane.granted.borrow();
            let ended: Vec<u64> =
                granted.values().filter(|one| one.chunk == *chunk).map(|one| one.grant).collect();
            drop(granted);
            let writer = self.mesh.borrow().writer(lane.peer);
            for grant in ended {
                self.revoke_on_lanes(lane.peer.node, grant);
                if let Some(writer) = &writer {
                    writer.message(Revoke { grant });
                }
            }
        }
    }

    /// The peer has not written to a slot and will not.
    pub(super) fn release_on_lanes(&self, node: NodeId, grant: u64) {
        for lane in self.lanes_to(node) {
            let revoked = lane.revoked.borrow_mut().remove(&grant);
            if let Some(tag) = revoked.or_else(|| lane.tag_of(grant)) {
                lane.granted.borrow_mut().remove(&tag);
                drop(lane.rail.endpoint.borrow_mut().declined(lane.id, tag));
            }
        }
    }

    /// A peer says what it writes.
    pub(super) fn on_piece_written(
        self: &Rc<Self>,
        peer: PeerShard,
        written: &PieceWritten,
    ) -> Result<(), ConnectionError> {
        let lanes = self.lanes_to(peer.node);
        let found = lanes.iter().find_map(|lane| Some((lane.clone(), lane.tag_of(written.grant)?)));
        let Some((lane, tag)) = found else {
            add(&self.counters.pieces_unwanted, 1);
            return Ok(());
        };
        let mut granted = lane.granted.borrow_mut();
        let Some(state) = granted.get_mut(&tag) else { return Ok(()) };
        let fetching = state.underway.fetching().clone();
        let fits = written.chunk == state.chunk
            && state.piece.is_none()
            && written.length == fetching.replica.geometry.length(written.piece);
        if !fits {
            return Err(ConnectionError::Protocol("a piece is written that does not fit its grant"));
        }
        let now = self.now();
        let arrival = fetching.fetch.borrow_mut().on_arriving(now, peer.node, written.grant, written.piece);
        if arrival == Arrival::Discard {
            drop(granted);
            add(&self.counters.pieces_unwanted, 1);
            self.drive(&fetching);
            return Ok(());
        }
        state.piece = Some((written.piece, written.length));
        if state.arrived.is_some() {
            let state = granted.remove(&tag);
            drop(granted);
            state.into_iter().for_each(|state| self.take_written(&lane, state));
        }
        Ok(())
    }

    /// The bytes of a slot are there.
    pub(super) fn on_lane_arrived(self: &Rc<Self>, lane: &Lane, tag: u32, lease: Lease, bytes: u32) {
        let mut granted = lane.granted.borrow_mut();
        let Some(state) = granted.get_mut(&tag) else { return };
        state.arrived = Some((lease, bytes));
        if state.piece.is_some() {
            let state = granted.remove(&tag);
            drop(granted);
            state.into_iter().for_each(|state| self.take_written(lane, state));
        }
    }

    /// The bytes of a slot are there whose grant has ended: the slot is free.
    pub(super) fn on_lane_arrived_late(&self, lane: &Lane, tag: u32) {
        lane.revoked.borrow_mut().retain(|_, revoked| *revoked != tag);
    }

    /// Checks what was written, and keeps it.
    fn take_written(self: &Rc<Self>, lane: &Lane, state: Granted) {
        let Granted { chunk, grant, underway, piece: Some((piece, length)), arrived: Some(arrived) } = state
        else {
            return;
        };
        let (shard, node, kind) = (self.clone(), lane.peer.node, lane.rail.kind);
        glommio::spawn_local(async move {
            let (lease, bytes) = arrived;
            let mut filling = Filling::new(lease);
            // Fewer bytes than the piece has fail their checksum.
            let mut left = length.min(bytes);
            while left > 0 {
                let turn = left.min(TURN);
                filling.note_written(turn);
                left -= turn;
                yield_now().await;
            }
            add(shard.counters.received_on_lanes(kind), length.into());
            let head = PieceData { chunk, grant, piece, length, checksum: 0, part: length };
            shard.on_piece_received(underway, node, &head, filling);
        })
        .detach();
    }

    /// A peer has granted a slot.
    pub(super) fn on_lane_grant(self: &Rc<Self>, connection: &Rc<Connection>, granted: LaneGrant) {
        let LaneGrant { chunk, grant, want, lane, tag, offset, length } = granted;
        // The peer of a lane that is gone hears of that.
        let Some(lane) = self.lane_of(connection.peer, lane) else { return };
        if lane.placed.borrow().len() >= GRANTS_QUEUED_PER_PEER {
            return connection.writer.message(Decline { chunk, grant });
        }
        let slot = RemoteSlot { offset, length };
        lane.placed.borrow_mut().insert(grant, Placed { chunk, tag, slot });
        self.on_grant(connection.peer, &connection.writer, Grant { chunk, grant, want });
    }

    /// Writes a piece into the slot that was granted for it on a lane. Gives it back if it was none.
    pub(super) fn write_on_lane(
        &self,
        connection: &Connection,
        head: &PieceData,
        lease: SharedLease,
    ) -> Result<(), SharedLease> {
        let Some((lane, placed)) = self.take_placed(connection.peer.node, head.grant) else {
            return Err(lease);
        };
        let PieceData { chunk, grant, piece, length, .. } = *head;
        let Placed { tag, slot, .. } = placed;
        connection.writer.message(PieceWritten { chunk, grant, piece, length });
        let writing = Writing { chunk, sent: PieceSent { grant, length } };
        lane.writing.borrow_mut().insert(tag, writing);
        let write = Write { lease, length, to: slot, tag };
        let posted = lane.rail.endpoint.borrow_mut().write(lane.id, write, self.now());
        if let Err(refused) = posted {
            tracing::debug!(error = %refused.error, "a write was refused; its lane is closed");
            lane.close();
        }
        Ok(())
    }

    pub(super) fn on_lane_sent(self: &Rc<Self>, lane: &Lane, tag: u32) {
        let writing = lane.writing.borrow_mut().remove(&tag);
        if let Some(Writing { sent, .. }) = writing {
            add(self.counters.sent_on_lanes(lane.rail.kind), sent.length.into());
            self.on_piece_sent(lane.peer.node, &sent);
        }
    }

    /// A peer does not want a piece any more. It must hear whether its slot is still written to.
    pub(super) fn on_revoked(self: &Rc<Self>, connection: &Connection, grant: u64) {
        let node = connection.peer.node;
        self.serve.borrow_mut().on_revoke(node, grant);
        if let Some((_, Placed { chunk, .. })) = self.take_placed(node, grant) {
            return connection.writer.message(Decline { chunk, grant });
        }
        for lane in self.lanes_to(node) {
            let writing = lane.writing.borrow();
            let found = writing.iter().find(|(_, writing)| writing.sent.grant == grant);
            let Some((tag, chunk)) = found.map(|(tag, writing)| (*tag, writing.chunk)) else { continue };
            drop(writing);
            // What has begun arrives.
            if lane.rail.endpoint.borrow_mut().cancel(lane.id, tag).is_some() {
                lane.writing.borrow_mut().remove(&tag);
                connection.writer.message(Decline { chunk, grant });
                self.serve.borrow_mut().on_sent(node, grant);
                self.pump();
            }
        }
    }

    /// A slot that a peer has granted and nothing was written to yet.
    pub(super) fn take_placed(&self, node: NodeId, grant: u64) -> Option<(Rc<Lane>, Placed)> {
        self.lanes_to(node).into_iter().find_map(|lane| {
            let placed = lane.placed.borrow_mut().remove(&grant)?;
            Some((lane, placed))
        })
    }

    /// Ends everything that was on its way on a lane that is gone.
    pub(super) fn give_up_lane(self: &Rc<Self>, lane: &Lane) {
        let node = lane.peer.node;
        let mut waiting = Vec::new();
        for granted in lane.granted.take().into_values() {
            let fetching = granted.underway.fetching().clone();
            fetching.fetch.borrow_mut().on_declined(self.now(), node, granted.grant);
            waiting.push(fetching);
        }
        lane.revoked.take();
        {
            let mut serve = self.serve.borrow_mut();
            lane.writing.take().into_values().for_each(|writing| serve.on_sent(node, writing.sent.grant));
            lane.placed.take().into_keys().for_each(|grant| serve.on_revoke(node, grant));
        }
        let shard = self.clone();
        glommio::spawn_local(async move {
            // This is also reached from within `drive`, which must not be entered twice.
            yield_now().await;
            waiting.iter().for_each(|fetching| shard.drive(fetching));
            shard.pump();
        })
        .detach();
    }

    fn lanes_to(&self, node: NodeId) -> Vec<Rc<Lane>> {
        let lanes = self.rails.lanes.borrow();
        lanes.values().filter(|lane| lane.peer.node == node).cloned().collect()
    }
}

impl Lane {
    /// Pieces that are to come or to go on it.
    fn load(&self) -> usize {
        let writes = self.rail.endpoint.borrow().load(self.id).unwrap_or(0);
        writes + self.granted.borrow().len()
    }

    /// The tag of a grant that is open.
    fn tag_of(&self, grant: u64) -> Option<u32> {
        let granted = self.granted.borrow();
        granted.iter().find(|(_, state)| state.grant == grant).map(|(tag, _)| *tag)
    }
}
