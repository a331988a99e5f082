//! Devices that have an IP address, and ends that call each other there.

use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::sync::Arc;

use verbs::{
    ConnectError, Connecting, Connection, ConnectionChannel, ConnectionEvent, Context, Identifier,
    IdentifierNumber, Listener, QueuePair, Reliability, Request, Reset, RouteResolved, Sizes, Transport,
};

use super::rig::{self, End};

/// How long addresses and routes are looked for, in milliseconds.
const PATIENCE_MS: u32 = 2_000;
/// Room of a queue pair.
pub const SIZES: Sizes = Sizes { sends_max: 16, receives_max: 16 };

/// A device with an address.
pub struct House {
    pub context: Arc<Context>,
    pub address: IpAddr,
}

/// Runs a case at every address that a device has.
pub fn at_every_address(case: impl Fn(&House)) {
    for house in houses() {
        println!("{}: {}", house.context.device().name(), house.address);
        case(&house);
    }
}

/// The devices that have an address. Without one it says so, or fails when one is required.
pub fn houses() -> Vec<House> {
    let channel = match ConnectionChannel::create() {
        Ok(channel) => channel,
        Err(error) => return rig::absent(&error.to_string()),
    };
    let devices = verbs::devices().unwrap();
    let house = |address: IpAddr| {
        let listener = Listener::bind(&channel, SocketAddr::new(address, 0), 1).ok()?;
        let name = listener.device_name()?;
        let device = devices.iter().find(|device| device.name() == name).unwrap();
        Some(House { context: Context::open(device).unwrap(), address })
    };
    let houses: Vec<House> = addresses().into_iter().filter_map(house).collect();
    if houses.is_empty() { rig::absent("no RDMA device has an IPv4 address") } else { houses }
}

/// The IPv4 addresses of this machine.
fn addresses() -> Vec<IpAddr> {
    let listed = Command::new("ip").args(["-4", "-oneline", "address"]).output();
    let listed = listed.map(|output| String::from_utf8(output.stdout).unwrap()).unwrap_or_default();
    let address = |line: &str| {
        let mut words = line.split_whitespace().skip_while(|word| *word != "inet");
        words.nth(1)?.split('/').next()?.parse().ok()
    };
    listed.lines().filter_map(address).collect()
}

impl House {
    pub fn is_iwarp(&self) -> bool {
        is_iwarp(&self.context)
    }

    /// Two ends that are connected, each with so much memory.
    pub fn connected(&self, bytes: usize) -> (Party, Party) {
        let (caller, answerer) = (Exchange::new(), Exchange::new());
        let listener = self.listen(&answerer);
        let (a, b) = (End::open(&self.context, bytes), End::open(&self.context, bytes));
        let calling = caller.call(listener.address().unwrap(), &a, b"from the caller").unwrap();
        let request = answerer.request(&listener);
        assert!(request.private_data().starts_with(b"from the caller"));
        assert_eq!(request.peer_address().map(|peer| peer.ip()), Some(self.address));
        let answering = request.attach(pair(&b)).unwrap().accept(patient(), b"from the answerer").unwrap();
        let (to_b, answer) = caller.establish(calling).unwrap();
        assert!(answer.starts_with(b"from the answerer"));
        let (to_a, _) = answerer.establish(answering).unwrap();
        (
            Party { connection: to_b, exchange: caller, end: a },
            Party { connection: to_a, exchange: answerer, end: b },
        )
    }

    pub fn listen(&self, exchange: &Exchange) -> Listener {
        Listener::bind(&exchange.channel, SocketAddr::new(self.address, 0), 8).unwrap()
    }
}

pub fn pair(end: &End) -> QueuePair<u32, Reset> {
    QueuePair::create(&end.domain, &end.completions, None, SIZES).unwrap()
}

pub fn patient() -> Reliability {
    Reliability::default()
}

/// One end of a connection.
pub struct Party {
    pub connection: Connection<u32>,
    pub exchange: Exchange,
    pub end: End,
}

impl Party {
    pub fn is_iwarp(&self) -> bool {
        is_iwarp(self.end.domain.context())
    }
}

fn is_iwarp(context: &Context) -> bool {
    context.device().transport() == Transport::Iwarp
}

/// Where one side gets its events from.
pub struct Exchange {
    pub channel: Arc<ConnectionChannel>,
    waiting: RefCell<Vec<(IdentifierNumber, ConnectionEvent)>>,
}

impl Exchange {
    pub fn new() -> Self {
        Self { channel: ConnectionChannel::create().unwrap(), waiting: RefCell::default() }
    }

    /// The next event of one identifier, which must come. Those of others wait.
    pub fn event(&self, of: IdentifierNumber) -> ConnectionEvent {
        loop {
            let mut waiting = self.waiting.borrow_mut();
            while let Some(event) = self.channel.next_event().unwrap() {
                waiting.push(event);
            }
            if let Some(index) = waiting.iter().position(|(number, _)| *number == of) {
                return waiting.remove(index).1;
            }
            drop(waiting);
            rig::readable(&*self.channel);
        }
    }

    pub fn request(&self, listener: &Listener) -> Request {
        match self.event(listener.number()) {
            ConnectionEvent::Requested(request) => request,
            other => panic!("{other:?}"),
        }
    }

    /// The way to an address.
    pub fn route(&self, to: SocketAddr) -> Result<Identifier<RouteResolved>, ConnectError> {
        let identifier = Identifier::create(&self.channel).unwrap();
        identifier.resolve_address(None, to, PATIENCE_MS).unwrap();
        let identifier = match self.event(identifier.number()) {
            ConnectionEvent::AddressResolved(proof) => identifier.address_resolved(proof).unwrap(),
            ConnectionEvent::Failed(error) => return Err(error),
            other => panic!("{other:?}"),
        };
        identifier.resolve_route(PATIENCE_MS).unwrap();
        match self.event(identifier.number()) {
            ConnectionEvent::RouteResolved(proof) => Ok(identifier.route_resolved(proof).unwrap()),
            ConnectionEvent::Failed(error) => Err(error),
            other => panic!("{other:?}"),
        }
    }

    /// Calls an address, with a queue pair of that end.
    pub fn call(&self, to: SocketAddr, end: &End, private: &[u8]) -> Result<Connecting<u32>, CallError> {
        let route = self.route(to).map_err(CallError::Told)?;
        let attached = route.attach(pair(end)).unwrap();
        attached.connect(patient(), private).map_err(CallError::AtOnce)
    }

    /// Waits for the answer; the connection, and what came with it.
    pub fn establish(&self, connecting: Connecting<u32>) -> Result<(Connection<u32>, Vec<u8>), ConnectError> {
        match self.event(connecting.number()) {
            ConnectionEvent::Established(proof) => {
                let private = proof.private_data().to_vec();
                Ok((connecting.established(&proof).unwrap(), private))
            }
            ConnectionEvent::Failed(error) => Err(error),
            other => panic!("{other:?}"),
        }
    }
}

/// How a call failed: told by an event, or by the call itself.
#[derive(Debug)]
pub enum CallError {
    Told(ConnectError),
    AtOnce(verbs::Error),
}
