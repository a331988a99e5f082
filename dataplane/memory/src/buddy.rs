//! Which ranges of one partition of the arena are free: a binary buddy allocator (Knowlton, "A fast storage
//! allocator", CACM 1965) over offsets, without memory of its own in the arena.

use std::collections::BTreeSet;

use crate::{SLOT_SIZE_MAX, SLOT_SIZE_MIN};

const ORDERS: usize = (SLOT_SIZE_MAX / SLOT_SIZE_MIN).ilog2() as usize + 1;

/// The free ranges of one partition.
#[derive(Debug)]
pub(crate) struct Buddy {
    base: u64,
    size: u64,
    free_bytes: u64,
    free: [BTreeSet<u64>; ORDERS],
}

/// Bytes of the slot that holds `length` bytes.
pub(crate) fn slot_size(length: u64) -> u64 {
    length.max(SLOT_SIZE_MIN).next_power_of_two()
}

fn order_of(slot_size: u64) -> usize {
    (slot_size / SLOT_SIZE_MIN).ilog2() as usize
}

impl Buddy {
    /// A partition of `size` bytes at `base`, both multiples of [`SLOT_SIZE_MIN`].
    pub(crate) fn new(base: u64, size: u64) -> Self {
        let mut buddy = Self { base, size, free_bytes: 0, free: Default::default() };
        let mut at = 0;
        while at < size {
            let aligned = if at == 0 { SLOT_SIZE_MAX } else { 1 << at.trailing_zeros().min(63) };
            let mut slot = aligned.min(SLOT_SIZE_MAX);
            while slot > size - at {
                slot /= 2;
            }
            buddy.free[order_of(slot)].insert(at);
            buddy.free_bytes += slot;
            at += slot;
        }
        buddy
    }

    /// Takes a slot for `length` bytes, the lowest that fits; `None` when there is none.
    pub(crate) fn take(&mut self, length: u64) -> Option<u64> {
        if length > SLOT_SIZE_MAX {
            return None;
        }
        let size = slot_size(length);
        let wanted = order_of(size);
        let found = (wanted..ORDERS).find(|&order| !self.free[order].is_empty())?;
        let at = self.free[found].pop_first()?;
        for order in (wanted..found).rev() {
            self.free[order].insert(at + (SLOT_SIZE_MIN << order));
        }
        self.free_bytes -= size;
        Some(self.base + at)
    }

    /// Gives back what [`Buddy::take`] gave for `length` bytes.
    pub(crate) fn give_back(&mut self, offset: u64, length: u64) {
        let mut at = offset - self.base;
        let mut slot = slot_size(length);
        self.free_bytes += slot;
        while slot < SLOT_SIZE_MAX {
            let buddy = at ^ slot;
            if buddy + slot > self.size || !self.free[order_of(slot)].remove(&buddy) {
                break;
            }
            at &= !slot;
            slot *= 2;
        }
        self.free[order_of(slot)].insert(at);
    }

    /// Bytes that are free, though perhaps not in one run.
    pub(crate) fn free_bytes(&self) -> u64 {
        self.free_bytes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn everything_can_be_taken_and_comes_back_whole() {
        let mut buddy = Buddy::new(64 << 20, 40 << 20);
        let mut taken: Vec<u64> = std::iter::from_fn(|| buddy.take(1 << 20)).collect();
        assert_eq!(taken.len(), 40);
        assert_eq!(buddy.free_bytes(), 0);
        taken.sort_unstable();
        taken.dedup();
        assert_eq!(taken.len(), 40);
        taken.into_iter().for_each(|at| buddy.give_back(at, 1 << 20));
        assert!(buddy.take(16 << 20).is_some() && buddy.take(16 << 20).is_some());
        assert!(buddy.take(16 << 20).is_none() && buddy.take(8 << 20).is_some());
    }

    proptest! {
        #[test]
        fn slots_never_overlap(requests in prop::collection::vec((1u64..(16 << 20), any::<bool>()), 1..200)) {
            let (base, size) = (4096, 77 << 20);
            let mut buddy = Buddy::new(base, size);
            let mut held: Vec<(u64, u64)> = Vec::new();
            for (length, free_one) in requests {
                if free_one && !held.is_empty() {
                    let (at, length) = held.swap_remove(length as usize % held.len());
                    buddy.give_back(at, length);
                } else if let Some(at) = buddy.take(length) {
                    let end = at + slot_size(length);
                    prop_assert!(at >= base && end <= base + size);
                    prop_assert!(held.iter().all(|&(a, l)| end <= a || a + slot_size(l) <= at));
                    held.push((at, length));
                }
                let used: u64 = held.iter().map(|&(_, l)| slot_size(l)).sum();
                prop_assert_eq!(buddy.free_bytes(), size - used);
            }
        }
    }
}
