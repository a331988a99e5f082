//! How the two ends of a lane are connected: one calls, the other answers.
//!
//! Each end has a random number, its token, and both are told of both. The end with the larger one calls. It says the
//! other's token, so that the call is known to be for that lane, and its own, so that it is known to be from the other
//! end of it. A call that says anything else is rejected.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ::verbs::{
    ConnectionChannel, ConnectionEvent, Identifier, IdentifierNumber, Listener, Reliability, RemoteRange,
    Request,
};
use flow::wire::lane::ListenerAddress;

use super::IwarpFabric;
use super::lane::{Remote, Stage};
use crate::transport::lanes::error::LaneError;
use crate::transport::lanes::fabric::LaneId;

/// How long a lane may take from when both ends are known until it is connected. The answer to a call takes Soft-iWARP up
/// to 10 s to give up.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long the kernel may look for the other end's device, and for the way there.
const RESOLVE_TIMEOUT_MS: u32 = 4_000;
/// Ports that are tried. The connection manager chooses one that no listener of its own has, but a TCP socket of the
/// system may.
const PORTS_TRIED: usize = 16;
/// Events that are taken in one call.
const EVENTS_MAX: usize = 256;
/// Two tokens.
const TOKENS_BYTES: usize = 16;

/// TCP repeats what is lost, and the kernel knows when to give up.
fn reliability() -> Reliability {
    Reliability { reads_max: 1, ..Reliability::default() }
}

/// A listener at an address, on any port.
pub(super) fn listen(
    events: &Arc<ConnectionChannel>,
    ip: IpAddr,
    backlog: usize,
) -> Result<Listener, LaneError> {
    let backlog = u32::try_from(backlog).unwrap_or(u32::MAX);
    let mut tries = 1;
    loop {
        match Listener::bind(events, SocketAddr::new(ip, 0), backlog) {
            Ok(listener) => return Ok(listener),
            Err(error) if error.os_error() == Some(libc::EADDRINUSE) && tries < PORTS_TRIED => tries += 1,
            Err(error) => return Err(error.into()),
        }
    }
}

/// Where the other end listens.
pub(super) fn address_of(remote: &ListenerAddress) -> SocketAddr {
    SocketAddr::new(Ipv6Addr::from(remote.ip).to_canonical(), remote.port)
}

/// What a caller says: the other end's token, and its own.
fn tokens(theirs: u64, ours: u64) -> [u8; TOKENS_BYTES] {
    let mut both = [0; TOKENS_BYTES];
    both[..8].copy_from_slice(&theirs.to_le_bytes());
    both[8..].copy_from_slice(&ours.to_le_bytes());
    both
}

/// The token that a caller takes for this end's, and its own. Zeros may follow.
fn told_tokens(private_data: &[u8]) -> Option<(u64, u64)> {
    let (ours, rest) = private_data.split_first_chunk()?;
    let (theirs, _) = rest.split_first_chunk()?;
    Some((u64::from_le_bytes(*ours), u64::from_le_bytes(*theirs)))
}

impl IwarpFabric {
    /// Begins to connect a lane that was offered.
    pub(super) fn begin(&mut self, id: LaneId, remote: &ListenerAddress) -> Result<(), LaneError> {
        let lane = self.lanes.get_mut(&id).ok_or(LaneError::NoLane)?;
        let stage = std::mem::replace(&mut lane.stage, Stage::Ended);
        let Stage::Offered { pair, call } = stage else {
            lane.stage = stage;
            return Err(LaneError::NoLane);
        };
        let ListenerAddress { token, key, base, length, .. } = *remote;
        let arena = RemoteRange { address: base, length, key };
        lane.remote = Some(Remote { token, arena, until: Instant::now() + PATIENCE });
        if lane.token > token {
            let identifier = Identifier::create(&self.events)?;
            let (from, to) = (SocketAddr::new(self.ip, 0), address_of(remote));
            identifier.resolve_address(Some(from), to, RESOLVE_TIMEOUT_MS)?;
            self.numbers.insert(identifier.number(), id);
            lane.stage = Stage::Resolving { pair, identifier };
            return Ok(());
        }
        lane.stage = Stage::Awaiting { pair };
        match call {
            Some((caller, request)) if caller == token => self.answer(id, request),
            // Dropped, it is rejected.
            _ => Ok(()),
        }
    }

    /// Takes what has happened to connections. What is left can still be read from the descriptor.
    pub(super) fn take_news(&mut self) {
        for _ in 0..EVENTS_MAX {
            match self.events.next_event() {
                Ok(Some((number, event))) => self.on_event(number, event),
                Ok(None) => break,
                Err(error) => {
                    tracing::error!(%error, device = self.adapter_name(), "the connection manager failed");
                    self.is_gone = true;
                    break;
                }
            }
        }
        let now = Instant::now();
        for (id, lane) in &self.lanes {
            let is_late = lane.remote.as_ref().is_some_and(|remote| remote.until < now);
            if is_late && !lane.has_failed && !matches!(lane.stage, Stage::Connected(_)) {
                self.ending.push((*id, LaneError::NoAnswer { seconds: PATIENCE.as_secs() }));
            }
        }
    }

    fn on_event(&mut self, number: IdentifierNumber, event: ConnectionEvent) {
        if let ConnectionEvent::DeviceRemoved = event {
            self.is_gone = true;
        }
        if let ConnectionEvent::Requested(request) = event {
            return self.on_call(request);
        }
        if let Some(&id) = self.numbers.get(&number) {
            if let Err(error) = self.step(id, event) {
                self.ending.push((id, error));
            }
            return;
        }
        // What comes of a call that was given up is known, so that its drop does not wait.
        let is_outcome = matches!(
            event,
            ConnectionEvent::Established(_) | ConnectionEvent::Failed(_) | ConnectionEvent::Disconnected
        );
        if is_outcome {
            self.given_up.retain(|connecting| connecting.number() != number);
        }
    }

    /// Somebody calls. Unless it is the other end of a lane that waits for it, the call is rejected by its drop.
    fn on_call(&mut self, request: Request) {
        let Some((ours, theirs)) = told_tokens(request.private_data()) else { return };
        let Some((&id, lane)) = self.lanes.iter_mut().find(|(_, lane)| lane.token == ours) else { return };
        match &mut lane.stage {
            // It was faster than the message that says who it is.
            Stage::Offered { call: call @ None, .. } => *call = Some((theirs, request)),
            Stage::Awaiting { .. } if lane.remote.as_ref().is_some_and(|remote| remote.token == theirs) => {
                if let Err(error) = self.answer(id, request) {
                    self.ending.push((id, error));
                }
            }
            _ => {}
        }
    }

    /// Takes the call of the other end of a lane.
    fn answer(&mut self, id: LaneId, request: Request) -> Result<(), LaneError> {
        let Some(lane) = self.lanes.get_mut(&id) else { return Ok(()) };
        let Stage::Awaiting { pair } = std::mem::replace(&mut lane.stage, Stage::Ended) else {
            return Ok(());
        };
        self.numbers.insert(request.number(), id);
        let attached = request.attach(pair)?;
        lane.post_receives(id, attached.queue_pair(), self.room)?;
        lane.stage = Stage::Connecting(attached.accept(reliability(), &[])?);
        Ok(())
    }

    /// Takes the connection of a lane as far as an event allows.
    fn step(&mut self, id: LaneId, event: ConnectionEvent) -> Result<(), LaneError> {
        let Some(lane) = self.lanes.get_mut(&id) else { return Ok(()) };
        let stage = std::mem::replace(&mut lane.stage, Stage::Ended);
        lane.stage = match (stage, event) {
            (Stage::Resolving { pair, identifier }, ConnectionEvent::AddressResolved(proof)) => {
                let identifier = identifier.address_resolved(proof)?;
                identifier.resolve_route(RESOLVE_TIMEOUT_MS)?;
                Stage::Routing { pair, identifier }
            }
            (Stage::Routing { pair, identifier }, ConnectionEvent::RouteResolved(proof)) => {
                let attached = identifier.route_resolved(proof)?.attach(pair)?;
                lane.post_receives(id, attached.queue_pair(), self.room)?;
                let theirs = lane.remote.as_ref().map_or(0, |remote| remote.token);
                let connecting = attached.connect(reliability(), &tokens(theirs, lane.token))?;
                // The end that calls is the first to send.
                lane.may_send = true;
                Stage::Connecting(connecting)
            }
            (Stage::Connecting(connecting), ConnectionEvent::Established(proof)) => {
                Stage::Connected(connecting.established(&proof)?)
            }
            (_, ConnectionEvent::Failed(error)) => return Err(LaneError::NotConnected(error)),
            (stage @ Stage::Connected(_), ConnectionEvent::Disconnected) => {
                lane.stage = stage;
                return Err(LaneError::Disconnected);
            }
            (_, ConnectionEvent::Disconnected) => return Err(LaneError::Disconnected),
            (stage, _) => stage,
        };
        lane.post(id, &self.adapter, self.room)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_says_both_tokens_and_zeros_may_follow() {
        let said = tokens(1 << 60, 7);
        assert_eq!(told_tokens(&said), Some((1 << 60, 7)));
        assert_eq!(told_tokens(&[&said[..], &[0; 40]].concat()), Some((1 << 60, 7)));
        assert_eq!(told_tokens(&said[..15]), None);
    }

    #[test]
    fn an_address_of_ipv4_is_called_as_one() {
        let remote = |ip: IpAddr| ListenerAddress {
            ip: match ip {
                IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
                IpAddr::V6(ip) => ip.octets(),
            },
            port: 7,
            token: 0,
            key: 0,
            base: 0,
            length: 0,
        };
        for text in ["10.98.0.1", "fd00::1"] {
            let ip: IpAddr = text.parse().unwrap();
            assert_eq!(address_of(&remote(ip)), SocketAddr::new(ip, 7));
        }
    }
}
