//! What is needed of a device: operations as data, completions as one enum. Queue pairs of libibverbs do it, connected by
//! their numbers or by address; libucp, and a model in memory.

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

use flow::wire::lane::LaneAddress;
use memory::SharedLease;

use super::error::LaneError;

/// One queue pair of this side. No two of a fabric have the same number, also not one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct LaneId(pub(crate) u64);

/// A range of the peer's arena that was granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RemoteSlot {
    /// Where it begins in the arena, in bytes.
    pub(crate) offset: u64,
    /// Bytes that may be written.
    pub(crate) length: u32,
}

/// A piece to be written, with the memory that it lies in.
#[derive(Debug)]
pub(crate) struct Write {
    /// Its first bytes are written.
    pub(crate) lease: SharedLease,
    /// How many, up to the lease's capacity.
    pub(crate) length: u32,
    /// Where to.
    pub(crate) to: RemoteSlot,
    /// What the peer is told when the bytes are there, and what the write is called here.
    pub(crate) tag: u32,
}

impl Write {
    /// Where it goes in a remote arena of `arena_length` bytes, if all of it is within slot, arena and lease.
    pub(super) fn range_in(&self, arena_length: u64) -> Result<u64, LaneError> {
        self.check_length()?;
        let offset = self.to.offset;
        match offset.checked_add(self.to.length.into()) {
            Some(end) if end <= arena_length => Ok(offset),
            _ => Err(self.outside(arena_length)),
        }
    }

    /// Whether all of it is within slot and lease.
    pub(super) fn check_length(&self) -> Result<(), LaneError> {
        let length_max = self.to.length.min(self.lease.capacity());
        if self.length > length_max { Err(self.outside(length_max.into())) } else { Ok(()) }
    }

    fn outside(&self, of: u64) -> LaneError {
        LaneError::OutOfRange { offset: self.to.offset, length: self.length.into(), of }
    }
}

/// A write that was not posted.
#[derive(Debug)]
pub(crate) struct Refused {
    /// Why.
    pub(crate) error: LaneError,
    /// What was to be written.
    pub(crate) write: Write,
}

/// A write of which it is not known whether the peer has its bytes.
#[derive(Debug)]
pub(crate) struct Unsent {
    /// Its tag.
    pub(crate) tag: u32,
    /// The memory that it was made from.
    pub(crate) lease: SharedLease,
}

/// Something is done.
#[derive(Debug)]
pub(crate) enum Completion {
    /// The peer has the bytes of a write.
    Written { lane: LaneId, tag: u32, lease: SharedLease },
    /// The peer has written, and said what.
    Arrived { lane: LaneId, tag: u32, bytes: u32 },
    /// The lane has failed. What it was to write comes back with it, one by one.
    Failed { lane: LaneId, error: LaneError, write: Option<Unsent> },
}

/// How a device is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Health {
    /// It works.
    Up,
    /// Its port has no link, which may come back.
    PortDown,
    /// It failed, for good.
    Gone,
}

/// What lanes go over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LaneKind {
    /// Queue pairs of libibverbs.
    Rdma,
    /// Whatever UCX chooses.
    Ucx,
}

impl std::fmt::Display for LaneKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            LaneKind::Rdma => "RDMA",
            LaneKind::Ucx => "UCX",
        })
    }
}

/// How much a fabric has room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Room {
    /// Lanes.
    pub(crate) lanes: usize,
    /// Writes under way on a lane.
    pub(crate) writes_per_lane: usize,
    /// Receives posted on a lane, which is how many writes of the peer may be under way.
    pub(crate) receives_per_lane: usize,
}

/// A device of the node with the arena registered, shared by all shards.
pub(crate) trait Adapter: Send + Sync {
    /// Name of the device, for people.
    fn name(&self) -> &str;

    /// What its lanes go over.
    fn kind(&self) -> LaneKind {
        LaneKind::Rdma
    }

    /// The device as one shard uses it, with as much room as was asked for or the device has.
    fn open(self: Arc<Self>, wanted: Room) -> Result<Box<dyn Fabric>, LaneError>;
}

/// A device as one shard uses it. Nothing of it waits.
pub(crate) trait Fabric {
    /// Name of the device, for people.
    fn name(&self) -> &str;

    /// How much it has room for: what was asked for, or less.
    fn room(&self) -> Room;

    /// How long a write may take: one that has no outcome by then never will. Far longer than all retries.
    fn patience(&self) -> Duration {
        Duration::from_secs(20)
    }

    /// Whether a lane from here could have its other end there, as far as that can be told beforehand.
    fn reaches(&self, remote: &LaneAddress) -> bool;

    /// Whether such a lane is known to stay within a subnet, which makes this device the one to take of several.
    fn shares_subnet(&self, _remote: &LaneAddress) -> bool {
        false
    }

    /// Makes this end of a lane, and says where it is. Its receives are posted before the other end can write.
    fn open_lane(&mut self) -> Result<(LaneId, LaneAddress), LaneError>;

    /// Connects a lane to its other end, which a peer has told: it can be anything, and none of it can do harm on this side.
    /// The peer can write from here on. When it fails, the lane is closed. Where the other end must be called, writes wait
    /// for that, and a lane that is not connected within a bounded time fails.
    fn connect(&mut self, lane: LaneId, remote: &LaneAddress) -> Result<(), LaneError>;

    /// Takes writes of the peer under a tag into a slot, until one has arrived or the tag is forgotten. A fabric whose peers
    /// name the memory themselves needs no telling.
    fn expect(&mut self, _lane: LaneId, _tag: u32, _slot: RemoteSlot) {}

    /// Takes no write under a tag any more. `false` says that one is arriving already.
    fn forget(&mut self, _lane: LaneId, _tag: u32) -> bool {
        true
    }

    /// Posts a write on a connected lane. Its lease comes back by a completion, or from [`Fabric::close_lane`].
    fn write(&mut self, lane: LaneId, write: Write) -> Result<(), Refused>;

    /// Appends completions, and says how many; 0 means that there are none for the time being. A receive that was used up
    /// is posted again before its completion is appended. Completions of one lane come in any order.
    fn poll(&mut self, into: &mut Vec<Completion>) -> Result<usize, LaneError>;

    /// Destroys the queue pair of a lane. What was not done comes back at once; what was done is there for the next polls,
    /// and nothing of the lane comes after these. When this returns without error, the peer can write no more through
    /// it; after an error it can, for ever. Where [`Fabric::is_quiet`] does not say so yet, all of this holds from then on.
    fn close_lane(&mut self, lane: LaneId) -> Result<Vec<Unsent>, LaneError>;

    /// Whether nothing works on the memory of a lane that was closed any more. Polls bring this about.
    fn is_quiet(&self, _lane: LaneId) -> bool {
        true
    }

    /// Asks for the first descriptor to become readable with the next completion, and takes back what made it readable
    /// before. What came before it was armed does not count, so that a poll must follow.
    fn arm(&mut self) -> Result<(), LaneError>;

    /// How the device is, by all that it has reported so far. Takes notice of connections too, where these are made by
    /// calls; what comes of that is there for the next poll.
    fn health(&mut self) -> Health;

    /// What to wait for: the first becomes readable with a completion after [`Fabric::arm`], the second when
    /// [`Fabric::health`] has something to take notice of.
    fn descriptors(&self) -> [BorrowedFd<'_>; 2];
}

impl<F: Fabric + ?Sized> Fabric for Box<F> {
    fn name(&self) -> &str {
        (**self).name()
    }

    fn room(&self) -> Room {
        (**self).room()
    }

    fn patience(&self) -> Duration {
        (**self).patience()
    }

    fn reaches(&self, remote: &LaneAddress) -> bool {
        (**self).reaches(remote)
    }

    fn shares_subnet(&self, remote: &LaneAddress) -> bool {
        (**self).shares_subnet(remote)
    }

    fn open_lane(&mut self) -> Result<(LaneId, LaneAddress), LaneError> {
        (**self).open_lane()
    }

    fn connect(&mut self, lane: LaneId, remote: &LaneAddress) -> Result<(), LaneError> {
        (**self).connect(lane, remote)
    }

    fn expect(&mut self, lane: LaneId, tag: u32, slot: RemoteSlot) {
        (**self).expect(lane, tag, slot);
    }

    fn forget(&mut self, lane: LaneId, tag: u32) -> bool {
        (**self).forget(lane, tag)
    }

    fn write(&mut self, lane: LaneId, write: Write) -> Result<(), Refused> {
        (**self).write(lane, write)
    }

    fn poll(&mut self, into: &mut Vec<Completion>) -> Result<usize, LaneError> {
        (**self).poll(into)
    }

    fn close_lane(&mut self, lane: LaneId) -> Result<Vec<Unsent>, LaneError> {
        (**self).close_lane(lane)
    }

    fn is_quiet(&self, lane: LaneId) -> bool {
        (**self).is_quiet(lane)
    }

    fn arm(&mut self) -> Result<(), LaneError> {
        (**self).arm()
    }

    fn health(&mut self) -> Health {
        (**self).health()
    }

    fn descriptors(&self) -> [BorrowedFd<'_>; 2] {
        (**self).descriptors()
    }
}
