//! What a completion says (`ibv_poll_cq(3)`).

use crate::sys::{self, ibv_wc};

/// Names a work request among those of its completion queue. A number is not used twice within four billion requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkRequestId(pub(crate) u64);

/// A work request is done, and what was posted with it comes back.
#[derive(Debug)]
pub struct Completion<H> {
    /// Which one, as posting it said.
    pub work_request: WorkRequestId,
    /// What the caller posted with it.
    pub held: H,
    /// What was done, or why not.
    pub outcome: Result<Opcode, WorkError>,
    /// Bytes that were received, or read; of no meaning for other requests, and after an error.
    pub bytes: u32,
    /// The number that came with a received message.
    pub immediate: Option<u32>,
    /// Number of the queue pair of this side.
    pub queue_pair: u32,
}

impl<H> Completion<H> {
    pub(super) fn new(raw: &ibv_wc, held: H) -> Self {
        let outcome = match WorkError::from_raw(raw.status, raw.vendor_err) {
            Some(error) => Err(error),
            None => Opcode::from_raw(raw.opcode),
        };
        let has_immediate = outcome.is_ok() && raw.wc_flags & sys::IBV_WC_WITH_IMM != 0;
        Self {
            work_request: WorkRequestId(raw.wr_id),
            held,
            bytes: if outcome.is_ok() { raw.byte_len } else { 0 },
            immediate: has_immediate.then(|| u32::from_be(raw.imm_data)),
            outcome,
            queue_pair: raw.qp_num,
        }
    }
}

/// What a work request did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Opcode {
    /// Sent a message.
    Send,
    /// Wrote into the memory of the other end.
    Write,
    /// Read the memory of the other end.
    Read,
    /// Received a message.
    Receive,
    /// Was used up by a write of the other end that came with an immediate.
    ReceiveWrite,
}

impl Opcode {
    fn from_raw(raw: u32) -> Result<Self, WorkError> {
        match raw {
            sys::IBV_WC_SEND => Ok(Opcode::Send),
            sys::IBV_WC_RDMA_WRITE => Ok(Opcode::Write),
            sys::IBV_WC_RDMA_READ => Ok(Opcode::Read),
            sys::IBV_WC_RECV => Ok(Opcode::Receive),
            sys::IBV_WC_RECV_RDMA_WITH_IMM => Ok(Opcode::ReceiveWrite),
            other => Err(WorkError::UnknownOpcode(other)),
        }
    }
}

/// Why a work request failed. After any of these the queue pair is in the error state, and all else that was posted to it
/// comes back as [`WorkError::Flushed`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum WorkError {
    /// The message is longer than the memory that was to take it, or than the port allows.
    #[error("the message is longer than the memory that was posted for it")]
    Length,
    /// The queue pair cannot do what was asked for.
    #[error("the queue pair cannot do what was posted to it")]
    QueuePair,
    /// A local segment is not within a region that allows it.
    #[error("local memory of the request is not registered for it")]
    LocalProtection,
    /// The queue pair was in the error state.
    #[error("the queue pair failed or was closed before the request was done")]
    Flushed,
    /// The other end answered what makes no sense.
    #[error("the other end sent a response that does not fit")]
    BadResponse,
    /// A local region could not be written.
    #[error("local memory could not be accessed")]
    LocalAccess,
    /// The other end takes the request for invalid.
    #[error("the other end refused the request as invalid")]
    RemoteInvalid,
    /// The other end has no such memory, or does not allow it: wrong or revoked key, or beyond the range.
    #[error("the other end does not grant access to that memory")]
    RemoteAccess,
    /// The other end could not carry it out.
    #[error("the other end could not carry out the request")]
    RemoteOperation,
    /// No answer came, also after all retries: the other end or the way to it is gone.
    #[error("the other end does not answer")]
    RetriesExceeded,
    /// The other end had posted no receive, also after all retries.
    #[error("the other end has no receive posted")]
    ReceiverNotReady,
    /// The other end gave up.
    #[error("the other end aborted the request")]
    RemoteAbort,
    /// The device failed.
    #[error("the device failed")]
    Fatal,
    /// The library reported an operation that was never posted.
    #[error("the library reported an operation of an unknown kind ({0})")]
    UnknownOpcode(u32),
    /// One that this crate does not tell apart.
    #[error("the request failed with status {status}, vendor error {vendor:#x}")]
    Other {
        /// Number of the status in the header.
        status: u32,
        /// What the device's maker has to say.
        vendor: u32,
    },
}

impl WorkError {
    fn from_raw(status: u32, vendor: u32) -> Option<Self> {
        Some(match status {
            sys::IBV_WC_SUCCESS => return None,
            sys::IBV_WC_LOC_LEN_ERR => WorkError::Length,
            sys::IBV_WC_LOC_QP_OP_ERR => WorkError::QueuePair,
            sys::IBV_WC_LOC_PROT_ERR => WorkError::LocalProtection,
            sys::IBV_WC_WR_FLUSH_ERR => WorkError::Flushed,
            sys::IBV_WC_BAD_RESP_ERR => WorkError::BadResponse,
            sys::IBV_WC_LOC_ACCESS_ERR => WorkError::LocalAccess,
            sys::IBV_WC_REM_INV_REQ_ERR => WorkError::RemoteInvalid,
            sys::IBV_WC_REM_ACCESS_ERR => WorkError::RemoteAccess,
            sys::IBV_WC_REM_OP_ERR => WorkError::RemoteOperation,
            sys::IBV_WC_RETRY_EXC_ERR | sys::IBV_WC_RESP_TIMEOUT_ERR => WorkError::RetriesExceeded,
            sys::IBV_WC_RNR_RETRY_EXC_ERR => WorkError::ReceiverNotReady,
            sys::IBV_WC_REM_ABORT_ERR => WorkError::RemoteAbort,
            sys::IBV_WC_FATAL_ERR => WorkError::Fatal,
            status => WorkError::Other { status, vendor },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(status: u32, opcode: u32, wc_flags: u32) -> ibv_wc {
        // SAFETY: the structure is one of plain numbers.
        let zero: ibv_wc = unsafe { sys::zeroed() };
        ibv_wc { status, opcode, wc_flags, imm_data: 7u32.to_be(), byte_len: 99, ..zero }
    }

    #[test]
    fn an_immediate_is_a_number_in_the_order_of_this_machine() {
        let write = raw(sys::IBV_WC_SUCCESS, sys::IBV_WC_RECV_RDMA_WITH_IMM, sys::IBV_WC_WITH_IMM);
        let completion = Completion::new(&write, ());
        assert_eq!((completion.outcome, completion.immediate), (Ok(Opcode::ReceiveWrite), Some(7)));
        let plain = Completion::new(&raw(sys::IBV_WC_SUCCESS, sys::IBV_WC_RECV, 0), ());
        assert_eq!((plain.immediate, plain.bytes), (None, 99));
    }

    #[test]
    fn nothing_but_the_error_is_believed_of_a_failure() {
        let failed = Completion::new(&raw(sys::IBV_WC_REM_ACCESS_ERR, 4711, sys::IBV_WC_WITH_IMM), ());
        assert_eq!(failed.outcome, Err(WorkError::RemoteAccess));
        assert_eq!((failed.bytes, failed.immediate), (0, None));
        let unknown = Completion::new(&raw(sys::IBV_WC_SUCCESS, 4711, 0), ());
        assert_eq!(unknown.outcome, Err(WorkError::UnknownOpcode(4711)));
        let other = Completion::new(&raw(99, 0, 0), ());
        assert_eq!(other.outcome, Err(WorkError::Other { status: 99, vendor: 0 }));
    }
}
