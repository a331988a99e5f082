//! When a chunk may go.

use std::collections::BTreeMap;

use flow::chunk::ChunkId;

/// Rounds in a row in which nobody referred to the chunk.
const ROUNDS: u32 = 2;
/// Rounds after which a chunk that could not be dropped is no reason to hurry.
const ROUNDS_HURRIED: u32 = 8;
/// A chunk that was referenced, or whose writer is gone, goes this long after that was known, in milliseconds.
const AGE_MS: u64 = 2_000;
/// Any other chunk may belong to a key that is still being put, or to another cluster than the one that was joined by
/// mistake. Milliseconds.
const AGE_UNKNOWN_MS: u64 = 600_000;
/// How long after a chunk was removed everywhere nobody is waited for who may refer to it, in milliseconds.
const REMOVED_MS: u64 = 60_000;
/// Removed chunks that are remembered; others have the time of those of which nothing is known.
const REMOVED_MAX: usize = 65_536;

/// What is known of each chunk on this node since it started.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    chunks: BTreeMap<ChunkId, Entry>,
    /// How often each chunk is held.
    held: BTreeMap<ChunkId, u32>,
    /// Until when each chunk counts as removed. A node that was asked to fetch it before may begin afterwards, and find
    /// another that has done the same.
    removed: BTreeMap<ChunkId, u64>,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    touched_ms: u64,
    /// Whether a reference was seen, or the writer has released it.
    is_settled: bool,
    rounds_unreferenced: u32,
}

impl Entry {
    fn at(now_ms: u64, is_settled: bool) -> Self {
        Self { touched_ms: now_ms, is_settled, rounds_unreferenced: 0 }
    }

    fn may_go(&self, now_ms: u64) -> bool {
        let age_ms = now_ms.saturating_sub(self.touched_ms);
        let enough_ms = if self.is_settled { AGE_MS } else { AGE_UNKNOWN_MS };
        self.rounds_unreferenced >= ROUNDS && age_ms >= enough_ms
    }
}

impl Ledger {
    /// Somebody fetches the chunk: what was known of it counts no more, but that it was removed.
    pub(super) fn touch(&mut self, chunk: ChunkId, now_ms: u64) {
        self.chunks.insert(chunk, Entry::at(now_ms, self.is_removed(&chunk, now_ms)));
    }

    /// The chunk is removed from all nodes: what still comes of it is not wanted, unless it is written again.
    pub(super) fn remove(&mut self, chunk: ChunkId, now_ms: u64) {
        self.settle(chunk, now_ms);
        if self.removed.len() >= REMOVED_MAX {
            self.removed.retain(|_, until_ms| now_ms < *until_ms);
        }
        if self.removed.len() < REMOVED_MAX {
            self.removed.insert(chunk, now_ms + REMOVED_MS);
        }
    }

    /// Whether the chunk was removed from all nodes shortly before, and not written here since.
    pub(super) fn is_removed(&self, chunk: &ChunkId, now_ms: u64) -> bool {
        self.removed.get(chunk).is_some_and(|until_ms| now_ms < *until_ms)
    }

    /// Nobody is about to refer to the chunk who does not hold it.
    pub(super) fn settle(&mut self, chunk: ChunkId, now_ms: u64) {
        self.chunks.insert(chunk, Entry::at(now_ms, true));
    }

    /// Somebody writes the chunk: it stays until it is released as often as it was held.
    pub(super) fn hold(&mut self, chunk: ChunkId) {
        self.removed.remove(&chunk);
        *self.held.entry(chunk).or_default() += 1;
    }

    /// Undoes one hold.
    pub(super) fn release(&mut self, chunk: ChunkId, now_ms: u64) {
        if let Some(count) = self.held.get_mut(&chunk) {
            *count -= 1;
            if *count == 0 {
                self.held.remove(&chunk);
            }
        }
        self.settle(chunk, now_ms);
    }

    pub(super) fn is_held(&self, chunk: &ChunkId) -> bool {
        self.held.contains_key(chunk)
    }

    /// Whether a chunk that is known to be unwanted only waits for another round.
    pub(super) fn is_about_to_drop(&self) -> bool {
        let soon = |(chunk, entry): (&ChunkId, &Entry)| {
            entry.is_settled
                && (1..ROUNDS_HURRIED).contains(&entry.rounds_unreferenced)
                && !self.is_held(chunk)
        };
        self.chunks.iter().any(soon)
    }

    /// Takes what the head said of the chunks that are here and may be dropped; gives those that shall go. Chunks
    /// that are not mentioned are forgotten, unless they were touched since they could have been.
    pub(super) fn on_round(
        &mut self,
        answers: impl Iterator<Item = (ChunkId, bool)>,
        now_ms: u64,
    ) -> Vec<ChunkId> {
        let mut unwanted = Vec::new();
        let mut before = std::mem::take(&mut self.chunks);
        for (chunk, referenced) in answers {
            let is_removed = self.is_removed(&chunk, now_ms);
            let mut entry = before.remove(&chunk).unwrap_or(Entry::at(now_ms, is_removed));
            if referenced {
                entry.is_settled = true;
                entry.rounds_unreferenced = 0;
            } else {
                entry.rounds_unreferenced += 1;
            }
            if entry.may_go(now_ms) && !self.held.contains_key(&chunk) {
                unwanted.push(chunk);
            }
            self.chunks.insert(chunk, entry);
        }
        self.removed.retain(|_, until_ms| now_ms < *until_ms);
        before.retain(|_, entry| now_ms.saturating_sub(entry.touched_ms) < AGE_UNKNOWN_MS);
        // What is not here cannot be about to go.
        before.values_mut().for_each(|entry| entry.rounds_unreferenced = 0);
        self.chunks.append(&mut before);
        unwanted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHUNK: ChunkId = ChunkId([1; 32]);

    fn round(ledger: &mut Ledger, referenced: bool, now_ms: u64) -> bool {
        !ledger.on_round([(CHUNK, referenced)].into_iter(), now_ms).is_empty()
    }

    #[test]
    fn a_chunk_of_which_nothing_is_known_has_ten_minutes() {
        let mut ledger = Ledger::default();
        for now_ms in (0..600_000).step_by(15_000) {
            assert!(!round(&mut ledger, false, now_ms), "{now_ms}");
        }
        assert!(!ledger.is_about_to_drop());
        assert!(round(&mut ledger, false, 600_000));
    }

    #[test]
    fn a_chunk_that_was_referenced_goes_after_two_rounds_without() {
        let mut ledger = Ledger::default();
        assert!(!round(&mut ledger, true, 0));
        assert!(!round(&mut ledger, true, 10_000));
        assert!(!ledger.is_about_to_drop());
        assert!(!round(&mut ledger, false, 11_000));
        assert!(ledger.is_about_to_drop());
        assert!(!round(&mut ledger, true, 12_000));
        assert!(!ledger.is_about_to_drop());
        assert!(!round(&mut ledger, false, 13_000));
        assert!(round(&mut ledger, false, 14_000));
    }

    #[test]
    fn a_chunk_that_is_held_stays_however_old() {
        let mut ledger = Ledger::default();
        round(&mut ledger, true, 0);
        ledger.hold(CHUNK);
        ledger.hold(CHUNK);
        ledger.release(CHUNK, 1000);
        for now_ms in (2000..900_000).step_by(15_000) {
            assert!(!round(&mut ledger, false, now_ms), "{now_ms}");
        }
        assert!(!ledger.is_about_to_drop());
        ledger.release(CHUNK, 900_000);
        assert!(!round(&mut ledger, false, 901_000));
        assert!(round(&mut ledger, false, 902_000));
    }

    #[test]
    fn what_cannot_be_dropped_is_hurried_for_a_while_only() {
        let mut ledger = Ledger::default();
        round(&mut ledger, true, 0);
        let hurried = (1..100_u64).filter(|second| {
            round(&mut ledger, false, second * 1000);
            ledger.is_about_to_drop()
        });
        assert_eq!(hurried.count(), 7);
    }

    #[test]
    fn fetching_a_chunk_again_begins_its_time_anew() {
        let mut ledger = Ledger::default();
        round(&mut ledger, true, 0);
        round(&mut ledger, false, 70_000);
        ledger.touch(CHUNK, 80_000);
        assert!(!round(&mut ledger, false, 85_000));
        assert!(!round(&mut ledger, false, 600_000) && round(&mut ledger, false, 680_000));
    }

    #[test]
    fn what_comes_after_its_removal_goes_soon_unless_it_is_written_again() {
        let mut ledger = Ledger::default();
        ledger.remove(CHUNK, 0);
        ledger.on_round(std::iter::empty(), 1000);
        ledger.touch(CHUNK, 50_000);
        assert!(!round(&mut ledger, false, 51_000));
        assert!(round(&mut ledger, false, 52_000));
        ledger.touch(CHUNK, 53_000);
        assert!(!round(&mut ledger, true, 54_000), "a key may refer to it again");
        assert!(!round(&mut ledger, true, 59_000));
        ledger.remove(CHUNK, 59_500);
        ledger.hold(CHUNK);
        ledger.release(CHUNK, 59_600);
        assert!(!ledger.is_removed(&CHUNK, 59_700));
        ledger.remove(CHUNK, 60_000);
        assert!(ledger.is_removed(&CHUNK, 119_999));
        assert!(!ledger.is_removed(&CHUNK, 120_000), "long afterwards it is a chunk like others");
    }

    #[test]
    fn what_is_gone_is_forgotten() {
        let mut ledger = Ledger::default();
        round(&mut ledger, true, 0);
        round(&mut ledger, false, 1000);
        ledger.on_round(std::iter::empty(), 2000);
        assert!(!ledger.is_about_to_drop());
        ledger.remove(CHUNK, 2500);
        ledger.on_round(std::iter::empty(), 700_000);
        assert!(ledger.chunks.is_empty() && ledger.removed.is_empty());
    }
}
