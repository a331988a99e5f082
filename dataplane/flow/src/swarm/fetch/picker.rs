//! Which piece to ask for: sets are combined word by word, so that even the largest chunk costs about a microsecond.

use std::ops::Range;

use fastrand::Rng;

/// Pieces that are compared before the rarest of them is taken.
const SAMPLES: usize = 16;

/// Takes a random one of the rarest among a sample of the pieces of `range` that `word_at` has in its words.
/// `holders` counts the sources of each piece.
pub(super) fn pick(
    range: Range<u32>,
    holders: &[u8],
    rng: &mut Rng,
    word_at: impl Fn(usize) -> u64,
) -> Option<u32> {
    if range.is_empty() {
        return None;
    }
    let (first, end) = (range.start as usize / 64, (range.end as usize).div_ceil(64));
    let begin = rng.usize(first..end);
    let mut best: Option<(u8, u32)> = None;
    let mut samples = 0;
    for pass in 0..2 {
        for at in (begin..end).chain(first..begin) {
            let word = word_at(at) & mask(at, &range);
            if word == 0 {
                continue;
            }
            let piece = at as u32 * 64 + any_bit(word, rng);
            let count = holders[piece as usize];
            if best.is_none_or(|(least, _)| count < least) {
                best = Some((count, piece));
            }
            samples += 1;
            if samples == SAMPLES {
                return best.map(|(_, piece)| piece);
            }
        }
        if pass == 0 && best.is_none() {
            return None;
        }
    }
    best.map(|(_, piece)| piece)
}

/// The bits of word `at` that lie in `range`.
pub(super) fn mask(at: usize, range: &Range<u32>) -> u64 {
    let base = at as u64 * 64;
    let (start, end) = (u64::from(range.start), u64::from(range.end));
    if end <= base || start >= base + 64 {
        return 0;
    }
    let low = u64::MAX << start.saturating_sub(base);
    let high = if end >= base + 64 { u64::MAX } else { (1 << (end - base)) - 1 };
    low & high
}

/// The index of a random bit that is set in `word`, which is not zero.
fn any_bit(word: u64, rng: &mut Rng) -> u32 {
    let turn = rng.u32(0..64);
    (word.rotate_right(turn).trailing_zeros() + turn) % 64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pieces_of_the_set_and_the_range_are_picked() {
        let mut rng = Rng::with_seed(1);
        let words = [0xf0f0, 0, u64::MAX];
        for _ in 0..1000 {
            let piece = pick(5..140, &[1; 192], &mut rng, |at| words[at]).unwrap();
            assert!((5..140).contains(&piece));
            assert_ne!(words[piece as usize / 64] >> (piece % 64) & 1, 0);
        }
        assert_eq!(pick(16..64, &[1; 192], &mut rng, |at| words[at]), None);
        assert_eq!(pick(7..7, &[1; 192], &mut rng, |at| words[at]), None);
    }

    #[test]
    fn rare_pieces_come_first() {
        let mut holders = vec![9; 1024];
        holders[700] = 1;
        let mut rng = Rng::with_seed(2);
        let picks =
            (0..1000).filter(|_| pick(0..1024, &holders, &mut rng, |_| u64::MAX) == Some(700)).count();
        assert!(picks > 5, "one of 16 words of 64 pieces each, {picks} times");
        holders[0] = 1;
        assert_eq!(pick(0..2, &holders, &mut rng, |_| u64::MAX), Some(0));
    }

    #[test]
    fn masks_cut_at_both_ends() {
        assert_eq!(mask(0, &(0..64)), u64::MAX);
        assert_eq!(mask(0, &(1..3)), 0b110);
        assert_eq!(mask(1, &(1..66)), 0b11);
        assert_eq!(mask(2, &(1..66)), 0);
    }
}
