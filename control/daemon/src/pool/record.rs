//! An entry of the catalog that is a chunk of the pool.

use std::collections::BTreeSet;

use catalog::{Content, Entry, Operation, Put};
use flow::wire::session::{ChunkReference, Device};

use super::{METADATA_PREFIX, PREFIX};
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
    pub(crate) body: Body,
    /// What its maker says about it, a JSON object; empty when that is nothing.
    pub(crate) metadata: String,
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

/// The bytes of a chunk of the pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Body {
    /// They are a chunk of the data plane.
    Chunk(ChunkReference),
    /// There are none, so that nothing but this says where they are: `NODE:DEVICE`.
    Empty(BTreeSet<String>),
}

impl Body {
    /// No bytes, on a device.
    pub(super) fn empty_on(node: &str, device: Device) -> Self {
        Self::Empty(BTreeSet::from([place_of(node, device)]))
    }

    /// How many bytes there are.
    pub(crate) fn size(&self) -> u64 {
        match self {
            Body::Chunk(chunk) => chunk.geometry.size(),
            Body::Empty(_) => 0,
        }
    }

    /// The BLAKE3 digest of the bytes, as hexadecimal digits.
    pub(crate) fn digest(&self) -> String {
        match self {
            Body::Chunk(chunk) => chunk.id.to_string(),
            Body::Empty(_) => blake3::hash(b"").to_hex().to_string(),
        }
    }
}

/// `NODE:DEVICE`.
pub(super) fn place_of(node: &str, device: Device) -> String {
    format!("{node}:{device}")
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

    /// The name of the entry that has what the maker of a chunk says about it, which may be more than labels hold.
    pub(super) fn metadata_name(id: &str) -> String {
        format!("{METADATA_PREFIX}{id}")
    }

    /// Takes what its maker says about it from the entry that has it.
    pub(super) fn describe(&mut self, entry: &Entry) {
        if let Some(Content::Value(text)) = &entry.content {
            self.metadata = String::from_utf8_lossy(text).into_owned();
        }
    }

    /// The chunk that an entry is; `None` when it is none.
    pub(super) fn of(entry: &Entry) -> Option<Self> {
        let id = entry.key.strip_prefix(PREFIX)?.to_owned();
        let body = match &entry.content {
            Some(Content::Manifest(root)) => Body::Chunk(only_chunk(root)?),
            // What has no bytes has the places in their stead.
            Some(Content::Value(places)) => {
                Body::Empty(std::str::from_utf8(places).ok()?.lines().map(str::to_owned).collect())
            }
            None => return None,
        };
        let references = entry.labels.keys().filter_map(|name| name.strip_prefix(REFERENCE));
        let label = |name: &str| entry.labels.get(name).cloned();
        let number = |name: &str| entry.labels.get(name).and_then(|text| text.parse().ok());
        Some(Self {
            body,
            metadata: String::new(),
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

    /// What its maker says about it, as an entry; nothing when that is nothing.
    pub(super) fn put_metadata(&self) -> Option<Operation> {
        let text = Content::Value(self.metadata.clone().into_bytes());
        let put = || Operation::Put(Put::new(Self::metadata_name(&self.id), text));
        (!self.metadata.is_empty()).then(put)
    }

    /// The entry that it is.
    pub(super) fn put(&self) -> Put {
        let content = match &self.body {
            Body::Chunk(chunk) => Content::Manifest(manifest_of(chunk).encode()),
            Body::Empty(places) => {
                Content::Value(places.iter().flat_map(|place| [place, "\n"]).collect::<String>().into_bytes())
            }
        };
        let mut put = Put::new(self.name(), content);
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
    use flow::chunk::{ChunkId, Geometry};

    use super::*;

    fn record(body: Body) -> Record {
        Record {
            id: "chunk-00000007".into(),
            kind: "input".into(),
            format: "tensor".into(),
            body,
            metadata: r#"{"a":1}"#.into(),
            created_by: "n1".into(),
            created_ms: 5,
            accessed_ms: Some(6),
            accesses: 7,
            references: vec!["model".into()],
            version: 3,
        }
    }

    /// The entry that a put makes.
    fn entry(put: Put, version: u64) -> Entry {
        Entry {
            key: put.key,
            version,
            revision: version,
            created_ms: 0,
            updated_ms: 0,
            expires_ms: None,
            owner: None,
            labels: put.labels,
            size: 0,
            files: 0,
            content: Some(put.content),
        }
    }

    #[test]
    fn records_come_back_as_they_were_put() {
        let geometry = Geometry::of(1).unwrap();
        let chunk = ChunkReference { id: ChunkId([1; 32]), geometry, descriptor_digest: [2; 32] };
        let mut nowhere = Body::empty_on("n1", Device::Dram);
        if let Body::Empty(places) = &mut nowhere {
            places.insert(place_of("n2", Device::Nvme));
        }
        for body in [Body::Chunk(chunk), nowhere] {
            let put = record(body);
            let mut read = Record::of(&entry(put.put(), 3)).unwrap();
            let Some(Operation::Put(metadata)) = put.put_metadata() else { panic!("there is some") };
            assert_eq!(metadata.key, "gswarm-pool-metadata/chunk-00000007");
            read.describe(&entry(metadata, 1));
            assert_eq!(read, put);
        }
    }

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
