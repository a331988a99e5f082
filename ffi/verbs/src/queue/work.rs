//! Work requests, as data (`ibv_post_send(3)`).

use crate::Error;
use crate::completion::WorkRequestId;
use crate::memory::{RemoteRange, Segment};
use crate::sys::{self, ibv_recv_wr, ibv_send_wr_atomic, ibv_send_wr_kind, ibv_send_wr_rdma, ibv_sge};

/// What a queue pair is to do with local segments. Completions come in the order of the requests of one queue pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Send them; the other end must have a receive posted.
    Send {
        /// A number that comes with the completion of the other end.
        immediate: Option<u32>,
    },
    /// Write them into the memory of the other end.
    Write {
        /// Where to.
        remote: RemoteRange,
        /// A number that comes with a completion of the other end, which must have a receive posted. Without it the other
        /// end does not know of the write.
        immediate: Option<u32>,
    },
    /// Fill them from the memory of the other end.
    Read {
        /// Where from.
        remote: RemoteRange,
    },
}

impl Operation {
    /// The memory of the other end.
    pub(super) fn remote(&self) -> Option<RemoteRange> {
        match *self {
            Operation::Send { .. } => None,
            Operation::Write { remote, .. } | Operation::Read { remote } => Some(remote),
        }
    }

    pub(super) fn opcode(&self) -> u32 {
        match self {
            Operation::Send { immediate: None } => sys::IBV_WR_SEND,
            Operation::Send { immediate: Some(_) } => sys::IBV_WR_SEND_WITH_IMM,
            Operation::Write { immediate: None, .. } => sys::IBV_WR_RDMA_WRITE,
            Operation::Write { immediate: Some(_), .. } => sys::IBV_WR_RDMA_WRITE_WITH_IMM,
            Operation::Read { .. } => sys::IBV_WR_RDMA_READ,
        }
    }

    /// The immediate in the order of the network, or zero.
    pub(super) fn raw_immediate(&self) -> u32 {
        match self {
            Operation::Send { immediate } | Operation::Write { immediate, .. } => {
                immediate.unwrap_or(0).to_be()
            }
            Operation::Read { .. } => 0,
        }
    }

    pub(super) fn raw_kind(&self) -> ibv_send_wr_kind {
        let mut kind = ibv_send_wr_kind {
            atomic: ibv_send_wr_atomic { remote_addr: 0, compare_add: 0, swap: 0, rkey: 0 },
        };
        if let Some(RemoteRange { address, key, .. }) = self.remote() {
            kind.rdma = ibv_send_wr_rdma { remote_addr: address, rkey: key };
        }
        kind
    }
}

/// The local memory of a work request: up to [`Segments::MAX`] parts of regions, one after the other. May be empty.
#[derive(Debug, Clone, Default)]
pub struct Segments {
    parts: [Option<Segment>; Segments::MAX],
}

impl Segments {
    /// Most segments of a work request.
    pub const MAX: usize = 4;

    /// No memory: for messages without bytes.
    pub fn none() -> Self {
        Self::default()
    }

    /// Several segments, in order.
    pub fn new(segments: impl IntoIterator<Item = Segment>) -> Result<Self, Error> {
        let mut all = Self::none();
        for (index, segment) in segments.into_iter().enumerate() {
            let place = all.parts.get_mut(index).ok_or(Error::TooManySegments { segments_max: Self::MAX })?;
            *place = Some(segment);
        }
        Ok(all)
    }

    /// Length of all of them, in bytes.
    pub fn length(&self) -> u64 {
        self.parts.iter().flatten().map(|segment| u64::from(segment.length())).sum()
    }

    /// The list for the device, and how much of it is set.
    pub(crate) fn raw(&self) -> ([ibv_sge; Segments::MAX], usize) {
        let mut list = [ibv_sge::default(); Segments::MAX];
        let mut length = 0;
        for segment in self.parts.iter().flatten() {
            list[length] = segment.raw();
            length += 1;
        }
        (list, length)
    }
}

/// A receive into the memory of the list. It points to the list, which has to live until it is posted.
pub(super) fn raw_receive(id: WorkRequestId, list: &mut [ibv_sge]) -> ibv_recv_wr {
    ibv_recv_wr {
        wr_id: id.0,
        next: std::ptr::null_mut(),
        sg_list: list.as_mut_ptr(),
        num_sge: list.len() as i32,
    }
}

impl From<Segment> for Segments {
    fn from(segment: Segment) -> Self {
        Self { parts: [Some(segment), None, None, None] }
    }
}

/// A work request that was not posted, with all that was to be posted.
#[derive(Debug, thiserror::Error)]
#[error("the work request was not posted: {error}")]
pub struct Refused<H> {
    /// Why.
    #[source]
    pub error: Error,
    /// What the caller gave.
    pub held: H,
    /// The memory.
    pub segments: Box<Segments>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_become_what_the_header_calls_them() {
        let remote = RemoteRange { address: 0x1000, length: 8, key: 3 };
        let write = Operation::Write { remote, immediate: Some(5) };
        assert_eq!((write.opcode(), write.raw_immediate()), (sys::IBV_WR_RDMA_WRITE_WITH_IMM, 5u32.to_be()));
        // SAFETY: a write sets this member.
        let raw = unsafe { write.raw_kind().rdma };
        assert_eq!((raw.remote_addr, raw.rkey), (0x1000, 3));
        assert_eq!(Operation::Read { remote }.opcode(), sys::IBV_WR_RDMA_READ);
        assert_eq!(Operation::Send { immediate: None }.opcode(), sys::IBV_WR_SEND);
    }
}
