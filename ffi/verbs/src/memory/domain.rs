//! What may be used together (`ibv_alloc_pd(3)`).

use std::sync::Arc;

use crate::Error;
use crate::device::Context;
use crate::sys::ibv_pd;

/// Queue pairs reach only memory regions of their own protection domain.
pub struct ProtectionDomain {
    context: Arc<Context>,
    pointer: *mut ibv_pd,
}

// SAFETY: libibverbs may be called with one protection domain from several threads.
unsafe impl Send for ProtectionDomain {}
// SAFETY: as above.
unsafe impl Sync for ProtectionDomain {}

impl ProtectionDomain {
    /// A protection domain of a device.
    pub fn allocate(context: &Arc<Context>) -> Result<Arc<Self>, Error> {
        // SAFETY: the context is open.
        let pointer = unsafe { (context.functions().ibv_alloc_pd)(context.as_ptr()) };
        if pointer.is_null() {
            return Err(Error::last("ibv_alloc_pd", context.device().name()));
        }
        Ok(Arc::new(Self { context: context.clone(), pointer }))
    }

    /// The device.
    pub fn context(&self) -> &Arc<Context> {
        &self.context
    }

    pub(crate) fn as_ptr(&self) -> *mut ibv_pd {
        self.pointer
    }
}

impl Drop for ProtectionDomain {
    fn drop(&mut self) {
        // SAFETY: all that was made in the domain held it, so it is used no more. If the kernel refuses, closing the
        // device frees it.
        unsafe { (self.context.functions().ibv_dealloc_pd)(self.pointer) };
    }
}

impl std::fmt::Debug for ProtectionDomain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ProtectionDomain").field("device", &self.context.device().name()).finish()
    }
}
