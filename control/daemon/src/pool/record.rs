//! An entry of the catalog that is a chunk of the pool.

use catalog::{Content, Entry, Put};
use flow::wire::session::ChunkReference;

use super::PREFIX;
use crate::values::{manifest_of, only_chunk};

const KIND: &str = "pool.type";
const FORMAT: &str = "pool.format";
const CREATED_BY: &str = "pool.created_by";
const CREATED_MS: &str = "pool.created_ms";
const ACCESSED_MS: &str = "pool.accessed_ms";
const ACCESSES: &str = "pool.accesses";
/// What the names of labels begin with that are references.
const REFERENCE: &str = "pool.reference:";

/// What is known of a chunk of the pool, without where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    /// `chunk-00000001`.
    pub(crate) id: String,
    pub(crate) kind: String,
    pub(crate) format: String,
    pub(crate) chunk: ChunkReference,
    /// The node that has read it.
    pub(crate) created_by: String,
    /// Milliseconds since 1970.
    pub(crate) created_ms: u64,
    /// Milliseconds since 1970; `None` when nobody has looked.
    pub(crate) accessed_ms: Option<u64>,
    pub(crate) accesses: u64,
    /// Who needs it.
    pub(crate) references: Vec<String>,
    /// The version of its entry.
    pub(crate) version: u64,
}

impl Record {
    /// The name of the entry of a chunk; `None` for what no chunk is called.
    pub(super) fn name_of(id: &str) -> Option<String> {
        let digits = id.strip_prefix("chunk-")?;
        let is_number = digits.len() >= 8 && digits.bytes().all(|byte| byte.is_ascii_digit());
        (is_number && digits.len() <= 20).then(|| format!("{PREFIX}{id}"))
    }

    pub(super) fn name(&self) -> String {
        format!("{PREFIX}{}", self.id)
    }

    /// The chunk that an entry is; `None` when it is none.
    pub(super) fn of(entry: &Entry) -> Option<Self> {
        let id = entry.key.strip_prefix(PREFIX)?.to_owned();
        let Some(Content::Manifest(root)) = &entry.content else { return None };
        let label = |name: &str| entry.labels.get(name).cloned();
        let number = |name: &str| entry.labels.get(name).and_then(|text| text.parse().ok());
        let references = entry.labels.keys().filter_map(|name| name.strip_prefix(REFERENCE));
        Some(Self {
            chunk: only_chunk(root)?,
            kind: label(KIND)?,
            format: label(FORMAT)?,
            created_by: label(CREATED_BY).unwrap_or_default(),
            created_ms: number(CREATED_MS).unwrap_or_default(),
            accessed_ms: number(ACCESSED_MS),
            accesses: number(ACCESSES).unwrap_or_default(),
            references: references.map(str::to_owned).collect(),
            version: entry.version,
            id,
        })
    }

    /// The entry that it is.
    pub(super) fn put(&self) -> Put {
        let mut put = Put::new(self.name(), Content::Manifest(manifest_of(&self.chunk).encode()));
        let mut say = |name: &str, text: String| drop(put.labels.insert(name.to_owned(), text));
        say(KIND, self.kind.clone());
        say(FORMAT, self.format.clone());
        say(CREATED_BY, self.created_by.clone());
        say(CREATED_MS, self.created_ms.to_string());
        say(ACCESSES, self.accesses.to_string());
        if let Some(accessed_ms) = self.accessed_ms {
            say(ACCESSED_MS, accessed_ms.to_string());
        }
        self.references.iter().for_each(|name| say(&format!("{REFERENCE}{name}"), String::new()));
        put
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_numbers_are_chunks() {
        assert_eq!(Record::name_of("chunk-00000001").as_deref(), Some("gswarm-pool/chunk-00000001"));
        assert!(Record::name_of("chunk-123456789").is_some());
        for id in [
            "",
            "chunk-",
            "chunk-1",
            "chunk-0000000x",
            "chunk_abc123",
            "chunk-00000001/../a",
            "../chunk-00000001",
        ] {
            assert_eq!(Record::name_of(id), None, "{id}");
        }
    }
}
