//! What the library calls while a worker makes progress. It notes what happened and does nothing else, so that nothing of
//! the caller's is touched meanwhile.

use std::collections::HashSet;
use std::ffi::c_void;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::sys::*;

/// Longest header of a message, in bytes: every transport takes as much.
pub const HEADER_BYTES_MAX: usize = 64;
/// Messages of others that are noted in one turn. More are dropped, as if they had been refused.
const NOTED_MAX: usize = 1 << 16;

/// A header with its length.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Header {
    pub(crate) bytes: [u8; HEADER_BYTES_MAX],
    pub(crate) length: usize,
}

/// What has happened.
pub(crate) enum Note {
    /// A request is done.
    Done { number: u64, status: ucs_status_t, length: usize },
    /// Somebody has sent a message without data.
    Message { header: Header },
    /// Somebody has data to be fetched.
    Offer { header: Header, data: *mut c_void, length: usize },
    /// An endpoint has failed.
    Failed { endpoint: *mut ucp_ep, status: ucs_status_t },
}

// SAFETY: the pointers are names here, and only the thread of the worker passes them to the library.
unsafe impl Send for Note {}

/// What has happened and was not told yet. The library has its address as long as the worker is there.
#[derive(Default)]
pub(crate) struct Notes {
    notes: Mutex<Vec<Note>>,
    /// The keys of messages that are taken.
    admitted: Mutex<HashSet<u64>>,
}

impl Notes {
    fn add(&self, note: Note) -> bool {
        let mut notes = self.notes();
        let is_owed = matches!(note, Note::Done { .. } | Note::Failed { .. });
        let has_room = is_owed || notes.len() < NOTED_MAX;
        if has_room {
            notes.push(note);
        }
        has_room
    }

    pub(crate) fn take(&self) -> Vec<Note> {
        std::mem::take(&mut self.notes())
    }

    pub(crate) fn admit(&self, key: u64) {
        self.admitted().insert(key);
    }

    pub(crate) fn dismiss(&self, key: u64) {
        self.admitted().remove(&key);
    }

    /// An endpoint is closed: what is noted of it concerns nobody, and its place may be another one's next.
    pub(crate) fn forget_failure(&self, endpoint: *mut ucp_ep) {
        self.notes().retain(|note| !matches!(note, Note::Failed { endpoint: of, .. } if *of == endpoint));
    }

    fn notes(&self) -> MutexGuard<'_, Vec<Note>> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn admitted(&self) -> MutexGuard<'_, HashSet<u64>> {
        self.admitted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the library is given with a request, and gives back when it is done. It stays where it is until then, with the
/// header that the library sends from.
pub(crate) struct Cookie {
    pub(crate) notes: *const Notes,
    pub(crate) number: u64,
    pub(crate) header: Header,
}

pub(crate) unsafe extern "C" fn on_sent(_request: *mut c_void, status: ucs_status_t, cookie: *mut c_void) {
    // SAFETY: this is what the request was given.
    unsafe { done(cookie, status, 0) };
}

pub(crate) unsafe extern "C" fn on_received(
    _request: *mut c_void,
    status: ucs_status_t,
    length: usize,
    cookie: *mut c_void,
) {
    // SAFETY: this is what the request was given.
    unsafe { done(cookie, status, length) };
}

/// # Safety
///
/// It is a pointer to the cookie of a request that is not told to be done yet.
unsafe fn done(cookie: *mut c_void, status: ucs_status_t, length: usize) {
    // SAFETY: cookie and notes are there until the request is told to be done, and are only read meanwhile.
    let (notes, number) = unsafe {
        let cookie = &*cookie.cast::<Cookie>();
        (&*cookie.notes, cookie.number)
    };
    notes.add(Note::Done { number, status, length });
}

pub(crate) unsafe extern "C" fn on_message(
    notes: *mut c_void,
    header: *const c_void,
    header_length: usize,
    data: *mut c_void,
    length: usize,
    param: *const ucp_am_recv_param,
) -> ucs_status_t {
    // SAFETY: the worker gave its notes, which outlive it, and the library the rest, for the time of the call.
    let (notes, is_offer) =
        unsafe { (&*notes.cast::<Notes>(), (*param).recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV != 0) };
    // The sender of data is told that it was refused; of other messages it expects nothing.
    let refused = if is_offer { UCS_ERR_REJECTED } else { UCS_OK };
    if !(size_of::<u64>()..=HEADER_BYTES_MAX).contains(&header_length) {
        return refused;
    }
    let mut copy = Header { bytes: [0; HEADER_BYTES_MAX], length: header_length };
    // SAFETY: the header has that many bytes, and the copy has room for them.
    unsafe { std::ptr::copy_nonoverlapping(header.cast(), copy.bytes.as_mut_ptr(), header_length) };
    let key = copy.bytes.first_chunk().copied().map(u64::from_le_bytes);
    if !key.is_some_and(|key| notes.admitted().contains(&key)) {
        return refused;
    }
    if !is_offer {
        // Data that came unasked is left where it is.
        notes.add(Note::Message { header: copy });
        return UCS_OK;
    }
    match notes.add(Note::Offer { header: copy, data, length }) {
        true => UCS_INPROGRESS,
        false => UCS_ERR_REJECTED,
    }
}

pub(crate) unsafe extern "C" fn on_failure(notes: *mut c_void, endpoint: *mut ucp_ep, status: ucs_status_t) {
    // SAFETY: the worker gave its notes, which outlive it.
    unsafe { &*notes.cast::<Notes>() }.add(Note::Failed { endpoint, status });
}
