//! What happened so far.

use std::cell::Cell;

use flow::swarm::Priority;

use crate::transport::lanes::LaneKind;

/// Counters of one shard since its start.
#[derive(Default)]
pub(super) struct Counters {
    pub(super) pieces_sent: Cell<u64>,
    pub(super) bytes_sent: Cell<u64>,
    pub(super) pieces_received: Cell<u64>,
    pub(super) bytes_received: Cell<u64>,
    /// Of [`Counters::bytes_sent`], those that a peer on this host copied out of this node's memory.
    pub(super) bytes_sent_shm: Cell<u64>,
    /// Of [`Counters::bytes_received`], those that were copied out of the memory of a peer on this host.
    pub(super) bytes_received_shm: Cell<u64>,
    /// Of [`Counters::bytes_received`], those that came from this node's own rack, as far as racks are known.
    pub(super) bytes_received_near: Cell<u64>,
    /// Of [`Counters::bytes_sent`], those that a device wrote into the memory of a peer.
    pub(super) bytes_sent_rdma: Cell<u64>,
    /// Of [`Counters::bytes_received`], those that a peer's device wrote into the memory of this node.
    pub(super) bytes_received_rdma: Cell<u64>,
    /// Of [`Counters::bytes_sent`], those that a peer fetched through UCX.
    pub(super) bytes_sent_ucx: Cell<u64>,
    /// Of [`Counters::bytes_received`], those that this node fetched through UCX.
    pub(super) bytes_received_ucx: Cell<u64>,
    pub(super) lanes_opened: Cell<u64>,
    pub(super) lanes_broken: Cell<u64>,
    pub(super) pieces_corrupt: Cell<u64>,
    pub(super) pieces_unwanted: Cell<u64>,
    pub(super) nvme_bytes_read: Cell<u64>,
    pub(super) nvme_bytes_written: Cell<u64>,
    pub(super) gpu_bytes_read: Cell<u64>,
    pub(super) gpu_bytes_written: Cell<u64>,
    pub(super) bytes_evicted: Cell<u64>,
    pub(super) connections_opened: Cell<u64>,
    /// Connections that peers asked for in vain, as there was no room.
    pub(super) connections_refused: Cell<u64>,
    /// How often a chunk was to be fetched that is not all here, by priority, the lowest first.
    pub(super) fetches: [Cell<u64>; Priority::ALL.len()],
    /// Messages to peers that nobody asks this shard for anything.
    pub(super) room_told: Cell<u64>,
    /// The same from peers.
    pub(super) room_heard: Cell<u64>,
    /// Frames that have come over connections to other shards.
    pub(super) messages_received: Cell<u64>,
}

/// Adds to a counter.
pub(super) fn add(counter: &Cell<u64>, amount: u64) {
    counter.set(counter.get() + amount);
}

impl Counters {
    /// Bytes that went by lanes of a kind.
    pub(super) fn sent_on_lanes(&self, kind: LaneKind) -> &Cell<u64> {
        match kind {
            LaneKind::Rdma => &self.bytes_sent_rdma,
            LaneKind::Ucx => &self.bytes_sent_ucx,
        }
    }

    /// Bytes that came by lanes of a kind.
    pub(super) fn received_on_lanes(&self, kind: LaneKind) -> &Cell<u64> {
        match kind {
            LaneKind::Rdma => &self.bytes_received_rdma,
            LaneKind::Ucx => &self.bytes_received_ucx,
        }
    }

    /// All of them by name.
    pub(super) fn list(&self) -> Vec<(String, u64)> {
        let fetches = Priority::ALL
            .map(|priority| (format!("fetches_{priority}"), self.fetches[priority as usize].get()));
        let others = [
            ("pieces_sent", &self.pieces_sent),
            ("bytes_sent", &self.bytes_sent),
            ("pieces_received", &self.pieces_received),
            ("bytes_received", &self.bytes_received),
            ("bytes_sent_shm", &self.bytes_sent_shm),
            ("bytes_received_shm", &self.bytes_received_shm),
            ("bytes_received_near", &self.bytes_received_near),
            ("bytes_sent_rdma", &self.bytes_sent_rdma),
            ("bytes_received_rdma", &self.bytes_received_rdma),
            ("bytes_sent_ucx", &self.bytes_sent_ucx),
            ("bytes_received_ucx", &self.bytes_received_ucx),
            ("lanes_opened", &self.lanes_opened),
            ("lanes_broken", &self.lanes_broken),
            ("pieces_corrupt", &self.pieces_corrupt),
            ("pieces_unwanted", &self.pieces_unwanted),
            ("nvme_bytes_read", &self.nvme_bytes_read),
            ("nvme_bytes_written", &self.nvme_bytes_written),
            ("gpu_bytes_read", &self.gpu_bytes_read),
            ("gpu_bytes_written", &self.gpu_bytes_written),
            ("bytes_evicted", &self.bytes_evicted),
            ("connections_opened", &self.connections_opened),
            ("connections_refused", &self.connections_refused),
            ("room_told", &self.room_told),
            ("room_heard", &self.room_heard),
            ("messages_received", &self.messages_received),
        ]
        .map(|(name, value)| (name.to_owned(), value.get()));
        others.into_iter().chain(fetches).collect()
    }
}
