//! The operations of the ring: receive, send, read, write, sync.

use std::fs::File;
use std::future::Future;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, OwnedFd};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use io_uring::types::{Fd, FsyncFlags};
use io_uring::{opcode, types};
use memory::{Lease, SharedLease};

use super::{DataRing, Slot};

/// What a file operation must be aligned to: offset and length, for O_DIRECT on any device in use.
pub(crate) const ALIGNMENT: u32 = 4096;

/// An operation under way. It gives the kernel's result and what the operation worked on.
pub(crate) struct Operation<H> {
    pub(super) ring: DataRing,
    slot: Option<u32>,
    held: PhantomData<H>,
}

/// One part of what is sent.
pub(crate) enum Part {
    /// Frames.
    Bytes(Vec<u8>),
    /// Bytes of a piece: from which on, and how many.
    Piece(SharedLease, u32, u32),
}

impl Part {
    fn pointer_and_length(&self) -> (*const u8, usize) {
        match self {
            Part::Bytes(bytes) => (bytes.as_ptr(), bytes.len()),
            Part::Piece(lease, from, length) => {
                (lease.as_ptr().cast_const().wrapping_add(*from as usize), *length as usize)
            }
        }
    }

    /// Bytes in this part.
    pub(crate) fn len(&self) -> usize {
        self.pointer_and_length().1
    }
}

/// What a send holds: the kernel reads the message header and the vectors when it gets to them.
pub(crate) struct Sending {
    _socket: Rc<OwnedFd>,
    pub(crate) parts: Vec<Part>,
    vectors: Vec<libc::iovec>,
    header: libc::msghdr,
}

impl<H> Operation<H> {
    pub(super) fn new(ring: DataRing, slot: u32) -> Self {
        Self { ring, slot: Some(slot), held: PhantomData }
    }
}

impl<H> Unpin for Operation<H> {}

impl<H: 'static> Future for Operation<H> {
    type Output = (io::Result<u32>, H);

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let index = self.slot.expect("an operation is not polled after it has completed");
        let mut inner = self.ring.inner.borrow_mut();
        if let Slot::Posted { waker, .. } = &mut inner.slots[index as usize] {
            match waker {
                Some(known) if known.will_wake(context.waker()) => {}
                _ => *waker = Some(context.waker().clone()),
            }
            return Poll::Pending;
        }
        let Slot::Done { held, result } = inner.vacate(index) else {
            unreachable!("a slot whose operation is waited for is posted or done");
        };
        drop(inner);
        self.slot = None;
        let held = *held.downcast::<H>().expect("a slot holds what its operation was posted with");
        let result = if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { Ok(result as u32) };
        Poll::Ready((result, held))
    }
}

impl<H> Drop for Operation<H> {
    fn drop(&mut self) {
        if let Some(index) = self.slot {
            self.ring.inner.borrow_mut().abandon(index);
        }
    }
}

impl DataRing {
    /// Receives what is there, at least one byte unless the peer closed, into `buffer[from..]`.
    pub(crate) fn receive_some(
        &self,
        socket: &Rc<OwnedFd>,
        buffer: Vec<u8>,
        from: usize,
    ) -> Operation<(Rc<OwnedFd>, Vec<u8>)> {
        assert!(from < buffer.len(), "a receive has room");
        // SAFETY: the entry points into the vector from `from` to its end, and the vector and the socket are held.
        unsafe {
            self.post((socket.clone(), buffer), |(socket, buffer)| {
                let rest = &mut buffer[from..];
                opcode::Recv::new(Fd(socket.as_raw_fd()), rest.as_mut_ptr(), rest.len() as u32).build()
            })
        }
    }

    /// Receives straight into a slot, bytes `from..to`, all of them unless the peer closes.
    pub(crate) fn receive_piece(
        &self,
        socket: &Rc<OwnedFd>,
        lease: Lease,
        from: u32,
        to: u32,
    ) -> Operation<(Rc<OwnedFd>, Lease)> {
        assert!(from < to && to <= lease.capacity(), "a receive stays within its slot");
        // SAFETY: the range was checked against the slot; the lease and the socket are held.
        unsafe {
            self.post((socket.clone(), lease), |(socket, lease)| {
                let start = lease.as_ptr().add(from as usize);
                opcode::Recv::new(Fd(socket.as_raw_fd()), start, to - from).flags(libc::MSG_WAITALL).build()
            })
        }
    }

    /// Sends the parts in order, from byte `skip` of the first on, all of them unless the connection breaks.
    pub(crate) fn send(&self, socket: &Rc<OwnedFd>, parts: Vec<Part>, skip: usize) -> Operation<Sending> {
        assert!(parts.first().is_some_and(|part| skip < part.len()), "a send has something to send");
        let within = |part: &Part| match part {
            Part::Bytes(_) => true,
            Part::Piece(lease, from, length) => {
                from.checked_add(*length).is_some_and(|end| end <= lease.capacity())
            }
        };
        assert!(parts.iter().all(within), "a send stays within its slots");
        // SAFETY: an all-zero msghdr is a valid, empty one.
        let header: libc::msghdr = unsafe { std::mem::zeroed() };
        let sending = Sending { _socket: socket.clone(), parts, vectors: Vec::new(), header };
        let socket = socket.as_raw_fd();
        // SAFETY: the vectors point into the parts, the header to the vectors; all are held in one box that does not move.
        unsafe {
            self.post(sending, |sending| {
                let vector = |part: &Part| {
                    let (start, length) = part.pointer_and_length();
                    libc::iovec { iov_base: start.cast_mut().cast(), iov_len: length }
                };
                sending.vectors = sending.parts.iter().map(vector).collect();
                sending.vectors[0].iov_base = sending.vectors[0].iov_base.add(skip);
                sending.vectors[0].iov_len -= skip;
                sending.header.msg_iov = sending.vectors.as_mut_ptr();
                sending.header.msg_iovlen = sending.vectors.len() as _;
                let flags = (libc::MSG_WAITALL | libc::MSG_NOSIGNAL) as u32;
                opcode::SendMsg::new(Fd(socket), &sending.header).flags(flags).build()
            })
        }
    }

    /// Reads `length` bytes at `offset` of a file into the slot; the length is rounded up to [`ALIGNMENT`].
    pub(crate) fn read(&self, file: &Arc<File>, lease: Lease, offset: u64) -> Operation<(Arc<File>, Lease)> {
        let length = lease.length().next_multiple_of(ALIGNMENT);
        assert!(length <= lease.capacity(), "a read stays within its slot");
        // SAFETY: the range was checked against the slot; the lease and the file are held.
        unsafe {
            self.post((file.clone(), lease), |(file, lease)| {
                opcode::Read::new(Fd(file.as_raw_fd()), lease.as_ptr(), length).offset(offset).build()
            })
        }
    }

    /// Writes the slot's first `length` bytes, rounded up to [`ALIGNMENT`], at `offset` of a file. `skip` bytes are
    /// written already.
    pub(crate) fn write(
        &self,
        file: &Arc<File>,
        lease: SharedLease,
        length: u32,
        skip: u32,
        offset: u64,
    ) -> Operation<(Arc<File>, SharedLease)> {
        let length = length.next_multiple_of(ALIGNMENT);
        assert!(skip < length && length <= lease.capacity(), "a write stays within its slot");
        // SAFETY: the range was checked against the slot; the lease and the file are held.
        unsafe {
            self.post((file.clone(), lease), |(file, lease)| {
                let start = lease.as_ptr().cast_const().add(skip as usize);
                let offset = offset + u64::from(skip);
                opcode::Write::new(Fd(file.as_raw_fd()), start, length - skip).offset(offset).build()
            })
        }
    }

    /// Brings a file's data to the device.
    pub(crate) fn sync(&self, file: &Arc<File>) -> Operation<Arc<File>> {
        // SAFETY: the entry refers to the file alone, which is held.
        unsafe {
            self.post(file.clone(), |file| {
                opcode::Fsync::new(types::Fd(file.as_raw_fd())).flags(FsyncFlags::DATASYNC).build()
            })
        }
    }
}
