//! Small values: what the catalog and Python call the same things.

use std::collections::BTreeMap;
use std::time::Duration;

use client::kv::{
    Change, ChangeKind, Condition, Consistency, Content, Entry, Expire, Expiry, Isolation, KeyVersion,
    Operation, Put, Selector, Start, UnchangedSince, Write,
};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};

use crate::error;

/// An entry as a dict.
pub(crate) fn entry<'py>(py: Python<'py>, entry: &Entry) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item("key", &entry.key)?;
    dict.set_item("version", entry.version)?;
    dict.set_item("revision", entry.revision)?;
    dict.set_item("created_ms", entry.created_ms)?;
    dict.set_item("updated_ms", entry.updated_ms)?;
    dict.set_item("expires_ms", entry.expires_ms)?;
    dict.set_item("owner", &entry.owner)?;
    dict.set_item("labels", entry.labels.iter().cloned().collect::<BTreeMap<_, _>>())?;
    dict.set_item("size", entry.size)?;
    dict.set_item("files", entry.files)?;
    let value = match &entry.content {
        Some(Content::Value(value)) => Some(PyBytes::new(py, value)),
        Some(Content::Manifest(_)) | None => None,
    };
    dict.set_item("value", value)?;
    Ok(dict)
}

/// A change as a dict.
pub(crate) fn change<'py>(py: Python<'py>, change: &Change) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item("key", &change.key)?;
    dict.set_item("revision", change.revision)?;
    dict.set_item("at_ms", change.at_ms)?;
    let (kind, version, found) = match &change.kind {
        ChangeKind::Put(found) => ("put", found.version, Some(entry(py, found)?)),
        ChangeKind::Delete(version) => ("delete", *version, None),
        ChangeKind::Expire(version) => ("expire", *version, None),
        ChangeKind::OwnerEnded(version) => ("owner_ended", *version, None),
    };
    dict.set_item("kind", kind)?;
    dict.set_item("version", version)?;
    dict.set_item("entry", found)?;
    Ok(dict)
}

/// One operation: `(key, value, ttl_ms, owner, labels)` puts, `(key, how, ms)` changes when it expires, `key` deletes.
#[derive(FromPyObject)]
pub(crate) enum Step {
    Put(String, Vec<u8>, Option<u64>, Option<String>, BTreeMap<String, String>),
    Expire(String, String, u64),
    Delete(String),
}

impl Step {
    pub(crate) fn operation(self) -> PyResult<Operation> {
        Ok(match self {
            Step::Put(key, value, ttl_ms, owner, labels) => {
                let labels = labels.into_iter().collect();
                Operation::Put(Put { key, content: Content::Value(value), ttl_ms, owner, labels })
            }
            Step::Delete(key) => Operation::Delete(key),
            Step::Expire(key, how, ms) => {
                let when = match how.as_str() {
                    "in" => Expiry::In(ms),
                    "later" => Expiry::Later(ms),
                    "never" => Expiry::Never,
                    _ => return Err(error::invalid("a key expires in, later, or never")),
                };
                Operation::Expire(Expire { key, when })
            }
        })
    }
}

/// Conditions as `(key, version)` and `(prefix, exact, revision)`.
pub(crate) fn write(
    versions: Vec<(String, u64)>,
    unchanged: Vec<(String, bool, u64)>,
    steps: Vec<Step>,
) -> PyResult<Write> {
    let version = |(key, version)| Condition::Version(KeyVersion { key, version });
    let since = |(prefix, exact, revision)| Condition::Unchanged(UnchangedSince { prefix, exact, revision });
    let conditions = versions.into_iter().map(version).chain(unchanged.into_iter().map(since)).collect();
    let operations = steps.into_iter().map(Step::operation).collect::<PyResult<_>>()?;
    Ok(Write { conditions, operations })
}

pub(crate) fn consistency(name: &str) -> PyResult<Consistency> {
    match name {
        "one" => Ok(Consistency::One),
        "quorum" => Ok(Consistency::Quorum),
        "all" => Ok(Consistency::All),
        "serial" => Ok(Consistency::Serial),
        _ => Err(error::invalid("consistency is one, quorum, all or serial")),
    }
}

pub(crate) fn isolation(name: &str) -> PyResult<Isolation> {
    match name {
        "read_committed" => Ok(Isolation::ReadCommitted),
        "snapshot" => Ok(Isolation::Snapshot),
        "serializable" => Ok(Isolation::Serializable),
        _ => Err(error::invalid("isolation is read_committed, snapshot or serializable")),
    }
}

pub(crate) fn selector(kind: &str, text: String) -> PyResult<Selector> {
    match kind {
        "key" => Ok(Selector::Key(text)),
        "prefix" => Ok(Selector::Prefix(text)),
        "glob" => Ok(Selector::Glob(text)),
        _ => Err(error::invalid("keys are selected by key, prefix or glob")),
    }
}

pub(crate) fn start(after: Option<u64>, since_ms: Option<u64>) -> PyResult<Start> {
    match (after, since_ms) {
        (None, None) => Ok(Start::Now),
        (Some(revision), None) => Ok(Start::After(revision)),
        (None, Some(at)) => Ok(Start::At(at)),
        _ => Err(error::invalid("a watch begins after a revision or at a time, not both")),
    }
}

/// A time in seconds; one that is none is refused.
pub(crate) fn seconds(time: f64) -> PyResult<Duration> {
    Duration::try_from_secs_f64(time).map_err(|_| error::invalid("a time is a number of seconds from 0 on"))
}
