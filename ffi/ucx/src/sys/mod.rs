//! Bindings to libucp and libucs, written by hand: the structures as `ucp/api/ucp.h` and `ucp/api/ucp_def.h` declare them,
//! and no more than this crate uses. Later versions append fields, which the masks leave out; a test compares sizes of
//! 1.13, offsets and values with the headers of the machine, where there are some.
#![allow(non_camel_case_types)]

#[cfg(test)]
mod layout;

use std::ffi::{c_char, c_int, c_uint, c_void};

/// Status of an operation: an enumeration in one byte.
pub(crate) type ucs_status_t = i8;
/// Null, a request, or a status as a pointer.
pub(crate) type ucs_status_ptr_t = *mut c_void;

pub(crate) enum ucp_context {}
pub(crate) enum ucp_config {}
pub(crate) enum ucp_worker {}
pub(crate) enum ucp_ep {}
pub(crate) enum ucp_mem {}
pub(crate) enum ucp_address {}

macro_rules! constants {
    ($($name:ident: $type:ty = $value:expr;)*) => {
        $(pub(crate) const $name: $type = $value;)*

        /// Every constant by its name, to be compared with the headers.
        #[cfg(test)]
        pub(crate) const ALL: &[(&str, i64)] = &[$((stringify!($name), $name as i64)),*];
    };
}

constants! {
    UCS_OK: ucs_status_t = 0;
    UCS_INPROGRESS: ucs_status_t = 1;
    UCS_ERR_IO_ERROR: ucs_status_t = -3;
    UCS_ERR_NO_MEMORY: ucs_status_t = -4;
    UCS_ERR_INVALID_PARAM: ucs_status_t = -5;
    UCS_ERR_UNREACHABLE: ucs_status_t = -6;
    UCS_ERR_NO_DEVICE: ucs_status_t = -14;
    UCS_ERR_BUSY: ucs_status_t = -15;
    UCS_ERR_CANCELED: ucs_status_t = -16;
    UCS_ERR_REJECTED: ucs_status_t = -23;
    UCS_ERR_LAST: ucs_status_t = -100;
    UCP_PARAM_FIELD_FEATURES: u64 = 1 << 0;
    UCP_PARAM_FIELD_MT_WORKERS_SHARED: u64 = 1 << 5;
    UCP_FEATURE_WAKEUP: u64 = 1 << 4;
    UCP_FEATURE_AM: u64 = 1 << 6;
    UCP_WORKER_PARAM_FIELD_THREAD_MODE: u64 = 1 << 0;
    UCS_THREAD_MODE_SINGLE: c_uint = 0;
    UCP_EP_PARAM_FIELD_REMOTE_ADDRESS: u64 = 1 << 0;
    UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE: u64 = 1 << 1;
    UCP_EP_PARAM_FIELD_ERR_HANDLER: u64 = 1 << 2;
    UCP_ERR_HANDLING_MODE_PEER: c_uint = 1;
    UCP_EP_CLOSE_FLAG_FORCE: u32 = 1 << 0;
    UCP_MEM_MAP_PARAM_FIELD_ADDRESS: u64 = 1 << 0;
    UCP_MEM_MAP_PARAM_FIELD_LENGTH: u64 = 1 << 1;
    UCP_MEM_MAP_PARAM_FIELD_MEMORY_TYPE: u64 = 1 << 4;
    UCS_MEMORY_TYPE_HOST: c_uint = 0;
    UCP_AM_SEND_FLAG_RNDV: u32 = 1 << 2;
    UCP_OP_ATTR_FIELD_CALLBACK: u32 = 1 << 1;
    UCP_OP_ATTR_FIELD_USER_DATA: u32 = 1 << 2;
    UCP_OP_ATTR_FIELD_FLAGS: u32 = 1 << 4;
    UCP_OP_ATTR_FIELD_MEMORY_TYPE: u32 = 1 << 6;
    UCP_OP_ATTR_FIELD_MEMH: u32 = 1 << 8;
    UCP_AM_RECV_ATTR_FLAG_RNDV: u64 = 1 << 17;
    UCP_AM_HANDLER_PARAM_FIELD_ID: u64 = 1 << 0;
    UCP_AM_HANDLER_PARAM_FIELD_CB: u64 = 1 << 2;
    UCP_AM_HANDLER_PARAM_FIELD_ARG: u64 = 1 << 3;
    UCS_LOG_LEVEL_ERROR: c_uint = 1;
    UCS_LOG_LEVEL_WARN: c_uint = 2;
    UCS_LOG_FUNC_RC_STOP: c_int = 0;
}

#[repr(C)]
pub(crate) struct ucp_params {
    pub(crate) field_mask: u64,
    pub(crate) features: u64,
    pub(crate) request_size: usize,
    pub(crate) request_init: *mut c_void,
    pub(crate) request_cleanup: *mut c_void,
    pub(crate) tag_sender_mask: u64,
    pub(crate) mt_workers_shared: c_int,
    pub(crate) estimated_num_eps: usize,
    pub(crate) estimated_num_ppn: usize,
    pub(crate) name: *const c_char,
    /// Room for fields of later versions.
    pub(crate) _later: [u64; 8],
}

#[repr(C)]
pub(crate) struct ucp_worker_params {
    pub(crate) field_mask: u64,
    pub(crate) thread_mode: c_uint,
    pub(crate) cpu_mask: [u64; 16],
    pub(crate) events: c_uint,
    pub(crate) user_data: *mut c_void,
    pub(crate) event_fd: c_int,
    pub(crate) flags: u64,
    pub(crate) name: *const c_char,
    pub(crate) am_alignment: usize,
    pub(crate) client_id: u64,
    pub(crate) _later: [u64; 8],
}

#[repr(C)]
pub(crate) struct ucs_sock_addr {
    pub(crate) addr: *const libc::sockaddr,
    pub(crate) addrlen: libc::socklen_t,
}

#[repr(C)]
pub(crate) struct ucp_err_handler {
    pub(crate) cb: Option<unsafe extern "C" fn(*mut c_void, *mut ucp_ep, ucs_status_t)>,
    pub(crate) arg: *mut c_void,
}

#[repr(C)]
pub(crate) struct ucp_ep_params {
    pub(crate) field_mask: u64,
    pub(crate) address: *const ucp_address,
    pub(crate) err_mode: c_uint,
    pub(crate) err_handler: ucp_err_handler,
    pub(crate) user_data: *mut c_void,
    pub(crate) flags: c_uint,
    pub(crate) sockaddr: ucs_sock_addr,
    pub(crate) conn_request: *mut c_void,
    pub(crate) name: *const c_char,
    pub(crate) local_sockaddr: ucs_sock_addr,
    pub(crate) _later: [u64; 8],
}

#[repr(C)]
pub(crate) struct ucp_mem_map_params {
    pub(crate) field_mask: u64,
    pub(crate) address: *mut c_void,
    pub(crate) length: usize,
    pub(crate) flags: c_uint,
    pub(crate) prot: c_uint,
    pub(crate) memory_type: c_uint,
    pub(crate) _later: [u64; 8],
}

/// What is called when a send is done. Receives are told their length before the value of the caller's.
pub(crate) type ucp_send_nbx_callback_t = unsafe extern "C" fn(*mut c_void, ucs_status_t, *mut c_void);
pub(crate) type ucp_am_recv_data_nbx_callback_t =
    unsafe extern "C" fn(*mut c_void, ucs_status_t, usize, *mut c_void);
pub(crate) type ucp_am_recv_callback_t = unsafe extern "C" fn(
    *mut c_void,
    *const c_void,
    usize,
    *mut c_void,
    usize,
    *const ucp_am_recv_param,
) -> ucs_status_t;

#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) union ucp_request_callback {
    pub(crate) none: usize,
    pub(crate) send: ucp_send_nbx_callback_t,
    pub(crate) recv_am: ucp_am_recv_data_nbx_callback_t,
}

#[repr(C)]
pub(crate) struct ucp_request_param {
    pub(crate) op_attr_mask: u32,
    pub(crate) flags: u32,
    pub(crate) request: *mut c_void,
    pub(crate) cb: ucp_request_callback,
    pub(crate) datatype: u64,
    pub(crate) user_data: *mut c_void,
    pub(crate) reply_buffer: *mut c_void,
    pub(crate) memory_type: c_uint,
    pub(crate) recv_info: *mut c_void,
    pub(crate) memh: *mut ucp_mem,
    pub(crate) _later: [u64; 8],
}

#[repr(C)]
pub(crate) struct ucp_am_handler_param {
    pub(crate) field_mask: u64,
    pub(crate) id: c_uint,
    pub(crate) flags: u32,
    pub(crate) cb: Option<ucp_am_recv_callback_t>,
    pub(crate) arg: *mut c_void,
    pub(crate) _later: [u64; 4],
}

#[repr(C)]
pub(crate) struct ucp_am_recv_param {
    pub(crate) recv_attr: u64,
    pub(crate) reply_ep: *mut ucp_ep,
}

/// The last argument is a `va_list`, which all of Linux's 64-bit ABIs pass as a pointer to a structure.
pub(crate) type ucs_log_func_t = unsafe extern "C" fn(
    *const c_char,
    c_uint,
    *const c_char,
    c_uint,
    *const c_void,
    *const c_char,
    *mut c_void,
) -> c_int;
