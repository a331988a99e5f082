//! Finding libucp and libucs when the process runs, so that one binary starts everywhere.

use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::sync::OnceLock;

use crate::log;
use crate::sys::*;

/// Why a library cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// The library is not there, or one that it needs is not.
    #[error("{library} cannot be loaded ({reason}); install it: {INSTALL}")]
    Missing {
        /// File name of the library.
        library: &'static str,
        /// What the dynamic linker says.
        reason: String,
    },
    /// The library is there and is none that is known here.
    #[error("{library} has no {symbol}; install a later UCX: {INSTALL}")]
    Symbol {
        /// File name of the library.
        library: &'static str,
        /// The function that is missing.
        symbol: &'static str,
    },
    /// The library is there and too old.
    #[error("UCX {found} is older than {}.{}; install a later one: {INSTALL}", OLDEST.0, OLDEST.1)]
    TooOld {
        /// Its version.
        found: String,
    },
}

/// The command that installs it on Debian and Ubuntu.
const INSTALL: &str = "apt install libucx0";
/// The oldest version that is used: the first whose active messages, endpoints that fail and settings are all as below.
const OLDEST: (u32, u32) = (1, 12);
/// The first version that takes a memory handle with a request.
const MEMORY_HANDLES: (u32, u32) = (1, 13);

/// libucp and what it needs, once for the process. It is never unloaded, because it leaves threads behind.
pub struct Library {
    pub(crate) functions: Functions,
    version: (u32, u32),
    text: String,
}

impl Library {
    /// The library of this process, loaded at the first call. Later calls repeat its outcome.
    ///
    /// It installs no handlers of signals, whatever its settings say, and what it logs goes to whom [`crate::on_log`]
    /// names.
    pub fn get() -> Result<&'static Library, LoadError> {
        static LOADED: OnceLock<Result<Library, LoadError>> = OnceLock::new();
        LOADED.get_or_init(Library::load).as_ref().map_err(LoadError::clone)
    }

    /// Major and minor version. Others of the same are understood.
    pub fn version(&self) -> (u32, u32) {
        self.version
    }

    /// Its version, for people.
    pub fn version_text(&self) -> &str {
        &self.text
    }

    pub(crate) fn takes_memory_handles(&self) -> bool {
        self.version >= MEMORY_HANDLES
    }

    fn load() -> Result<Self, LoadError> {
        let kept = Signals::keep();
        let opened = open(UCP).and_then(|handle| Ok((handle, open(UCS)?)));
        kept.restore();
        let (ucp, ucs) = opened?;
        let functions = Functions::find(ucp, ucs)?;
        let (mut major, mut minor, mut release) = (0, 0, 0);
        // SAFETY: the function writes three numbers, and takes no other argument.
        unsafe { (functions.ucp_get_version)(&mut major, &mut minor, &mut release) };
        let text = format!("{major}.{minor}.{release}");
        if (major, minor) < OLDEST {
            return Err(LoadError::TooOld { found: text });
        }
        // SAFETY: the handler has the type that the library declares, and is there as long as the process is.
        unsafe { (functions.ucs_log_push_handler)(log::handler) };
        // No rcache is used, and no memory of GPUs is handed over, so that the process' calls of mmap need no hooks.
        // SAFETY: both texts end with a zero byte; the function copies them.
        unsafe { (functions.ucs_global_opts_set_value)(c"MEMTYPE_CACHE".as_ptr(), c"n".as_ptr()) };
        Ok(Self { functions, version: (major, minor), text })
    }
}

impl std::fmt::Debug for Library {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Library").field("version", &self.text).finish()
    }
}

const UCP: &str = "libucp.so.0";
const UCS: &str = "libucs.so.0";

/// What the process does about signals of faults. UCX takes them over when it is loaded, for a backtrace of its own, and
/// says so in its environment alone.
struct Signals([(c_int, Option<libc::sigaction>); 6]);

impl Signals {
    fn keep() -> Self {
        let signals = [libc::SIGILL, libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGABRT, libc::SIGTRAP];
        Self(signals.map(|signal| {
            // SAFETY: a structure of zeros is one, and the call only writes to it.
            let kept = unsafe {
                let mut action: libc::sigaction = std::mem::zeroed();
                (libc::sigaction(signal, std::ptr::null(), &mut action) == 0).then_some(action)
            };
            (signal, kept)
        }))
    }

    fn restore(&self) {
        for (signal, kept) in &self.0 {
            if let Some(action) = kept {
                // SAFETY: the action was the process' own before, and its handler is still there.
                unsafe { libc::sigaction(*signal, action, std::ptr::null_mut()) };
            }
        }
    }
}

fn open(library: &'static str) -> Result<*mut c_void, LoadError> {
    let missing = |reason: String| LoadError::Missing { library, reason };
    let name = CString::new(library).map_err(|error| missing(error.to_string()))?;
    // SAFETY: the name ends with a zero byte; the library's initialisers are those of a system library.
    let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
    if !handle.is_null() {
        return Ok(handle);
    }
    // SAFETY: dlerror returns null or a text of this thread's that lasts until its next call.
    let reason = unsafe {
        let text = libc::dlerror();
        if text.is_null() {
            "no reason given".to_owned()
        } else {
            CStr::from_ptr(text).to_string_lossy().into_owned()
        }
    };
    Err(missing(reason))
}

fn find(handle: *mut c_void, library: &'static str, symbol: &'static CStr) -> Result<*mut c_void, LoadError> {
    // SAFETY: the handle is of a library that stays loaded, and the name ends with a zero byte.
    let address = unsafe { libc::dlsym(handle, symbol.as_ptr()) };
    match address.is_null() {
        true => Err(LoadError::Symbol { library, symbol: symbol.to_str().unwrap_or("?") }),
        false => Ok(address),
    }
}

macro_rules! functions {
    (
        ucp { $($name:ident: fn($($argument:ty),*) $(-> $result:ty)?;)* }
        ucs { $($other:ident: fn($($parameter:ty),*) $(-> $outcome:ty)?;)* }
    ) => {
        /// The functions that this crate calls.
        pub(crate) struct Functions {
            $(pub(crate) $name: unsafe extern "C" fn($($argument),*) $(-> $result)?,)*
            $(pub(crate) $other: unsafe extern "C" fn($($parameter),*) $(-> $outcome)?,)*
        }

        impl Functions {
            fn find(ucp: *mut c_void, ucs: *mut c_void) -> Result<Self, LoadError> {
                const fn name(text: &'static str) -> &'static CStr {
                    match CStr::from_bytes_with_nul(text.as_bytes()) {
                        Ok(name) => name,
                        Err(_) => panic!("a name in the table below ends with a zero byte"),
                    }
                }
                Ok(Self {
                    // SAFETY: the symbol of that name has this type, by the header.
                    $($name: unsafe {
                        std::mem::transmute::<*mut c_void, unsafe extern "C" fn($($argument),*) $(-> $result)?>(
                            find(ucp, UCP, const { name(concat!(stringify!($name), "\0")) })?,
                        )
                    },)*
                    // SAFETY: as above.
                    $($other: unsafe {
                        std::mem::transmute::<*mut c_void, unsafe extern "C" fn($($parameter),*) $(-> $outcome)?>(
                            find(ucs, UCS, const { name(concat!(stringify!($other), "\0")) })?,
                        )
                    },)*
                })
            }
        }
    };
}

functions! {
    ucp {
        ucp_get_version: fn(*mut c_uint, *mut c_uint, *mut c_uint);
        ucp_config_read: fn(*const c_char, *const c_char, *mut *mut ucp_config) -> ucs_status_t;
        ucp_config_modify: fn(*mut ucp_config, *const c_char, *const c_char) -> ucs_status_t;
        ucp_config_release: fn(*mut ucp_config);
        ucp_init_version:
            fn(c_uint, c_uint, *const ucp_params, *const ucp_config, *mut *mut ucp_context) -> ucs_status_t;
        ucp_cleanup: fn(*mut ucp_context);
        ucp_context_print_info: fn(*mut ucp_context, *mut libc::FILE);
        ucp_mem_map: fn(*mut ucp_context, *const ucp_mem_map_params, *mut *mut ucp_mem) -> ucs_status_t;
        ucp_mem_unmap: fn(*mut ucp_context, *mut ucp_mem) -> ucs_status_t;
        ucp_worker_create: fn(*mut ucp_context, *const ucp_worker_params, *mut *mut ucp_worker) -> ucs_status_t;
        ucp_worker_destroy: fn(*mut ucp_worker);
        ucp_worker_get_address: fn(*mut ucp_worker, *mut *mut ucp_address, *mut usize) -> ucs_status_t;
        ucp_worker_release_address: fn(*mut ucp_worker, *mut ucp_address);
        ucp_worker_progress: fn(*mut ucp_worker) -> c_uint;
        ucp_worker_get_efd: fn(*mut ucp_worker, *mut c_int) -> ucs_status_t;
        ucp_worker_arm: fn(*mut ucp_worker) -> ucs_status_t;
        ucp_worker_signal: fn(*mut ucp_worker) -> ucs_status_t;
        ucp_worker_set_am_recv_handler: fn(*mut ucp_worker, *const ucp_am_handler_param) -> ucs_status_t;
        ucp_ep_create: fn(*mut ucp_worker, *const ucp_ep_params, *mut *mut ucp_ep) -> ucs_status_t;
        ucp_ep_close_nbx: fn(*mut ucp_ep, *const ucp_request_param) -> ucs_status_ptr_t;
        ucp_am_send_nbx:
            fn(*mut ucp_ep, c_uint, *const c_void, usize, *const c_void, usize, *const ucp_request_param)
                -> ucs_status_ptr_t;
        ucp_am_recv_data_nbx:
            fn(*mut ucp_worker, *mut c_void, *mut c_void, usize, *const ucp_request_param) -> ucs_status_ptr_t;
        ucp_am_data_release: fn(*mut ucp_worker, *mut c_void);
        ucp_request_free: fn(*mut c_void);
    }
    ucs {
        ucs_status_string: fn(ucs_status_t) -> *const c_char;
        ucs_log_push_handler: fn(ucs_log_func_t);
        ucs_global_opts_set_value: fn(*const c_char, *const c_char) -> ucs_status_t;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_that_is_missing_is_named_with_its_remedy() {
        let text = open("libnothing-of-that-name.so.7").unwrap_err().to_string();
        assert!(text.contains("libnothing-of-that-name.so.7") && text.contains("apt install"), "{text}");
    }

    #[test]
    fn a_symbol_that_is_missing_is_named() {
        let handle = open("libc.so.6").unwrap();
        let error = find(handle, "libc.so.6", c"ucp_nothing").unwrap_err();
        assert_eq!(error, LoadError::Symbol { library: "libc.so.6", symbol: "ucp_nothing" });
        assert!(error.to_string().contains("ucp_nothing"));
        assert!(find(handle, "libc.so.6", c"getpid").is_ok());
    }

    #[test]
    fn loading_twice_gives_the_same_and_takes_no_signal() {
        match (Library::get(), Library::get()) {
            (Ok(first), Ok(second)) => assert!(std::ptr::eq(first, second)),
            (Err(first), Err(second)) => assert_eq!(first, second),
            (first, second) => panic!("{first:?} and {second:?}"),
        }
        // SAFETY: the calls only write to the structures, of which zeros are valid values; the name ends with a zero and stays while
        // its object is loaded.
        let handled_by = unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            libc::sigaction(libc::SIGSEGV, std::ptr::null(), &mut action);
            let mut object: libc::Dl_info = std::mem::zeroed();
            match libc::dladdr(action.sa_sigaction as *const libc::c_void, &mut object) {
                0 => String::new(),
                _ => std::ffi::CStr::from_ptr(object.dli_fname).to_string_lossy().into_owned(),
            }
        };
        assert!(!handled_by.contains("libuc"), "{handled_by} handles SIGSEGV");
    }
}
