//! Settings, transports and registered memory (`ucp_context_h`).

use std::ffi::{CStr, CString, c_void};
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::Arc;

use rustix::mm::{MapFlags, ProtFlags};

use crate::Error;
use crate::error::Status;
use crate::load::{Functions, Library};
use crate::sys::*;

/// The version of the interface that is spoken; every later library speaks it too.
const API: (u32, u32) = (1, 12);

/// What is so whatever the environment says. Receivers fetch, so that nobody writes to their memory but themselves. The
/// registration cache is left out, which would patch this process' calls of mmap, because all memory is registered
/// beforehand and passed with each request.
const FIXED: [(&str, &str); 2] = [("RNDV_SCHEME", "get_zcopy"), ("RCACHE_ENABLE", "n")];
/// What is so where the library knows it: endpoints over shared memory tell when their peer is gone, as all others do.
const WHERE_KNOWN: [(&str, &str); 1] = [("MM_ERROR_HANDLING", "y")];

/// UCX with one set of settings, shared by workers of any thread.
pub struct Context {
    library: &'static Library,
    pointer: *mut ucp_context,
}

// SAFETY: the context is made with mt_workers_shared, by which its functions may be called from several threads.
unsafe impl Send for Context {}
// SAFETY: as above.
unsafe impl Sync for Context {}

impl Context {
    /// Opens the transports that the environment (`UCX_TLS`, `UCX_NET_DEVICES` and others) and `settings` leave, of which
    /// the latter come first. Their names are without the prefix `UCX_`.
    pub fn open(settings: &[(&str, &str)]) -> Result<Arc<Self>, Error> {
        let library = Library::get()?;
        let config = Config::read(&library.functions)?;
        for (name, value) in settings.iter().chain(&FIXED) {
            config.set(name, value)?;
        }
        for (name, value) in WHERE_KNOWN {
            let _ = config.set(name, value);
        }
        // SAFETY: a structure of zeros is one, with nothing in it.
        let mut params: ucp_params = unsafe { std::mem::zeroed() };
        params.field_mask = UCP_PARAM_FIELD_FEATURES | UCP_PARAM_FIELD_MT_WORKERS_SHARED;
        params.features = UCP_FEATURE_AM | UCP_FEATURE_WAKEUP;
        params.mt_workers_shared = 1;
        let mut pointer = std::ptr::null_mut();
        // SAFETY: parameters and settings are there during the call, and nothing of them is used after it.
        let code = unsafe {
            (library.functions.ucp_init_version)(API.0, API.1, &params, config.pointer, &mut pointer)
        };
        Status::check(code).map_err(|status| Error::call("ucp_init_version", status))?;
        Ok(Arc::new(Self { library, pointer }))
    }

    /// The transports that are open with their devices, such as `tcp/eth0`, in the order of the library.
    pub fn transports(&self) -> Vec<String> {
        let mut text = std::ptr::null_mut();
        let mut length = 0;
        // SAFETY: the stream writes to memory of its own, of which text and length tell when it is closed; the memory is
        // freed once.
        let described = unsafe {
            let stream = libc::open_memstream(&mut text, &mut length);
            if stream.is_null() {
                return Vec::new();
            }
            (self.functions().ucp_context_print_info)(self.pointer, stream);
            libc::fclose(stream);
            let described = CStr::from_ptr(text).to_string_lossy().into_owned();
            libc::free(text.cast());
            described
        };
        resources(&described)
    }

    pub(crate) fn library(&self) -> &'static Library {
        self.library
    }

    pub(crate) fn functions(&self) -> &'static Functions {
        &self.library.functions
    }

    pub(crate) fn as_ptr(&self) -> *mut ucp_context {
        self.pointer
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: the context is open, and all that is made of it holds it.
        unsafe { (self.functions().ucp_cleanup)(self.pointer) };
    }
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context").field("library", &self.library).finish()
    }
}

/// The last words of lines such as `#      resource 1  :  md 1  dev 1  flags -- tcp/lo`.
fn resources(description: &str) -> Vec<String> {
    let lines = description.lines().map(|line| line.trim_start_matches('#').trim());
    let resources = lines.filter(|line| line.starts_with("resource "));
    resources.filter_map(|line| Some(line.split_whitespace().last()?.to_owned())).collect()
}

/// Settings, from the environment and UCX's files at first.
struct Config<'a> {
    functions: &'a Functions,
    pointer: *mut ucp_config,
}

impl<'a> Config<'a> {
    fn read(functions: &'a Functions) -> Result<Self, Error> {
        let mut pointer = std::ptr::null_mut();
        // SAFETY: prefix and file name may be null.
        let code = unsafe { (functions.ucp_config_read)(std::ptr::null(), std::ptr::null(), &mut pointer) };
        Status::check(code).map_err(|status| Error::call("ucp_config_read", status))?;
        Ok(Self { functions, pointer })
    }

    fn set(&self, name: &str, value: &str) -> Result<(), Error> {
        let refused = |source| Error::Setting { name: name.to_owned(), value: value.to_owned(), source };
        let text = |text: &str| CString::new(text).map_err(|_| refused(Status(UCS_ERR_INVALID_PARAM)));
        let (key, setting) = (text(name)?, text(value)?);
        // SAFETY: the settings are there, and both texts end with a zero byte; the function copies them.
        let code =
            unsafe { (self.functions.ucp_config_modify)(self.pointer, key.as_ptr(), setting.as_ptr()) };
        Status::check(code).map_err(refused)
    }
}

impl Drop for Config<'_> {
    fn drop(&mut self) {
        // SAFETY: the settings are there, and a context keeps a copy.
        unsafe { (self.functions.ucp_config_release)(self.pointer) };
    }
}

/// Memory of a file that workers send from and receive into, in a mapping of its own.
///
/// A memfd that is mapped elsewhere too shows the same bytes there. No reference to bytes of this mapping is given out, so
/// that the library may write to them at any time.
pub struct Region {
    context: Arc<Context>,
    memory: *mut ucp_mem,
    start: NonNull<u8>,
    length: usize,
}

// SAFETY: the mapping belongs to the value, its bytes are touched by the library alone, and a memory handle may be used by
// several threads.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

impl Region {
    /// Maps the first `length` bytes of a file and registers them with all devices of the context, some of which lock
    /// them. A file that is cut shorter later makes accesses fail with SIGBUS: seal it against that, or keep it to
    /// yourself.
    pub fn of_file(context: &Arc<Context>, file: BorrowedFd<'_>, length: usize) -> Result<Arc<Self>, Error> {
        let start = map(file, length).map_err(|source| Error::Map { length, source })?;
        let mut region = Self { context: context.clone(), memory: std::ptr::null_mut(), start, length };
        // SAFETY: a structure of zeros is one, with nothing in it.
        let mut params: ucp_mem_map_params = unsafe { std::mem::zeroed() };
        params.field_mask = UCP_MEM_MAP_PARAM_FIELD_ADDRESS
            | UCP_MEM_MAP_PARAM_FIELD_LENGTH
            | UCP_MEM_MAP_PARAM_FIELD_MEMORY_TYPE;
        params.address = start.as_ptr().cast();
        params.length = length;
        params.memory_type = UCS_MEMORY_TYPE_HOST;
        // SAFETY: the range is mapped, and stays so until the handle is given back.
        let code =
            unsafe { (context.functions().ucp_mem_map)(context.as_ptr(), &params, &mut region.memory) };
        Status::check(code).map_err(|status| Error::call("ucp_mem_map", status))?;
        Ok(Arc::new(region))
    }

    /// Length, in bytes.
    pub fn length(&self) -> u64 {
        self.length as u64
    }

    /// Part of the region, for a request. Holds the region.
    pub fn segment(self: &Arc<Self>, offset: u64, length: u32) -> Result<Segment, Error> {
        match offset.checked_add(length.into()) {
            Some(end) if end <= self.length() => Ok(Segment { region: self.clone(), offset, length }),
            _ => {
                let region_length = self.length();
                Err(Error::OutOfRegion { offset, length: length.into(), region_length })
            }
        }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        if !self.memory.is_null() {
            // SAFETY: the handle is of this context, and every request that used it is done, as each holds the region.
            let code =
                unsafe { (self.context.functions().ucp_mem_unmap)(self.context.as_ptr(), self.memory) };
            if code < 0 {
                // What a device may still touch is better leaked than freed.
                return;
            }
        }
        // SAFETY: the mapping was made by this value, and nobody touches it any more.
        let _ = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.length) };
    }
}

impl std::fmt::Debug for Region {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Region").field("length", &self.length).finish()
    }
}

/// Part of a region, for a request.
#[derive(Debug, Clone)]
pub struct Segment {
    region: Arc<Region>,
    offset: u64,
    length: u32,
}

impl Segment {
    /// Length, in bytes.
    pub fn length(&self) -> u32 {
        self.length
    }

    pub(crate) fn is_of(&self, context: &Arc<Context>) -> bool {
        Arc::ptr_eq(&self.region.context, context)
    }

    pub(crate) fn start(&self) -> *mut c_void {
        // SAFETY: the segment lies within the mapping, which is there as long as the region is.
        unsafe { self.region.start.as_ptr().add(self.offset as usize).cast() }
    }

    pub(crate) fn memory(&self) -> *mut ucp_mem {
        self.region.memory
    }
}

fn map(file: BorrowedFd<'_>, length: usize) -> std::io::Result<NonNull<u8>> {
    let size = rustix::fs::fstat(file)?.st_size;
    if length as u64 > u64::try_from(size).unwrap_or(0) {
        return Err(std::io::Error::from_raw_os_error(libc::ENXIO));
    }
    let access = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: the kernel chooses a free place.
    let start = unsafe { rustix::mm::mmap(std::ptr::null_mut(), length, access, MapFlags::SHARED, file, 0) }?;
    NonNull::new(start.cast()).ok_or_else(|| std::io::Error::from_raw_os_error(libc::ENOMEM))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transports_are_found_in_what_the_library_prints() {
        let text = "#\n# UCP context\n#\n#     component 0  :  self\n#            md 0  :  component 0  self \n\
                    #      resource 0  :  md 0  dev 0  flags -- self/memory0\n\
                    #      resource 1  :  md 1  dev 1  flags -- tcp/lo\n#\n";
        assert_eq!(resources(text), ["self/memory0", "tcp/lo"]);
    }
}
