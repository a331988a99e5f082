//! One end of a connection, without its queue pair (`rdma_create_id(3)`).

use std::ffi::{CStr, c_int};
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::channel::ConnectionChannel;
use super::establish::{Answerer, Attached, Caller};
use super::event::{ConnectError, Reached};
use super::{PRIVATE_BYTES_MAX, address};
use crate::Error;
use crate::load::ConnectionFunctions;
use crate::queue::{QueuePair, Reset};
use crate::sys::{self, ibv_qp_attr, rdma_cm_id, rdma_conn_param};

/// Just made, or bound.
#[derive(Debug)]
pub struct Unresolved(());

/// Knows its device.
#[derive(Debug)]
pub struct AddressResolved(());

/// Knows the way to the other end.
#[derive(Debug)]
pub struct RouteResolved(());

/// The end that calls another one. Dropping it gives up what it does.
#[derive(Debug)]
pub struct Identifier<S = Unresolved> {
    raw: Raw,
    state: PhantomData<S>,
}

impl Identifier<Unresolved> {
    /// An end for one connection. Its events come from the channel.
    pub fn create(channel: &Arc<ConnectionChannel>) -> Result<Self, Error> {
        Ok(Self { raw: Raw::create(channel)?, state: PhantomData })
    }

    /// Finds the device that reaches `remote` (`rdma_resolve_addr(3)`), from an address of this machine if one is given.
    /// Ends with [`crate::ConnectionEvent::AddressResolved`], or with a failure, at the latest after the time.
    pub fn resolve_address(
        &self,
        local: Option<SocketAddr>,
        remote: SocketAddr,
        timeout_ms: u32,
    ) -> Result<(), Error> {
        let mut local = local.map(address::to_raw);
        let mut far = address::to_raw(remote);
        let local = local.as_mut().map_or(std::ptr::null_mut(), |local| std::ptr::from_mut(local).cast());
        let far = std::ptr::from_mut(&mut far).cast();
        let resolve = self.raw.functions().rdma_resolve_addr;
        // SAFETY: the identifier is there, and the addresses live through the call.
        let code = unsafe { resolve(self.raw.pointer(), local, far, timeout(timeout_ms)) };
        check("rdma_resolve_addr", code, || remote.to_string())
    }

    /// The next state, when the event says so. An event of another identifier is an error, and this one is dropped.
    pub fn address_resolved(
        self,
        proof: Reached<AddressResolved>,
    ) -> Result<Identifier<AddressResolved>, Error> {
        self.raw.is_meant(proof.number)?;
        self.raw.device_name().ok_or(NO_DEVICE)?;
        Ok(Identifier { raw: self.raw, state: PhantomData })
    }
}

impl Identifier<AddressResolved> {
    /// Finds the way through the network (`rdma_resolve_route(3)`). Ends with
    /// [`crate::ConnectionEvent::RouteResolved`], or with a failure, at the latest after the time.
    pub fn resolve_route(&self, timeout_ms: u32) -> Result<(), Error> {
        let resolve = self.raw.functions().rdma_resolve_route;
        // SAFETY: the identifier is there and has a device, which the function looks at.
        self.raw.check("rdma_resolve_route", unsafe { resolve(self.raw.pointer(), timeout(timeout_ms)) })
    }

    /// The next state, when the event says so. An event of another identifier is an error, and this one is dropped.
    pub fn route_resolved(self, proof: Reached<RouteResolved>) -> Result<Identifier<RouteResolved>, Error> {
        self.raw.is_meant(proof.number)?;
        Ok(Identifier { raw: self.raw, state: PhantomData })
    }
}

impl Identifier<RouteResolved> {
    /// Binds a queue pair to the port that the route begins at. It must be of the same device.
    pub fn attach<H>(self, pair: QueuePair<H, Reset>) -> Result<Attached<H, Caller>, Error> {
        Attached::new(self.raw, pair, Caller(()))
    }
}

impl<S> Identifier<S> {
    /// Its number in events.
    pub fn number(&self) -> IdentifierNumber {
        self.raw.number
    }

    /// The kernel's name of its device, when the address is resolved.
    pub fn device_name(&self) -> Option<String> {
        self.raw.device_name()
    }
}

/// An end that others call. Dropping it ends that; connections stay.
#[derive(Debug)]
pub struct Listener {
    raw: Raw,
}

impl Listener {
    /// Listens at an address of this machine (`rdma_bind_addr(3)`, `rdma_listen(3)`); port 0 chooses one, and the
    /// address 0 is that of every device. Up to `backlog` requests wait, more are rejected.
    pub fn bind(channel: &Arc<ConnectionChannel>, address: SocketAddr, backlog: u32) -> Result<Self, Error> {
        let (raw, functions) = (Raw::bound(channel, address)?, channel.functions());
        let backlog = c_int::try_from(backlog).unwrap_or(c_int::MAX);
        // SAFETY: the identifier is there.
        let code = unsafe { (functions.rdma_listen)(raw.pointer(), backlog) };
        check("rdma_listen", code, || address.to_string())?;
        Ok(Self { raw })
    }

    /// Its number in events.
    pub fn number(&self) -> IdentifierNumber {
        self.raw.number
    }

    /// The address, with the port that was chosen.
    pub fn address(&self) -> Option<SocketAddr> {
        self.raw.local_address()
    }

    /// The kernel's name of the device that has the address; none when it listens on all.
    pub fn device_name(&self) -> Option<String> {
        self.raw.device_name()
    }
}

/// Somebody who wants to be connected. Dropping it rejects the connection.
#[derive(Debug)]
pub struct Request {
    raw: Raw,
    reads: Answerer,
    private_data: Box<[u8]>,
}

impl Request {
    /// # Safety
    ///
    /// The identifier is one of a request that came from this channel, and nobody else owns it.
    pub(super) unsafe fn adopt(
        channel: &Arc<ConnectionChannel>,
        pointer: *mut rdma_cm_id,
        parameters: &rdma_conn_param,
        private_data: &[u8],
    ) -> Self {
        let raw = Raw::new(channel, pointer, IdentifierNumber::next());
        // SAFETY: the identifier is there, and the library leaves this field to its user.
        unsafe { (*pointer).context = raw.number.to_raw() };
        let reads = Answerer { in_max: parameters.responder_resources, out_max: parameters.initiator_depth };
        Self { raw, reads, private_data: private_data.into() }
    }

    /// Its number in events that follow.
    pub fn number(&self) -> IdentifierNumber {
        self.raw.number
    }

    /// What the other end sent with its request, with zeros after it where the network carries a fixed length.
    pub fn private_data(&self) -> &[u8] {
        &self.private_data
    }

    /// The address of the other end.
    pub fn peer_address(&self) -> Option<SocketAddr> {
        self.raw.peer_address()
    }

    /// The kernel's name of the device that it came to.
    pub fn device_name(&self) -> Option<String> {
        self.raw.device_name()
    }

    /// Binds a queue pair to the port that the request came to. It must be of the same device. Fails when the other end
    /// has given up.
    pub fn attach<H>(self, pair: QueuePair<H, Reset>) -> Result<Attached<H, Answerer>, Error> {
        Attached::new(self.raw, pair, self.reads)
    }

    /// Rejects the connection, with up to [`PRIVATE_BYTES_MAX`] bytes for the other end (`rdma_reject(3)`).
    pub fn reject(self, private_data: &[u8]) -> Result<(), Error> {
        let length = private_length(private_data)?;
        let reject = self.raw.functions().rdma_reject;
        // SAFETY: the identifier is there, and the data live through the call.
        let code = unsafe { reject(self.raw.pointer(), private_data.as_ptr().cast(), length) };
        self.raw.check("rdma_reject", code)
    }
}

/// Names an identifier in events. A number is used once in a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IdentifierNumber(u64);

impl IdentifierNumber {
    fn next() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }

    /// The number in the field for the library's user, which is as wide as a pointer and never followed.
    fn to_raw(self) -> *mut std::ffi::c_void {
        std::ptr::without_provenance_mut(self.0 as usize)
    }
}

/// # Safety
///
/// The identifier is there, and was made or adopted by this module.
pub(super) unsafe fn number_of(pointer: *mut rdma_cm_id) -> IdentifierNumber {
    // SAFETY: the caller vouches for it.
    IdentifierNumber(unsafe { (*pointer).context }.addr() as u64)
}

/// An identifier of the library's, as the thread of its channel has it.
pub(super) struct Raw {
    shared: Arc<Shared>,
    pub(super) number: IdentifierNumber,
    of_one_thread: PhantomData<*const ()>,
}

/// An identifier of the library's. Whoever holds it last destroys it.
struct Shared {
    channel: Arc<ConnectionChannel>,
    pointer: *mut rdma_cm_id,
}

// SAFETY: librdmacm may be called from several threads. Besides the thread of the channel, only one has it that calls
// the other end and does nothing more with it than to drop it.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Raw {
    fn new(channel: &Arc<ConnectionChannel>, pointer: *mut rdma_cm_id, number: IdentifierNumber) -> Self {
        let shared = Arc::new(Shared { channel: channel.clone(), pointer });
        Self { shared, number, of_one_thread: PhantomData }
    }

    /// An identifier with an address of this machine (`rdma_bind_addr(3)`).
    pub(super) fn bound(channel: &Arc<ConnectionChannel>, address: SocketAddr) -> Result<Self, Error> {
        let raw = Raw::create(channel)?;
        let mut place = address::to_raw(address);
        let bind = channel.functions().rdma_bind_addr;
        // SAFETY: the identifier is there, and the address lives through the call.
        let code = unsafe { bind(raw.pointer(), std::ptr::from_mut(&mut place).cast()) };
        check("rdma_bind_addr", code, || address.to_string())?;
        Ok(raw)
    }

    pub(super) fn functions(&self) -> &'static ConnectionFunctions {
        self.shared.channel.functions()
    }

    pub(super) fn pointer(&self) -> *mut rdma_cm_id {
        self.shared.pointer
    }

    /// Calls the other end (`rdma_connect(3)`) in a thread of its own, for drivers that open a TCP connection within the
    /// call. The channel tells if it fails.
    pub(super) fn connect_apart(
        &self,
        mut parameters: rdma_conn_param,
        private_data: &[u8],
    ) -> Result<(), Error> {
        let (shared, number) = (self.shared.clone(), self.number);
        let private_data: Box<[u8]> = private_data.into();
        // What it points to is set in the thread, which has the data.
        parameters.private_data = std::ptr::null();
        let parameters = Parameters(parameters);
        let call = move || {
            // All of it, as it is all of it that may be sent.
            let Parameters(mut parameters) = { parameters };
            parameters.private_data = private_data.as_ptr().cast();
            let connect = shared.channel.functions().rdma_connect;
            // SAFETY: the identifier is there and has a device, which the function looks at; parameters and private data
            // live through the call.
            if unsafe { connect(shared.pointer, &mut parameters) } != 0 {
                let error = std::io::Error::last_os_error();
                shared.channel.tell_failure(number, ConnectError::of_call(&error));
            }
        };
        let spawned = std::thread::Builder::new().name("rdma-connect".to_owned()).spawn(call);
        spawned.map(drop).map_err(|source| Error::Call {
            call: "a thread for rdma_connect",
            device: self.device_name().unwrap_or_default(),
            source,
        })
    }

    fn create(channel: &Arc<ConnectionChannel>) -> Result<Self, Error> {
        let (number, mut pointer) = (IdentifierNumber::next(), std::ptr::null_mut());
        let create = channel.functions().rdma_create_id;
        // SAFETY: the channel is there, and the place lives through the call.
        let code = unsafe { create(channel.as_ptr(), &mut pointer, number.to_raw(), sys::RDMA_PS_TCP) };
        check("rdma_create_id", code, || "this machine".to_owned())?;
        Ok(Self::new(channel, pointer, number))
    }

    /// Whether an event is one of this identifier.
    pub(super) fn is_meant(&self, number: IdentifierNumber) -> Result<(), Error> {
        if number == self.number { Ok(()) } else { Err(Error::Mismatch("event and identifier")) }
    }

    pub(super) fn device_name(&self) -> Option<String> {
        let id = self.id();
        if id.verbs.is_null() {
            return None;
        }
        // SAFETY: the library keeps the device open as long as an identifier is bound to it; its name ends with a zero
        // byte.
        let name = unsafe { CStr::from_ptr((*(*id.verbs).device).name.as_ptr()) };
        Some(name.to_string_lossy().into_owned())
    }

    /// Whether its device speaks iWARP, whose connections the kernel alone sets up.
    pub(super) fn is_iwarp(&self) -> bool {
        let verbs = self.id().verbs;
        // SAFETY: as for the name.
        !verbs.is_null() && unsafe { (*(*verbs).device).transport_type } == sys::IBV_TRANSPORT_IWARP
    }

    fn local_address(&self) -> Option<SocketAddr> {
        address::from_raw(&self.id().route.addr.src_storage)
    }

    pub(super) fn peer_address(&self) -> Option<SocketAddr> {
        address::from_raw(&self.id().route.addr.dst_storage)
    }

    /// What a queue pair is to be given to enter a state, as far as the kernel knows (`rdma_init_qp_attr(3)`).
    pub(super) fn queue_pair_attributes(&self, state: u32) -> Result<(ibv_qp_attr, u32), Error> {
        // SAFETY: the structure is one of plain numbers.
        let mut attributes: ibv_qp_attr = unsafe { sys::zeroed() };
        attributes.qp_state = state;
        let mut mask: c_int = 0;
        let initialise = self.functions().rdma_init_qp_attr;
        // SAFETY: the identifier is there, and both places live through the call.
        let code = unsafe { initialise(self.pointer(), &mut attributes, &mut mask) };
        self.check("rdma_init_qp_attr", code)?;
        // Above are bits that kernels use among themselves, and some let them slip out.
        Ok((attributes, mask as u32 & (2 * sys::IBV_QP_DEST_QPN - 1)))
    }

    /// The outcome of a call that returns 0, or -1 and leaves its reason in `errno`.
    pub(super) fn check(&self, call: &'static str, code: c_int) -> Result<(), Error> {
        check(call, code, || self.device_name().unwrap_or_else(|| "this machine".to_owned()))
    }

    fn id(&self) -> &rdma_cm_id {
        // SAFETY: the identifier is there until the value is gone. The library changes it only in calls, and those are
        // made on the thread of the channel, which no value of this type leaves; the one that another thread makes
        // changes no more than what stands behind the public structure.
        unsafe { &*self.pointer() }
    }
}

/// Numbers, and a pointer that is null.
struct Parameters(rdma_conn_param);

// SAFETY: nothing is pointed to.
unsafe impl Send for Parameters {}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: the identifier was made once and is used no more; all events that came of it are acknowledged, and it
        // has no queue pair of the library's.
        unsafe { (self.channel.functions().rdma_destroy_id)(self.pointer) };
    }
}

impl std::fmt::Debug for Raw {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Raw").field("number", &self.number.0).field("device", &self.device_name()).finish()
    }
}

/// The length of private data, when it fits.
pub(super) fn private_length(private_data: &[u8]) -> Result<u8, Error> {
    match u8::try_from(private_data.len()) {
        Ok(length) if usize::from(length) <= PRIVATE_BYTES_MAX => Ok(length),
        _ => Err(Error::PrivateData { length: private_data.len(), length_max: PRIVATE_BYTES_MAX }),
    }
}

const NO_DEVICE: Error =
    Error::Unsupported { what: "the address", why: "it is resolved, but to no RDMA device" };

fn timeout(timeout_ms: u32) -> c_int {
    c_int::try_from(timeout_ms).unwrap_or(c_int::MAX)
}

fn check(call: &'static str, code: c_int, subject: impl Fn() -> String) -> Result<(), Error> {
    if code == 0 {
        return Ok(());
    }
    let source = std::io::Error::last_os_error();
    Err(Error::Call { call, device: subject(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_data_have_a_limit() {
        assert_eq!(private_length(&[]).unwrap(), 0);
        assert_eq!(private_length(&[1; PRIVATE_BYTES_MAX]).unwrap(), 56);
        let refused = private_length(&[1; PRIVATE_BYTES_MAX + 1]).unwrap_err();
        assert!(matches!(refused, Error::PrivateData { length: 57, length_max: 56 }), "{refused}");
        assert!(private_length(&[1; 300]).is_err());
    }
}
