//! Finding libibverbs and librdmacm when the process runs, so that one binary starts everywhere.

use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::sync::OnceLock;

use crate::sys::*;

/// Why a library cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// The library is not there, or one that it needs is not.
    #[error("{library} cannot be loaded ({reason}); install it: {remedy}")]
    Missing {
        /// File name of the library.
        library: &'static str,
        /// What the dynamic linker says.
        reason: String,
        /// The command that installs it on Debian and Ubuntu.
        remedy: &'static str,
    },
    /// The library is there and too old.
    #[error("{library} has no {symbol} of version {version}; install a later one: {remedy}")]
    Symbol {
        /// File name of the library.
        library: &'static str,
        /// The function that is missing.
        symbol: &'static str,
        /// The version of the function's binary interface.
        version: &'static str,
        /// The command that installs it on Debian and Ubuntu.
        remedy: &'static str,
    },
}

/// libibverbs, once for the process. It is never unloaded, because providers leave threads and memory behind.
pub struct Library {
    pub(crate) functions: Functions,
}

impl Library {
    /// The library of this process, loaded at the first call. Later calls repeat its outcome.
    pub fn get() -> Result<&'static Library, LoadError> {
        static LOADED: OnceLock<Result<Library, LoadError>> = OnceLock::new();
        LOADED.get_or_init(Library::load).as_ref().map_err(LoadError::clone)
    }

    /// Whether memory of other devices can be registered by descriptor (`ibv_reg_dmabuf_mr(3)`). The kernel and the
    /// device must agree too, and only say so when they are asked to.
    pub fn has_dmabuf(&self) -> bool {
        self.functions.ibv_reg_dmabuf_mr.is_some()
    }

    fn load() -> Result<Self, LoadError> {
        let source = Source { handle: open(VERBS.0, VERBS.1)?, library: VERBS.0, remedy: VERBS.1 };
        Ok(Self { functions: Functions::find(&source)? })
    }
}

impl std::fmt::Debug for Library {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Library").field("dmabuf", &self.has_dmabuf()).finish()
    }
}

/// Whether librdmacm can be loaded and has what sets up connections by address (`rdma_cm(7)`). iWARP devices connect in
/// no other way.
pub fn connection_manager() -> Result<(), LoadError> {
    connection_functions().map(|_| ())
}

/// librdmacm, loaded at the first call, and never unloaded.
pub(crate) fn connection_functions() -> Result<&'static ConnectionFunctions, LoadError> {
    static LOADED: OnceLock<Result<ConnectionFunctions, LoadError>> = OnceLock::new();
    let load = || {
        let (library, remedy) = CONNECTIONS;
        ConnectionFunctions::find(&Source { handle: open(library, remedy)?, library, remedy })
    };
    LOADED.get_or_init(load).as_ref().map_err(LoadError::clone)
}

/// File name of a library, and how to install it.
const VERBS: (&str, &str) = ("libibverbs.so.1", "apt install libibverbs1 ibverbs-providers");
const CONNECTIONS: (&str, &str) = ("librdmacm.so.1", "apt install librdmacm1");

/// A library that is loaded, as the dynamic linker knows it.
struct Source {
    handle: *mut c_void,
    library: &'static str,
    remedy: &'static str,
}

impl Source {
    fn required(&self, symbol: &'static CStr, version: &'static CStr) -> Result<*mut c_void, LoadError> {
        let text = |text: &'static CStr| text.to_str().unwrap_or("?");
        self.optional(symbol, version).ok_or(LoadError::Symbol {
            library: self.library,
            symbol: text(symbol),
            version: text(version),
            remedy: self.remedy,
        })
    }

    fn optional(&self, symbol: &CStr, version: &CStr) -> Option<*mut c_void> {
        // SAFETY: the handle is of a library that stays loaded, and both names end with a zero byte.
        let address = unsafe { libc::dlvsym(self.handle, symbol.as_ptr(), version.as_ptr()) };
        (!address.is_null()).then_some(address)
    }
}

fn open(library: &'static str, remedy: &'static str) -> Result<*mut c_void, LoadError> {
    let missing = |reason: String| LoadError::Missing { library, reason, remedy };
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

macro_rules! functions {
    (
        $(#[$about:meta])*
        $table:ident
        required { $($name:ident @ $version:literal: fn($($argument:ty),*) $(-> $result:ty)?;)* }
        optional { $($maybe:ident @ $since:literal: fn($($parameter:ty),*) -> $outcome:ty;)* }
    ) => {
        $(#[$about])*
        pub(crate) struct $table {
            $(pub(crate) $name: unsafe extern "C" fn($($argument),*) $(-> $result)?,)*
            $(pub(crate) $maybe: Option<unsafe extern "C" fn($($parameter),*) -> $outcome>,)*
        }

        impl $table {
            fn find(source: &Source) -> Result<Self, LoadError> {
                const fn name(text: &'static str) -> &'static CStr {
                    match CStr::from_bytes_with_nul(text.as_bytes()) {
                        Ok(name) => name,
                        Err(_) => panic!("a name in the table below ends with a zero byte"),
                    }
                }
                Ok(Self {
                    // SAFETY: the symbol of that name and version has this type, by the header.
                    $($name: unsafe {
                        std::mem::transmute::<*mut c_void, unsafe extern "C" fn($($argument),*) $(-> $result)?>(
                            source.required(
                                const { name(concat!(stringify!($name), "\0")) },
                                const { name(concat!($version, "\0")) },
                            )?,
                        )
                    },)*
                    $($maybe: source.optional(
                        const { name(concat!(stringify!($maybe), "\0")) },
                        const { name(concat!($since, "\0")) },
                    ).map(|address| {
                        // SAFETY: as above.
                        unsafe {
                            std::mem::transmute::<*mut c_void, unsafe extern "C" fn($($parameter),*) -> $outcome>(
                                address,
                            )
                        }
                    }),)*
                })
            }
        }
    };
}

functions! {
    /// The functions of libibverbs that this crate calls.
    Functions
    required {
        ibv_get_device_list @ "IBVERBS_1.1": fn(*mut c_int) -> *mut *mut ibv_device;
        ibv_free_device_list @ "IBVERBS_1.1": fn(*mut *mut ibv_device);
        ibv_get_device_name @ "IBVERBS_1.1": fn(*mut ibv_device) -> *const c_char;
        ibv_get_device_guid @ "IBVERBS_1.1": fn(*mut ibv_device) -> u64;
        ibv_open_device @ "IBVERBS_1.1": fn(*mut ibv_device) -> *mut ibv_context;
        ibv_close_device @ "IBVERBS_1.1": fn(*mut ibv_context) -> c_int;
        ibv_query_device @ "IBVERBS_1.1": fn(*mut ibv_context, *mut ibv_device_attr) -> c_int;
        ibv_query_port @ "IBVERBS_1.1": fn(*mut ibv_context, u8, *mut ibv_port_attr) -> c_int;
        ibv_get_async_event @ "IBVERBS_1.1": fn(*mut ibv_context, *mut ibv_async_event) -> c_int;
        ibv_ack_async_event @ "IBVERBS_1.1": fn(*mut ibv_async_event);
        ibv_alloc_pd @ "IBVERBS_1.1": fn(*mut ibv_context) -> *mut ibv_pd;
        ibv_dealloc_pd @ "IBVERBS_1.1": fn(*mut ibv_pd) -> c_int;
        ibv_reg_mr @ "IBVERBS_1.1": fn(*mut ibv_pd, *mut c_void, usize, c_int) -> *mut ibv_mr;
        ibv_dereg_mr @ "IBVERBS_1.1": fn(*mut ibv_mr) -> c_int;
        ibv_create_comp_channel @ "IBVERBS_1.0": fn(*mut ibv_context) -> *mut ibv_comp_channel;
        ibv_destroy_comp_channel @ "IBVERBS_1.0": fn(*mut ibv_comp_channel) -> c_int;
        ibv_create_cq @ "IBVERBS_1.1":
            fn(*mut ibv_context, c_int, *mut c_void, *mut ibv_comp_channel, c_int) -> *mut ibv_cq;
        ibv_destroy_cq @ "IBVERBS_1.1": fn(*mut ibv_cq) -> c_int;
        ibv_get_cq_event @ "IBVERBS_1.1": fn(*mut ibv_comp_channel, *mut *mut ibv_cq, *mut *mut c_void) -> c_int;
        ibv_ack_cq_events @ "IBVERBS_1.1": fn(*mut ibv_cq, c_uint);
        ibv_create_srq @ "IBVERBS_1.1": fn(*mut ibv_pd, *mut ibv_srq_init_attr) -> *mut ibv_srq;
        ibv_destroy_srq @ "IBVERBS_1.1": fn(*mut ibv_srq) -> c_int;
        ibv_create_qp @ "IBVERBS_1.1": fn(*mut ibv_pd, *mut ibv_qp_init_attr) -> *mut ibv_qp;
        ibv_modify_qp @ "IBVERBS_1.1": fn(*mut ibv_qp, *mut ibv_qp_attr, c_int) -> c_int;
        ibv_destroy_qp @ "IBVERBS_1.1": fn(*mut ibv_qp) -> c_int;
    }
    optional {
        _ibv_query_gid_table @ "IBVERBS_1.11": fn(*mut ibv_context, *mut ibv_gid_entry, usize, u32, usize) -> isize;
        ibv_reg_mr_iova2 @ "IBVERBS_1.8": fn(*mut ibv_pd, *mut c_void, usize, u64, c_uint) -> *mut ibv_mr;
        ibv_reg_dmabuf_mr @ "IBVERBS_1.12": fn(*mut ibv_pd, u64, usize, u64, c_int, c_int) -> *mut ibv_mr;
    }
}

functions! {
    /// The functions of librdmacm that this crate calls.
    ConnectionFunctions
    required {
        rdma_create_event_channel @ "RDMACM_1.0": fn() -> *mut rdma_event_channel;
        rdma_destroy_event_channel @ "RDMACM_1.0": fn(*mut rdma_event_channel);
        rdma_get_cm_event @ "RDMACM_1.0": fn(*mut rdma_event_channel, *mut *mut rdma_cm_event) -> c_int;
        rdma_ack_cm_event @ "RDMACM_1.0": fn(*mut rdma_cm_event) -> c_int;
        rdma_create_id @ "RDMACM_1.0":
            fn(*mut rdma_event_channel, *mut *mut rdma_cm_id, *mut c_void, c_uint) -> c_int;
        rdma_destroy_id @ "RDMACM_1.0": fn(*mut rdma_cm_id) -> c_int;
        rdma_bind_addr @ "RDMACM_1.0": fn(*mut rdma_cm_id, *mut libc::sockaddr) -> c_int;
        rdma_listen @ "RDMACM_1.0": fn(*mut rdma_cm_id, c_int) -> c_int;
        rdma_resolve_addr @ "RDMACM_1.0":
            fn(*mut rdma_cm_id, *mut libc::sockaddr, *mut libc::sockaddr, c_int) -> c_int;
        rdma_resolve_route @ "RDMACM_1.0": fn(*mut rdma_cm_id, c_int) -> c_int;
        rdma_connect @ "RDMACM_1.0": fn(*mut rdma_cm_id, *mut rdma_conn_param) -> c_int;
        rdma_accept @ "RDMACM_1.0": fn(*mut rdma_cm_id, *mut rdma_conn_param) -> c_int;
        rdma_reject @ "RDMACM_1.0": fn(*mut rdma_cm_id, *const c_void, u8) -> c_int;
        rdma_disconnect @ "RDMACM_1.0": fn(*mut rdma_cm_id) -> c_int;
        rdma_init_qp_attr @ "RDMACM_1.2": fn(*mut rdma_cm_id, *mut ibv_qp_attr, *mut c_int) -> c_int;
        rdma_establish @ "RDMACM_1.2": fn(*mut rdma_cm_id) -> c_int;
    }
    optional {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_that_is_missing_is_named_with_its_remedy() {
        let error = open("libnothing-of-that-name.so.7", "apt install nothing").unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("libnothing-of-that-name.so.7") && text.contains("apt install nothing"),
            "{text}"
        );
    }

    #[test]
    fn a_symbol_that_is_missing_is_named_with_its_version() {
        let library = "libc.so.6";
        let source = Source { handle: open(library, "").unwrap(), library, remedy: "apt upgrade" };
        let error = source.required(c"ibv_nothing", c"IBVERBS_9.9").unwrap_err();
        assert!(
            matches!(error, LoadError::Symbol { symbol: "ibv_nothing", version: "IBVERBS_9.9", .. }),
            "{error}"
        );
        assert!(source.required(c"getpid", c"GLIBC_2.2.5").is_ok() || cfg!(not(target_arch = "x86_64")));
    }

    #[test]
    fn loading_twice_gives_the_same() {
        match (Library::get(), Library::get()) {
            (Ok(first), Ok(second)) => assert!(std::ptr::eq(first, second)),
            (Err(first), Err(second)) => assert_eq!(first, second),
            (first, second) => panic!("{first:?} and {second:?}"),
        }
    }
}
