//! How often the pieces of a chunk were sent.

use std::collections::VecDeque;

use crate::bitmap::Bitmap;
use crate::time::Instant;

/// How often a piece is sent before all further times count the same.
const LAYERS_MAX: usize = 32;

/// How often each piece of a chunk was sent.
#[derive(Debug)]
pub(super) struct Counts {
    /// When the chunk was asked for last.
    pub(super) asked: Instant,
    /// Layer `n` has the pieces that were sent more than `n` times; what all have in common is cut off.
    layers: VecDeque<Bitmap>,
}

impl Counts {
    /// A chunk of which nothing was sent so far.
    pub(super) fn new(asked: Instant) -> Self {
        Self { asked, layers: VecDeque::new() }
    }

    /// One of the pieces in `words` that were sent least often, rather not one of `recent`.
    pub(super) fn least_sent(
        &self,
        words: Vec<u64>,
        recent: impl Iterator<Item = u32>,
        grant: u64,
    ) -> Option<u32> {
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
    pub(super) fn wasted(&mut self, piece: u32) {
        if let Some(layer) = self.layers.iter_mut().rev().find(|layer| layer.contains(piece)) {
            layer.remove(piece);
        }
    }

    /// A piece is sent, of so many that the chunk has.
    pub(super) fn sent(&mut self, piece: u32, pieces: u32) {
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
