//! Keys and what they have, as JSON and as headers.

use std::collections::BTreeMap;

use axum::http::{HeaderMap, HeaderValue, StatusCode};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use catalog::{Content, Entry};
use plan::manifest::{Manifest, Shape};
use serde::Serialize;
use utoipa::ToSchema;

use super::problem::{Code, Problem};

/// A key as one write has left it.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = Entry)]
pub(super) struct EntryShown {
    /// The key.
    key: String,
    /// Counts the writes of this key from 1, and goes on after it was deleted.
    version: u64,
    /// The revision of the catalog that wrote it. Revisions order all writes of all keys.
    revision: u64,
    /// When the key came to be, milliseconds since 1970.
    created_ms: u64,
    /// When this version was written, milliseconds since 1970.
    updated_ms: u64,
    /// When it expires, milliseconds since 1970; absent when it does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_ms: Option<u64>,
    /// The service that owns it.
    #[serde(skip_serializing_if = "Option::is_none")]
    owner: Option<String>,
    /// What its writer says about it.
    labels: BTreeMap<String, String>,
    /// Bytes of the value, or of all files.
    size: u64,
    /// The value, when it is UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    /// The value, when it is not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    value_base64: Option<String>,
    /// What is known of the files, when it holds those instead of a value.
    #[serde(skip_serializing_if = "Option::is_none")]
    files: Option<FilesShown>,
}

/// Files that a key holds. Their bytes are chunks and have another door: `shoal get`.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = Files)]
pub(super) struct FilesShown {
    /// How many regular files.
    count: u64,
    /// One file, a tree of files, or a stream without a name.
    #[serde(skip_serializing_if = "Option::is_none")]
    shape: Option<ShapeShown>,
    /// The chunks that they consist of, where one key is asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    chunks: Option<Vec<ChunkShown>>,
}

/// What was put.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[schema(as = Shape)]
#[serde(rename_all = "snake_case")]
enum ShapeShown {
    File,
    Tree,
    Stream,
}

/// A chunk.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = Chunk)]
pub(super) struct ChunkShown {
    /// BLAKE3 of its bytes, in hexadecimal digits; or the name that it has instead, which ends with those of "shoal:no-digest".
    id: String,
    /// Bytes.
    size: u64,
    /// Bytes of a piece.
    piece_size: u32,
}

/// How much is told about files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Detail {
    /// Their number.
    Line,
    /// Also the chunks.
    Full,
}

impl EntryShown {
    pub(super) fn of(entry: Entry, detail: Detail) -> Self {
        let Entry {
            key,
            version,
            revision,
            created_ms,
            updated_ms,
            expires_ms,
            owner,
            labels,
            size,
            files,
            content,
        } = entry;
        let (mut value, mut value_base64) = (None, None);
        let files = match content {
            Some(Content::Value(bytes)) => {
                match String::from_utf8(bytes) {
                    Ok(text) => value = Some(text),
                    Err(error) => value_base64 = Some(BASE64_STANDARD.encode(error.as_bytes())),
                }
                None
            }
            Some(Content::Manifest(root)) => Some(FilesShown::of(files, &root, detail)),
            None => (files > 0).then_some(FilesShown { count: files, shape: None, chunks: None }),
        };
        Self {
            key,
            version,
            revision,
            created_ms,
            updated_ms,
            expires_ms,
            owner,
            labels,
            size,
            value,
            value_base64,
            files,
        }
    }
}

impl FilesShown {
    fn of(count: u64, root: &[u8], detail: Detail) -> Self {
        let Ok(manifest) = Manifest::decode(root) else { return Self { count, shape: None, chunks: None } };
        let shape = Some(match manifest.shape {
            Shape::File => ShapeShown::File,
            Shape::Tree => ShapeShown::Tree,
            Shape::Stream => ShapeShown::Stream,
        });
        let shown = |chunk: &plan::manifest::ChunkEntry| ChunkShown {
            id: flow::chunk::ChunkId(chunk.id).to_string(),
            size: chunk.size,
            piece_size: chunk.piece_size,
        };
        let chunks = (detail == Detail::Full).then(|| manifest.all_chunks().map(shown).collect());
        Self { count, shape, chunks }
    }
}

/// The bytes of a value, which is given in one of two ways.
pub(super) fn value_bytes(text: Option<String>, base64: Option<String>) -> Result<Vec<u8>, Problem> {
    match (text, base64) {
        (Some(text), None) => Ok(text.into_bytes()),
        (None, Some(text)) => {
            let bytes = BASE64_STANDARD.decode(text);
            bytes.map_err(|error| Problem::bad(format!("value_base64 is not base64: {error}"), ""))
        }
        _ => Err(Problem::bad(
            "a put has either 'value', which is text, or 'value_base64'",
            "to store a body as it is, send it with Content-Type: application/octet-stream",
        )),
    }
}

/// What is said about an entry beside its value, in headers. Labels are in JSON alone, since they may hold what headers
/// may not.
pub(super) fn set_headers(headers: &mut HeaderMap, entry: &Entry) {
    let mut set = |name: &'static str, number: u64| headers.insert(name, HeaderValue::from(number));
    set("shoal-version", entry.version);
    set("shoal-revision", entry.revision);
    set("shoal-created-ms", entry.created_ms);
    set("shoal-updated-ms", entry.updated_ms);
    if let Some(expires_ms) = entry.expires_ms {
        set("shoal-expires-ms", expires_ms);
    }
    headers.insert("etag", etag(entry.version));
}

/// The version as an entity tag (RFC 9110, 8.8.3).
pub(super) fn etag(version: u64) -> HeaderValue {
    HeaderValue::from_str(&format!("\"{version}\"")).expect("digits may stand in a header")
}

/// The version that an entity tag names.
pub(super) fn version_of(tag: &str) -> Option<u64> {
    let digits = tag.strip_prefix('"')?.strip_suffix('"')?;
    let is_plain = digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|_| is_plain)
}

/// The refusal to give bytes that are not in the catalog.
pub(super) fn holds_files(entry: &Entry) -> Problem {
    let Entry { key, files, size, .. } = entry;
    let text = format!("key '{key}' holds files ({files}, {size} bytes), not a value");
    let hint = "`shoal get` writes them out; with the header Accept: application/json they are described";
    Problem::new(StatusCode::NOT_ACCEPTABLE, Code::HoldsFiles, text, hint).about(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(content: Option<Content>) -> Entry {
        Entry {
            key: "a".into(),
            version: 3,
            revision: 9,
            created_ms: 1,
            updated_ms: 2,
            expires_ms: None,
            owner: None,
            labels: BTreeMap::new(),
            size: 2,
            files: 0,
            content,
        }
    }

    fn json(content: Option<Content>) -> serde_json::Value {
        serde_json::to_value(EntryShown::of(entry(content), Detail::Full)).unwrap()
    }

    #[test]
    fn a_value_is_text_or_base64() {
        let text = json(Some(Content::Value(b"h\xc3\xa9".to_vec())));
        assert_eq!((&text["value"], text.get("value_base64")), (&"hé".into(), None));
        let bytes = json(Some(Content::Value(vec![0xff, 0])));
        assert_eq!((bytes.get("value"), &bytes["value_base64"]), (None, &"/wA=".into()));
        let names_alone = json(None);
        assert!(names_alone.get("value").is_none() && names_alone.get("files").is_none());
    }

    #[test]
    fn a_value_is_given_once() {
        let given = |text: Option<&str>, base64: Option<&str>| {
            value_bytes(text.map(str::to_owned), base64.map(str::to_owned))
        };
        assert_eq!(given(Some("a"), None).unwrap(), b"a");
        assert_eq!(given(None, Some("/wA=")).unwrap(), [0xff, 0]);
        for (text, base64) in [(None, None), (Some("a"), Some("")), (None, Some("§")), (None, Some("/w"))] {
            assert!(given(text, base64).is_err(), "{text:?} {base64:?}");
        }
    }

    #[test]
    fn tags_are_versions_in_quotes() {
        assert_eq!(etag(12), "\"12\"");
        assert_eq!(version_of("\"12\""), Some(12));
        for odd in ["12", "*", "W/\"12\"", "\"\"", "\"+1\"", "\"1\", \"2\"", "\"99999999999999999999999\""] {
            assert_eq!(version_of(odd), None, "{odd}");
        }
    }
}
