//! From a queue pair to a connection (`rdma_connect(3)`, `rdma_accept(3)`).

use std::net::SocketAddr;

use super::event::Established;
use super::identifier::{IdentifierNumber, Raw, private_length};
use crate::Error;
use crate::queue::{Managed, QueuePair, Ready, Reliability, Reset};
use crate::sys::{self, rdma_conn_param};

/// The end that calls.
#[derive(Debug)]
pub struct Caller(pub(super) ());

/// The end that was called, and what the other one asks of it.
#[derive(Debug)]
pub struct Answerer {
    /// Reads of the other end under way at once.
    pub(super) in_max: u8,
    /// Reads that the other end answers at once.
    pub(super) out_max: u8,
}

/// A queue pair at a port, not connected yet. Of a [`Reliability`], a connection by address takes how often and how long
/// is tried again, and the number of reads; the rest is a matter of the route.
#[derive(Debug)]
pub struct Attached<H, R> {
    // Ended before the identifier, as librdmacm wants it.
    pair: QueuePair<H, Managed>,
    raw: Raw,
    role: R,
}

impl<H, R> Attached<H, R> {
    pub(super) fn new(raw: Raw, pair: QueuePair<H, Reset>, role: R) -> Result<Self, Error> {
        if raw.device_name().as_deref() != Some(pair.context().device().name()) {
            return Err(Error::Mismatch("queue pair and route"));
        }
        let (mut attributes, mask) = raw.queue_pair_attributes(sys::IBV_QPS_INIT)?;
        let pair = pair.manage(&mut attributes, mask)?;
        Ok(Self { pair, raw, role })
    }

    /// The queue pair, to post receives.
    pub fn queue_pair(&self) -> &QueuePair<H, Managed> {
        &self.pair
    }

    /// Its number in events.
    pub fn number(&self) -> IdentifierNumber {
        self.raw.number
    }

    /// Closes it, and returns what was posted.
    pub fn close(self) -> Result<Vec<H>, Error> {
        self.pair.close()
    }

    fn parameters(&self, reliability: &Reliability, private_data: &[u8]) -> Result<rdma_conn_param, Error> {
        let device = self.pair.context().attributes()?;
        Ok(rdma_conn_param {
            private_data_len: private_length(private_data)?,
            private_data: private_data.as_ptr().cast(),
            responder_resources: reliability.reads_max.min(device.reads_in_max),
            initiator_depth: reliability.reads_max.min(device.reads_out_max),
            flow_control: 0,
            retry_count: reliability.retries_max.min(RETRIES_MAX),
            rnr_retry_count: reliability.receiver_not_ready_retries_max.min(RETRIES_MAX),
            srq: self.pair.has_shared_receives().into(),
            qp_num: self.pair.number(),
        })
    }
}

/// What the three bits hold that the network has for a number of retries.
const RETRIES_MAX: u8 = 7;

impl<H> Attached<H, Caller> {
    /// Calls the other end, with up to [`crate::PRIVATE_BYTES_MAX`] bytes for it (`rdma_connect(3)`). Ends with
    /// [`crate::ConnectionEvent::Established`] or with a failure. How long that takes is the network's choice.
    pub fn connect(self, reliability: Reliability, private_data: &[u8]) -> Result<Connecting<H>, Error> {
        let mut parameters = self.parameters(&reliability, private_data)?;
        if self.raw.is_iwarp() {
            self.raw.connect_apart(parameters, private_data)?;
            return Ok(Connecting { pair: self.pair, raw: self.raw, confirms: None });
        }
        let connect = self.raw.functions().rdma_connect;
        // SAFETY: the identifier is there and has a device, which the function looks at; the parameters and the private
        // data live through the call.
        let code = unsafe { connect(self.raw.pointer(), &mut parameters) };
        self.raw.check("rdma_connect", code)?;
        Ok(Connecting { pair: self.pair, raw: self.raw, confirms: Some(reliability) })
    }
}

impl<H> Attached<H, Answerer> {
    /// Takes the call, with up to [`crate::PRIVATE_BYTES_MAX`] bytes for the other end (`rdma_accept(3)`). Ends with
    /// [`crate::ConnectionEvent::Established`] or with a failure.
    pub fn accept(self, reliability: Reliability, private_data: &[u8]) -> Result<Connecting<H>, Error> {
        let mut parameters = self.parameters(&reliability, private_data)?;
        let in_max = parameters.responder_resources.min(self.role.in_max);
        let out_max = parameters.initiator_depth.min(self.role.out_max);
        (parameters.responder_resources, parameters.initiator_depth) = (in_max, out_max);
        if !self.raw.is_iwarp() {
            make_ready(&self.pair, &self.raw, &reliability, Some((in_max, out_max)))?;
        }
        let accept = self.raw.functions().rdma_accept;
        // SAFETY: as for calling.
        let code = unsafe { accept(self.raw.pointer(), &mut parameters) };
        self.raw.check("rdma_accept", code)?;
        Ok(Connecting { pair: self.pair, raw: self.raw, confirms: None })
    }
}

/// Waits for the other end. Dropping it gives that up. Over iWARP the kernel waits for the outcome of a call then: a drop
/// before the event takes as long as the network needs for a TCP connection, and on Soft-iWARP up to 10 s more. Who cannot
/// wait lets the queue pair fail ([`QueuePair::fail`]) and drops it after the event.
#[derive(Debug)]
pub struct Connecting<H> {
    pair: QueuePair<H, Managed>,
    raw: Raw,
    /// What the queue pair of the end that calls is given before it confirms the answer, where the kernel does not.
    confirms: Option<Reliability>,
}

impl<H> Connecting<H> {
    /// The queue pair, to post receives.
    pub fn queue_pair(&self) -> &QueuePair<H, Managed> {
        &self.pair
    }

    /// Its number in events.
    pub fn number(&self) -> IdentifierNumber {
        self.raw.number
    }

    /// The connection, when the event says that it is there. An event of another identifier is an error, and this one is
    /// dropped.
    pub fn established(self, proof: &Established) -> Result<Connection<H>, Error> {
        self.raw.is_meant(proof.number)?;
        if let Some(reliability) = self.confirms {
            make_ready(&self.pair, &self.raw, &reliability, None)?;
            let establish = self.raw.functions().rdma_establish;
            // SAFETY: the identifier is there.
            self.raw.check("rdma_establish", unsafe { establish(self.raw.pointer()) })?;
        }
        Ok(Connection { pair: self.pair.connected(), raw: self.raw })
    }

    /// Closes it, and returns what was posted.
    pub fn close(self) -> Result<Vec<H>, Error> {
        self.pair.close()
    }
}

/// Takes a queue pair through the states that the network's answer has the numbers for. `reads` are the most that come
/// in and go out at once, where the kernel does not know them yet.
fn make_ready<H>(
    pair: &QueuePair<H, Managed>,
    raw: &Raw,
    reliability: &Reliability,
    reads: Option<(u8, u8)>,
) -> Result<(), Error> {
    let (mut attributes, mask) = raw.queue_pair_attributes(sys::IBV_QPS_RTR)?;
    attributes.min_rnr_timer = reliability.receiver_not_ready_timer;
    if let Some((in_max, _)) = reads {
        attributes.max_dest_rd_atomic = in_max;
    }
    pair.modify(&mut attributes, mask)?;
    let (mut attributes, mask) = raw.queue_pair_attributes(sys::IBV_QPS_RTS)?;
    attributes.timeout = reliability.acknowledgement_timeout_exponent;
    if let Some((_, out_max)) = reads {
        attributes.max_rd_atomic = out_max;
    }
    pair.modify(&mut attributes, mask)
}

/// A connection. Dropping it closes the queue pair, and the other end is told.
///
/// Over iWARP the end that called must be the first to send.
#[derive(Debug)]
pub struct Connection<H> {
    pair: QueuePair<H, Ready>,
    raw: Raw,
}

impl<H> Connection<H> {
    /// The queue pair.
    pub fn queue_pair(&self) -> &QueuePair<H, Ready> {
        &self.pair
    }

    /// Its number in events.
    pub fn number(&self) -> IdentifierNumber {
        self.raw.number
    }

    /// The address of the other end.
    pub fn peer_address(&self) -> Option<SocketAddr> {
        self.raw.peer_address()
    }

    /// Ends the connection (`rdma_disconnect(3)`): both ends get [`crate::ConnectionEvent::Disconnected`], and what is
    /// posted here comes back as flushed. The other end's comes back when it disconnects too. Requests that are posted after
    /// the end may never complete, as on Soft-iWARP; closing gives them back.
    pub fn disconnect(&self) -> Result<(), Error> {
        // Over iWARP the kernel ends the queue pair by itself, when what was sent has arrived.
        if !self.raw.is_iwarp() {
            self.pair.fail()?;
        }
        let disconnect = self.raw.functions().rdma_disconnect;
        // SAFETY: the identifier is there.
        self.raw.check("rdma_disconnect", unsafe { disconnect(self.raw.pointer()) })
    }

    /// Closes the queue pair as [`QueuePair::close`] does, and ends the connection.
    pub fn close(self) -> Result<Vec<H>, Error> {
        self.pair.close()
    }
}
