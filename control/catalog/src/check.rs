//! What every engine refuses, before it does anything.

use std::collections::{BTreeMap, BTreeSet};

use plan::key::{KEY_LENGTH_MAX, check_key};
use plan::manifest::Manifest;

use crate::entry::{Content, LABEL_LENGTH_MAX, LABELS_MAX, MANIFEST_SIZE_MAX, VALUE_SIZE_MAX};
use crate::error::CatalogError;
use crate::read::{GET_KEYS_MAX, Scan};
use crate::write::{Condition, Expiry, OPERATIONS_MAX, Operation, Put, TTL_MAX_MS, WRITE_SIZE_MAX, Write};

/// Characters of a wrong text that an error repeats.
const SHOWN_LENGTH: usize = 80;

/// A write that is within the limits, and what its contents are.
#[derive(Debug, Clone)]
pub struct Checked {
    /// The write.
    pub write: Write,
    /// For each operation what its content is; of one that has none, nothing of everything.
    pub described: Vec<Described>,
}

/// What a content says of itself.
#[derive(Debug, Clone, Default)]
pub struct Described {
    /// As in [`crate::Entry`].
    pub size: u64,
    /// As in [`crate::Entry`].
    pub files: u64,
    /// The chunks of a manifest, the list of its files included.
    pub chunks: BTreeSet<[u8; 32]>,
}

/// Refuses a write that is too large, names a key twice or something that cannot be.
pub fn write(write: Write) -> Result<Checked, CatalogError> {
    at_most("operations", write.operations.len(), OPERATIONS_MAX)?;
    at_most("conditions", write.conditions.len(), OPERATIONS_MAX)?;
    write.conditions.iter().try_for_each(condition)?;
    let mut keys = BTreeSet::new();
    for operation in &write.operations {
        if !keys.insert(operation.key()) {
            return Err(CatalogError::Twice { key: operation.key().into() });
        }
    }
    let described = write.operations.iter().map(operation).collect::<Result<_, _>>()?;
    at_most("bytes", write.operations.iter().map(size_of).sum(), WRITE_SIZE_MAX)?;
    Ok(Checked { write, described })
}

/// Refuses a multi-get of too many keys, or of what is not a key.
pub fn keys(keys: &[String]) -> Result<(), CatalogError> {
    at_most("keys", keys.len(), GET_KEYS_MAX)?;
    Ok(keys.iter().try_for_each(|key| check_key(key))?)
}

/// Refuses a scan of nothing, and texts that are the beginning of no key.
pub fn scan(scan: &Scan) -> Result<(), CatalogError> {
    if scan.limit == 0 {
        return Err(invalid("the limit of a scan", "0", "a page has at least one entry"));
    }
    prefix(&scan.prefix)?;
    scan.after.as_deref().map_or(Ok(()), |after| beginning("the key to go on after", after))
}

/// Refuses a prefix that no key can begin with.
pub fn prefix(prefix: &str) -> Result<(), CatalogError> {
    beginning("a prefix", prefix)
}

/// Refuses what cannot be a service's name.
pub fn service(name: &str) -> Result<(), CatalogError> {
    const WHAT: &str = "the name of a service";
    length(WHAT, name, LABEL_LENGTH_MAX)?;
    match name {
        "" => Err(invalid(WHAT, "''", "it is empty")),
        _ if name.contains(char::is_control) => Err(invalid(WHAT, name, "it holds a control character")),
        _ => Ok(()),
    }
}

/// Refuses a time to live that is nothing, or longer than [`TTL_MAX_MS`].
pub fn ttl(ttl_ms: u64) -> Result<(), CatalogError> {
    const WHAT: &str = "a time to live, in milliseconds,";
    match ttl_ms {
        0 => Err(invalid(WHAT, "0", "what is to be gone at once is deleted instead")),
        1..=TTL_MAX_MS => Ok(()),
        _ => Err(invalid(WHAT, &ttl_ms.to_string(), "it is longer than a century; leave it out instead")),
    }
}

/// Refuses what is larger than it may be.
pub fn at_most(what: &'static str, found: usize, most: usize) -> Result<(), CatalogError> {
    if found > most { Err(CatalogError::TooLarge { what, found, most }) } else { Ok(()) }
}

/// That a text or number cannot be.
pub fn invalid(what: &'static str, found: &str, reason: &'static str) -> CatalogError {
    CatalogError::Invalid { what, found: found.chars().take(SHOWN_LENGTH).collect(), reason }
}

fn condition(condition: &Condition) -> Result<(), CatalogError> {
    match condition {
        Condition::Version { key, .. } | Condition::Unchanged { prefix: key, exact: true, .. } => {
            Ok(check_key(key)?)
        }
        Condition::Unchanged { prefix: text, exact: false, .. } => prefix(text),
    }
}

/// Refuses an operation that cannot be; what its content is.
pub fn operation(operation: &Operation) -> Result<Described, CatalogError> {
    check_key(operation.key())?;
    match operation {
        Operation::Put(put) => {
            put.ttl_ms.map_or(Ok(()), ttl)?;
            put.owner.as_deref().map_or(Ok(()), service)?;
            labels(&put.labels)?;
            describe(put)
        }
        Operation::Expire { when: Expiry::In(ttl_ms) | Expiry::Later(ttl_ms), .. } => {
            ttl(*ttl_ms).map(|()| Described::default())
        }
        Operation::Expire { when: Expiry::Never, .. } | Operation::Delete { .. } => Ok(Described::default()),
    }
}

/// What a put's content is, unless it is too large or no manifest.
pub fn describe(put: &Put) -> Result<Described, CatalogError> {
    let key = || put.key.clone();
    match &put.content {
        Content::Value(value) if value.len() > VALUE_SIZE_MAX => {
            Err(CatalogError::ValueSize { key: key(), size: value.len() })
        }
        Content::Value(value) => Ok(Described { size: value.len() as u64, ..Described::default() }),
        Content::Manifest(root) if root.len() > MANIFEST_SIZE_MAX => {
            Err(CatalogError::ManifestSize { key: key(), size: root.len() })
        }
        Content::Manifest(root) => {
            let manifest = Manifest::decode(root);
            let manifest = manifest.map_err(|source| CatalogError::Manifest { key: key(), source })?;
            let chunks = manifest.all_chunks().map(|chunk| chunk.id).collect();
            Ok(Described { size: manifest.size, files: manifest.file_count, chunks })
        }
    }
}

fn labels(labels: &BTreeMap<String, String>) -> Result<(), CatalogError> {
    at_most("labels of one key", labels.len(), LABELS_MAX)?;
    for (name, value) in labels {
        length("the name of a label", name, LABEL_LENGTH_MAX)?;
        length("a label", value, LABEL_LENGTH_MAX)?;
        if name.is_empty() || name.contains('\0') || value.contains('\0') {
            return Err(invalid("a label", &format!("'{name}={value}'"), "it has no name or holds a NUL"));
        }
    }
    Ok(())
}

fn beginning(what: &'static str, text: &str) -> Result<(), CatalogError> {
    length(what, text, KEY_LENGTH_MAX)?;
    if text.contains('\0') { Err(invalid(what, text, "no key holds a NUL")) } else { Ok(()) }
}

fn length(what: &'static str, text: &str, most: usize) -> Result<(), CatalogError> {
    if text.len() > most { Err(invalid(what, text, "it is too long")) } else { Ok(()) }
}

/// Bytes that an operation brings along, as they count for [`WRITE_SIZE_MAX`].
pub fn size_of(operation: &Operation) -> usize {
    let Operation::Put(put) = operation else { return operation.key().len() };
    let (Content::Value(content) | Content::Manifest(content)) = &put.content;
    let labels: usize = put.labels.iter().map(|(name, value)| name.len() + value.len()).sum();
    put.key.len() + content.len() + labels + put.owner.as_ref().map_or(0, String::len)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &str, content: Content) -> Put {
        Put::new(key, content)
    }

    fn refused(operations: Vec<Operation>) -> CatalogError {
        write(Write { conditions: Vec::new(), operations }).unwrap_err()
    }

    fn value(size: usize) -> Content {
        Content::Value(vec![0; size])
    }

    #[test]
    fn writes_are_bounded() {
        let one = |at: usize, size| Operation::Put(put(&format!("k{at}"), value(size)));
        let many = |count, size| (0..count).map(|at| one(at, size)).collect::<Vec<_>>();
        assert!(write(Write { operations: many(OPERATIONS_MAX, 10), ..Write::default() }).is_ok());
        assert!(matches!(refused(many(OPERATIONS_MAX + 1, 10)), CatalogError::TooLarge { found: 129, .. }));
        assert!(matches!(refused(many(1, VALUE_SIZE_MAX + 1)), CatalogError::ValueSize { .. }));
        assert!(matches!(refused(many(23, VALUE_SIZE_MAX)), CatalogError::TooLarge { what: "bytes", .. }));
        let condition = Condition::Version { key: "a".into(), version: 1 };
        let conditions = vec![condition; OPERATIONS_MAX + 1];
        let outcome = write(Write { conditions, operations: Vec::new() });
        assert!(matches!(outcome, Err(CatalogError::TooLarge { what: "conditions", .. })));
        let large = Content::Manifest(vec![0; MANIFEST_SIZE_MAX + 1]);
        assert!(matches!(refused(vec![Operation::Put(put("a", large))]), CatalogError::ManifestSize { .. }));
        let wrong = Operation::Put(put("a", Content::Manifest(vec![7])));
        assert!(matches!(refused(vec![wrong]), CatalogError::Manifest { .. }));
    }

    #[test]
    fn names_and_times_that_cannot_be_are_refused() {
        let twice = vec![Operation::Put(put("a", value(0))), Operation::Delete { key: "a".into() }];
        assert!(matches!(refused(twice), CatalogError::Twice { .. }));
        assert!(matches!(refused(vec![Operation::Delete { key: "a\0".into() }]), CatalogError::Key(_)));
        let invalid = |change: fn(&mut Put)| {
            let mut put = put("a", value(0));
            change(&mut put);
            assert!(matches!(refused(vec![Operation::Put(put)]), CatalogError::Invalid { .. }));
        };
        invalid(|put| put.ttl_ms = Some(0));
        invalid(|put| put.ttl_ms = Some(TTL_MAX_MS + 1));
        invalid(|put| put.owner = Some(String::new()));
        invalid(|put| put.owner = Some("a\n".into()));
        invalid(|put| put.labels = [("".into(), "b".into())].into());
        invalid(|put| put.labels = [("a".into(), "b\0".into())].into());
        invalid(|put| put.labels = [("a".into(), "b".repeat(LABEL_LENGTH_MAX + 1))].into());
        let mut labelled = put("a", value(0));
        labelled.labels = (0..=LABELS_MAX).map(|at| (at.to_string(), String::new())).collect();
        assert!(matches!(refused(vec![Operation::Put(labelled)]), CatalogError::TooLarge { .. }));
        let never = Operation::Expire { key: "a".into(), when: Expiry::In(0) };
        assert!(matches!(refused(vec![never]), CatalogError::Invalid { .. }));
    }

    #[test]
    fn reads_are_bounded() {
        assert!(matches!(keys(&vec!["a".into(); GET_KEYS_MAX + 1]), Err(CatalogError::TooLarge { .. })));
        assert!(matches!(keys(&["a/".into()]), Err(CatalogError::Key(_))));
        let page = |prefix: &str, after: Option<&str>, limit| {
            scan(&Scan { prefix: prefix.into(), after: after.map(Into::into), limit, contents: false })
        };
        assert!(page("", None, 1).is_ok() && page("a/", Some("a/b"), usize::MAX).is_ok());
        assert!(matches!(page("", None, 0), Err(CatalogError::Invalid { .. })));
        assert!(matches!(page("a\0", None, 1), Err(CatalogError::Invalid { .. })));
        assert!(matches!(page("", Some(&"a".repeat(1025)), 1), Err(CatalogError::Invalid { .. })));
    }
}
