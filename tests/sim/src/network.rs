//! Streams, slices, and who reaches whom.

use std::collections::VecDeque;

use fastrand::Rng;

use crate::cluster::Cluster;
use crate::event::{Event, Queue};
use crate::fabric::{Fabric, Link, Path};
use crate::faults::Fate;

/// Slices in which a piece travels, if it is not small.
const SLICES: u32 = 4;
/// A slice has at least so many bytes.
const SLICE_MIN: u64 = 128 << 10;
/// Slices of one stream that may be under way at once.
const WINDOW: u32 = 2;
/// Of so many slices or messages of a lossy node one is lost.
const LOSS: f64 = 0.01;
/// Time after which what was lost is sent again, in nanoseconds: Linux's least for TCP.
const RETRANSMISSION_NS: u64 = 200_000_000;

/// The network of one world.
#[derive(Debug)]
pub struct Network {
    cluster: Cluster,
    fabric: Fabric,
    links: Vec<Link>,
    /// The sending side of each card.
    ports: Vec<Port>,
    nodes: Vec<Reach>,
    streams: Vec<Stream>,
    free: Vec<usize>,
    /// Streams on their way to each card.
    arriving: Vec<u32>,
    parted: bool,
    rng: Rng,
    sent: u64,
    /// Whether anybody wants to know when a header is there.
    pub(crate) tells_headers: bool,
}

/// The sending side of a card.
#[derive(Debug)]
struct Port {
    link: Link,
    busy: bool,
    /// The streams that it sends, the next to get a slice first.
    sending: VecDeque<usize>,
    /// The stream whose slice it sends.
    current: Option<usize>,
}

/// Whom one node reaches.
#[derive(Debug, Clone)]
struct Reach {
    cut: bool,
    mute: bool,
    lossy: bool,
    /// Nothing arrives before what was lost has been sent again.
    stalled_ns: u64,
    /// The side on which it stands when the network falls apart.
    side: bool,
}

/// One piece on its way.
#[derive(Debug, Clone)]
pub struct Stream {
    /// Index of the source.
    pub from: usize,
    /// Index of the receiver.
    pub to: usize,
    /// Which of the chunks.
    pub chunk: usize,
    /// The receiver's number of the grant.
    pub grant: u64,
    /// The piece.
    pub piece: u32,
    /// Bytes of the piece.
    pub length: u64,
    /// Whether the receiver takes it.
    pub accepted: bool,
    path: Path,
    rail: usize,
    slices: u32,
    slices_left: u32,
    slices_under_way: u32,
}

impl Stream {
    fn slice_bytes(&self) -> u64 {
        self.length / u64::from(self.slices)
    }
}

/// A slice on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slice {
    stream: usize,
    /// Which of the links of its path comes next.
    hop: u8,
    first: bool,
    last: bool,
    /// When the links that it has taken so far have carried all of it.
    end_ns: u64,
}

impl Network {
    /// The network between nodes of these fates. The nodes of `apart` are cut off from the others when it falls apart.
    pub(crate) fn new(cluster: &Cluster, fates: &[Fate], apart: impl Fn(usize) -> bool, seed: u64) -> Self {
        let (fabric, links, cards) = Fabric::new(cluster, fates);
        let port =
            |gbps: f64| Port { link: Link::new(gbps), busy: false, sending: VecDeque::new(), current: None };
        let ports: Vec<Port> =
            cards.iter().flat_map(|&gbps| (0..cluster.nics).map(move |_| port(gbps))).collect();
        let reach = |(node, fate): (usize, &Fate)| Reach {
            cut: false,
            mute: false,
            lossy: fate.lossy,
            stalled_ns: 0,
            side: apart(node),
        };
        Self {
            cluster: cluster.clone(),
            fabric,
            links,
            arriving: vec![0; ports.len()],
            ports,
            nodes: fates.iter().enumerate().map(reach).collect(),
            streams: Vec::new(),
            free: Vec::new(),
            parted: false,
            rng: Rng::with_seed(seed),
            sent: 0,
            tells_headers: true,
        }
    }

    /// When a message that is sent at this moment is at its receiver, in nanoseconds.
    pub(crate) fn message_at_ns(&mut self, now_ns: u64, from: usize, to: usize) -> u64 {
        self.lose(now_ns, from, to);
        let at_ns = now_ns + self.cluster.latency_between(from, to);
        at_ns.max(self.stalled_ns(from, to))
    }

    /// Whether what one node sends gets to another.
    pub(crate) fn reaches(&self, from: usize, to: usize) -> bool {
        self.reaches_when_whole(from, to) && !self.separates(from, to)
    }

    /// The same while the network is not apart.
    pub(crate) fn reaches_when_whole(&self, from: usize, to: usize) -> bool {
        let [source, receiver] = [&self.nodes[from], &self.nodes[to]];
        !source.cut && !receiver.cut && !source.mute
    }

    /// Until when nothing gets from one node to another because something was lost, in nanoseconds.
    pub(crate) fn stalled_ns(&self, from: usize, to: usize) -> u64 {
        self.nodes[from].stalled_ns.max(self.nodes[to].stalled_ns)
    }

    /// Whether two nodes are apart from each other for a while.
    pub(crate) fn separates(&self, one: usize, other: usize) -> bool {
        self.parted && self.nodes[one].side != self.nodes[other].side
    }

    /// A stream by its number.
    pub(crate) fn stream(&mut self, stream: usize) -> &mut Stream {
        &mut self.streams[stream]
    }

    /// How many pieces were sent so far.
    pub(crate) fn sent(&self) -> u64 {
        self.sent
    }

    /// Begins to send a piece.
    pub(crate) fn send(&mut self, queue: &mut Queue, piece: Piece) {
        let Piece { from, to, chunk, grant, piece, length } = piece;
        let rail = self.rail(from, to, piece);
        let slices = (length / SLICE_MIN).clamp(1, u64::from(SLICES)) as u32;
        let stream = Stream {
            from,
            to,
            chunk,
            grant,
            piece,
            length,
            accepted: false,
            path: self.fabric.path(from, to, rail),
            rail,
            slices,
            slices_left: slices,
            slices_under_way: 0,
        };
        let number = match self.free.pop() {
            Some(number) => {
                self.streams[number] = stream;
                number
            }
            None => {
                self.streams.push(stream);
                self.streams.len() - 1
            }
        };
        self.sent += 1;
        let nics = self.cluster.nics;
        self.arriving[to * nics + rail] += 1;
        self.ports[from * nics + rail].sending.push_back(number);
        self.push(queue, from * nics + rail);
    }

    /// The rail on which least is under way between two nodes.
    fn rail(&self, from: usize, to: usize, piece: u32) -> usize {
        let nics = self.cluster.nics;
        let load = |rail: usize| {
            let port = &self.ports[from * nics + rail];
            port.sending.len() as u32 + u32::from(port.busy) + self.arriving[to * nics + rail]
        };
        let turn = piece as usize % nics;
        (0..nics).map(|at| (turn + at) % nics).min_by_key(|&rail| load(rail)).unwrap_or(0)
    }

    /// A stream is over: its number may be used again.
    pub(crate) fn end(&mut self, stream: usize) {
        self.leave(stream);
        self.free.push(stream);
    }

    fn leave(&mut self, stream: usize) {
        let Stream { to, rail, .. } = self.streams[stream];
        let arriving = &mut self.arriving[to * self.cluster.nics + rail];
        *arriving = arriving.saturating_sub(1);
    }

    /// Cuts a node off: what it sends stops, what is sent to it gets stuck.
    pub(crate) fn cut(&mut self, node: usize) {
        self.nodes[node].cut = true;
        for port in node * self.cluster.nics..(node + 1) * self.cluster.nics {
            for stream in std::mem::take(&mut self.ports[port].sending) {
                self.leave(stream);
            }
        }
    }

    /// From now on nothing that a node sends arrives.
    pub(crate) fn mute(&mut self, node: usize) {
        self.nodes[node].mute = true;
    }

    /// The network falls apart, or is whole again.
    pub(crate) fn part(&mut self, queue: &mut Queue, parted: bool) {
        self.parted = parted;
        for port in 0..self.ports.len() {
            self.push(queue, port);
        }
    }

    /// Drops what a node sends to another.
    pub(crate) fn forget(&mut self, queue: &mut Queue, from: usize, to: usize) {
        for port in from * self.cluster.nics..(from + 1) * self.cluster.nics {
            let streams = &self.streams;
            let is_dropped = |&stream: &usize| streams[stream].to == to;
            if self.ports[port].sending.iter().any(is_dropped) {
                let (dropped, kept) =
                    self.ports[port].sending.drain(..).partition::<VecDeque<_>, _>(is_dropped);
                self.ports[port].sending = kept;
                dropped.into_iter().for_each(|stream| self.leave(stream));
            }
            self.push(queue, port);
        }
    }

    /// A card has sent a slice. Returns the stream of which all is sent, if it was its last.
    pub(crate) fn on_port_free(&mut self, queue: &mut Queue, port: usize) -> Option<usize> {
        self.ports[port].busy = false;
        let sent = self.ports[port].current.take().filter(|&stream| self.streams[stream].slices_left == 0);
        self.push(queue, port);
        sent
    }

    /// A slice has left the last link of its path.
    pub(crate) fn on_slice_done(&mut self, queue: &mut Queue, stream: usize) {
        let Stream { from, to, rail, .. } = self.streams[stream];
        self.streams[stream].slices_under_way -= 1;
        if !self.nodes[to].cut {
            self.push(queue, from * self.cluster.nics + rail);
        }
    }

    /// Puts the next slice on a card, if it is free.
    fn push(&mut self, queue: &mut Queue, number: usize) {
        let port = &self.ports[number];
        if port.busy || port.sending.is_empty() || self.nodes[number / self.cluster.nics].cut {
            return;
        }
        let sending = &port.sending;
        let Some(at) = (0..sending.len()).find(|&at| self.may_send(sending, at)) else { return };
        let Some(stream) = self.ports[number].sending.remove(at) else { return };
        let slice = self.cut_slice(stream);
        let sent = &self.streams[stream];
        let (from, to) = (sent.from, sent.to);
        let end_ns = queue.now_ns() + self.ports[number].link.time_ns(sent.slice_bytes());
        let port = &mut self.ports[number];
        port.busy = true;
        port.current = Some(stream);
        if !slice.last {
            // A stream that goes on with a piece keeps its place before a later piece to the same receiver.
            let streams = &self.streams;
            match port.sending.iter().position(|&other| streams[other].to == to) {
                Some(later) => port.sending.insert(later, stream),
                None => port.sending.push_back(stream),
            }
        }
        queue.plan(end_ns, Event::PortFree(number));
        self.lose(queue.now_ns(), from, to);
        if self.reaches(from, to) {
            self.advance(queue, Slice { end_ns, ..slice });
        }
    }

    fn cut_slice(&mut self, number: usize) -> Slice {
        let stream = &mut self.streams[number];
        let first = stream.slices_left == stream.slices;
        stream.slices_left -= 1;
        stream.slices_under_way += 1;
        Slice { stream: number, hop: 0, first, last: stream.slices_left == 0, end_ns: 0 }
    }

    /// Lets a slice take the links of its path, one after the other, until one of them is busy with others.
    pub(crate) fn advance(&mut self, queue: &mut Queue, mut slice: Slice) {
        let stream = &self.streams[slice.stream];
        let (from, to, bytes) = (stream.from, stream.to, stream.slice_bytes());
        let now_ns = queue.now_ns();
        for &link in &stream.path.links()[usize::from(slice.hop)..] {
            let link = &mut self.links[link as usize];
            let begin_ns = link.free_ns.max(now_ns);
            link.free_ns = begin_ns + link.time_ns(bytes);
            slice.hop += 1;
            slice.end_ns = slice.end_ns.max(link.free_ns);
            if begin_ns > now_ns {
                // It goes on when this link begins with it, so that it does not hold links that it cannot use yet.
                return queue.plan(begin_ns, Event::Hop(slice));
            }
        }
        let latency_ns = self.cluster.latency_between(from, to);
        let stalled_ns = self.stalled_ns(from, to);
        let end_ns = slice.end_ns.max(stalled_ns);
        if slice.first && self.tells_headers {
            queue.plan(now_ns.max(stalled_ns) + latency_ns, Event::Header(slice.stream));
        }
        match slice.last {
            true => queue.plan(end_ns + latency_ns, Event::Arrived(slice.stream)),
            false => queue.plan(end_ns, Event::SliceDone(slice.stream)),
        }
    }

    /// Whether a stream has room under way and no earlier piece goes to the same receiver.
    fn may_send(&self, sending: &VecDeque<usize>, at: usize) -> bool {
        let stream = &self.streams[sending[at]];
        let earlier = || sending.iter().take(at).any(|&other| self.streams[other].to == stream.to);
        stream.slices_under_way < WINDOW && !self.separates(stream.from, stream.to) && !earlier()
    }

    /// Loses something, now and then, when one of the nodes has a lossy link.
    fn lose(&mut self, now_ns: u64, from: usize, to: usize) {
        for node in [from, to] {
            if self.nodes[node].lossy && self.rng.f64() < LOSS {
                self.nodes[node].stalled_ns = now_ns + RETRANSMISSION_NS;
            }
        }
    }
}

/// What is to be sent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Piece {
    pub(crate) from: usize,
    pub(crate) to: usize,
    pub(crate) chunk: usize,
    pub(crate) grant: u64,
    pub(crate) piece: u32,
    pub(crate) length: u64,
}
