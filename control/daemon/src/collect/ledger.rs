//! When a chunk may go.

use std::collections::BTreeMap;

use flow::chunk::ChunkId;

/// Rounds in a row in which nobody referred to the chunk.
const ROUNDS: u32 = 2;
/// A chunk that was referenced once goes this long after it was last touched, in milliseconds.
const AGE_MS: u64 = 60_000;
/// A chunk that was never referenced may belong to a key that is still being put. Milliseconds.
const AGE_UNCOMMITTED_MS: u64 = 600_000;

/// What is known of each chunk on this node since it started.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    chunks: BTreeMap<ChunkId, Entry>,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    touched_ms: u64,
    was_referenced: bool,
    rounds_unreferenced: u32,
}

impl Entry {
    fn at(now_ms: u64) -> Self {
        Self { touched_ms: now_ms, was_referenced: false, rounds_unreferenced: 0 }
    }

    fn may_go(&self, now_ms: u64) -> bool {
        let age_ms = now_ms.saturating_sub(self.touched_ms);
        let enough_ms = if self.was_referenced { AGE_MS } else { AGE_UNCOMMITTED_MS };
        self.rounds_unreferenced >= ROUNDS && age_ms >= enough_ms
    }
}

impl Ledger {
    /// Somebody has just written or fetched the chunk: what was known of it counts no more.
    pub(super) fn touch(&mut self, chunk: ChunkId, now_ms: u64) {
        self.chunks.insert(chunk, Entry::at(now_ms));
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
            let mut entry = before.remove(&chunk).unwrap_or(Entry::at(now_ms));
            if referenced {
                entry.was_referenced = true;
                entry.rounds_unreferenced = 0;
            } else {
                entry.rounds_unreferenced += 1;
            }
            if entry.may_go(now_ms) {
                unwanted.push(chunk);
            }
            self.chunks.insert(chunk, entry);
        }
        before.retain(|_, entry| now_ms.saturating_sub(entry.touched_ms) < AGE_UNCOMMITTED_MS);
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
    fn a_chunk_that_was_never_referenced_has_ten_minutes() {
        let mut ledger = Ledger::default();
        for now_ms in (0..600_000).step_by(15_000) {
            assert!(!round(&mut ledger, false, now_ms), "{now_ms}");
        }
        assert!(round(&mut ledger, false, 600_000));
    }

    #[test]
    fn a_chunk_that_was_referenced_goes_after_two_rounds_without() {
        let mut ledger = Ledger::default();
        assert!(!round(&mut ledger, true, 0));
        assert!(!round(&mut ledger, true, 100_000));
        assert!(!round(&mut ledger, false, 115_000));
        assert!(!round(&mut ledger, true, 130_000));
        assert!(!round(&mut ledger, false, 145_000));
        assert!(round(&mut ledger, false, 160_000));
    }

    #[test]
    fn a_young_chunk_stays_even_without_references() {
        let mut ledger = Ledger::default();
        round(&mut ledger, true, 0);
        assert!(!round(&mut ledger, false, 15_000) && !round(&mut ledger, false, 30_000));
        assert!(!round(&mut ledger, false, 45_000) && round(&mut ledger, false, 60_000));
    }

    #[test]
    fn writing_a_chunk_again_begins_its_time_anew() {
        let mut ledger = Ledger::default();
        round(&mut ledger, true, 0);
        round(&mut ledger, false, 70_000);
        ledger.touch(CHUNK, 80_000);
        assert!(!round(&mut ledger, false, 85_000));
        assert!(!round(&mut ledger, false, 600_000) && round(&mut ledger, false, 680_000));
    }

    #[test]
    fn what_is_gone_is_forgotten() {
        let mut ledger = Ledger::default();
        round(&mut ledger, true, 0);
        ledger.on_round(std::iter::empty(), 700_000);
        assert!(ledger.chunks.is_empty());
    }
}
