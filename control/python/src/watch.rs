//! Changes as they come.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread;

use client::kv::{Change, Selector, Start};
use client::{Client, ClientError};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::blocking::{Deadline, next, run};
use crate::error;
use crate::kv::change;

/// Changes that are read ahead of who asks for them.
const AHEAD: usize = 256;

type Item = Result<Change, ClientError>;

/// Changes of the selected keys. A thread reads them, on a client of its own, which is cancelled at the end.
#[pyclass(frozen, module = "shoal._shoal")]
pub(crate) struct Watch {
    client: Arc<Client>,
    changes: Mutex<Receiver<Item>>,
}

impl Watch {
    pub(crate) fn begin(
        py: Python<'_>,
        client: &Arc<Client>,
        selector: Selector,
        start: Start,
        timeout: Option<f64>,
    ) -> PyResult<Self> {
        let (sender, changes) = sync_channel(AHEAD);
        let (begun, has_begun) = sync_channel(1);
        let own = client.clone();
        thread::spawn(move || follow(&own, selector, start, &begun, &sender));
        let gone = || ClientError::Cancelled;
        run(py, client, Deadline::after(timeout), move || has_begun.recv().map_err(|_| gone())?)?;
        Ok(Self { client: client.clone(), changes: Mutex::new(changes) })
    }
}

/// Passes changes on until nobody listens or the watch ends.
fn follow(
    client: &Client,
    selector: Selector,
    start: Start,
    begun: &SyncSender<Result<(), ClientError>>,
    sender: &SyncSender<Item>,
) {
    let watch = match client.kv().watch(selector, start) {
        Ok(watch) => watch,
        Err(error) => return drop(begun.send(Err(error))),
    };
    let _ = begun.send(Ok(()));
    for change in watch {
        if sender.send(change).is_err() {
            return;
        }
    }
}

#[pymethods]
impl Watch {
    /// The next change; absent when none has come in time, or the watch was closed.
    #[pyo3(signature = (timeout=None))]
    fn next<'py>(&self, py: Python<'py>, timeout: Option<f64>) -> PyResult<Option<Bound<'py, PyDict>>> {
        match next(py, &self.changes, Deadline::after(timeout))? {
            Some(Ok(changed)) => change(py, &changed).map(Some),
            Some(Err(failed)) => Err(error::raise(&failed)),
            None => Ok(None),
        }
    }

    /// Ends it; one who waits for the next change gets none.
    fn close(&self) {
        self.client.cancel();
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.client.cancel();
    }
}
