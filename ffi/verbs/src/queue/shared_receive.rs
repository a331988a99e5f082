//! Receives that several queue pairs take from (`ibv_create_srq(3)`).

use std::rc::Rc;
use std::sync::Arc;

use super::{Refused, Segments};
use crate::Error;
use crate::completion::{CompletionQueue, Owner, WorkRequestId};
use crate::memory::ProtectionDomain;
use crate::sys::{ibv_srq, ibv_srq_attr, ibv_srq_init_attr};

/// Receives for all queue pairs that were made with it. They complete in one completion queue, that of the pairs.
///
/// What a queue pair took and had not completed when it was closed stays held until the shared queue is gone.
pub struct SharedReceiveQueue<H> {
    domain: Arc<ProtectionDomain>,
    completions: Rc<CompletionQueue<H>>,
    pointer: *mut ibv_srq,
}

impl<H> SharedReceiveQueue<H> {
    /// A queue with room for `depth` receives.
    pub fn create(
        domain: &Arc<ProtectionDomain>,
        completions: &Rc<CompletionQueue<H>>,
        depth: u32,
    ) -> Result<Rc<Self>, Error> {
        if !Arc::ptr_eq(domain.context(), completions.context()) {
            return Err(Error::Mismatch("protection domain and completion queue"));
        }
        let attr = ibv_srq_attr { max_wr: depth, max_sge: Segments::MAX as u32, srq_limit: 0 };
        let mut attributes = ibv_srq_init_attr { srq_context: std::ptr::null_mut(), attr };
        // SAFETY: the domain is there and the structure lives through the call.
        let pointer =
            unsafe { (domain.context().functions().ibv_create_srq)(domain.as_ptr(), &mut attributes) };
        if pointer.is_null() {
            return Err(Error::last("ibv_create_srq", domain.context().device().name()));
        }
        Ok(Rc::new(Self { domain: domain.clone(), completions: completions.clone(), pointer }))
    }

    /// Posts memory for a message (`ibv_post_srq_recv(3)`). It comes back with the completion.
    pub fn post_receive(&self, segments: impl Into<Segments>, held: H) -> Result<WorkRequestId, Refused<H>> {
        let context = self.domain.context();
        let post = |id: WorkRequestId, list: &mut [crate::sys::ibv_sge]| {
            let mut request = super::work::raw_receive(id, list);
            let mut refused = std::ptr::null_mut();
            // SAFETY: the queue and its context are there.
            let post = unsafe { (*(*self.pointer).context).ops.post_srq_recv };
            let post = post.ok_or(crate::completion::NO_OPERATION)?;
            // SAFETY: the queue is there, the request is read during the call, and its regions are held until it is done.
            context.check("ibv_post_srq_recv", unsafe { post(self.pointer, &mut request, &mut refused) })
        };
        self.completions.posting(self.owner(), held, segments.into(), post)
    }

    pub(super) fn completions(&self) -> &Rc<CompletionQueue<H>> {
        &self.completions
    }

    pub(super) fn domain(&self) -> &Arc<ProtectionDomain> {
        &self.domain
    }

    pub(super) fn as_ptr(&self) -> *mut ibv_srq {
        self.pointer
    }

    fn owner(&self) -> Owner {
        Owner::SharedReceiveQueue(self.pointer as usize)
    }
}

impl<H> Drop for SharedReceiveQueue<H> {
    fn drop(&mut self) {
        // SAFETY: the queue pairs that receive from it held it, so there are none any more.
        let code = unsafe { (self.domain.context().functions().ibv_destroy_srq)(self.pointer) };
        if code == 0 {
            drop(self.completions.give_up(self.owner()));
        } else {
            self.completions.leak(self.owner());
        }
    }
}
