//! One file of a key.

use std::collections::BTreeMap;
use std::sync::Arc;

use client::{Access, Client, OpenFile};
use pymemory::{Bytes, Targets};
use pyo3::prelude::*;

use crate::blocking::{Deadline, run, run_here};
use crate::memory::{Copied, InPlace, buffer};

/// Bytes from which on it is worth its while to look at them in place.
const IN_PLACE_MIN: u64 = 64 << 10;

/// The bytes of one version of a key that is one file or a stream.
#[pyclass(frozen, module = "shoal._shoal")]
pub(crate) struct File {
    /// Present until the end.
    file: Option<OpenFile>,
    client: Arc<Client>,
    process: u32,
}

impl File {
    pub(crate) fn new(client: Arc<Client>, file: OpenFile) -> Self {
        Self { file: Some(file), client, process: std::process::id() }
    }

    fn file(&self) -> &OpenFile {
        self.file.as_ref().expect("it is taken in drop alone")
    }
}

#[pymethods]
impl File {
    /// The version of the key.
    #[getter]
    fn version(&self) -> u64 {
        self.file().version()
    }

    /// Its size in bytes.
    #[getter]
    fn size(&self) -> u64 {
        self.file().size()
    }

    /// What its writer said of it.
    #[getter]
    fn labels(&self) -> BTreeMap<String, String> {
        self.file().labels().iter().cloned().collect()
    }

    /// All bytes: where they lie in the memory of the node if that can be, else copied. With `writable`, what is written to
    /// them is seen by nobody else.
    #[pyo3(signature = (writable=false, timeout=None))]
    fn bytes(&self, py: Python<'_>, writable: bool, timeout: Option<f64>) -> PyResult<Bytes> {
        let (file, deadline) = (self.file(), Deadline::after(timeout));
        if file.size() >= IN_PLACE_MIN {
            let access = if writable { Access::CopyOnWrite } else { Access::ReadOnly };
            // What is in memory already takes no thread to wait for.
            let view = match file.view_held(access) {
                Some(view) => Some(view),
                None => run_here(py, &self.client, deadline, || file.view(access))?,
            };
            if let Some(view) = view {
                return Ok(Bytes::new(Box::new(InPlace::new(view, writable))));
            }
        }
        self.read(py, 0, file.size(), timeout)
    }

    /// A copy of `length` bytes from `offset` on.
    #[pyo3(signature = (offset, length, timeout=None))]
    fn read(&self, py: Python<'_>, offset: u64, length: u64, timeout: Option<f64>) -> PyResult<Bytes> {
        let mut bytes = buffer(length)?;
        let file = self.file();
        run(py, &self.client, Deadline::after(timeout), || file.read(offset, &mut bytes))?;
        Ok(Bytes::new(Box::new(Copied(bytes))))
    }

    /// Fills buffers, each with the bytes from its offset on.
    #[pyo3(signature = (parts, timeout=None))]
    fn read_into(
        &self,
        py: Python<'_>,
        parts: Vec<(u64, Bound<'_, PyAny>)>,
        timeout: Option<f64>,
    ) -> PyResult<()> {
        let (offsets, objects): (Vec<_>, Vec<_>) = parts.into_iter().unzip();
        let mut targets = Targets::of(&objects)?;
        let mut parts: Vec<_> = offsets.into_iter().zip(targets.bytes()).collect();
        let file = self.file();
        run(py, &self.client, Deadline::after(timeout), || file.read_many(&mut parts))
    }
}

impl Drop for File {
    fn drop(&mut self) {
        if self.process != std::process::id() {
            // A child that was forked has the same connection, and must not end it for its parent.
            std::mem::forget((self.file.take(), self.client.clone()));
        }
    }
}
