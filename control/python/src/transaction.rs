//! Reads and writes that are committed together.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use client::kv::{self, Scan};
use client::{Client, ClientError};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::blocking::{Deadline, run};
use crate::error;
use crate::kv::{Step, entry, isolation, seconds};

type Open = kv::Transaction<Arc<Client>>;

/// A transaction that is open on the node; it is rolled back when it is collected.
#[pyclass(frozen, module = "shoal._shoal")]
pub(crate) struct Transaction {
    client: Arc<Client>,
    open: Mutex<Option<Open>>,
    timeout: Option<f64>,
}

impl Transaction {
    pub(crate) fn begin(
        py: Python<'_>,
        client: &Arc<Client>,
        level: &str,
        life: f64,
        timeout: Option<f64>,
    ) -> PyResult<Self> {
        let (level, life) = (isolation(level)?, seconds(life)?);
        let begin = || kv::Transaction::begin(client.clone(), level, life);
        let open = run(py, client, Deadline::after(timeout), begin)?;
        Ok(Self { client: client.clone(), open: Mutex::new(Some(open)), timeout })
    }

    fn lock(&self) -> MutexGuard<'_, Option<Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<T: Send>(
        &self,
        py: Python<'_>,
        work: impl FnOnce(&Open) -> Result<T, ClientError> + Send,
    ) -> PyResult<T> {
        // The lock is taken without the interpreter's, which its holder may wait for.
        let outcome = run(py, &self.client, Deadline::after(self.timeout), || {
            self.lock().as_ref().map(work).transpose()
        })?;
        outcome.ok_or_else(over)
    }

    fn end<T: Send>(
        &self,
        py: Python<'_>,
        work: impl FnOnce(Open) -> Result<T, ClientError> + Send,
    ) -> PyResult<T> {
        let outcome = run(py, &self.client, Deadline::after(self.timeout), || {
            let open = self.lock().take();
            open.map(work).transpose()
        })?;
        outcome.ok_or_else(over)
    }
}

fn over() -> PyErr {
    error::invalid("the transaction is over")
}

#[pymethods]
impl Transaction {
    fn get<'py>(&self, py: Python<'py>, key: &str) -> PyResult<Option<Bound<'py, PyDict>>> {
        self.with(py, |open| open.get(key))?.map(|found| entry(py, &found)).transpose()
    }

    #[pyo3(signature = (prefix, after, limit, contents))]
    fn scan<'py>(
        &self,
        py: Python<'py>,
        prefix: String,
        after: Option<String>,
        limit: u32,
        contents: bool,
    ) -> PyResult<(Vec<Bound<'py, PyDict>>, Option<String>)> {
        let page = self.with(py, |open| open.scan(Scan { prefix, after, limit, contents }))?;
        let entries = page.entries.iter().map(|found| entry(py, found)).collect::<PyResult<_>>()?;
        Ok((entries, page.next))
    }

    fn write(&self, py: Python<'_>, steps: Vec<Step>) -> PyResult<()> {
        let operations = steps.into_iter().map(Step::operation).collect::<PyResult<_>>()?;
        self.with(py, |open| open.write(operations))
    }

    fn commit(&self, py: Python<'_>) -> PyResult<(u64, Vec<u64>)> {
        let written = self.end(py, Open::commit)?;
        Ok((written.revision, written.versions))
    }

    fn rollback(&self, py: Python<'_>) -> PyResult<()> {
        self.end(py, Open::rollback)
    }
}
