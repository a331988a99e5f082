//! Memory on its way into a slot.
//!
//! What a put is made of may be written to meanwhile, so that it is read once. It passes through a buffer that stays in the
//! cache of the core: there it is hashed, and from there it goes past the cache into its slot, with the checksum of what was
//! written there.

use flow::verify::Checksum;
use memory::Condenser;

use crate::digest::{HashedPiece, PieceHasher};

/// Bytes of the buffer: with the source's, they fit into the second cache of a core.
const STEP: usize = 128 << 10;
/// What the buffer begins at a multiple of, for the widest registers.
const ALIGNMENT: usize = 64;

/// The buffer of one thread.
pub(crate) struct Stage {
    buffer: Vec<u8>,
    start: usize,
}

/// A slot that was filled.
pub(crate) struct Staged {
    /// The piece, for each place that it was hashed for.
    pub(crate) pieces: Vec<HashedPiece>,
    /// The checksum of what lies in the slot.
    pub(crate) checksum: u64,
}

impl Stage {
    pub(crate) fn new() -> Self {
        let buffer = vec![0; STEP + ALIGNMENT];
        let start = buffer.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
        Self { buffer, start }
    }

    /// Fills a slot with what `read` gives: it is told where in the piece its bytes begin. The piece is hashed as one that begins
    /// at each of `offsets`.
    pub(crate) fn fill(
        &mut self,
        slot: &mut [u8],
        offsets: &[u64],
        read: impl Fn(usize, &mut [u8]),
    ) -> Staged {
        let mut hashers: Vec<_> = offsets.iter().map(|&offset| PieceHasher::at(offset)).collect();
        let (mut condenser, mut checksum) = (Condenser::new(), Checksum::default());
        for (number, part) in slot.chunks_mut(STEP).enumerate() {
            let at = number * STEP;
            if let Some(condensing) = &mut condenser {
                let staged = &mut self.buffer[self.start..][..part.len()];
                read(at, staged);
                hashers.iter_mut().for_each(|hasher| hasher.update(staged));
                let done = condensing.copy(part, staged);
                if done < part.len() {
                    // The end of the piece, or all of a slot that does not begin where it would have to.
                    condenser.take().and_then(Condenser::finish).iter().for_each(|all| checksum.update(all));
                    part[done..].copy_from_slice(&staged[done..]);
                    checksum.update(&staged[done..]);
                }
            } else {
                read(at, part);
                hashers.iter_mut().for_each(|hasher| hasher.update(part));
                checksum.update(part);
            }
        }
        condenser.and_then(Condenser::finish).iter().for_each(|all| checksum.update(all));
        Staged { pieces: hashers.into_iter().map(PieceHasher::finish).collect(), checksum: checksum.finish() }
    }
}

#[cfg(test)]
mod tests {
    use flow::verify::checksum_of;

    use super::*;
    use crate::digest::join;

    #[test]
    fn what_lies_in_the_slot_was_hashed_and_checked() {
        let bytes: Vec<u8> =
            (0..400_000_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 11) as u8).collect();
        let mut stage = Stage::new();
        for start in [0, 1] {
            for length in [1, 255, 256, 5000, STEP - 1, STEP, STEP + 64, 2 * STEP, 399_999] {
                let mut room = vec![0; length + 2 * ALIGNMENT];
                let aligned = room.as_ptr().align_offset(ALIGNMENT);
                let slot = &mut room[aligned + start..][..length];
                let staged = stage.fill(slot, &[0, 1 << 20], |at, part| {
                    part.copy_from_slice(&bytes[at..at + part.len()]);
                });
                assert!(slot[..] == bytes[..length]);
                assert_eq!(staged.checksum, checksum_of(&bytes[..length]));
                assert_eq!(staged.pieces.len(), 2);
                let first = staged.pieces.into_iter().next().unwrap();
                assert_eq!(join(vec![first]), Some(blake3::hash(&bytes[..length]).into()));
            }
        }
    }
}
