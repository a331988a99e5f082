//! What happens next.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use flow::bitmap::Bitmap;
use flow::wire::control::TrackerPeer;
use flow::wire::data::Want;

use crate::network::{Piece, Slice};

/// One thing that happens. Nodes are named by their index, chunks by their number.
#[derive(Debug)]
pub(crate) enum Event {
    /// A card has sent a slice.
    PortFree(usize),
    /// A slice may take the next link of its path.
    Hop(Slice),
    /// A slice of a stream has left the last link.
    SliceDone(usize),
    /// The header of a stream's piece is at its receiver.
    Header(usize),
    /// The last byte of a stream's piece is at its receiver.
    Arrived(usize),
    /// The checksum of a stream's piece is computed.
    Checked(usize),
    /// A piece that was read from the disk can be sent.
    Begin(Box<Piece>),
    /// A piece that arrived is on the disk.
    Written { node: usize, chunk: usize },
    /// A message is at its receiver.
    Message(Box<Letter>),
    /// All who take part in a swarm hear which pieces a node has, up to so many.
    News { from: usize, chunk: usize, upto: usize, far: bool },
    /// A node tells what has not been told.
    Flush { node: usize, chunk: usize },
    /// A connection that was asked for stands.
    Connected { from: usize, to: usize, chunk: usize },
    /// A node learns that another is gone.
    Lost { at: usize, peer: usize },
    /// A node's question is at a tracker; how often it was asked before.
    Asked { node: usize, chunk: usize, attempt: u32 },
    /// A tracker's answer is at the node.
    Named { node: usize, chunk: usize, peers: Vec<TrackerPeer> },
    /// The trackers learn that a node has a whole chunk.
    Finished { node: usize, chunk: usize },
    /// The members of the cluster learn that a node is gone.
    Missed(usize),
    /// A node wanted to be called at this time.
    Wake { node: usize, chunk: usize },
    /// A node begins to fetch a chunk.
    Join { node: usize, chunk: usize },
    /// A node dies.
    Die(usize),
    /// The nodes that track the chunks die.
    TrackersDie,
    /// Nothing that a node sends arrives any more.
    Mute(usize),
    /// The network falls apart, or is whole again.
    Part(bool),
    /// The progress is noted.
    Sample,
}

/// What a node tells another, with the news that go along.
#[derive(Debug)]
pub(crate) struct Letter {
    pub(crate) from: usize,
    pub(crate) to: usize,
    pub(crate) chunk: usize,
    /// How many of the sender's pieces the receiver has heard of then.
    pub(crate) news: usize,
    /// Whether the receiver's processor has taken its time for it.
    pub(crate) is_read: bool,
    pub(crate) message: Message,
}

/// What nodes tell each other.
#[derive(Debug)]
pub(crate) enum Message {
    /// "This is what I have", and whether the other's pieces are asked for.
    Interest { have: Bitmap, reply: bool },
    /// "I do not take part."
    Leave,
    /// A slot is ready.
    Grant { grant: u64, want: Want },
    /// A grant is withdrawn.
    Revoke { grant: u64 },
    /// A grant is refused.
    Decline { grant: u64 },
}

/// Events by time, and by the order in which they were planned where the time is the same.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    /// Time, order, and place in `events`.
    heap: BinaryHeap<Reverse<(u64, u64, u32)>>,
    events: Vec<Option<Event>>,
    free: Vec<u32>,
    planned: u64,
    now_ns: u64,
}

impl Queue {
    /// The time of the event that happened last, in nanoseconds from the start.
    pub(crate) fn now_ns(&self) -> u64 {
        self.now_ns
    }

    /// Plans an event; never before the present.
    pub(crate) fn plan(&mut self, at_ns: u64, event: Event) {
        let place = match self.free.pop() {
            Some(place) => {
                self.events[place as usize] = Some(event);
                place
            }
            None => {
                self.events.push(Some(event));
                self.events.len() as u32 - 1
            }
        };
        self.planned += 1;
        self.heap.push(Reverse((at_ns.max(self.now_ns), self.planned, place)));
    }

    /// Lets the next event happen.
    pub(crate) fn next_event(&mut self) -> Option<Event> {
        let Reverse((at_ns, _, place)) = self.heap.pop()?;
        self.now_ns = at_ns;
        self.free.push(place);
        self.events[place as usize].take()
    }

    /// How many events have been planned so far.
    pub(crate) fn planned(&self) -> u64 {
        self.planned
    }
}
