//! The right to one slot.

use std::fmt;
use std::sync::Arc;

use crate::arena::Shared;

/// The right to one slot of the arena, held by one owner. Dropping it returns the slot.
///
/// Whoever posts an operation on the slot to the kernel gives the lease away until the operation completes, so that a
/// slot can be neither freed nor reused while hardware may still touch it.
pub struct Lease {
    arena: Arc<Shared>,
    offset: u64,
    slot: u32,
    length: u32,
}

/// A slot whose bytes are final, with any number of readers. The last to go returns the slot.
pub type SharedLease = Arc<Lease>;

impl Lease {
    pub(crate) fn new(arena: Arc<Shared>, offset: u64, length: u32) -> Self {
        Self { arena, offset, slot: crate::buddy::slot_size(length.into()) as u32, length }
    }

    /// Where the slot begins in the arena, in bytes.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Bytes that were asked for, or what [`Lease::truncate`] left of them.
    pub fn length(&self) -> u32 {
        self.length
    }

    /// Bytes that may be used, which is the size of the slot: at least [`Lease::length`].
    pub fn capacity(&self) -> u32 {
        self.slot
    }

    /// Makes the slot hold only its first `length` bytes. The slot stays as large as it is.
    pub fn truncate(&mut self, length: u32) {
        self.length = self.length.min(length);
    }

    /// Overwrites what lies in the slot past `length` with zeros, so that no older bytes reach a device with it.
    pub fn zero_after(&mut self, length: u32) {
        let capacity = self.capacity();
        let length = length.min(capacity);
        // SAFETY: the range ends with the slot, which belongs to this lease alone, as `&mut self` shows.
        unsafe { self.as_ptr().add(length as usize).write_bytes(0, (capacity - length) as usize) };
    }

    /// The address of the slot, for an operation that is posted to the kernel. It is aligned to a page.
    pub fn as_ptr(&self) -> *mut u8 {
        self.arena.pointer(self.offset)
    }

    /// The bytes asked for. While a client process holds the slot for writing, the node must not look.
    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: the range is within the mapping, which the `Arc` keeps alive, and belongs to this lease alone. Writers
        // are `as_mut_slice`, which borrows the lease exclusively, operations of the ring, which own the lease, and a
        // client process that was given the slot to fill, during which time the engine holds it unread.
        unsafe { std::slice::from_raw_parts(self.as_ptr(), self.length as usize) }
    }

    /// The bytes asked for, to be written.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as for `as_slice`; `&mut self` shows that nobody else looks through this lease.
        unsafe { std::slice::from_raw_parts_mut(self.as_ptr(), self.length as usize) }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.arena.give_back(self.offset, self.slot);
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lease({:#x}+{})", self.offset, self.length)
    }
}
