//! Endpoints on their way to their peers, and the greeting that tells when they are there.

use std::time::{Duration, Instant};

use ::ucx::{Address, EndpointId};
use flow::wire::lane::WorkerAddress;

use super::message::{Kind, Message};
use super::{Held, UcxFabric};
use crate::transport::lanes::error::LaneError;
use crate::transport::lanes::fabric::LaneId;

/// How long an endpoint that is to be closed may take to reach its peer.
const WIRING_PATIENCE: Duration = Duration::from_secs(5);

/// An endpoint that is on its way to its peer. UCX before 1.15 may end the process of a peer whose connection is cut at this
/// time, so that it is closed only when it has arrived.
pub(super) struct Wiring {
    pub(super) lane: LaneId,
    pub(super) closed_at: Option<Instant>,
}

impl UcxFabric {
    /// An endpoint has reached its peer, or will not.
    pub(super) fn on_wired(&mut self, endpoint: EndpointId) {
        if self.wiring.remove(&endpoint).is_some_and(|wiring| wiring.closed_at.is_some()) {
            self.worker.close(endpoint);
        }
    }

    /// Makes an endpoint, and greets the peer.
    pub(super) fn reach(&mut self, lane: LaneId, remote: &WorkerAddress) -> Result<EndpointId, LaneError> {
        let address = Address::from_bytes(&remote.address).map_err(::ucx::Error::from)?;
        let endpoint = self.worker.connect(&address)?;
        let header = Message { token: remote.token, kind: Kind::Hello, tag: 0, bytes: 0 }.encode();
        match self.worker.send(endpoint, &header, None, Held::Hello { endpoint }) {
            Ok(()) => {
                self.wiring.insert(endpoint, Wiring { lane, closed_at: None });
                Ok(endpoint)
            }
            Err(refused) => {
                self.worker.close(endpoint);
                Err(refused.error.into())
            }
        }
    }

    pub(super) fn close_overdue(&mut self) {
        let is_overdue = |wiring: &Wiring| wiring.closed_at.is_some_and(|at| at.elapsed() >= WIRING_PATIENCE);
        let overdue: Vec<EndpointId> =
            self.wiring.iter().filter(|(_, wiring)| is_overdue(wiring)).map(|(id, _)| *id).collect();
        overdue.into_iter().for_each(|endpoint| self.on_wired(endpoint));
    }
}
