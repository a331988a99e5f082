//! The source side of one shard: which of the grants of all receivers is filled next.
//!
//! Receivers take turns. One piece is under way to each at a time, and a second only when no other receiver waits. A lone
//! receiver may have all upload slots, so that its stream never idles, however long a source takes to notice that a
//! piece is sent. A grant for a named piece that would have to wait for an upload slot is refused at once: the receiver
//! finds another source sooner than this one gets to it. Where the source may choose, it sends the piece that it has sent
//! least often, and not one that this receiver was just sent.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Deref;
use std::time::Duration;

use crate::bitmap::Bitmap;
use crate::chunk::ChunkId;
use crate::limits::{GRANTS_PER_PEER, GRANTS_QUEUED_PER_PEER};
use crate::time::Instant;
use crate::wire::control::NodeId;
use crate::wire::data::Want;

/// Pieces under way to one receiver at once while others are served too.
const UPLOADS_PER_PEER: usize = 2;
/// Pieces that are remembered for each receiver, so that they are not chosen for it again.
const RECENT_PER_PEER: usize = 2 * GRANTS_PER_PEER;
/// Counts of a chunk are dropped when nobody has asked for it for so long.
const COUNTS_KEPT: Duration = Duration::from_secs(60);
/// Most chunks whose counts are kept.
const COUNTED_CHUNKS_MAX: usize = 1024;
/// How often a piece is sent before all further times count the same.
const LAYERS_MAX: usize = 32;

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
}

/// The state of the source side; see the module.
#[derive(Debug)]
pub struct Serve {
    uploads_at_once: usize,
    uploads: usize,
    /// Grants queued for pieces that the receiver named.
    waiting: usize,
    receivers: BTreeMap<NodeId, Receiver>,
    /// Receivers with grants queued, the next to be served first. Each is in it once.
    turns: VecDeque<NodeId>,
    counts: BTreeMap<ChunkId, Counts>,
}

#[derive(Debug, Default)]
struct Receiver {
    queue: VecDeque<Queued>,
    /// Grants whose pieces are under way.
    sending: Vec<u64>,
    /// What it was sent last, by grant.
    recent: VecDeque<(u64, ChunkId, u32)>,
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
    /// A source that sends at most `uploads_at_once` pieces at once.
    pub fn new(uploads_at_once: usize) -> Self {
        Self {
            uploads_at_once: uploads_at_once.max(1),
            uploads: 0,
            waiting: 0,
            receivers: BTreeMap::new(),
            turns: VecDeque::new(),
            counts: BTreeMap::new(),
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
        let named = matches!(want, Want::Piece(_));
        if named && self.uploads + self.waiting >= self.uploads_at_once {
            return Err(QueueFull { peer });
        }
        let receiver = self.receivers.entry(peer).or_default();
        if receiver.queue.len() >= GRANTS_QUEUED_PER_PEER {
            return Err(QueueFull { peer });
        }
        if receiver.queue.is_empty() {
            let at = match receiver.recent.is_empty() && receiver.sending.is_empty() {
                true => (grant.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as usize % (self.turns.len() + 1),
                false => self.turns.len(),
            };
            self.turns.insert(at, peer);
        }
        receiver.queue.push_back(Queued { chunk, grant, want });
        self.waiting += usize::from(named);
        self.touch(now, chunk);
        Ok(())
    }

    /// A grant is withdrawn. If its piece is under way, nothing changes.
    pub fn on_revoke(&mut self, peer: NodeId, grant: u64) {
        let Some(receiver) = self.receivers.get_mut(&peer) else {
            return;
        };
        let queued = receiver.queue.len();
        let waiting = &mut self.waiting;
        receiver.queue.retain(|queued| {
            let kept = queued.grant != grant;
            *waiting -= usize::from(!kept && queued.is_named());
            kept
        });
        if queued > 0 && receiver.queue.is_empty() {
            self.turns.retain(|&turn| turn != peer);
        }
        if let Some(at) = receiver.recent.iter().position(|sent| sent.0 == grant)
            && let Some((_, chunk, piece)) = receiver.recent.remove(at)
            && let Some(counts) = self.counts.get_mut(&chunk)
        {
            counts.wasted(piece);
        }
    }

    /// A receiver is gone, and all that it waited for.
    pub fn on_lost(&mut self, peer: NodeId) {
        if let Some(receiver) = self.receivers.remove(&peer) {
            self.uploads -= receiver.sending.len();
            self.waiting -= receiver.queue.iter().filter(|queued| queued.is_named()).count();
            self.turns.retain(|&turn| turn != peer);
            let under_way = receiver.recent.iter().filter(|sent| receiver.sending.contains(&sent.0));
            for &(_, chunk, piece) in under_way {
                if let Some(counts) = self.counts.get_mut(&chunk) {
                    counts.wasted(piece);
                }
            }
        }
    }

    /// The piece of a grant is sent; its upload slot is free.
    pub fn on_sent(&mut self, peer: NodeId, grant: u64) {
        if let Some(receiver) = self.receivers.get_mut(&peer)
            && let Some(at) = receiver.sending.iter().position(|&sending| sending == grant)
        {
            receiver.sending.swap_remove(at);
            self.uploads -= 1;
        }
    }

    /// Drops what is remembered of a chunk.
    pub fn forget(&mut self, chunk: &ChunkId) {
        self.counts.remove(chunk);
    }

    /// What to send next; called until there is nothing.
    pub fn poll(&mut self, now: Instant, holdings: &impl Holdings) -> Option<Upload> {
        if self.uploads >= self.uploads_at_once {
            return None;
        }
        let at = self.next_turn()?;
        let peer = self.turns.remove(at)?;
        let receiver = self.receivers.get_mut(&peer)?;
        let next = receiver.queue.pop_front()?;
        self.waiting -= usize::from(next.is_named());
        let Queued { chunk, grant, want } = next;
        if !receiver.queue.is_empty() {
            self.turns.push_back(peer);
        }
        let Some(piece) = self.choose(now, peer, chunk, grant, want, holdings.pieces(&chunk).as_deref())
        else {
            return Some(Upload::Decline { peer, chunk, grant });
        };
        self.uploads += 1;
        let receiver = self.receivers.get_mut(&peer)?;
        receiver.sending.push(grant);
        receiver.recent.push_back((grant, chunk, piece));
        if receiver.recent.len() > RECENT_PER_PEER {
            receiver.recent.pop_front();
        }
        Some(Upload::Send { peer, chunk, grant, piece })
    }

    /// Whose turn it is: the first to whom nothing is under way, or else the first who may have more.
    fn next_turn(&self) -> Option<usize> {
        let under_way =
            |peer: &NodeId| self.receivers.get(peer).map_or(usize::MAX, |receiver| receiver.sending.len());
        let is_alone = |peer: &NodeId| self.turns.len() == 1 && under_way(peer) == self.uploads;
        if self.turns.front().is_some_and(|peer| is_alone(peer) && self.wants_another(peer)) {
            return Some(0);
        }
        let idle = self.turns.iter().position(|peer| under_way(peer) == 0);
        idle.or_else(|| self.turns.iter().position(|peer| under_way(peer) < UPLOADS_PER_PEER))
    }

    /// Whether what a receiver waits for is something else than what is under way to it: who asks for a piece again
    /// because it is slow would only be slowed down by a second copy.
    fn wants_another(&self, peer: &NodeId) -> bool {
        let Some(receiver) = self.receivers.get(peer) else { return false };
        let Some(next) = receiver.queue.front() else { return false };
        let is_under_way = |piece: u32| {
            let mut recent = receiver.recent.iter();
            recent.any(|(grant, chunk, sent)| {
                *sent == piece && *chunk == next.chunk && receiver.sending.contains(grant)
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
        self.counts.insert(chunk, Counts { asked: now, layers: VecDeque::new() });
    }
}

/// How often each piece of a chunk was sent.
#[derive(Debug)]
struct Counts {
    asked: Instant,
    /// Layer `n` has the pieces that were sent more than `n` times; what all have in common is cut off.
    layers: VecDeque<Bitmap>,
}

impl Counts {
    /// One of the pieces in `words` that were sent least often, rather not one of `recent`.
    fn least_sent(&self, words: Vec<u64>, recent: impl Iterator<Item = u32>, grant: u64) -> Option<u32> {
        let mut fresh = words.clone();
        for piece in recent {
            if let Some(word) = fresh.get_mut(piece as usize / 64) {
                *word &= !(1 << (piece % 64));
            }
        }
        self.lowest(&fresh, grant).or_else(|| self.lowest(&words, grant))
    }

    fn lowest(&self, words: &[u64], grant: u64) -> Option<u32> {
        for layer in &self.layers {
            let sent = layer.words();
            let unsent = |at: usize| words[at] & !sent.get(at).copied().unwrap_or(0);
            if let Some(piece) = any(words.len(), grant, unsent) {
                return Some(piece);
            }
        }
        any(words.len(), grant, |at| words[at])
    }

    /// A piece that was sent did not get anywhere.
    fn wasted(&mut self, piece: u32) {
        if let Some(layer) = self.layers.iter_mut().rev().find(|layer| layer.contains(piece)) {
            layer.remove(piece);
        }
    }

    fn sent(&mut self, piece: u32, pieces: u32) {
        let depth = self.layers.iter().position(|layer| !layer.contains(piece)).unwrap_or(self.layers.len());
        if depth == self.layers.len() && depth < LAYERS_MAX {
            self.layers.push_back(Bitmap::new(pieces));
        }
        if let Some(layer) = self.layers.get_mut(depth) {
            layer.insert(piece);
        }
        while self.layers.front().is_some_and(Bitmap::is_full) {
            self.layers.pop_front();
        }
    }
}

/// Some piece in the words, a different one for each `salt`.
fn any(words: usize, salt: u64, word_at: impl Fn(usize) -> u64) -> Option<u32> {
    let spread = salt.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let begin = (spread >> 32) as usize % words.max(1);
    (begin..words).chain(0..begin).find_map(|at| {
        let mut word = word_at(at);
        if word == 0 {
            return None;
        }
        // Each piece of the word as likely as any other: sources of a small chunk would otherwise choose the same one.
        for _ in 0..(spread >> 26) as u32 % word.count_ones() {
            word &= word - 1;
        }
        Some(at as u32 * 64 + word.trailing_zeros())
    })
}

#[cfg(test)]
mod tests {
    use super::any;

    #[test]
    fn no_piece_of_a_small_chunk_is_preferred() {
        let mut chosen = [0; 24];
        for grant in 0..2400 {
            chosen[any(1, grant << 32 | grant, |_| (1 << 24) - 1).unwrap() as usize] += 1;
        }
        assert!(chosen.iter().all(|count| (50..=150).contains(count)), "{chosen:?}");
        assert_eq!(any(2, 7, |_| 0), None);
        assert_eq!(any(2, 7, |at| (at as u64) << 63), Some(127));
    }
}
