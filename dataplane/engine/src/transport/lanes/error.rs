//! What fails of lanes, and what to do about it.

use std::sync::Arc;

use ::ucx::Error as UcxError;
use ::verbs::{ConnectError, Error as VerbsError, WorkError};

/// Why a device, a lane or a write failed. Pieces can go over TCP after any of them.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum LaneError {
    /// Nothing to use, and why not, device by device.
    #[error("no RDMA device can be used: {0}")]
    NoDevice(String),
    /// The kernel does not let this process lock as much memory.
    #[error(
        "the {bytes} bytes of the arena cannot be registered with {device}, because this process may not lock as much \
         memory: raise the limit (`ulimit -l unlimited`, LimitMEMLOCK=infinity in the unit), or use a smaller \
         --max-memory"
    )]
    MemoryLock {
        /// The device.
        device: String,
        /// Bytes of the arena.
        bytes: u64,
    },
    /// The library, the kernel or the device refused something else.
    #[error(transparent)]
    Verbs(Arc<VerbsError>),
    /// The system does not tell when something happens.
    #[error("a device cannot be watched: {0}")]
    Watch(rustix::io::Errno),
    /// The peer had no receive posted.
    #[error("the peer took no more writes (receiver not ready), also after all retries")]
    ReceiverNotReady,
    /// The peer did not acknowledge.
    #[error("the peer did not answer, also after all retries: it is gone, or the network between is")]
    RetriesExceeded,
    /// The peer refused the address, the key or the tag.
    #[error("the peer does not grant access to the memory that was to be written")]
    RemoteAccess,
    /// The queue pair failed before, or its peer's did.
    #[error("the queue pair failed, and what was posted to it was flushed")]
    Flushed,
    /// Another outcome of a request.
    #[error("an RDMA request failed: {0}")]
    Work(WorkError),
    /// What came is not what lanes carry.
    #[error("the peer sent something that is no write of a piece")]
    Protocol,
    /// The peer's end of a lane is connected in another way than this one, or cannot be reached from here.
    #[error("the peer's end of the lane is of another kind")]
    OtherKind,
    /// The other end of a lane could not be called, or did not call.
    #[error("the lane was not connected: {0}")]
    NotConnected(ConnectError),
    /// The other end of a lane neither called nor answered.
    #[error(
        "the lane was not connected within {seconds} s; can the devices of both nodes reach each other over TCP?"
    )]
    NoAnswer {
        /// Seconds since both ends knew each other.
        seconds: u64,
    },
    /// The connection of a lane ended, without a reason.
    #[error("the peer ended the connection of the lane, or it is gone")]
    Disconnected,
    /// UCX refused something other than a request.
    #[error(transparent)]
    Ucx(Arc<UcxError>),
    /// UCX gave up a request, or a connection.
    #[error("the lane through UCX failed: {0}")]
    UcxFailed(ucx::Status),
    /// The port has no link.
    #[error("the port of {device} is down: look at its cable, its switch and its subnet manager")]
    PortDown {
        /// The device.
        device: String,
    },
    /// The device failed or was removed.
    #[error("the device {device} failed or was removed: the node must be restarted to use it again")]
    DeviceGone {
        /// The device.
        device: String,
    },
    /// A write was neither done nor failed for too long.
    #[error("the device said nothing of a write for {seconds} s")]
    NoCompletion {
        /// Seconds since it was posted.
        seconds: u64,
    },
    /// A slot that was taken back stayed with the peer for too long.
    #[error("the peer did not give up a slot that was revoked {seconds} s ago")]
    SlotKept {
        /// Seconds since it was revoked.
        seconds: u64,
    },
    /// A range that is not within the memory of whoever has it.
    #[error("{length} bytes from offset {offset} are not all within the {of} bytes that may be written")]
    OutOfRange {
        /// Offset, in bytes.
        offset: u64,
        /// Length, in bytes.
        length: u64,
        /// Bytes that there are.
        of: u64,
    },
    /// As many lanes as there may be, all of them in use.
    #[error("{lanes} lanes are in use, as many as there may be")]
    TooManyLanes {
        /// The most.
        lanes: usize,
    },
    /// As many writes or grants as a lane may have.
    #[error("a lane has {count} {what}, as many as it may have")]
    LaneFull {
        /// How many.
        count: usize,
        /// What of.
        what: &'static str,
    },
    /// A tag that is in use.
    #[error("the tag {tag} is in use on its lane")]
    TagInUse {
        /// The tag.
        tag: u32,
    },
    /// A lane that is closed, not connected, or was never there.
    #[error("the lane is not connected")]
    NoLane,
    /// The lane was idle, and another one needed its place.
    #[error("the lane was idle, and was closed for another one")]
    Reclaimed,
    /// This side closed the lane.
    #[error("the lane was closed")]
    Closed,
}

impl From<VerbsError> for LaneError {
    fn from(error: VerbsError) -> Self {
        LaneError::Verbs(Arc::new(error))
    }
}

impl From<WorkError> for LaneError {
    fn from(error: WorkError) -> Self {
        match error {
            WorkError::ReceiverNotReady => LaneError::ReceiverNotReady,
            WorkError::RetriesExceeded => LaneError::RetriesExceeded,
            WorkError::RemoteAccess => LaneError::RemoteAccess,
            WorkError::Flushed => LaneError::Flushed,
            other => LaneError::Work(other),
        }
    }
}

impl From<UcxError> for LaneError {
    fn from(error: UcxError) -> Self {
        LaneError::Ucx(Arc::new(error))
    }
}

impl From<ucx::Status> for LaneError {
    fn from(status: ucx::Status) -> Self {
        match status {
            status if status.is_refused() => LaneError::RemoteAccess,
            status if status.is_cancelled() => LaneError::Flushed,
            status => LaneError::UcxFailed(status),
        }
    }
}

impl LaneError {
    /// Whether it says less than another error of the same lane would: what else was posted fails like this.
    pub(super) fn is_consequence(&self) -> bool {
        matches!(self, LaneError::Flushed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_of_requests_become_errors_of_lanes() {
        assert!(matches!(LaneError::from(WorkError::ReceiverNotReady), LaneError::ReceiverNotReady));
        assert!(matches!(LaneError::from(WorkError::RemoteAccess), LaneError::RemoteAccess));
        assert!(LaneError::from(WorkError::Flushed).is_consequence());
        assert!(matches!(LaneError::from(WorkError::Fatal), LaneError::Work(WorkError::Fatal)));
    }
}
