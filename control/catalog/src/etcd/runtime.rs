//! The thread that speaks to etcd. Callers may run on any executor, or none: their calls are carried out here, also when
//! they do not wait for them, and leases are kept alive however busy the callers are.

use std::future::Future;
use std::thread;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;
use tokio::task::AbortHandle;

use crate::error::CatalogError;

/// A thread with an executor. It ends when this is dropped, and what runs there with it.
pub(super) struct Runtime {
    handle: Handle,
    /// Dropping it stops the thread.
    _stop: oneshot::Sender<()>,
}

impl Runtime {
    /// Starts the thread.
    pub(super) fn start() -> Result<Self, CatalogError> {
        let failed =
            CatalogError::file("starting the thread that speaks to etcd from", "this process".as_ref());
        let started = || {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            let handle = runtime.handle().clone();
            let (stop, stopped) = oneshot::channel::<()>();
            // Nothing is ever sent: the end of the other side is what is waited for.
            let body = move || drop(runtime.block_on(stopped));
            thread::Builder::new().name("etcd".into()).spawn(body)?;
            Ok(Self { handle, _stop: stop })
        };
        started().map_err(failed)
    }

    /// Carries out `work` there. It goes on when the caller does not wait for it.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, CatalogError>> + Send + 'static,
    ) -> Result<T, CatalogError> {
        self.handle.spawn(work).await.unwrap_or(Err(CatalogError::Stopped))
    }

    /// Carries out `work` there until it is aborted, or this ends.
    pub(super) fn keep(&self, work: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        self.handle.spawn(work).abort_handle()
    }
}
