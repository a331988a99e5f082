//! Pieces on their way into a slot.

use flow::verify::Checksum;
use memory::{Condenser, Lease};

/// Bytes of a piece that are taken at a time, so that their checksum is computed while they are in the cache.
pub(super) const STEP: u32 = 256 << 10;

/// A slot into which a piece arrives.
pub(crate) struct Filling {
    pub(super) lease: Lease,
    pub(super) checksum: Checksum,
    pub(super) received: u32,
}

/// A slot into which a whole piece is copied from memory, which others may write to meanwhile.
pub(crate) struct Copying {
    filling: Filling,
    /// What was copied first, as long as it has what the processor needs to do both in one.
    condenser: Option<Condenser>,
}

impl Filling {
    pub(crate) fn new(lease: Lease) -> Self {
        Self { lease, checksum: Checksum::default(), received: 0 }
    }

    /// Takes note of the next bytes of the piece, which a device has written into the slot.
    pub(crate) fn note_written(&mut self, length: u32) {
        let end = (self.received + length).min(self.lease.length());
        self.checksum.update(&self.lease.as_slice()[self.received as usize..end as usize]);
        self.received = end;
    }

    /// Where the next bytes go.
    fn room(&mut self, length: usize) -> &mut [u8] {
        &mut self.lease.as_mut_slice()[self.received as usize..][..length]
    }

    /// The slot, and the checksum of what has arrived in it.
    pub(crate) fn finish(self) -> (Lease, u64) {
        (self.lease, self.checksum.finish())
    }
}

impl Copying {
    /// Into a slot that has nothing of the piece yet.
    pub(crate) fn new(filling: Filling) -> Self {
        debug_assert_eq!(filling.received, 0, "what is condensed stands for the beginning of a piece");
        Self { filling, condenser: Condenser::new() }
    }

    /// Takes the next bytes, which the slot must have room for.
    pub(crate) fn take(&mut self, bytes: &[u8]) {
        let condensed = match &mut self.condenser {
            Some(condenser) => condenser.copy(self.filling.room(bytes.len()), bytes),
            None => 0,
        };
        self.filling.received += condensed as u32;
        let rest = &bytes[condensed..];
        if rest.is_empty() {
            return;
        }
        self.settle();
        for step in rest.chunks(STEP as usize) {
            self.filling.room(step.len()).copy_from_slice(step);
            // What was checked is what lies here, whatever becomes of where it came from.
            self.filling.note_written(step.len() as u32);
        }
    }

    /// The slot, with all that was copied.
    pub(crate) fn finish(mut self) -> Filling {
        self.settle();
        self.filling
    }

    /// Brings the checksum up to what was copied.
    fn settle(&mut self) {
        if let Some(condensed) = self.condenser.take().and_then(Condenser::finish) {
            self.filling.checksum.update(&condensed);
        }
    }
}

#[cfg(test)]
mod tests {
    use flow::verify::checksum_of;
    use memory::Arena;

    use super::*;

    #[test]
    fn copies_have_the_checksum_of_what_they_were_made_of() {
        let arena = Arena::new(1 << 20, 1).unwrap();
        let bytes: Vec<u8> = (0..300_077u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 11) as u8).collect();
        for (start, length, turn) in
            [(0, 300_077, 1 << 18), (0, 4096, 4096), (1, 9000, 4000), (0, 7, 7), (64, 0, 1)]
        {
            let bytes = &bytes[start..start + length.min(300_077 - start)];
            let mut copying = Copying::new(Filling::new(arena.lease(0, 300_077).unwrap()));
            bytes.chunks(turn).for_each(|turn| copying.take(turn));
            let (lease, checksum) = copying.finish().finish();
            assert!(lease.as_slice()[..bytes.len()] == *bytes);
            assert_eq!(checksum, checksum_of(bytes));
        }
    }
}
