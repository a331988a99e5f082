//! BLAKE3 of a chunk whose pieces are hashed in any order.
//!
//! BLAKE3 is a tree. A piece is a power of two long and begins at a multiple of its length, so its bytes are one
//! subtree, which can be hashed before the pieces in front of it are known. The pieces of one run of bytes may have
//! different lengths as long as each begins at a multiple of its own; only the last may be of any length.

use blake3::Hasher;
use blake3::hazmat::{
    ChainingValue, HasherExt, Mode, left_subtree_len, merge_subtrees_non_root, merge_subtrees_root,
};

/// A hashed piece of a run of bytes.
#[derive(Debug, Clone)]
pub(crate) struct HashedPiece {
    offset: u64,
    length: u64,
    subtree: ChainingValue,
    /// The digest if the piece is all there is.
    alone: [u8; 32],
}

impl HashedPiece {
    /// Hashes `bytes`, of which there must be some, as those that begin at `offset`, a multiple of the piece length.
    pub(crate) fn of(bytes: &[u8], offset: u64) -> Self {
        let mut hasher = PieceHasher::at(offset);
        hasher.update(bytes);
        hasher.finish()
    }
}

/// Hashes a piece from its bytes, given in order.
pub(crate) struct PieceHasher {
    offset: u64,
    hasher: Hasher,
}

impl PieceHasher {
    /// Of the piece that begins at `offset`, a multiple of its length.
    pub(crate) fn at(offset: u64) -> Self {
        let mut hasher = Hasher::new();
        hasher.set_input_offset(offset);
        Self { offset, hasher }
    }

    /// Takes the next bytes.
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
    }

    /// The piece, of which there were some bytes.
    pub(crate) fn finish(self) -> HashedPiece {
        let Self { offset, hasher } = self;
        let alone = if offset == 0 { hasher.finalize().into() } else { [0; 32] };
        HashedPiece { offset, length: hasher.count(), subtree: hasher.finalize_non_root(), alone }
    }
}

/// The digest of the whole run; `None` unless `pieces` cover it from its beginning without a gap.
pub(crate) fn join(mut pieces: Vec<HashedPiece>) -> Option<[u8; 32]> {
    pieces.sort_unstable_by_key(|piece| piece.offset);
    let mut reached = 0;
    for piece in &pieces {
        if piece.offset != reached {
            return None;
        }
        reached += piece.length;
    }
    match pieces.as_slice() {
        [] => None,
        [piece] => Some(piece.alone),
        pieces => {
            let (left, right) = split(pieces);
            Some(merge_subtrees_root(&subtree(left), &subtree(right), Mode::Hash).into())
        }
    }
}

fn subtree(pieces: &[HashedPiece]) -> ChainingValue {
    if let [piece] = pieces {
        return piece.subtree;
    }
    let (left, right) = split(pieces);
    merge_subtrees_non_root(&subtree(left), &subtree(right), Mode::Hash)
}

/// Cuts two or more pieces where BLAKE3 cuts their bytes.
fn split(pieces: &[HashedPiece]) -> (&[HashedPiece], &[HashedPiece]) {
    let start = pieces[0].offset;
    let length = pieces.iter().map(|piece| piece.length).sum();
    let middle = start + left_subtree_len(length);
    let cut = pieces.partition_point(|piece| piece.offset < middle);
    pieces.split_at(cut.clamp(1, pieces.len() - 1))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hashed(bytes: &[u8], piece: usize, base: u64) -> Vec<HashedPiece> {
        let pieces = bytes.chunks(piece).enumerate();
        pieces.map(|(at, part)| HashedPiece::of(part, base + (at * piece) as u64)).collect()
    }

    proptest! {
        #[test]
        fn any_cut_gives_the_digest(length in 1usize..200_000, piece in 0u32..6, seed: u64) {
            let mut bytes = vec![0; length];
            fill(&mut bytes, seed);
            let mut pieces = hashed(&bytes, 1024 << piece, 0);
            pieces.reverse();
            prop_assert_eq!(join(pieces), Some(blake3::hash(&bytes).into()));
        }

        #[test]
        fn pieces_may_shrink_from_chunk_to_chunk(chunks in 1usize..4, rest in 1usize..40_000, seed: u64) {
            let mut bytes = vec![0; chunks * 65536 + rest];
            fill(&mut bytes, seed);
            let (whole, tail) = bytes.split_at(chunks * 65536);
            let mut pieces = hashed(whole, 8192, 0);
            pieces.extend(hashed(tail, 1024, whole.len() as u64));
            prop_assert_eq!(join(pieces), Some(blake3::hash(&bytes).into()));
        }
    }

    fn fill(bytes: &mut [u8], mut state: u64) {
        for byte in bytes {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            *byte = (state >> 56) as u8;
        }
    }

    #[test]
    fn a_gap_is_noticed() {
        let mut pieces = hashed(&[7; 8192], 1024, 0);
        pieces.remove(3);
        assert_eq!(join(pieces), None);
        assert_eq!(join(Vec::new()), None);
    }
}
