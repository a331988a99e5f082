//! A connection to one node, and what is asked on it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use client::kv::Scan;
use client::{Address, ChunkId, Client, GetOptions, Naming, PutOptions, PutReport, Silent, Source, Token};
use flow::swarm::NoPriority;
use flow::wire::control::ReplicaRecord;
use flow::wire::session::{ChunkPin, ChunkPlace, ChunkRemove, Device, NoDevice};
use plan::manifest::{FileKind, Shape};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::blocking::{self, Deadline};
use crate::error;
use crate::file::File;
use crate::kv::{Step, consistency, entry, seconds, selector, start, write};
use crate::memory::Parts;
use crate::transaction::Transaction;
use crate::watch::Watch;

/// A connection to one node. One call at a time: a call that is interrupted ends the connection.
#[pyclass(frozen, module = "shoal._shoal")]
pub(crate) struct Connection {
    client: Arc<Client>,
    process: u32,
}

impl Connection {
    fn run<T: Send>(
        &self,
        py: Python<'_>,
        timeout: Option<f64>,
        work: impl FnOnce(&Arc<Client>) -> Result<T, client::ClientError> + Send,
    ) -> PyResult<T> {
        blocking::run(py, &self.client, Deadline::after(timeout), || work(&self.client))
    }

    /// As [`Connection::run`], of what waits for nothing but the node.
    fn ask<T: Send>(
        &self,
        py: Python<'_>,
        timeout: Option<f64>,
        work: impl FnOnce(&Arc<Client>) -> Result<T, client::ClientError> + Send,
    ) -> PyResult<T> {
        blocking::run_here(py, &self.client, Deadline::after(timeout), || work(&self.client))
    }

    fn put_source(
        &self,
        py: Python<'_>,
        key: &str,
        source: Source,
        options: PutOptions,
        timeout: Option<f64>,
    ) -> PyResult<(u64, u64, u64, u64)> {
        let is_brief = match &source {
            Source::Memory(bytes) => self.client.is_brief_put(bytes.size()),
            Source::Path(_) | Source::Paths(_) | Source::Reader(_) => false,
        };
        let put = |client: &Arc<Client>| client.put(key, source, &options, &Silent);
        let put = if is_brief { self.ask(py, timeout, put)? } else { self.run(py, timeout, put)? };
        let PutReport { version, size, chunks, new_bytes, .. } = put;
        Ok((version, size, chunks, new_bytes))
    }
}

#[pymethods]
impl Connection {
    #[new]
    #[pyo3(signature = (address, token=None, timeout=None, priority="normal"))]
    fn new(
        py: Python<'_>,
        address: &str,
        token: Option<&str>,
        timeout: Option<f64>,
        priority: &str,
    ) -> PyResult<Self> {
        let priority = priority.parse().map_err(|wrong: NoPriority| error::invalid(&wrong.to_string()))?;
        let address = Address::parse(address).map_err(|failed| error::raise(&failed))?;
        let token = token.map(Token::new);
        let connect = move || Client::connect(&address, token.as_ref());
        let client = Arc::new(blocking::connect(py, Deadline::after(timeout), connect)?);
        client.set_priority(priority);
        Ok(Self { client, process: std::process::id() })
    }

    /// Name of the node.
    #[getter]
    fn node(&self) -> &str {
        self.client.node()
    }

    /// Whether anything can be asked on it, as far as is known.
    #[getter]
    fn is_open(&self) -> bool {
        self.client.is_open()
    }

    /// Ends what is under way on it, from another thread.
    fn cancel(&self) {
        self.client.cancel();
    }

    #[pyo3(signature = (key, parts, volatile, digest, labels, ttl, if_version, timeout))]
    #[allow(clippy::too_many_arguments)]
    fn put(
        &self,
        py: Python<'_>,
        key: &str,
        parts: Vec<Bound<'_, PyAny>>,
        volatile: bool,
        digest: bool,
        labels: BTreeMap<String, String>,
        ttl: Option<f64>,
        if_version: Option<u64>,
        timeout: Option<f64>,
    ) -> PyResult<(u64, u64, u64, u64)> {
        let (labels, ttl) = (labels.into_iter().collect(), ttl.map(seconds).transpose()?);
        let naming = if digest { Naming::Content } else { Naming::Unique };
        let options = PutOptions { volatile, labels, ttl, if_version, naming };
        let source = Source::Memory(Box::new(Parts::of(&parts)?));
        self.put_source(py, key, source, options, timeout)
    }

    #[pyo3(signature = (key, paths, volatile, timeout))]
    fn put_paths(
        &self,
        py: Python<'_>,
        key: &str,
        mut paths: Vec<PathBuf>,
        volatile: bool,
        timeout: Option<f64>,
    ) -> PyResult<(u64, u64, u64, u64)> {
        let source = match (paths.pop(), paths.is_empty()) {
            (Some(path), true) => Source::Path(path),
            (Some(path), false) => {
                paths.push(path);
                Source::Paths(paths)
            }
            (None, _) => return Err(error::invalid("there is nothing to put")),
        };
        self.put_source(py, key, source, PutOptions { volatile, ..PutOptions::default() }, timeout)
    }

    #[pyo3(signature = (key, destination, verify, timeout))]
    fn get_paths(
        &self,
        py: Python<'_>,
        key: &str,
        destination: PathBuf,
        verify: bool,
        timeout: Option<f64>,
    ) -> PyResult<(u64, u64, u64)> {
        let options = GetOptions { verify, ..GetOptions::default() };
        let got = self.run(py, timeout, |client| client.get(key, &destination, &options, &Silent))?;
        Ok((got.version, got.size, got.files))
    }

    /// Opens a file; with `whole` all of its bytes are brought into the memory of the node at once, where that is of use.
    #[pyo3(signature = (key, level, timeout, whole=false))]
    fn open(
        &self,
        py: Python<'_>,
        key: &str,
        level: &str,
        timeout: Option<f64>,
        whole: bool,
    ) -> PyResult<File> {
        let level = consistency(level)?;
        let open = |client: &Arc<Client>| match whole {
            true => client.open_whole(key, level),
            false => client.open(key, level),
        };
        let file = self.ask(py, timeout, open)?;
        Ok(File::new(self.client.clone(), file))
    }

    #[pyo3(signature = (prefix, after, limit, timeout))]
    fn keys<'py>(
        &self,
        py: Python<'py>,
        prefix: &str,
        after: &str,
        limit: u32,
        timeout: Option<f64>,
    ) -> PyResult<(Vec<Bound<'py, PyDict>>, bool)> {
        let listing = self.ask(py, timeout, |client| client.list(prefix, after, limit))?;
        let keys = listing.keys.iter().map(|key| {
            let dict = PyDict::new(py);
            dict.set_item("key", &key.key)?;
            dict.set_item("version", key.version)?;
            dict.set_item("created_ms", key.created_ms)?;
            dict.set_item("size", key.size)?;
            dict.set_item("files", key.files)?;
            Ok(dict)
        });
        Ok((keys.collect::<PyResult<_>>()?, listing.more))
    }

    #[pyo3(signature = (key, timeout))]
    fn info<'py>(&self, py: Python<'py>, key: &str, timeout: Option<f64>) -> PyResult<Bound<'py, PyDict>> {
        let info = self.ask(py, timeout, |client| client.info(key))?;
        let dict = PyDict::new(py);
        dict.set_item("key", &info.entry.key)?;
        dict.set_item("version", info.entry.version)?;
        dict.set_item("revision", info.entry.revision)?;
        dict.set_item("created_ms", info.entry.created_ms)?;
        dict.set_item("expires_ms", info.expires_ms)?;
        dict.set_item("labels", info.labels.iter().cloned().collect::<BTreeMap<_, _>>())?;
        let shape = match info.manifest.shape {
            Shape::File => "file",
            Shape::Tree => "directory",
            Shape::Stream => "stream",
        };
        dict.set_item("shape", shape)?;
        dict.set_item("size", info.manifest.size)?;
        let files = info.files.iter().filter_map(|file| match &file.kind {
            FileKind::Regular { size, .. } => Some((String::from_utf8_lossy(&file.path).into_owned(), *size)),
            FileKind::Directory | FileKind::Symlink { .. } => None,
        });
        dict.set_item("files", files.collect::<Vec<_>>())?;
        let chunks = info.manifest.all_chunks().map(|chunk| (ChunkId(chunk.id).to_string(), chunk.size));
        dict.set_item("chunks", chunks.collect::<Vec<_>>())?;
        Ok(dict)
    }

    #[pyo3(signature = (key, recursive, timeout))]
    fn remove(&self, py: Python<'_>, key: &str, recursive: bool, timeout: Option<f64>) -> PyResult<u64> {
        self.ask(py, timeout, |client| client.remove(key, recursive))
    }

    #[pyo3(signature = (keys, level, timeout))]
    fn kv_get<'py>(
        &self,
        py: Python<'py>,
        keys: Vec<String>,
        level: &str,
        timeout: Option<f64>,
    ) -> PyResult<Vec<Option<Bound<'py, PyDict>>>> {
        let level = consistency(level)?;
        let found = self.ask(py, timeout, |client| client.kv().get_many(&keys, level))?;
        found.entries.iter().map(|found| found.as_ref().map(|found| entry(py, found)).transpose()).collect()
    }

    #[pyo3(signature = (versions, unchanged, steps, timeout))]
    fn kv_write(
        &self,
        py: Python<'_>,
        versions: Vec<(String, u64)>,
        unchanged: Vec<(String, bool, u64)>,
        steps: Vec<Step>,
        timeout: Option<f64>,
    ) -> PyResult<(u64, Vec<u64>)> {
        let write = write(versions, unchanged, steps)?;
        let written = self.ask(py, timeout, |client| client.kv().write(write))?;
        Ok((written.revision, written.versions))
    }

    #[pyo3(signature = (prefix, after, limit, contents, level, timeout))]
    #[allow(clippy::too_many_arguments)]
    fn kv_scan<'py>(
        &self,
        py: Python<'py>,
        prefix: String,
        after: Option<String>,
        limit: u32,
        contents: bool,
        level: &str,
        timeout: Option<f64>,
    ) -> PyResult<(Vec<Bound<'py, PyDict>>, Option<String>)> {
        let (scan, level) = (Scan { prefix, after, limit, contents }, consistency(level)?);
        let page = self.ask(py, timeout, |client| client.kv().scan(scan, level))?;
        let entries = page.entries.iter().map(|found| entry(py, found)).collect::<PyResult<_>>()?;
        Ok((entries, page.next))
    }

    #[pyo3(signature = (prefix, timeout))]
    fn kv_count(&self, py: Python<'_>, prefix: &str, timeout: Option<f64>) -> PyResult<u64> {
        self.ask(py, timeout, |client| client.kv().count(prefix))
    }

    #[pyo3(signature = (isolation, life, timeout))]
    fn begin(
        &self,
        py: Python<'_>,
        isolation: &str,
        life: f64,
        timeout: Option<f64>,
    ) -> PyResult<Transaction> {
        Transaction::begin(py, &self.client, isolation, life, timeout)
    }

    #[pyo3(signature = (kind, text, after, since_ms, timeout))]
    fn watch(
        &self,
        py: Python<'_>,
        kind: &str,
        text: String,
        after: Option<u64>,
        since_ms: Option<u64>,
        timeout: Option<f64>,
    ) -> PyResult<Watch> {
        Watch::begin(py, &self.client, selector(kind, text)?, start(after, since_ms)?, timeout)
    }

    /// Replicas, of the chunk whose id begins so or of all.
    #[pyo3(signature = (prefix, timeout))]
    fn replicas<'py>(
        &self,
        py: Python<'py>,
        prefix: Option<&str>,
        timeout: Option<f64>,
    ) -> PyResult<Vec<Bound<'py, PyDict>>> {
        let (replicas, nodes) = self.ask(py, timeout, |client| {
            let id = prefix.map(|prefix| client.resolve_chunk_prefix(prefix)).transpose()?;
            Ok((client.replicas(id)?.replicas, client.nodes()?.nodes))
        })?;
        let names: BTreeMap<_, _> = nodes.into_iter().map(|node| (node.node, node.name)).collect();
        let dict = |replica: &ReplicaRecord| {
            let dict = PyDict::new(py);
            dict.set_item("chunk", replica.chunk.to_string())?;
            dict.set_item("size", replica.geometry.size())?;
            let name = names.get(&replica.node).cloned();
            dict.set_item("node", name.unwrap_or_else(|| format!("{:016x}", replica.node)))?;
            dict.set_item("pieces", replica.geometry.pieces())?;
            dict.set_item("dram_pieces", replica.dram_pieces)?;
            dict.set_item("nvme_pieces", replica.nvme_pieces)?;
            let gpus = replica.gpus.iter().map(|there| (Device::Gpu(there.gpu).to_string(), there.pieces));
            dict.set_item("gpu_pieces", gpus.collect::<BTreeMap<_, _>>())?;
            dict.set_item("pinned", replica.pinned)?;
            dict.set_item("fetching", replica.fetching)?;
            Ok(dict)
        };
        replicas.iter().map(dict).collect()
    }

    #[pyo3(signature = (prefix, pinned, node, timeout))]
    fn pin(
        &self,
        py: Python<'_>,
        prefix: &str,
        pinned: bool,
        node: String,
        timeout: Option<f64>,
    ) -> PyResult<()> {
        self.ask(py, timeout, |client| {
            client.pin(ChunkPin { id: client.resolve_chunk_prefix(prefix)?, pinned, node })
        })
    }

    #[pyo3(signature = (prefix, node, device_name, remove_source, timeout))]
    fn place(
        &self,
        py: Python<'_>,
        prefix: &str,
        node: String,
        device_name: &str,
        remove_source: bool,
        timeout: Option<f64>,
    ) -> PyResult<()> {
        let device = device(device_name)?;
        self.ask(py, timeout, |client| {
            let id = client.resolve_chunk_prefix(prefix)?;
            client.place(ChunkPlace { id, node, device, remove_source, from: String::new() }).map(drop)
        })
    }

    #[pyo3(signature = (prefix, node, device_name, force, timeout))]
    fn remove_chunk(
        &self,
        py: Python<'_>,
        prefix: &str,
        node: String,
        device_name: Option<&str>,
        force: bool,
        timeout: Option<f64>,
    ) -> PyResult<()> {
        let device = device_name.map(device).transpose()?;
        self.ask(py, timeout, |client| {
            let id = client.resolve_chunk_prefix(prefix)?;
            client.remove_chunk(ChunkRemove { id, node, device, force })
        })
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if self.process != std::process::id() {
            // A child that was forked has the same connection, and must not end it for its parent.
            std::mem::forget(self.client.clone());
        }
    }
}

fn device(name: &str) -> PyResult<Device> {
    name.parse().map_err(|error: NoDevice| error::invalid(&error.to_string()))
}
