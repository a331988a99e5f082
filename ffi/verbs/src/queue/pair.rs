//! The queue pair and its states (`ibv_create_qp(3)`, `ibv_modify_qp(3)`).
//!
//! ```text
//! Reset ─initialise─► Initialised ─receive_from─► ReceiveReady ─make_ready─► Ready
//!                         └───────── post_receive from here on ─────────────────┘ post
//! Reset ─attach─► Managed ─established─► Ready          by the connection manager
//! ```
//!
//! The states are types, so that a request cannot be posted before its queue pair can take it. A step that fails closes
//! the queue pair. The error state is none of them: a device enters it by itself.

use std::rc::Rc;
use std::sync::Arc;

use super::SharedReceiveQueue;
use super::endpoint::{Attachment, Endpoint, Reliability};
use super::work::{self, Operation, Refused, Segments};
use crate::Error;
use crate::completion::{CompletionQueue, NO_OPERATION, Owner, WorkRequestId};
use crate::device::Context;
use crate::memory::ProtectionDomain;
use crate::sys::{self, ibv_qp, ibv_qp_attr, ibv_qp_cap, ibv_qp_init_attr, ibv_send_wr, ibv_sge};

/// Bits of packet sequence numbers and of numbers of queue pairs.
const NUMBER_MASK: u32 = 0xff_ffff;

/// What others may do through a queue pair: everything. What may be done is said of each region.
const ACCESS: u32 = sys::IBV_ACCESS_LOCAL_WRITE | sys::IBV_ACCESS_REMOTE_WRITE | sys::IBV_ACCESS_REMOTE_READ;

/// Just made.
#[derive(Debug)]
pub struct Reset(());

/// Bound to a port; takes receives.
#[derive(Debug)]
pub struct Initialised {
    attachment: Attachment,
    packet_sequence_number: u32,
}

/// Receives from the other end, and answers it.
#[derive(Debug)]
pub struct ReceiveReady {
    packet_sequence_number: u32,
    reliability: Reliability,
    reads_out_max: u8,
}

/// Bound to a port for a connection by address; takes receives.
#[derive(Debug)]
pub struct Managed(());

/// Does everything.
#[derive(Debug)]
pub struct Ready(());

/// States in which a queue pair takes receives.
pub trait TakesReceives: sealed::Sealed {}

impl TakesReceives for Initialised {}
impl TakesReceives for ReceiveReady {}
impl TakesReceives for Managed {}
impl TakesReceives for Ready {}

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::Initialised {}
    impl Sealed for super::ReceiveReady {}
    impl Sealed for super::Managed {}
    impl Sealed for super::Ready {}
}

/// How many work requests a queue pair has room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// Sends, writes and reads under way.
    pub sends_max: u32,
    /// Receives posted; of no meaning with a shared receive queue.
    pub receives_max: u32,
}

/// One end of a reliable connection. Dropping it closes it: what was posted and is not done is given up.
pub struct QueuePair<H, S = Ready> {
    raw: Raw<H>,
    state: S,
}

/// The queue pair without its state.
struct Raw<H> {
    domain: Arc<ProtectionDomain>,
    completions: Rc<CompletionQueue<H>>,
    shared: Option<Rc<SharedReceiveQueue<H>>>,
    pointer: *mut ibv_qp,
}

impl<H> QueuePair<H, Reset> {
    /// A queue pair whose requests complete in `completions`. With a shared receive queue it has no receives of its own.
    pub fn create(
        domain: &Arc<ProtectionDomain>,
        completions: &Rc<CompletionQueue<H>>,
        shared: Option<&Rc<SharedReceiveQueue<H>>>,
        sizes: Sizes,
    ) -> Result<Self, Error> {
        if !Arc::ptr_eq(domain.context(), completions.context()) {
            return Err(Error::Mismatch("protection domain and completion queue"));
        }
        if shared.is_some_and(|shared| {
            !Rc::ptr_eq(shared.completions(), completions) || !Arc::ptr_eq(shared.domain(), domain)
        }) {
            return Err(Error::Mismatch("shared receive queue and queue pair"));
        }
        let mut attributes = ibv_qp_init_attr {
            qp_context: std::ptr::null_mut(),
            send_cq: completions.as_ptr(),
            recv_cq: completions.as_ptr(),
            srq: shared.map_or(std::ptr::null_mut(), |shared| shared.as_ptr()),
            cap: ibv_qp_cap {
                max_send_wr: sizes.sends_max,
                max_recv_wr: if shared.is_some() { 0 } else { sizes.receives_max },
                max_send_sge: Segments::MAX as u32,
                max_recv_sge: if shared.is_some() { 0 } else { Segments::MAX as u32 },
                max_inline_data: 0,
            },
            qp_type: sys::IBV_QPT_RC,
            // Every request completes, because its completion gives back what it works on.
            sq_sig_all: 1,
        };
        // SAFETY: the domain and both queues are there, and the structure lives through the call.
        let pointer =
            unsafe { (domain.context().functions().ibv_create_qp)(domain.as_ptr(), &mut attributes) };
        if pointer.is_null() {
            return Err(Error::last("ibv_create_qp", domain.context().device().name()));
        }
        let (domain, completions, shared) = (domain.clone(), completions.clone(), shared.cloned());
        Ok(Self { raw: Raw { domain, completions, shared, pointer }, state: Reset(()) })
    }

    /// Binds it to a port. Its packets will be numbered from `packet_sequence_number`, of which 24 bits count; a random
    /// one keeps packets of an earlier connection out.
    pub fn initialise(
        self,
        attachment: Attachment,
        packet_sequence_number: u32,
    ) -> Result<QueuePair<H, Initialised>, Error> {
        let mut attributes = self.raw.attributes(sys::IBV_QPS_INIT);
        attributes.port_num = attachment.port;
        attributes.pkey_index = attachment.partition_key_index;
        attributes.qp_access_flags = ACCESS;
        let mask = sys::IBV_QP_STATE | sys::IBV_QP_PKEY_INDEX | sys::IBV_QP_PORT | sys::IBV_QP_ACCESS_FLAGS;
        self.raw.modify(&mut attributes, mask)?;
        let packet_sequence_number = packet_sequence_number & NUMBER_MASK;
        Ok(QueuePair { raw: self.raw, state: Initialised { attachment, packet_sequence_number } })
    }

    /// Binds it to a port as the connection manager says.
    pub(crate) fn manage(
        self,
        attributes: &mut ibv_qp_attr,
        mask: u32,
    ) -> Result<QueuePair<H, Managed>, Error> {
        attributes.qp_access_flags = ACCESS;
        self.raw.modify(attributes, mask | sys::IBV_QP_ACCESS_FLAGS)?;
        Ok(QueuePair { raw: self.raw, state: Managed(()) })
    }

    pub(crate) fn context(&self) -> &Arc<Context> {
        self.raw.domain.context()
    }
}

impl<H> QueuePair<H, Managed> {
    /// Enters a state as the connection manager says.
    pub(crate) fn modify(&self, attributes: &mut ibv_qp_attr, mask: u32) -> Result<(), Error> {
        self.raw.modify(attributes, mask)
    }

    /// The connection manager says that it is connected.
    pub(crate) fn connected(self) -> QueuePair<H, Ready> {
        QueuePair { raw: self.raw, state: Ready(()) }
    }

    pub(crate) fn context(&self) -> &Arc<Context> {
        self.raw.domain.context()
    }

    pub(crate) fn has_shared_receives(&self) -> bool {
        self.raw.shared.is_some()
    }
}

impl<H> QueuePair<H, Initialised> {
    /// What the other end must know.
    pub fn endpoint(&self) -> Endpoint {
        let Initialised { attachment, packet_sequence_number } = &self.state;
        Endpoint {
            lid: attachment.lid,
            gid: attachment.gid.gid,
            queue_pair_number: self.number(),
            packet_sequence_number: *packet_sequence_number,
            mtu: attachment.mtu,
        }
    }

    /// Receives from `remote`.
    pub fn receive_from(
        self,
        remote: &Endpoint,
        reliability: Reliability,
    ) -> Result<QueuePair<H, ReceiveReady>, Error> {
        let Initialised { attachment, packet_sequence_number } = &self.state;
        let device = self.raw.domain.context().attributes()?;
        let mut attributes = self.raw.attributes(sys::IBV_QPS_RTR);
        attributes.path_mtu = attachment.mtu.min(remote.mtu).raw();
        attributes.dest_qp_num = remote.queue_pair_number & NUMBER_MASK;
        attributes.rq_psn = remote.packet_sequence_number & NUMBER_MASK;
        attributes.max_dest_rd_atomic = reliability.reads_max.min(device.reads_in_max);
        attributes.min_rnr_timer = reliability.receiver_not_ready_timer;
        attributes.ah_attr = attachment.raw_route(remote, &reliability);
        let mask = sys::IBV_QP_STATE
            | sys::IBV_QP_AV
            | sys::IBV_QP_PATH_MTU
            | sys::IBV_QP_DEST_QPN
            | sys::IBV_QP_RQ_PSN
            | sys::IBV_QP_MAX_DEST_RD_ATOMIC
            | sys::IBV_QP_MIN_RNR_TIMER;
        self.raw.modify(&mut attributes, mask)?;
        let packet_sequence_number = *packet_sequence_number;
        let state = ReceiveReady { packet_sequence_number, reliability, reads_out_max: device.reads_out_max };
        Ok(QueuePair { raw: self.raw, state })
    }
}

impl<H> QueuePair<H, ReceiveReady> {
    /// Sends too. The other end must receive from this one by the time that something is posted.
    pub fn make_ready(self) -> Result<QueuePair<H, Ready>, Error> {
        let ReceiveReady { packet_sequence_number, reliability, reads_out_max } = &self.state;
        let mut attributes = self.raw.attributes(sys::IBV_QPS_RTS);
        attributes.sq_psn = *packet_sequence_number;
        attributes.timeout = reliability.acknowledgement_timeout_exponent;
        attributes.retry_cnt = reliability.retries_max;
        attributes.rnr_retry = reliability.receiver_not_ready_retries_max;
        attributes.max_rd_atomic = reliability.reads_max.min(*reads_out_max);
        let mask = sys::IBV_QP_STATE
            | sys::IBV_QP_SQ_PSN
            | sys::IBV_QP_TIMEOUT
            | sys::IBV_QP_RETRY_CNT
            | sys::IBV_QP_RNR_RETRY
            | sys::IBV_QP_MAX_QP_RD_ATOMIC;
        self.raw.modify(&mut attributes, mask)?;
        Ok(QueuePair { raw: self.raw, state: Ready(()) })
    }
}

impl<H> QueuePair<H, Ready> {
    /// Posts a work request (`ibv_post_send(3)`). Memory and `held` come back with its completion.
    pub fn post(
        &self,
        operation: Operation,
        segments: impl Into<Segments>,
        held: H,
    ) -> Result<WorkRequestId, Refused<H>> {
        let segments = segments.into();
        if let Some(remote) = operation.remote()
            && segments.length() > remote.length
        {
            let error = Error::BeyondRemote { length: segments.length(), remote_length: remote.length };
            return Err(Refused { error, held, segments: segments.into() });
        }
        let raw = &self.raw;
        raw.completions.posting(raw.owner(), held, segments, |id, list| raw.post_send(id, &operation, list))
    }
}

impl<H, S: TakesReceives> QueuePair<H, S> {
    /// Posts memory for a message of the other end (`ibv_post_recv(3)`). It comes back with the completion.
    pub fn post_receive(&self, segments: impl Into<Segments>, held: H) -> Result<WorkRequestId, Refused<H>> {
        let (raw, segments) = (&self.raw, segments.into());
        if raw.shared.is_some() {
            return Err(Refused { error: Error::SharedReceives, held, segments: segments.into() });
        }
        raw.completions.posting(raw.owner(), held, segments, |id, list| raw.post_receive(id, list))
    }

    /// Enters the error state: what is posted comes back as flushed, and so does what will be. The other end notices when
    /// it sends.
    pub fn fail(&self) -> Result<(), Error> {
        let mut attributes = self.raw.attributes(sys::IBV_QPS_ERR);
        self.raw.modify(&mut attributes, sys::IBV_QP_STATE)
    }
}

impl<H, S> QueuePair<H, S> {
    /// Its number, as completions have it.
    pub fn number(&self) -> u32 {
        self.raw.number()
    }

    /// Closes it and returns what was posted and not done. What was done comes from the completion queue. When it succeeds,
    /// the other end can write no more through it. When it fails, the device may still use the queue pair: what it works
    /// on is leaked, and memory that was granted to the other end must not be used again.
    pub fn close(self) -> Result<Vec<H>, Error> {
        let mut raw = self.raw;
        raw.destroy()
    }
}

impl<H, S: std::fmt::Debug> std::fmt::Debug for QueuePair<H, S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("QueuePair").field("number", &self.number()).field("state", &self.state).finish()
    }
}

impl<H> Raw<H> {
    fn number(&self) -> u32 {
        // SAFETY: the queue pair is there, and its number does not change.
        unsafe { (*self.pointer).qp_num }
    }

    fn owner(&self) -> Owner {
        Owner::QueuePair(self.number())
    }

    fn attributes(&self, state: u32) -> ibv_qp_attr {
        // SAFETY: the structure is one of plain numbers.
        let zero: ibv_qp_attr = unsafe { sys::zeroed() };
        ibv_qp_attr { qp_state: state, ..zero }
    }

    fn modify(&self, attributes: &mut ibv_qp_attr, mask: u32) -> Result<(), Error> {
        let context = self.domain.context();
        // SAFETY: the queue pair is there and the structure lives through the call.
        let code = unsafe { (context.functions().ibv_modify_qp)(self.pointer, attributes, mask as i32) };
        context.check("ibv_modify_qp", code)
    }

    fn post_send(&self, id: WorkRequestId, operation: &Operation, list: &mut [ibv_sge]) -> Result<(), Error> {
        // SAFETY: the structure is one of plain numbers and pointers that may be null.
        let zero: ibv_send_wr = unsafe { sys::zeroed() };
        let mut request = ibv_send_wr {
            wr_id: id.0,
            sg_list: list.as_mut_ptr(),
            num_sge: list.len() as i32,
            opcode: operation.opcode(),
            send_flags: sys::IBV_SEND_SIGNALED,
            imm_data: operation.raw_immediate(),
            wr: operation.raw_kind(),
            ..zero
        };
        let mut refused = std::ptr::null_mut();
        // SAFETY: the queue pair and its context are there.
        let post = unsafe { (*(*self.pointer).context).ops.post_send }.ok_or(NO_OPERATION)?;
        // SAFETY: the queue pair is there, the request is read during the call, and its regions are held until it is done.
        let code = unsafe { post(self.pointer, &mut request, &mut refused) };
        self.domain.context().check("ibv_post_send", code)
    }

    fn post_receive(&self, id: WorkRequestId, list: &mut [ibv_sge]) -> Result<(), Error> {
        let mut request = work::raw_receive(id, list);
        let mut refused = std::ptr::null_mut();
        // SAFETY: the queue pair and its context are there.
        let post = unsafe { (*(*self.pointer).context).ops.post_recv }.ok_or(NO_OPERATION)?;
        // SAFETY: as for sending.
        let code = unsafe { post(self.pointer, &mut request, &mut refused) };
        self.domain.context().check("ibv_post_recv", code)
    }

    /// Ends the queue pair, once. When that fails, what it works on is leaked, because the device may still touch it.
    fn destroy(&mut self) -> Result<Vec<H>, Error> {
        if self.pointer.is_null() {
            return Ok(Vec::new());
        }
        let owner = self.owner();
        // SAFETY: the queue pair is there, and it is used no more after this.
        let code = unsafe { (self.domain.context().functions().ibv_destroy_qp)(self.pointer) };
        self.pointer = std::ptr::null_mut();
        if code == 0 {
            return Ok(self.completions.give_up(owner));
        }
        self.completions.leak(owner);
        // It still uses the queues, so they stay as well.
        std::mem::forget((self.completions.clone(), self.shared.clone()));
        Err(Error::returned("ibv_destroy_qp", self.domain.context().device().name(), code))
    }
}

impl<H> Drop for Raw<H> {
    fn drop(&mut self) {
        // A failure leaks what the device may still use, and nobody is here to be told.
        let _ = self.destroy();
    }
}
