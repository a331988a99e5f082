//! Links, streams and slices.

use std::collections::VecDeque;

use crate::event::{Event, Queue};

/// Slices in which a piece travels.
const SLICES: u32 = 4;
/// Slices of one stream that may be under way to a receiver.
const WINDOW: u32 = 2;

/// The network of one world.
#[derive(Debug)]
pub struct Network {
    latency_ns: u64,
    links: Vec<Link>,
    streams: Vec<Stream>,
}

/// A node's connection to the network.
#[derive(Debug)]
struct Link {
    up_ns_per_slice: u64,
    down_ns_per_slice: u64,
    up_busy: bool,
    down_free_ns: u64,
    cut: bool,
    /// The streams that it sends, the next to get a slice first.
    sending: VecDeque<usize>,
    /// The stream whose slice is on the uplink.
    current: Option<usize>,
}

/// One piece on its way.
#[derive(Debug, Clone)]
pub struct Stream {
    /// Index of the source.
    pub from: usize,
    /// Index of the receiver.
    pub to: usize,
    /// The receiver's number of the grant.
    pub grant: u64,
    /// The piece.
    pub piece: u32,
    /// Whether the receiver takes it.
    pub accepted: bool,
    slices_left: u32,
    slices_under_way: u32,
}

impl Network {
    /// A network in which every byte and message takes `latency_ns`.
    pub fn new(latency_ns: u64) -> Self {
        Self { latency_ns, links: Vec::new(), streams: Vec::new() }
    }

    /// Connects a further node, by the nanoseconds that a piece takes on its uplink and its downlink.
    pub fn connect(&mut self, up_ns_per_piece: u64, down_ns_per_piece: u64) {
        self.links.push(Link {
            up_ns_per_slice: up_ns_per_piece / u64::from(SLICES),
            down_ns_per_slice: down_ns_per_piece / u64::from(SLICES),
            up_busy: false,
            down_free_ns: 0,
            cut: false,
            sending: VecDeque::new(),
            current: None,
        });
    }

    /// How long a message takes, in nanoseconds.
    pub fn latency_ns(&self) -> u64 {
        self.latency_ns
    }

    /// A stream by its number.
    pub fn stream(&mut self, stream: usize) -> &mut Stream {
        &mut self.streams[stream]
    }

    /// How many streams there have been.
    pub fn streams(&self) -> usize {
        self.streams.len()
    }

    /// Begins to send a piece.
    pub fn send(&mut self, queue: &mut Queue, from: usize, to: usize, grant: u64, piece: u32) {
        self.streams.push(Stream {
            from,
            to,
            grant,
            piece,
            accepted: false,
            slices_left: SLICES,
            slices_under_way: 0,
        });
        self.links[from].sending.push_back(self.streams.len() - 1);
        self.push(queue, from);
    }

    /// Cuts a node off: what it sends stops, what is sent to it gets stuck.
    pub fn cut(&mut self, node: usize) {
        self.links[node].cut = true;
        self.links[node].sending.clear();
    }

    /// Drops what a node sends to another.
    pub fn forget(&mut self, queue: &mut Queue, from: usize, to: usize) {
        let streams = &self.streams;
        self.links[from].sending.retain(|&stream| streams[stream].to != to);
        self.push(queue, from);
    }

    /// A node's uplink is free. Returns the stream of which all is sent, if it was its last slice.
    pub fn on_uplink_free(&mut self, queue: &mut Queue, node: usize) -> Option<usize> {
        self.links[node].up_busy = false;
        let sent = self.links[node].current.take().filter(|&stream| self.streams[stream].slices_left == 0);
        self.push(queue, node);
        sent
    }

    /// A slice has left the downlink.
    pub fn on_slice_done(&mut self, queue: &mut Queue, stream: usize) {
        let Stream { from, to, .. } = self.streams[stream];
        self.streams[stream].slices_under_way -= 1;
        if !self.links[to].cut {
            self.push(queue, from);
        }
    }

    /// Puts the next slice on a node's uplink, if it is free.
    fn push(&mut self, queue: &mut Queue, node: usize) {
        let link = &self.links[node];
        if link.up_busy || link.cut {
            return;
        }
        let Some(at) = (0..link.sending.len()).find(|&at| self.may_send(&link.sending, at)) else { return };
        let now = queue.now_ns();
        let link = &mut self.links[node];
        let Some(number) = link.sending.remove(at) else { return };
        let up_end = now + link.up_ns_per_slice;
        link.up_busy = true;
        link.current = Some(number);
        let stream = &mut self.streams[number];
        let first = stream.slices_left == SLICES;
        stream.slices_left -= 1;
        stream.slices_under_way += 1;
        if stream.slices_left > 0 {
            // A stream that goes on with a piece keeps its place before a later piece to the same receiver.
            let to = stream.to;
            let streams = &self.streams;
            let sending = &mut self.links[node].sending;
            match sending.iter().position(|&other| streams[other].to == to) {
                Some(later) => sending.insert(later, number),
                None => sending.push_back(number),
            }
        }
        queue.plan(up_end, Event::UplinkFree(node));
        let (to, last) = (self.streams[number].to, self.streams[number].slices_left == 0);
        let receiver = &mut self.links[to];
        if receiver.cut {
            return;
        }
        let begin = now.max(receiver.down_free_ns);
        receiver.down_free_ns = begin + receiver.down_ns_per_slice;
        let end = receiver.down_free_ns.max(up_end);
        queue.plan(end, Event::SliceDone(number));
        if first {
            queue.plan(begin + self.latency_ns, Event::Header(number));
        }
        if last {
            queue.plan(end + self.latency_ns, Event::Arrived(number));
        }
    }

    /// Whether a stream has room under way and no earlier piece goes to the same receiver.
    fn may_send(&self, sending: &VecDeque<usize>, at: usize) -> bool {
        let stream = &self.streams[sending[at]];
        let earlier = || sending.iter().take(at).any(|&other| self.streams[other].to == stream.to);
        stream.slices_under_way < WINDOW && !earlier()
    }
}
