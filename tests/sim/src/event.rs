//! What happens next.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use flow::bitmap::Bitmap;
use flow::wire::control::TrackerPeer;
use flow::wire::data::Want;

/// One thing that happens. Nodes are named by their index.
#[derive(Debug)]
pub enum Event {
    /// The uplink of a node has sent a slice.
    UplinkFree(usize),
    /// A slice of a stream has left the downlink of its receiver.
    SliceDone(usize),
    /// The header of a stream's piece is at its receiver.
    Header(usize),
    /// The last byte of a stream's piece is at its receiver.
    Arrived(usize),
    /// A message is at its receiver.
    Message {
        /// Who sent it.
        from: usize,
        /// Who gets it.
        to: usize,
        /// What it says.
        message: Message,
    },
    /// A piece was announced to everybody who is connected.
    Announced {
        /// Who has it.
        from: usize,
        /// The piece.
        piece: u32,
    },
    /// A connection that was asked for stands.
    Connected {
        /// Who asked.
        from: usize,
        /// Whom.
        to: usize,
    },
    /// A node learns that another is gone.
    Lost {
        /// Who learns.
        at: usize,
        /// Who is gone.
        peer: usize,
    },
    /// A node's question is at the tracker.
    Asked(usize),
    /// The tracker's answer is at the node.
    Named {
        /// Who asked.
        node: usize,
        /// Whom the tracker named.
        peers: Vec<TrackerPeer>,
    },
    /// The tracker learns that a node has the whole chunk.
    Finished(usize),
    /// A node wanted to be called at this time.
    Wake(usize),
    /// A node begins to fetch.
    Join(usize),
    /// A node dies.
    Die(usize),
}

/// What nodes tell each other.
#[derive(Debug)]
pub enum Message {
    /// "This is what I have."
    Interest {
        /// The verified pieces.
        have: Bitmap,
        /// Whether the other's pieces are asked for.
        reply: bool,
    },
    /// "I do not take part."
    Leave,
    /// A slot is ready.
    Grant {
        /// The number of the grant.
        grant: u64,
        /// Which piece.
        want: Want,
    },
    /// A grant is withdrawn.
    Revoke {
        /// The number of the grant.
        grant: u64,
    },
    /// A grant is refused.
    Decline {
        /// The number of the grant.
        grant: u64,
    },
}

/// Events by time, and by the order in which they were planned where the time is the same.
#[derive(Debug, Default)]
pub struct Queue {
    /// Time, order, and place in `events`.
    heap: BinaryHeap<Reverse<(u64, u64, usize)>>,
    events: Vec<Option<Event>>,
    free: Vec<usize>,
    planned: u64,
    now_ns: u64,
}

impl Queue {
    /// The time of the event that happened last, in nanoseconds from the start.
    pub fn now_ns(&self) -> u64 {
        self.now_ns
    }

    /// Plans an event; never before the present.
    pub fn plan(&mut self, at_ns: u64, event: Event) {
        let place = self.free.pop().unwrap_or_else(|| {
            self.events.push(None);
            self.events.len() - 1
        });
        self.events[place] = Some(event);
        self.planned += 1;
        self.heap.push(Reverse((at_ns.max(self.now_ns), self.planned, place)));
    }

    /// Lets the next event happen.
    pub fn next_event(&mut self) -> Option<Event> {
        let Reverse((at_ns, _, place)) = self.heap.pop()?;
        self.now_ns = at_ns;
        self.free.push(place);
        self.events[place].take()
    }

    /// How many events have been planned so far.
    pub fn planned(&self) -> u64 {
        self.planned
    }
}
