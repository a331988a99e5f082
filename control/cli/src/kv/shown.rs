//! Entries and values as they are printed.

use std::collections::BTreeMap;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use client::kv::{Content, Entry};
use serde::Serialize;

use crate::amount;
use crate::table::{Table, printable};

/// Most characters of a value in a table.
const VALUE_SHOWN: usize = 60;

/// An entry as `--json` prints it.
#[derive(Serialize)]
pub struct Shown<'e> {
    key: &'e str,
    version: u64,
    revision: u64,
    created_ms: u64,
    updated_ms: u64,
    expires_ms: Option<u64>,
    owner: Option<&'e str>,
    labels: BTreeMap<&'e str, &'e str>,
    size: u64,
    /// `value`, or `files` with their number.
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    files: Option<u64>,
    #[serde(flatten)]
    value: Option<Value>,
}

/// A value as `--json` prints it.
#[derive(Serialize)]
struct Value {
    /// The text, or base64 of what is no text.
    value: String,
    base64: bool,
}

impl<'e> Shown<'e> {
    /// The entry with its value, if that was read.
    pub fn of(entry: &'e Entry) -> Self {
        let is_value = is_value(entry);
        Self {
            key: &entry.key,
            version: entry.version,
            revision: entry.revision,
            created_ms: entry.created_ms,
            updated_ms: entry.updated_ms,
            expires_ms: entry.expires_ms,
            owner: entry.owner.as_deref(),
            labels: entry.labels.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect(),
            size: entry.size,
            kind: if is_value { "value" } else { "files" },
            files: (!is_value).then_some(entry.files),
            value: match &entry.content {
                Some(Content::Value(bytes)) => Some(Value::of(bytes)),
                _ => None,
            },
        }
    }
}

impl Value {
    fn of(bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self { value: text.into(), base64: false },
            Err(_) => Self { value: BASE64_STANDARD.encode(bytes), base64: true },
        }
    }
}

/// Whether a key has a value. Without its content one tells by the files, of which a value has none.
pub fn is_value(entry: &Entry) -> bool {
    match &entry.content {
        Some(Content::Value(_)) => true,
        Some(Content::Manifest(_)) => false,
        None => entry.files == 0,
    }
}

/// The beginning of a value on one line.
pub fn brief(entry: &Entry) -> String {
    let bytes = match &entry.content {
        Some(Content::Value(bytes)) => bytes,
        Some(Content::Manifest(_)) => {
            return format!("({}, {})", amount::count(entry.files, "file"), amount::size(entry.size));
        }
        None => return String::new(),
    };
    match std::str::from_utf8(bytes) {
        Ok(text) if text.chars().nth(VALUE_SHOWN).is_none() => printable(text),
        Ok(text) => printable(&text.chars().take(VALUE_SHOWN).chain(['…']).collect::<String>()),
        Err(_) => format!("({} that are no text)", amount::size(bytes.len() as u64)),
    }
}

/// Entries as people read them.
pub fn table<'e>(entries: impl IntoIterator<Item = &'e Entry>) -> Table {
    let mut table = Table::new(["KEY", ">VERSION", ">SIZE", ">AGE", "EXPIRES", "VALUE"]);
    for entry in entries {
        table.row([
            entry.key.clone(),
            entry.version.to_string(),
            amount::size(entry.size),
            amount::age(entry.updated_ms),
            entry.expires_ms.map_or("-".into(), |expires_ms| format!("in {}", amount::left(expires_ms))),
            brief(entry),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(content: Option<Content>) -> Entry {
        Entry {
            key: "a\n".into(),
            version: 2,
            revision: 7,
            created_ms: 0,
            updated_ms: 0,
            expires_ms: None,
            owner: None,
            labels: vec![("b".into(), "c".into())],
            size: 3,
            files: 0,
            content,
        }
    }

    #[test]
    fn values_that_are_no_text_say_so() {
        let json = |bytes: &[u8]| {
            serde_json::to_value(Shown::of(&entry(Some(Content::Value(bytes.into()))))).unwrap()
        };
        assert_eq!(json(b"abc")["value"], "abc");
        assert_eq!(json(b"abc")["base64"], false);
        assert_eq!(json(&[0xff, 0, 1])["value"], "/wAB");
        assert_eq!(json(&[0xff, 0, 1])["base64"], true);
        assert_eq!(json(b"")["labels"]["b"], "c");
        let names = serde_json::to_value(Shown::of(&entry(None))).unwrap();
        assert!(names.get("value").is_none() && names["version"] == 2);
    }

    #[test]
    fn a_value_is_shown_on_one_line() {
        let of = |bytes: &[u8]| brief(&entry(Some(Content::Value(bytes.into()))));
        assert_eq!(of(b"a\nb"), "a\\nb");
        assert_eq!(of("ä".repeat(61).as_bytes()), format!("{}…", "ä".repeat(60)));
        assert_eq!(of(&[0xff]), "(1 B that are no text)");
    }
}
