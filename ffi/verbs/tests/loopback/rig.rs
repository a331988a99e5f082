//! Two connected queue pairs on a device.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::ops::Deref;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, Timespec};
use verbs::{
    Access, Attachment, Completion, CompletionChannel, CompletionQueue, Context, Mapping, MemoryRegion,
    PortState, ProtectionDomain, QueuePair, Reliability, Segment, SharedReceiveQueue, Sizes, Transport,
};

/// Memory of each side, in bytes.
pub const REGION_BYTES: usize = 1 << 20;
/// Work requests that a side has room for.
pub const CAPACITY: u32 = 128;
/// After this long a completion is taken for lost, in seconds. Far more than any takes.
const LOST_S: i64 = 60;

/// A device with an active port.
pub struct Rig {
    pub context: Arc<Context>,
    pub attachment: Attachment,
}

/// What one end of connections needs.
pub struct End {
    pub domain: Arc<ProtectionDomain>,
    pub memory: Arc<Mapping>,
    pub region: Arc<MemoryRegion>,
    pub completions: Rc<CompletionQueue<u32>>,
    channel: Rc<CompletionChannel>,
    taken: RefCell<VecDeque<Completion<u32>>>,
}

/// One end of one connection.
pub struct Side {
    pub pair: QueuePair<u32>,
    pub end: End,
}

impl Deref for Side {
    type Target = End;

    fn deref(&self) -> &End {
        &self.end
    }
}

/// Runs a case on every device that can, and says which; without one it says so, or fails when one is required.
pub fn on_every_device(case: impl Fn(Rig)) {
    let rigs = rigs();
    if rigs.is_empty() {
        absent::<()>("no RDMA device with an active port");
    }
    for rig in rigs {
        println!("{}: {} ({})", rig.context.device().name(), rig.attachment.gid.gid, rig.attachment.gid.kind);
        case(rig);
    }
}

/// The devices with an active port.
pub fn rigs() -> Vec<Rig> {
    let mut rigs = Vec::new();
    for device in verbs::devices().unwrap_or_else(|error| absent(&error.to_string())) {
        if device.transport() != Transport::InfiniBand {
            println!("{}: skipped, it connects only through the connection manager", device.name());
            continue;
        }
        let context = Context::open(&device).unwrap();
        for port in context.ports().unwrap().into_iter().filter(|port| port.state == PortState::Active) {
            let gids = context.gids(&port).unwrap();
            let gid = verbs::choose_gid(&gids).expect("an active port has an address");
            rigs.push(Rig { context: context.clone(), attachment: Attachment::new(&port, gid) });
        }
    }
    rigs
}

/// Says that there is nothing to test on, or fails when there must be.
pub fn absent<T: Default>(reason: &str) -> T {
    let required = std::env::var_os("VERBS_REQUIRE_DEVICE").is_some_and(|value| value == "1");
    assert!(!required, "a device is required: {reason}");
    println!("skipped: {reason}");
    T::default()
}

/// Two ends, connected with patience.
pub fn both(rig: &Rig) -> (Side, Side) {
    rig.connected(Reliability::default())
}

/// Waits until a descriptor can be read, which must happen.
pub fn readable(descriptor: impl AsFd) {
    let mut descriptors = [PollFd::from_borrowed_fd(descriptor.as_fd(), PollFlags::IN)];
    let limit = Timespec { tv_sec: LOST_S, tv_nsec: 0 };
    assert!(rustix::event::poll(&mut descriptors, Some(&limit)).unwrap() > 0, "nothing came");
}

impl Rig {
    /// Two ends, connected.
    pub fn connected(&self, reliability: Reliability) -> (Side, Side) {
        self.connected_with(self, reliability)
    }

    /// An end here, connected with one on another device.
    pub fn connected_with(&self, other: &Rig, reliability: Reliability) -> (Side, Side) {
        let (a, b) = (self.open(), other.open());
        let (pair_a, pair_b) = pairs((self, &a), (other, &b), None, reliability);
        (Side { pair: pair_a, end: a }, Side { pair: pair_b, end: b })
    }

    /// Another end, connected to one that there is, and the queue pair at the latter.
    pub fn connect_to(
        &self,
        b: &End,
        shared: Option<&Rc<SharedReceiveQueue<u32>>>,
    ) -> (Side, QueuePair<u32>) {
        let a = self.open();
        let (pair_a, pair_b) = pairs((self, &a), (self, b), shared, Reliability::default());
        (Side { pair: pair_a, end: a }, pair_b)
    }

    /// An end without connections.
    pub fn open(&self) -> End {
        End::open(&self.context, REGION_BYTES)
    }
}

fn pairs(
    (rig_a, a): (&Rig, &End),
    (rig_b, b): (&Rig, &End),
    shared_by_b: Option<&Rc<SharedReceiveQueue<u32>>>,
    reliability: Reliability,
) -> (QueuePair<u32>, QueuePair<u32>) {
    let sizes = Sizes { sends_max: 64, receives_max: 64 };
    let create = |rig: &Rig, end: &End, shared, number| {
        let pair = QueuePair::create(&end.domain, &end.completions, shared, sizes).unwrap();
        pair.initialise(rig.attachment, number).unwrap()
    };
    let (a, b) = (create(rig_a, a, None, 0xfff_ffa0), create(rig_b, b, shared_by_b, 4711));
    let (to_a, to_b) = (a.endpoint(), b.endpoint());
    let a = a.receive_from(&to_b, reliability).unwrap();
    let b = b.receive_from(&to_a, reliability).unwrap();
    (a.make_ready().unwrap(), b.make_ready().unwrap())
}

impl End {
    /// An end without connections, with so much memory.
    pub fn open(context: &Arc<Context>, bytes: usize) -> End {
        let domain = ProtectionDomain::allocate(context).unwrap();
        let memory = Arc::new(Mapping::anonymous(bytes).unwrap());
        let region = MemoryRegion::register(&domain, memory.clone(), Access::FULL).unwrap();
        let channel = CompletionChannel::create(context).unwrap();
        let completions = CompletionQueue::create(context, Some(&channel), CAPACITY).unwrap();
        End { domain, memory, region, completions, channel, taken: RefCell::default() }
    }

    /// Part of its memory.
    pub fn segment(&self, offset: usize, length: usize) -> Segment {
        self.region.segment(offset as u64, length as u32).unwrap()
    }

    /// A completion, if there is one.
    pub fn poll(&self) -> Option<Completion<u32>> {
        let mut taken = self.taken.borrow_mut();
        if taken.is_empty() {
            let mut batch = Vec::new();
            self.completions.poll(&mut batch).unwrap();
            taken.extend(batch);
        }
        taken.pop_front()
    }

    /// The next completion, which must come. Waits for the channel's event, as a shard would.
    pub fn wait(&self) -> Completion<u32> {
        loop {
            if let Some(completion) = self.poll() {
                return completion;
            }
            self.completions.arm().unwrap();
            if let Some(completion) = self.poll() {
                return completion;
            }
            readable(&*self.channel);
            while self.channel.take_event().unwrap() {}
        }
    }
}
