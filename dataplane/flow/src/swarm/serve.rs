//! The source side of one shard: which of the grants of all receivers is filled next.
//!
//! Receivers take turns. One piece is under way to each at a time, and a second only when no other receiver waits. A lone
//! receiver may have all upload slots and one more, so that its stream never idles, however long a source takes to notice that a
//! piece is sent. A grant for a named piece that would have to wait for an upload slot is refused at once: the receiver
//! finds another source sooner than this one gets to it. Where the source may choose, it sends the piece that it has sent
//! least often, and not one that this receiver was just sent.
//!
//! When all that was asked for is sent, some of those that lack pieces are told that there is room: each asks for as many pieces as
//! it has streams for, and without that a source that happens to be asked by nobody would idle though others need what it has.
//!
//! What matters more comes first, as [`Priority`] weighs it: each priority has a line of its own, and lines are served by
//! weight. A grant is refused only for what matters as much, so that what is urgent waits for the next slot rather than for
//! luck; and while others hold all slots, one grant of each lower priority may wait as well, so that it gets its share.

mod counts; // how often the pieces of a chunk were sent

use std::collections::{BTreeMap, VecDeque};
use std::ops::Deref;
use std::time::Duration;

use self::counts::Counts;
use super::priority::{Priority, Shares};
use crate::bitmap::Bitmap;
use crate::chunk::ChunkId;
use crate::limits::{GRANTS_PER_PEER, GRANTS_QUEUED_PER_PEER};
use crate::time::Instant;
use crate::wire::control::NodeId;
use crate::wire::data::Want;

/// Pieces under way to one receiver at once while others are served too.
const UPLOADS_PER_PEER: usize = 2;
/// Upload slots more while no more than one receiver is served: pieces that follow each other have to bridge the time until one
/// is known to be sent.
const UPLOADS_MORE_ALONE: usize = 1;
/// Pieces that are remembered for each receiver, so that they are not chosen for it again.
const RECENT_PER_PEER: usize = 2 * GRANTS_PER_PEER;
/// Counts of a chunk are dropped when nobody has asked for it for so long.
const COUNTS_KEPT: Duration = Duration::from_secs(60);
/// Most chunks whose counts are kept.
const COUNTED_CHUNKS_MAX: usize = 1024;
/// Most chunks of which one receiver says how much they matter.
const PREFERENCES_MAX: usize = 1024;

/// What a shard can serve.
pub trait Holdings {
    /// The verified pieces of a chunk, if there are any.
    fn pieces(&self, chunk: &ChunkId) -> Option<impl Deref<Target = Bitmap>>;
}

/// All upload slots are spoken for, or the receiver has too many grants queued; decline this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no room for another grant of node {peer:016x}; it must be declined, the receiver asks elsewhere")]
pub struct QueueFull {
    /// The receiver.
    pub peer: NodeId,
}

/// What the caller shall send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Upload {
    /// A piece. It holds an upload slot until [`Serve::on_sent`] or [`Serve::on_lost`].
    Send {
        /// The receiver.
        peer: NodeId,
        /// The chunk.
        chunk: ChunkId,
        /// The receiver's number of the grant.
        grant: u64,
        /// The piece.
        piece: u32,
    },
    /// A refusal: the piece is not here.
    Decline {
        /// The receiver.
        peer: NodeId,
        /// The chunk.
        chunk: ChunkId,
        /// The receiver's number of the grant.
        grant: u64,
    },
    /// Nothing is under way any more and nobody waits: up to [`crate::limits::ROOM_TOLD`] peers that lack pieces of the chunk
    /// are to be told so; for [`crate::swarm::Fetch::on_room`] there.
    Room {
        /// The chunk that was sent last.
        chunk: ChunkId,
    },
}

/// The state of the source side; see the module.
#[derive(Debug)]
pub struct Serve {
    uploads_at_once: usize,
    lines: [Line; Priority::ALL.len()],
    shares: Shares,
    receivers: BTreeMap<NodeId, Receiver>,
    /// Receivers to whom something is under way.
    served: usize,
    counts: BTreeMap<ChunkId, Counts>,
    /// The chunk of which the last piece was sent, while nothing was asked for since.
    vacant: Option<ChunkId>,
}

/// What is sent and waits with one priority.
#[derive(Debug, Default)]
struct Line {
    /// Pieces under way.
    uploads: usize,
    /// Grants queued for pieces that the receiver named.
    waiting: usize,
    /// Receivers with grants queued, the next to be served first. Each is in it once.
    turns: VecDeque<NodeId>,
}

#[derive(Debug, Default)]
struct Receiver {
    queues: [VecDeque<Queued>; Priority::ALL.len()],
    /// Pieces under way.
    sending: Vec<Sending>,
    /// What it was sent last, by grant.
    recent: VecDeque<(u64, ChunkId, u32)>,
    /// Chunks that do not matter to it as usual.
    preferences: BTreeMap<ChunkId, Priority>,
}

impl Receiver {
    fn is_sent(&self, grant: u64) -> bool {
        self.sending.iter().any(|sending| sending.grant == grant)
    }
}

#[derive(Debug)]
struct Sending {
    grant: u64,
    priority: Priority,
    chunk: ChunkId,
}

#[derive(Debug)]
struct Queued {
    chunk: ChunkId,
    grant: u64,
    want: Want,
}

impl Queued {
    /// Whether the receiver named the piece.
    fn is_named(&self) -> bool {
        matches!(self.want, Want::Piece(_))
    }
}

impl Serve {
    /// A source that sends at most `uploads_at_once` pieces at once, and one more to a receiver that is alone.
    pub fn new(uploads_at_once: usize) -> Self {
        Self {
            uploads_at_once: uploads_at_once.max(1),
            lines: Default::default(),
            shares: Shares::default(),
            receivers: BTreeMap::new(),
            served: 0,
            counts: BTreeMap::new(),
            vacant: None,
        }
    }

    /// A receiver says how much a chunk matters to it, until it says otherwise or is lost. It holds for what it has granted
    /// already as well.
    pub fn on_preference(&mut self, peer: NodeId, chunk: ChunkId, priority: Priority) {
        if self.preference(peer, &chunk) == priority {
            return;
        }
        let preferences = &mut self.receivers.entry(peer).or_default().preferences;
        if priority == Priority::Normal {
            preferences.remove(&chunk);
        } else if preferences.len() < PREFERENCES_MAX || preferences.contains_key(&chunk) {
            preferences.insert(chunk, priority);
        } else {
            return;
        }
        for queued in self.withdraw(peer, |queued| queued.chunk == chunk) {
            self.enqueue(peer, queued, priority);
        }
    }

    /// A receiver grants a slot.
    pub fn on_grant(
        &mut self,
        now: Instant,
        peer: NodeId,
        chunk: ChunkId,
        grant: u64,
        want: Want,
    ) -> Result<(), QueueFull> {
        let priority = self.preference(peer, &chunk);
        let queued = Queued { chunk, grant, want };
        let known = self.receivers.get(&peer);
        let length = known.map_or(0, |receiver| receiver.queues.iter().map(VecDeque::len).sum());
        if length >= GRANTS_QUEUED_PER_PEER || (queued.is_named() && !self.has_room(priority)) {
            return Err(QueueFull { peer });
        }
        self.enqueue(peer, queued, priority);
        self.touch(now, chunk);
        Ok(())
    }

    fn preference(&self, peer: NodeId, chunk: &ChunkId) -> Priority {
        let known = self.receivers.get(&peer).and_then(|receiver| receiver.preferences.get(chunk));
        known.copied().unwrap_or_default()
    }

    /// Whether a grant of a priority may wait: until the next upload slot, or, where higher priorities have them all, for
    /// its share.
    fn has_room(&self, priority: Priority) -> bool {
        let taken = |lines: &[Line]| lines.iter().map(|line| line.uploads + line.waiting).sum::<usize>();
        let at = priority as usize;
        taken(&self.lines[at..]) < self.uploads_at_once
            || (self.lines[at].waiting == 0 && taken(&self.lines[at + 1..]) > 0)
    }

    fn enqueue(&mut self, peer: NodeId, queued: Queued, priority: Priority) {
        let line = &mut self.lines[priority as usize];
        let receiver = self.receivers.entry(peer).or_default();
        let queue = &mut receiver.queues[priority as usize];
        if line.turns.is_empty() {
            self.shares.begin(priority);
        }
        if queue.is_empty() {
            let spread = (queued.grant.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as usize;
            let at = match receiver.recent.is_empty() && receiver.sending.is_empty() {
                true => spread % (line.turns.len() + 1),
                false => line.turns.len(),
            };
            line.turns.insert(at, peer);
        }
        line.waiting += usize::from(queued.is_named());
        queue.push_back(queued);
    }

    /// Takes grants out of the queues of a receiver.
    fn withdraw(&mut self, peer: NodeId, is_meant: impl Fn(&Queued) -> bool) -> Vec<Queued> {
        let Some(receiver) = self.receivers.get_mut(&peer) else { return Vec::new() };
        let mut withdrawn = Vec::new();
        for (queue, line) in receiver.queues.iter_mut().zip(&mut self.lines) {
            let before = withdrawn.len();
            for queued in std::mem::take(queue) {
                match is_meant(&queued) {
                    true => withdrawn.push(queued),
                    false => queue.push_back(queued),
                }
            }
            line.waiting -= withdrawn[before..].iter().filter(|queued| queued.is_named()).count();
            if withdrawn.len() > before && queue.is_empty() {
                line.turns.retain(|&turn| turn != peer);
            }
        }
        withdrawn
    }

    /// A grant is withdrawn. If its piece is under way, nothing changes.
    pub fn on_revoke(&mut self, peer: NodeId, grant: u64) {
        self.withdraw(peer, |queued| queued.grant == grant);
        if let Some(receiver) = self.receivers.get_mut(&peer)
            && let Some(at) = receiver.recent.iter().position(|sent| sent.0 == grant)
            && let Some((_, chunk, piece)) = receiver.recent.remove(at)
            && let Some(counts) = self.counts.get_mut(&chunk)
        {
            counts.wasted(piece);
        }
    }

    /// A receiver is gone, and all that it waited for.
    pub fn on_lost(&mut self, peer: NodeId) {
        self.withdraw(peer, |_| true);
        if let Some(receiver) = self.receivers.remove(&peer) {
            self.served -= usize::from(!receiver.sending.is_empty());
            for sending in &receiver.sending {
                self.lines[sending.priority as usize].uploads -= 1;
            }
            for &(_, chunk, piece) in receiver.recent.iter().filter(|sent| receiver.is_sent(sent.0)) {
                if let Some(counts) = self.counts.get_mut(&chunk) {
                    counts.wasted(piece);
                }
            }
        }
    }

    /// The piece of a grant is sent; its upload slot is free.
    pub fn on_sent(&mut self, peer: NodeId, grant: u64) {
        self.vacant = self.release(peer, grant).or(self.vacant);
    }

    /// The piece of a grant takes no upload slot: the receiver gets it by itself, or it cannot be sent.
    pub fn on_released(&mut self, peer: NodeId, grant: u64) {
        self.release(peer, grant);
    }

    /// Frees an upload slot; gives the chunk whose piece had it.
    fn release(&mut self, peer: NodeId, grant: u64) -> Option<ChunkId> {
        let receiver = self.receivers.get_mut(&peer)?;
        let at = receiver.sending.iter().position(|sending| sending.grant == grant)?;
        let Sending { priority, chunk, .. } = receiver.sending.swap_remove(at);
        self.served -= usize::from(receiver.sending.is_empty());
        self.lines[priority as usize].uploads -= 1;
        Some(chunk)
    }

    /// Drops what is remembered of a chunk.
    pub fn forget(&mut self, chunk: &ChunkId) {
        self.counts.remove(chunk);
    }

    /// What to send next; called until there is nothing.
    pub fn poll(&mut self, now: Instant, holdings: &impl Holdings) -> Option<Upload> {
        let uploads: usize = self.lines.iter().map(|line| line.uploads).sum();
        let more = if self.served <= 1 { UPLOADS_MORE_ALONE } else { 0 };
        if uploads >= self.uploads_at_once + more {
            return None;
        }
        let mut order = self.shares.order().into_iter();
        let turn = order.find_map(|priority| Some((priority, self.next_turn(priority, uploads)?)));
        let Some((priority, at)) = turn else {
            let vacant = self.vacant.take_if(|_| uploads == 0);
            return vacant.map(|chunk| Upload::Room { chunk });
        };
        self.vacant = None;
        let line = &mut self.lines[priority as usize];
        let peer = line.turns.remove(at)?;
        let receiver = self.receivers.get_mut(&peer)?;
        let queue = &mut receiver.queues[priority as usize];
        let next = queue.pop_front()?;
        line.waiting -= usize::from(next.is_named());
        if !queue.is_empty() {
            line.turns.push_back(peer);
        }
        let Queued { chunk, grant, want } = next;
        let Some(piece) = self.choose(now, peer, chunk, grant, want, holdings.pieces(&chunk).as_deref())
        else {
            return Some(Upload::Decline { peer, chunk, grant });
        };
        self.shares.sent(priority);
        self.lines[priority as usize].uploads += 1;
        let receiver = self.receivers.get_mut(&peer)?;
        self.served += usize::from(receiver.sending.is_empty());
        receiver.sending.push(Sending { grant, priority, chunk });
        receiver.recent.push_back((grant, chunk, piece));
        if receiver.recent.len() > RECENT_PER_PEER {
            receiver.recent.pop_front();
        }
        Some(Upload::Send { peer, chunk, grant, piece })
    }

    /// Whose turn it is in a line: the first to whom nothing is under way, or else the first who may have more.
    fn next_turn(&self, priority: Priority, uploads: usize) -> Option<usize> {
        let turns = &self.lines[priority as usize].turns;
        let under_way =
            |peer: &NodeId| self.receivers.get(peer).map_or(usize::MAX, |receiver| receiver.sending.len());
        let waits = |peer: &NodeId| self.lines.iter().flat_map(|line| &line.turns).any(|other| other != peer);
        let is_alone = |peer: &NodeId| under_way(peer) == uploads && !waits(peer);
        if turns.front().is_some_and(|peer| is_alone(peer) && self.wants_another(peer, priority)) {
            return Some(0);
        }
        let idle = turns.iter().position(|peer| under_way(peer) == 0);
        idle.or_else(|| turns.iter().position(|peer| under_way(peer) < UPLOADS_PER_PEER))
    }

    /// Whether what a receiver waits for is something else than what is under way to it: who asks for a piece again
    /// because it is slow would only be slowed down by a second copy.
    fn wants_another(&self, peer: &NodeId, priority: Priority) -> bool {
        let Some(receiver) = self.receivers.get(peer) else { return false };
        let Some(next) = receiver.queues[priority as usize].front() else { return false };
        let is_under_way = |piece: u32| {
            let mut recent = receiver.recent.iter();
            recent.any(|(grant, chunk, sent)| {
                *sent == piece && *chunk == next.chunk && receiver.is_sent(*grant)
            })
        };
        match &next.want {
            Want::Piece(piece) => !is_under_way(*piece),
            Want::LeastSent(words) => {
                let pieces = (0..).zip(words).flat_map(|(at, word)| {
                    (0..64).filter(move |bit| word >> bit & 1 == 1).map(move |bit| at * 64 + bit)
                });
                // Few are under way, so that one of the first is another where there is one.
                pieces.take(receiver.sending.len() + 1).any(|piece| !is_under_way(piece))
            }
        }
    }

    fn choose(
        &mut self,
        now: Instant,
        peer: NodeId,
        chunk: ChunkId,
        grant: u64,
        want: Want,
        held: Option<&Bitmap>,
    ) -> Option<u32> {
        let held = held?;
        self.touch(now, chunk);
        let counts = self.counts.get_mut(&chunk)?;
        let piece = match want {
            Want::Piece(piece) => held.contains(piece).then_some(piece)?,
            Want::LeastSent(mut words) => {
                words.resize(held.words().len(), 0);
                words.iter_mut().zip(held.words()).for_each(|(word, held)| *word &= held);
                let recent = self.receivers.get(&peer).map(|receiver| &receiver.recent);
                let recent = recent.into_iter().flatten().filter(|sent| sent.1 == chunk).map(|sent| sent.2);
                counts.least_sent(words, recent, grant)?
            }
        };
        counts.sent(piece, held.len());
        Some(piece)
    }

    /// Notes that a chunk is asked for, and drops what has not been asked for in a while.
    fn touch(&mut self, now: Instant, chunk: ChunkId) {
        if let Some(counts) = self.counts.get_mut(&chunk) {
            counts.asked = now;
            return;
        }
        self.counts.retain(|_, counts| now.since(counts.asked) < COUNTS_KEPT);
        if self.counts.len() >= COUNTED_CHUNKS_MAX
            && let Some(oldest) = self.counts.iter().min_by_key(|(_, counts)| counts.asked).map(|(id, _)| *id)
        {
            self.counts.remove(&oldest);
        }
        self.counts.insert(chunk, Counts::new(now));
    }
}
