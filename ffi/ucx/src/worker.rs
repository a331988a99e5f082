//! Sending and receiving (`ucp_worker_h`).

use std::collections::HashMap;
use std::ffi::{c_uint, c_void};
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::callback::{Cookie, Header, Note, Notes, on_failure, on_message, on_received, on_sent};
use crate::context::{Context, Segment};
use crate::error::Status;
use crate::load::Functions;
use crate::sys::*;
use crate::{Address, Error};

pub use crate::callback::HEADER_BYTES_MAX;

/// All messages have this number.
const MESSAGE: c_uint = 0;
/// How often progress is made in one call, at most.
const TURNS_MAX: usize = 64;
/// How long a worker that is dropped waits for what is under way. What is not done then is leaked.
const FAREWELL: Duration = Duration::from_secs(2);

/// One endpoint of a worker. No two have the same number, also not one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EndpointId(u64);

/// Data that somebody has. It can be fetched until the next call of [`Worker::poll`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct OfferId(u64);

/// What has happened at a worker.
#[derive(Debug)]
pub enum Event<H> {
    /// A message without data has come.
    Message {
        /// What it says.
        header: Vec<u8>,
    },
    /// A message has come with data to be fetched.
    Offered {
        /// What it says.
        header: Vec<u8>,
        /// How many bytes there are.
        length: usize,
        /// What the data is called.
        offer: OfferId,
    },
    /// The library is done with the memory that was sent from. Whether the peer has it, only the peer can say.
    Sent {
        /// What was given with the request.
        held: H,
        /// Whether it was sent.
        outcome: Result<(), Status>,
    },
    /// The library is done with the memory that was received into.
    Received {
        /// What was given with the request.
        held: H,
        /// How many bytes came.
        outcome: Result<usize, Status>,
    },
    /// An endpoint has failed, and must be closed.
    Failed {
        /// Which.
        endpoint: EndpointId,
        /// Why.
        status: Status,
    },
}

/// A request that was not made.
#[derive(Debug)]
pub struct Refused<H> {
    /// Why.
    pub error: Error,
    /// What was given with it.
    pub held: H,
}

/// One thread's way to others. It keeps a value of the caller's choice with each request.
pub struct Worker<H: 'static> {
    context: Arc<Context>,
    pointer: *mut ucp_worker,
    descriptor: i32,
    /// What the library has the address of.
    notes: *mut Notes,
    requests: HashMap<u64, Request<H>>,
    endpoints: HashMap<EndpointId, *mut ucp_ep>,
    offers: HashMap<OfferId, *mut c_void>,
    /// Of all numbers that are given out.
    next: u64,
}

struct Request<H> {
    /// Owned; the library has it too until the request is done.
    cookie: *mut Cookie,
    /// What the library calls the request.
    pointer: *mut c_void,
    /// Held until the request is done.
    _segment: Option<Segment>,
    work: Work<H>,
}

enum Work<H> {
    Send(H),
    Receive(H),
    Close,
}

impl<H: 'static> Worker<H> {
    /// A worker of this thread.
    pub fn create(context: &Arc<Context>) -> Result<Self, Error> {
        let functions = context.functions();
        // SAFETY: a structure of zeros is one, with nothing in it.
        let mut params: ucp_worker_params = unsafe { std::mem::zeroed() };
        params.field_mask = UCP_WORKER_PARAM_FIELD_THREAD_MODE;
        params.thread_mode = UCS_THREAD_MODE_SINGLE;
        let mut pointer = std::ptr::null_mut();
        // SAFETY: the context is open, and the worker holds it.
        let code = unsafe { (functions.ucp_worker_create)(context.as_ptr(), &params, &mut pointer) };
        Status::check(code).map_err(|status| Error::call("ucp_worker_create", status))?;
        let mut worker = Self {
            context: context.clone(),
            pointer,
            descriptor: -1,
            notes: Box::into_raw(Box::default()),
            requests: HashMap::new(),
            endpoints: HashMap::new(),
            offers: HashMap::new(),
            next: 0,
        };
        // SAFETY: the worker is there; its descriptor lasts as long.
        let code = unsafe { (functions.ucp_worker_get_efd)(pointer, &mut worker.descriptor) };
        Status::check(code).map_err(|status| Error::call("ucp_worker_get_efd", status))?;
        // SAFETY: a structure of zeros is one, with nothing in it.
        let mut handler: ucp_am_handler_param = unsafe { std::mem::zeroed() };
        handler.field_mask =
            UCP_AM_HANDLER_PARAM_FIELD_ID | UCP_AM_HANDLER_PARAM_FIELD_CB | UCP_AM_HANDLER_PARAM_FIELD_ARG;
        handler.id = MESSAGE;
        handler.cb = Some(on_message);
        handler.arg = worker.notes.cast();
        // SAFETY: the handler has the declared type, and the notes outlive the worker.
        let code = unsafe { (functions.ucp_worker_set_am_recv_handler)(pointer, &handler) };
        Status::check(code).map_err(|status| Error::call("ucp_worker_set_am_recv_handler", status))?;
        Ok(worker)
    }

    /// What others need to know to send to this worker.
    pub fn address(&self) -> Result<Address, Error> {
        let (mut address, mut length) = (std::ptr::null_mut(), 0);
        let functions = self.functions();
        // SAFETY: the worker is there.
        let code = unsafe { (functions.ucp_worker_get_address)(self.pointer, &mut address, &mut length) };
        Status::check(code).map_err(|status| Error::call("ucp_worker_get_address", status))?;
        // SAFETY: the library says that it has that many bytes, and they are freed once.
        let bytes = unsafe {
            let bytes = std::slice::from_raw_parts(address.cast::<u8>(), length).to_vec();
            (functions.ucp_worker_release_address)(self.pointer, address);
            bytes
        };
        Ok(Address::new(self.context.library(), &bytes))
    }

    /// Makes an endpoint to another worker. It may turn out later that nobody is there: then it fails.
    pub fn connect(&mut self, address: &Address) -> Result<EndpointId, Error> {
        // SAFETY: a structure of zeros is one, with nothing in it.
        let mut params: ucp_ep_params = unsafe { std::mem::zeroed() };
        params.field_mask = UCP_EP_PARAM_FIELD_REMOTE_ADDRESS
            | UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE
            | UCP_EP_PARAM_FIELD_ERR_HANDLER;
        params.address = address.raw().as_ptr().cast();
        params.err_mode = UCP_ERR_HANDLING_MODE_PEER;
        params.err_handler = ucp_err_handler { cb: Some(on_failure), arg: self.notes.cast() };
        let mut pointer = std::ptr::null_mut();
        // SAFETY: the address is one that this version of the library made, by its checksum, and is there during the
        // call; the notes outlive the worker.
        let code = unsafe { (self.functions().ucp_ep_create)(self.pointer, &params, &mut pointer) };
        Status::check(code).map_err(|status| Error::call("ucp_ep_create", status))?;
        let endpoint = EndpointId(self.number());
        self.endpoints.insert(endpoint, pointer);
        Ok(endpoint)
    }

    /// Takes messages whose header begins with these 8 bytes, the least significant first. Data in other messages is
    /// refused, so that its sender fails, and messages without data are dropped.
    pub fn admit(&mut self, key: u64) {
        self.notes().admit(key);
    }

    /// Takes no more messages of that key.
    pub fn dismiss(&mut self, key: u64) {
        self.notes().dismiss(key);
    }

    /// Closes an endpoint at once. What is under way on it fails, each with an event of its own, some of them later. A
    /// peer that is there learns that its own end has failed.
    pub fn close(&mut self, endpoint: EndpointId) {
        let Some(pointer) = self.endpoints.remove(&endpoint) else { return };
        let number = self.number();
        let cookie = self.cookie(number, &[]);
        let mut params = self.params(cookie);
        params.cb.send = on_sent;
        params.op_attr_mask |= UCP_OP_ATTR_FIELD_FLAGS;
        params.flags = UCP_EP_CLOSE_FLAG_FORCE;
        // SAFETY: the endpoint is open and is not used any more; the cookie is there until the request is done.
        let request = unsafe { (self.functions().ucp_ep_close_nbx)(pointer, &params) };
        self.notes().forget_failure(pointer);
        let begun = self.begin(number, cookie, request, None, Work::Close);
        debug_assert!(
            begun.is_ok() || request as isize != 0,
            "an endpoint is closed, whatever is said of it"
        );
    }

    /// Sends a message to whom its key is known, with data if there is some. The peer is told of the data, and fetches it if it wants to.
    pub fn send(
        &mut self,
        endpoint: EndpointId,
        header: &[u8],
        data: Option<Segment>,
        held: H,
    ) -> Result<(), Refused<H>> {
        let Some(pointer) = self.endpoints.get(&endpoint).copied() else {
            return Err(Refused { error: Error::NoEndpoint, held });
        };
        if header.len() > HEADER_BYTES_MAX {
            let error = Error::HeaderTooLong { length: header.len(), length_max: HEADER_BYTES_MAX };
            return Err(Refused { error, held });
        }
        if data.as_ref().is_some_and(|data| !data.is_of(&self.context)) {
            return Err(Refused { error: Error::Mismatch("the worker and the memory"), held });
        }
        let number = self.number();
        let cookie = self.cookie(number, header);
        let mut params = self.params(cookie);
        params.cb.send = on_sent;
        let (mut start, mut length) = (std::ptr::null_mut(), 0);
        if let Some(data) = &data {
            (start, length) = (data.start(), data.length() as usize);
            params.op_attr_mask |= UCP_OP_ATTR_FIELD_FLAGS;
            params.flags = UCP_AM_SEND_FLAG_RNDV;
            self.add_memory(&mut params, data);
        }
        // SAFETY: the endpoint is open; header and data stay where they are until the request is done, the first in the
        // cookie, the second in the region, which the request holds.
        let request = unsafe {
            let header = (&raw const (*cookie).header.bytes).cast();
            let header_length = (*cookie).header.length;
            (self.functions().ucp_am_send_nbx)(
                pointer,
                MESSAGE,
                header,
                header_length,
                start,
                length,
                &params,
            )
        };
        self.begin(number, cookie, request, data, Work::Send(held)).map_err(|(status, work)| {
            let error = Error::call("ucp_am_send_nbx", status);
            Refused { error, held: work.held().expect("a send has what was given with it") }
        })
    }

    /// Fetches data that was offered into memory of the same length.
    pub fn receive(&mut self, offer: OfferId, into: Segment, held: H) -> Result<(), Refused<H>> {
        if !into.is_of(&self.context) {
            return Err(Refused { error: Error::Mismatch("the worker and the memory"), held });
        }
        let Some(data) = self.offers.remove(&offer) else {
            return Err(Refused { error: Error::NoEndpoint, held });
        };
        let number = self.number();
        let cookie = self.cookie(number, &[]);
        let mut params = self.params(cookie);
        params.cb.recv_am = on_received;
        self.add_memory(&mut params, &into);
        let (start, length) = (into.start(), into.length() as usize);
        // SAFETY: the library gave the data out and nothing was done with it; the memory stays until the request is
        // done, which holds its region, and no reference to it exists.
        let request =
            unsafe { (self.functions().ucp_am_recv_data_nbx)(self.pointer, data, start, length, &params) };
        self.begin(number, cookie, request, Some(into), Work::Receive(held)).map_err(|(status, work)| {
            let error = Error::call("ucp_am_recv_data_nbx", status);
            Refused { error, held: work.held().expect("a receive has what was given with it") }
        })
    }

    /// Gives up data that was offered: its sender is told that its memory is free.
    pub fn refuse(&mut self, offer: OfferId) {
        if let Some(data) = self.offers.remove(&offer) {
            // SAFETY: the library gave the data out, and nothing was done with it.
            unsafe { (self.functions().ucp_am_data_release)(self.pointer, data) };
        }
    }

    /// Lets the library work, and appends what has happened; 0 means that there is nothing for the time being. What was
    /// offered before and not fetched is given up.
    pub fn poll(&mut self, into: &mut Vec<Event<H>>) -> usize {
        let before = into.len();
        self.release_offers();
        for _ in 0..TURNS_MAX {
            // SAFETY: the worker is there and of this thread, and this is not called by the library.
            let progressed = unsafe { (self.functions().ucp_worker_progress)(self.pointer) };
            for note in self.notes().take() {
                into.extend(self.event(note));
            }
            if progressed == 0 || into.len() > before {
                break;
            }
        }
        into.len() - before
    }

    /// Asks for the descriptor to become readable when there is something to poll for. `false` says that there already
    /// is: poll first.
    pub fn arm(&mut self) -> Result<bool, Error> {
        // SAFETY: the worker is there and of this thread.
        match unsafe { (self.functions().ucp_worker_arm)(self.pointer) } {
            UCS_ERR_BUSY => Ok(false),
            code => {
                Status::check(code).map_err(|status| Error::call("ucp_worker_arm", status))?;
                Ok(true)
            }
        }
    }

    /// Makes the descriptor readable.
    pub fn signal(&self) -> Result<(), Error> {
        // SAFETY: the worker is there.
        let code = unsafe { (self.functions().ucp_worker_signal)(self.pointer) };
        Status::check(code).map_err(|status| Error::call("ucp_worker_signal", status))
    }

    /// What becomes readable after [`Worker::arm`].
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor lasts as long as the worker, which is borrowed.
        unsafe { BorrowedFd::borrow_raw(self.descriptor) }
    }

    /// Requests that are not done.
    pub fn under_way(&self) -> usize {
        self.requests.len()
    }

    fn functions(&self) -> &'static Functions {
        self.context.functions()
    }

    fn notes(&self) -> &Notes {
        // SAFETY: the notes are there as long as the worker; only shared references to them exist.
        unsafe { &*self.notes }
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn cookie(&self, number: u64, header: &[u8]) -> *mut Cookie {
        let mut copy = Header { bytes: [0; HEADER_BYTES_MAX], length: header.len() };
        copy.bytes[..header.len()].copy_from_slice(header);
        Box::into_raw(Box::new(Cookie { notes: self.notes, number, header: copy }))
    }

    fn params(&self, cookie: *mut Cookie) -> ucp_request_param {
        // SAFETY: a structure of zeros is one, with nothing in it.
        let mut params: ucp_request_param = unsafe { std::mem::zeroed() };
        params.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA;
        params.user_data = cookie.cast();
        params
    }

    fn add_memory(&self, params: &mut ucp_request_param, segment: &Segment) {
        params.op_attr_mask |= UCP_OP_ATTR_FIELD_MEMORY_TYPE;
        params.memory_type = UCS_MEMORY_TYPE_HOST;
        if self.context.library().takes_memory_handles() {
            params.op_attr_mask |= UCP_OP_ATTR_FIELD_MEMH;
            params.memh = segment.memory();
        }
    }

    /// Keeps what the library works on, unless it refused.
    fn begin(
        &mut self,
        number: u64,
        cookie: *mut Cookie,
        request: ucs_status_ptr_t,
        segment: Option<Segment>,
        work: Work<H>,
    ) -> Result<(), (Status, Work<H>)> {
        if let Some(status) = Status::of_pointer(request) {
            // SAFETY: the library has not taken the cookie.
            drop(unsafe { Box::from_raw(cookie) });
            return Err((status, work));
        }
        if request.is_null() {
            // It is done already, and the library does not say so again.
            let length = segment.as_ref().map_or(0, |segment| segment.length() as usize);
            // SAFETY: the cookie is there, and of a request that is not told to be done yet.
            unsafe {
                match &work {
                    Work::Receive(_) => on_received(request, UCS_OK, length, cookie.cast()),
                    _ => on_sent(request, UCS_OK, cookie.cast()),
                }
            }
        }
        self.requests.insert(number, Request { cookie, pointer: request, _segment: segment, work });
        Ok(())
    }

    fn event(&mut self, note: Note) -> Option<Event<H>> {
        match note {
            Note::Done { number, status, length } => self.finish(number, status, length),
            Note::Message { header } => {
                Some(Event::Message { header: header.bytes[..header.length].to_vec() })
            }
            Note::Offer { header, data, length } => {
                let offer = OfferId(self.number());
                self.offers.insert(offer, data);
                Some(Event::Offered { header: header.bytes[..header.length].to_vec(), length, offer })
            }
            Note::Failed { endpoint: failed, status } => {
                let mut endpoints = self.endpoints.iter();
                let (endpoint, _) = endpoints.find(|(_, pointer)| **pointer == failed)?;
                Some(Event::Failed { endpoint: *endpoint, status: Status(status) })
            }
        }
    }

    fn finish(&mut self, number: u64, status: ucs_status_t, length: usize) -> Option<Event<H>> {
        let Request { cookie, pointer, work, .. } = self.requests.remove(&number)?;
        // SAFETY: the request is done, so that the library has let go of both.
        unsafe {
            if !pointer.is_null() {
                (self.functions().ucp_request_free)(pointer);
            }
            drop(Box::from_raw(cookie));
        }
        match work {
            Work::Send(held) => Some(Event::Sent { held, outcome: Status::check(status) }),
            Work::Receive(held) => {
                Some(Event::Received { held, outcome: Status::check(status).map(|()| length) })
            }
            Work::Close => None,
        }
    }

    fn release_offers(&mut self) {
        for offer in self.offers.keys().copied().collect::<Vec<_>>() {
            self.refuse(offer);
        }
    }
}

impl<H> Work<H> {
    fn held(self) -> Option<H> {
        match self {
            Work::Send(held) | Work::Receive(held) => Some(held),
            Work::Close => None,
        }
    }
}

impl<H: 'static> Drop for Worker<H> {
    fn drop(&mut self) {
        for endpoint in self.endpoints.keys().copied().collect::<Vec<_>>() {
            self.close(endpoint);
        }
        let began = Instant::now();
        while !self.requests.is_empty() && began.elapsed() < FAREWELL {
            self.poll(&mut Vec::new());
        }
        self.release_offers();
        if !self.requests.is_empty() {
            // The library may still work on them: nothing that it knows of is freed.
            std::mem::forget(std::mem::take(&mut self.requests));
            std::mem::forget(self.context.clone());
            return;
        }
        // SAFETY: nothing is under way and no endpoint is open; the notes are not known to anybody else after it.
        unsafe {
            (self.functions().ucp_worker_destroy)(self.pointer);
            drop(Box::from_raw(self.notes));
        }
    }
}

impl<H: 'static> std::fmt::Debug for Worker<H> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Worker")
            .field("endpoints", &self.endpoints.len())
            .field("under_way", &self.requests.len())
            .finish()
    }
}
