//! Finding libcuda when the process runs, so that one binary starts everywhere.

use std::sync::OnceLock;

use cudarc::driver::sys;

use crate::Error;
use crate::error::check;

/// Why the library cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// The library is not there.
    #[error("libcuda.so.1 cannot be loaded; it comes with NVIDIA's driver")]
    Missing,
    /// The library is there and too old.
    #[error("libcuda.so.1 has no {0}; install a later driver, of CUDA 11.4 at least")]
    Symbol(&'static str),
}

/// The functions that this crate calls. `cudarc` ends the process where one of them is missing, so they are looked for first.
const FUNCTIONS: [&str; 19] = [
    "cuCtxSetCurrent",
    "cuDeviceGet",
    "cuDeviceGetCount",
    "cuDeviceGetName",
    "cuDeviceGetPCIBusId",
    "cuDeviceGetUuid_v2",
    "cuDevicePrimaryCtxRelease_v2",
    "cuDevicePrimaryCtxRetain",
    "cuDeviceTotalMem_v2",
    "cuGetErrorString",
    "cuInit",
    "cuMemAlloc_v2",
    "cuMemFree_v2",
    "cuMemGetInfo_v2",
    "cuMemHostRegister_v2",
    "cuMemHostUnregister",
    "cuMemcpyDtoHAsync_v2",
    "cuMemcpyHtoDAsync_v2",
    "cuStreamSynchronize",
];

/// Loads the library and starts the driver, at the first call. Later calls repeat the outcome.
pub(crate) fn driver() -> Result<(), Error> {
    static STARTED: OnceLock<Result<(), Error>> = OnceLock::new();
    STARTED.get_or_init(start).clone()
}

fn start() -> Result<(), Error> {
    // SAFETY: the initialisers of the library are those of a system library, which expects to be loaded so.
    if !unsafe { sys::is_culib_present() } {
        return Err(LoadError::Missing.into());
    }
    // SAFETY: the library is there, so that this returns it. It is never unloaded.
    let library = unsafe { sys::culib() };
    for name in FUNCTIONS {
        // SAFETY: the symbol is only looked for, and not called as what it is taken for here.
        if unsafe { library.get::<unsafe extern "C" fn()>(name.as_bytes()) }.is_err() {
            return Err(LoadError::Symbol(name).into());
        }
    }
    // SAFETY: the function takes a number that must be zero.
    check("cuInit", unsafe { sys::cuInit(0) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starting_twice_gives_the_same() {
        assert_eq!(driver(), driver());
    }

    #[test]
    fn what_is_missing_is_named() {
        assert!(LoadError::Missing.to_string().contains("libcuda.so.1"));
        assert!(LoadError::Symbol("cuMemAlloc_v2").to_string().contains("cuMemAlloc_v2"));
        assert!(FUNCTIONS.is_sorted());
    }
}
