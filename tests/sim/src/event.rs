//! What happens next.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use flow::bitmap::Bitmap;
use flow::swarm::Priority;
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
    News { from: usize, chunk: usize, upto: u32, far: bool },
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
    pub(crate) news: u32,
    /// Whether the receiver's processor has taken its time for it.
    pub(crate) is_read: bool,
    pub(crate) message: Message,
}

/// What nodes tell each other.
#[derive(Debug)]
pub(crate) enum Message {
    /// "This is what I have", and whether the other's pieces are asked for.
    Interest { have: Bitmap, reply: bool },
    /// "This chunk matters so much to me."
    Preference { priority: Priority },
    /// "This piece is on its way to me from another rack, or to another one nearby."
    Coming { piece: u32, importer: usize },
    /// "Nobody asks me for anything."
    Room,
    /// "I do not take part."
    Leave,
    /// A slot is ready.
    Grant { grant: u64, want: Want },
    /// A grant is withdrawn.
    Revoke { grant: u64 },
    /// A grant is refused.
    Decline { grant: u64 },
}

/// Width of a bucket of the calendar: 2¹⁰ ns.
const BUCKET_BITS: u32 = 10;
/// Buckets of the calendar: 2¹⁴ of them reach 17 ms ahead, which is further than most events lie.
const BUCKETS: usize = 1 << 14;

/// Time, order, and place in the list of events.
type Entry = Reverse<(u64, u64, u32)>;

/// Events by time, and by the order in which they were planned where the time is the same.
///
/// What happens soon lies in the buckets of a calendar, unsorted; only the bucket of the present is a heap. With hundreds
/// of thousands of events ahead, one heap of all of them would miss the caches with each step.
#[derive(Debug)]
pub(crate) struct Queue {
    /// What lies in the present bucket.
    present: BinaryHeap<Entry>,
    /// The number of the present bucket since the start.
    bucket: u64,
    /// Those that follow it, each at its number modulo their count.
    calendar: Vec<Vec<Entry>>,
    /// Which of them have entries, a bit each.
    occupied: Vec<u64>,
    /// What lies further ahead than the calendar reaches.
    far: BinaryHeap<Entry>,
    events: Vec<Option<Event>>,
    free: Vec<u32>,
    planned: u64,
    now_ns: u64,
}

impl Default for Queue {
    fn default() -> Self {
        Self {
            present: BinaryHeap::new(),
            bucket: 0,
            calendar: vec![Vec::new(); BUCKETS],
            occupied: vec![0; BUCKETS / 64],
            far: BinaryHeap::new(),
            events: Vec::new(),
            free: Vec::new(),
            planned: 0,
            now_ns: 0,
        }
    }
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
        self.put(Reverse((at_ns.max(self.now_ns), self.planned, place)));
    }

    fn put(&mut self, entry: Entry) {
        let bucket = entry.0.0 >> BUCKET_BITS;
        if bucket <= self.bucket {
            self.present.push(entry);
        } else if bucket - self.bucket < BUCKETS as u64 {
            let at = bucket as usize % BUCKETS;
            self.calendar[at].push(entry);
            self.occupied[at / 64] |= 1 << (at % 64);
        } else {
            self.far.push(entry);
        }
    }

    /// Lets the next event happen.
    pub(crate) fn next_event(&mut self) -> Option<Event> {
        if self.present.is_empty() {
            self.turn_over()?;
        }
        let Reverse((at_ns, _, place)) = self.present.pop()?;
        self.now_ns = at_ns;
        self.free.push(place);
        self.events[place as usize].take()
    }

    /// Goes on to the next bucket that has entries.
    fn turn_over(&mut self) -> Option<()> {
        let ahead = self.next_occupied();
        let far = self.far.peek().map(|entry| entry.0.0 >> BUCKET_BITS);
        self.bucket = ahead.into_iter().chain(far).min()?;
        if ahead == Some(self.bucket) {
            let at = self.bucket as usize % BUCKETS;
            self.occupied[at / 64] &= !(1 << (at % 64));
            self.present.extend(self.calendar[at].drain(..));
        }
        // What the calendar reaches from here on does not lie far ahead any more.
        while self.far.peek().is_some_and(|entry| (entry.0.0 >> BUCKET_BITS) - self.bucket < BUCKETS as u64) {
            let entry = self.far.pop()?;
            self.put(entry);
        }
        Some(())
    }

    /// The number of the first bucket after the present one that has entries.
    fn next_occupied(&self) -> Option<u64> {
        let first = self.bucket + 1;
        let (at, words) = (first as usize % BUCKETS, self.occupied.len());
        let begin = self.occupied[at / 64] & (u64::MAX << (at % 64));
        let found = match begin {
            0 => (1..=words).find_map(|step| {
                let word = (at / 64 + step) % words;
                let bits = self.occupied[word];
                (bits != 0).then(|| word * 64 + bits.trailing_zeros() as usize)
            })?,
            bits => at / 64 * 64 + bits.trailing_zeros() as usize,
        };
        Some(first + ((found + BUCKETS - at) % BUCKETS) as u64)
    }

    /// How many events have been planned so far.
    pub(crate) fn planned(&self) -> u64 {
        self.planned
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_happen_by_time_and_then_as_they_were_planned() {
        let mut rng = fastrand::Rng::with_seed(1);
        let (mut queue, mut expected) = (Queue::default(), BinaryHeap::new());
        let mut planned = 0;
        let mut plan = |queue: &mut Queue, expected: &mut BinaryHeap<_>, rng: &mut fastrand::Rng| {
            let reach = rng.u32(1..36);
            let ahead_ns = rng.u64(0..1 << reach);
            let at_ns = queue.now_ns() + ahead_ns;
            planned += 1;
            queue.plan(at_ns, Event::Die(planned));
            expected.push(Reverse((at_ns, planned)));
        };
        for _ in 0..20 {
            (0..500).for_each(|_| plan(&mut queue, &mut expected, &mut rng));
            for _ in 0..rng.usize(0..700) {
                let Some(Event::Die(number)) = queue.next_event() else { break };
                assert_eq!(expected.pop(), Some(Reverse((queue.now_ns(), number))));
                if rng.bool() {
                    plan(&mut queue, &mut expected, &mut rng);
                }
            }
        }
        while let Some(Event::Die(number)) = queue.next_event() {
            assert_eq!(expected.pop(), Some(Reverse((queue.now_ns(), number))));
        }
        assert!(expected.is_empty() && queue.next_event().is_none());
    }
}
