//! Memory on its way into a slot.
//!
//! What a put is made of may be written to meanwhile, so that it is read once. What is hashed passes through a buffer that
//! stays in the cache of the core, and goes from there past the cache into its slot, with the checksum of what was written
//! there; the rest goes there without the buffer, if it can.

use std::sync::atomic::AtomicU8;

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
        Self { buffer: Vec::new(), start: 0 }
    }

    /// Fills a slot with what `read` gives: it is told where in the piece its bytes begin. The piece is hashed as one that begins
    /// at each of `offsets`. `shared` is the same bytes where they lie, if that is known.
    pub(crate) fn fill(
        &mut self,
        slot: &mut [u8],
        offsets: &[u64],
        shared: Option<&[AtomicU8]>,
        read: impl Fn(usize, &mut [u8]),
    ) -> Staged {
        if let (Some(shared), [], Some(condenser)) = (shared, offsets, Condenser::new()) {
            return Staged { pieces: Vec::new(), checksum: fill_directly(slot, shared, condenser, read) };
        }
        if self.buffer.is_empty() {
            self.buffer = vec![0; STEP + ALIGNMENT];
            self.start = self.buffer.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
        }
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

/// Fills a slot with bytes as they lie; gives the checksum of what was written.
fn fill_directly(
    slot: &mut [u8],
    shared: &[AtomicU8],
    mut condenser: Condenser,
    read: impl Fn(usize, &mut [u8]),
) -> u64 {
    let mut checksum = Checksum::default();
    let done = condenser.copy_shared(slot, shared);
    condenser.finish().iter().for_each(|all| checksum.update(all));
    let rest = &mut slot[done..];
    read(done, rest);
    checksum.update(rest);
    checksum.finish()
}

#[cfg(test)]
mod tests {
    use flow::verify::checksum_of;

    use super::*;
    use crate::digest::join;

    #[test]
    fn what_lies_in_the_slot_was_hashed_and_checked() {
        let bytes: Vec<u8> =
            (0..400_001_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 11) as u8).collect();
        let mut stage = Stage::new();
        for start in [0, 1] {
            for length in [1, 255, 256, 5000, STEP - 1, STEP, STEP + 64, 2 * STEP, 399_999] {
                let mut room = vec![0; length + 2 * ALIGNMENT];
                let aligned = room.as_ptr().align_offset(ALIGNMENT);
                let slot = &mut room[aligned + start..][..length];
                let staged = stage.fill(slot, &[0, 1 << 20], None, |at, part| {
                    part.copy_from_slice(&bytes[at..at + part.len()]);
                });
                assert!(slot[..] == bytes[..length]);
                assert_eq!(staged.checksum, checksum_of(&bytes[..length]));
                assert_eq!(staged.pieces.len(), 2);
                let first = staged.pieces.into_iter().next().unwrap();
                assert_eq!(join(vec![first]), Some(blake3::hash(&bytes[..length]).into()));

                slot.fill(0);
                let shared: Vec<_> = bytes[1..=length].iter().copied().map(AtomicU8::new).collect();
                let staged = stage.fill(slot, &[], Some(&shared), |at, part| {
                    part.copy_from_slice(&bytes[1 + at..][..part.len()]);
                });
                assert!(slot[..] == bytes[1..=length] && staged.pieces.is_empty());
                assert_eq!(staged.checksum, checksum_of(&bytes[1..=length]));
            }
        }
    }
}
