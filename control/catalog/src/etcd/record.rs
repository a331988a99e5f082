//! What a key's value in etcd is: a byte of format, a checksum, a record in postcard, then the content.
//!
//! A deletion is a record too, a *tombstone* in the place of what it ends. So every change of a key is one put in etcd, with
//! one event, and a comparison of revisions over a range of keys misses none. Each record bears the random number of the
//! write that made it: a write whose answer was lost is found again by it.

use std::collections::BTreeMap;

use crc_fast::{CrcAlgorithm, Digest};
use plan::manifest::Manifest;
use serde::{Deserialize, Serialize};

use super::proto::KeyValue;
use crate::change::{Change, ChangeKind};
use crate::entry::{Content, Entry};
use crate::error::CatalogError;

/// The format that is written. Every format keeps the first five bytes: itself, and a CRC-32C of the key, itself and all
/// that follows.
const FORMAT: u8 = 1;
const HEADER_LENGTH: usize = 5;

/// A version of a key, without its content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// The write that made it, random.
    pub(super) write: u64,
    /// Of a tombstone it is the last version that there was.
    pub(super) version: u64,
    pub(super) created_ms: u64,
    /// When it was written.
    pub(super) at_ms: u64,
    pub(super) expires_ms: Option<u64>,
    pub(super) owner: Option<Owner>,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) size: u64,
    pub(super) files: u64,
    pub(super) kind: Kind,
}

/// The service that owns a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Owner {
    pub(super) name: String,
    /// The revision that registered it. A service that was lost and registered again is another one.
    pub(super) since: u64,
}

/// What a record is. The order is the format's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Kind {
    Value,
    Manifest,
    Deleted,
    Expired,
    OwnerEnded,
}

/// A key as it was found in etcd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seen {
    /// The revision that wrote it.
    pub(super) revision: u64,
    pub(super) record: Record,
    pub(super) content: Vec<u8>,
}

impl Record {
    /// The end of a key whose last version was `version`.
    pub(super) fn tombstone(kind: Kind, write: u64, version: u64, at_ms: u64) -> Self {
        Self {
            write,
            version,
            created_ms: 0,
            at_ms,
            expires_ms: None,
            owner: None,
            labels: BTreeMap::new(),
            size: 0,
            files: 0,
            kind,
        }
    }

    /// Whether it says that the key is not there.
    pub(super) fn is_tombstone(&self) -> bool {
        matches!(self.kind, Kind::Deleted | Kind::Expired | Kind::OwnerEnded)
    }

    /// Whether the key's time is over, and nobody has written its end.
    pub(super) fn is_overdue(&self, now_ms: u64) -> bool {
        self.expires_ms.is_some_and(|expires_ms| expires_ms <= now_ms)
    }

    /// Whether the key is there at a time.
    pub(super) fn is_live(&self, now_ms: u64) -> bool {
        !self.is_tombstone() && !self.is_overdue(now_ms)
    }

    /// The value in etcd of `key`.
    pub(super) fn seal(&self, key: &str, content: &[u8]) -> Vec<u8> {
        let mut bytes = postcard::to_extend(self, vec![FORMAT, 0, 0, 0, 0])
            .expect("a record holds only numbers and strings, which always serialise");
        bytes.extend_from_slice(content);
        let checksum = checksum_of(key, FORMAT, &bytes[HEADER_LENGTH..]);
        bytes[1..HEADER_LENGTH].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }
}

impl Seen {
    /// Reads what etcd has for `key`.
    pub(super) fn read(key: &str, kv: &KeyValue) -> Result<Self, CatalogError> {
        let subject = || format!("key '{key}' in etcd");
        let damaged = || CatalogError::Damaged { subject: subject() };
        let (header, body) = kv.value.split_at_checked(HEADER_LENGTH).ok_or_else(damaged)?;
        let format = header[0];
        if header[1..] != checksum_of(key, format, body).to_le_bytes() {
            return Err(damaged());
        }
        if format != FORMAT {
            return Err(CatalogError::Format { subject: subject(), format });
        }
        let (record, content) = postcard::take_from_bytes::<Record>(body).map_err(|_| damaged())?;
        Ok(Self { revision: revision(kv.mod_revision), record, content: content.to_vec() })
    }

    /// The entry that it is, of a key that is there.
    pub(super) fn entry(self, key: &str, contents: bool) -> Entry {
        let Self { revision, record, content } = self;
        let content = match record.kind {
            _ if !contents => None,
            Kind::Manifest => Some(Content::Manifest(content)),
            _ => Some(Content::Value(content)),
        };
        Entry {
            key: key.into(),
            version: record.version,
            revision,
            created_ms: record.created_ms,
            updated_ms: record.at_ms,
            expires_ms: record.expires_ms,
            owner: record.owner.map(|owner| owner.name),
            labels: record.labels,
            size: record.size,
            files: record.files,
            content,
        }
    }

    /// The change that wrote it.
    pub(super) fn change(self, key: &str) -> Change {
        let (revision, at_ms, version) = (self.revision, self.record.at_ms, self.record.version);
        let kind = match self.record.kind {
            Kind::Value | Kind::Manifest => ChangeKind::Put(self.entry(key, true)),
            Kind::Deleted => ChangeKind::Delete { version },
            Kind::Expired => ChangeKind::Expire { version },
            Kind::OwnerEnded => ChangeKind::OwnerEnded { version },
        };
        Change { revision, at_ms, key: key.into(), kind }
    }

    /// The chunks that it names; `None` when its manifest cannot be read.
    pub(super) fn chunks(&self) -> Option<Vec<[u8; 32]>> {
        match self.record.kind {
            Kind::Manifest => {
                let manifest = Manifest::decode(&self.content).ok()?;
                let mut chunks: Vec<[u8; 32]> = manifest.all_chunks().map(|chunk| chunk.id).collect();
                chunks.sort_unstable();
                chunks.dedup();
                Some(chunks)
            }
            _ => Some(Vec::new()),
        }
    }
}

fn checksum_of(key: &str, format: u8, body: &[u8]) -> u32 {
    let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
    digest.update(key.as_bytes());
    digest.update(&[format]);
    digest.update(body);
    digest.finalize() as u32
}

/// A revision as etcd sends it, which is never negative.
pub(super) fn revision(sent: i64) -> u64 {
    u64::try_from(sent).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record() -> Record {
        Record {
            write: 0x0102,
            version: 3,
            created_ms: 1000,
            at_ms: 2000,
            expires_ms: Some(3000),
            owner: Some(Owner { name: "svc".into(), since: 9 }),
            labels: [("a".to_owned(), "b".to_owned())].into(),
            size: 2,
            files: 0,
            kind: Kind::Value,
        }
    }

    fn kv(value: Vec<u8>) -> KeyValue {
        KeyValue { mod_revision: 7, create_revision: 1, value, ..KeyValue::default() }
    }

    /// What was written by any build must be read by every later one.
    #[test]
    fn golden_bytes() {
        let sealed = record().seal("k", b"hi");
        let golden = [
            &[1, 109, 156, 210, 16][..],
            &[0x82, 0x02, 3, 0xe8, 0x07, 0xd0, 0x0f, 1, 0xb8, 0x17][..],
            &[1, 3, b's', b'v', b'c', 9, 1, 1, b'a', 1, b'b', 2, 0, 0, b'h', b'i'][..],
        ]
        .concat();
        assert_eq!(sealed, golden);
        let seen = Seen::read("k", &kv(sealed.clone())).unwrap();
        assert_eq!(seen, Seen { revision: 7, record: record(), content: b"hi".to_vec() });
        assert!(matches!(Seen::read("l", &kv(sealed)), Err(CatalogError::Damaged { .. })), "another key's");
    }

    #[test]
    fn what_has_expired_or_ended_is_not_live() {
        let live = record();
        assert!(live.is_live(2999) && !live.is_live(3000) && live.is_overdue(3000));
        let end = Record::tombstone(Kind::Expired, 1, 3, 3001);
        assert!(!end.is_live(0) && end.is_tombstone() && !end.is_overdue(u64::MAX));
        let seen = Seen { revision: 8, record: end, content: Vec::new() };
        let change = seen.change("k");
        assert_eq!(
            (change.revision, change.at_ms, change.kind),
            (8, 3001, ChangeKind::Expire { version: 3 })
        );
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_much(value in proptest::collection::vec(any::<u8>(), 0..64)) {
            prop_assert!(Seen::read("k", &kv(value)).is_err());
        }

        #[test]
        fn records_are_read_as_they_were_written(
            (write, version, expires_ms) in any::<(u64, u64, Option<u64>)>(),
            content in proptest::collection::vec(any::<u8>(), 0..64),
        ) {
            let record = Record { write, version, expires_ms, ..record() };
            let seen = Seen::read("k", &kv(record.seal("k", &content))).unwrap();
            prop_assert_eq!((seen.record, seen.content), (record, content));
        }
    }
}
