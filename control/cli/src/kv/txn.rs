//! `shoal kv txn`

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use client::kv::{
    Condition, Content, Entry, Expire, Expiry, Isolation, KeyVersion, Kv, Operation, Put, Write, Written,
};
use serde::{Deserialize, Serialize};

use super::shown::{self, Shown};
use crate::amount::parse_span;
use crate::failure::Failure;
use crate::global::Global;
use crate::output;
use crate::put::Input;

/// Largest document, in bytes.
const DOCUMENT_MAX: u64 = 4 << 20;
/// How long a transaction with reads may take.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Carry out several writes together, or none of them
///
/// Exits with 5 and changes nothing when a condition does not hold, or when what was read is written meanwhile.
#[derive(clap::Args)]
#[command(after_help = "\
The document, of which every part may be left out:
  {
    \"get\": [\"settings\"],
    \"if\":  [{\"key\": \"settings\", \"version\": 3}, {\"key\": \"lock\", \"version\": 0}],
    \"do\":  [
      {\"put\":    {\"key\": \"settings\", \"value\": \"…\", \"ttl\": \"1h\", \"labels\": {\"team\": \"a\"}, \"owner\": \"web\"}},
      {\"put\":    {\"key\": \"raw\", \"value_base64\": \"/wAB\"}},
      {\"delete\": {\"key\": \"draft\"}},
      {\"expire\": {\"key\": \"lock\", \"set\": \"30s\"}}
    ],
    \"isolation\": \"serializable\"
  }
Version 0 means that the key must be absent. `expire` takes `set`, `extend` or `\"remove\": true`. With `get` it is a
transaction, whose isolation is read_committed, snapshot or serializable.

Examples:
  shoal kv txn transfer.json
  echo '{\"if\":[{\"key\":\"a\",\"version\":1}],\"do\":[{\"delete\":{\"key\":\"a\"}}]}' | shoal kv txn -")]
pub struct Txn {
    /// The document; `-` is standard input
    #[arg(value_name = "FILE")]
    document: PathBuf,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default)]
    isolation: IsolationName,
    #[serde(default)]
    get: Vec<String>,
    #[serde(default, rename = "if")]
    conditions: Vec<IfText>,
    #[serde(default, rename = "do")]
    operations: Vec<DoText>,
}

#[derive(Deserialize, Default, Clone, Copy)]
#[serde(rename_all = "snake_case")]
enum IsolationName {
    ReadCommitted,
    Snapshot,
    #[default]
    Serializable,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct IfText {
    key: String,
    version: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum DoText {
    Put(PutText),
    Delete(DeleteText),
    Expire(ExpireText),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PutText {
    key: String,
    value: Option<String>,
    value_base64: Option<String>,
    ttl: Option<String>,
    owner: Option<String>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DeleteText {
    key: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ExpireText {
    key: String,
    set: Option<String>,
    extend: Option<String>,
    #[serde(default)]
    remove: bool,
}

/// What was done, as `--json` prints it.
#[derive(Serialize)]
struct Report<'e> {
    revision: u64,
    versions: &'e [u64],
    read: Vec<Option<Shown<'e>>>,
}

impl Txn {
    /// Carries it out.
    pub fn run(self, global: &Global) -> Result<(), Failure> {
        let document = parse(&self.read()?)?;
        let Document { isolation, get, conditions, operations } = document;
        let mut labels: Vec<String> = operations.iter().map(DoText::label).collect();
        let operations = operations.into_iter().map(DoText::operation).collect::<Result<Vec<_>, _>>()?;
        let client = global.connect()?;
        let (written, read) = if get.is_empty() {
            let conditions = conditions.into_iter().map(IfText::condition).collect();
            (client.kv().write(Write { conditions, operations })?, Vec::new())
        } else {
            // A transaction keeps one operation for each key, in the order of the keys.
            let by_key = operations.iter().map(key_of).zip(labels).collect::<BTreeMap<_, _>>();
            labels = by_key.into_values().collect();
            transact(client.kv(), isolation, &get, &conditions, operations)?
        };
        tell(global, &labels, &written, &read)
    }

    fn read(&self) -> Result<Vec<u8>, Failure> {
        let mut bytes = Vec::new();
        if self.document.as_os_str() == "-" {
            Input.take(DOCUMENT_MAX + 1).read_to_end(&mut bytes).map_err(Failure::Input)?;
        } else {
            let opened = File::open(&self.document);
            let read = opened.and_then(|file| file.take(DOCUMENT_MAX + 1).read_to_end(&mut bytes));
            read.map_err(|source| Failure::ReadFile { path: self.document.clone(), source })?;
        }
        let fits = bytes.len() as u64 <= DOCUMENT_MAX;
        if fits { Ok(bytes) } else { Err(Failure::Usage("the document has more than 4 MiB".into())) }
    }
}

fn parse(bytes: &[u8]) -> Result<Document, Failure> {
    // serde would take a list for an object with its fields in order.
    if !bytes.trim_ascii_start().starts_with(b"{") {
        return Err(Failure::Usage("the document is wrong: it must be an object, as `--help` shows".into()));
    }
    serde_json::from_slice(bytes).map_err(|error| Failure::Usage(format!("the document is wrong: {error}")))
}

/// Reads, compares and writes in one transaction.
fn transact(
    kv: Kv<'_>,
    isolation: IsolationName,
    get: &[String],
    conditions: &[IfText],
    operations: Vec<Operation>,
) -> Result<(Written, Vec<Option<Entry>>), Failure> {
    let isolation = match isolation {
        IsolationName::ReadCommitted => Isolation::ReadCommitted,
        IsolationName::Snapshot => Isolation::Snapshot,
        IsolationName::Serializable => Isolation::Serializable,
    };
    let transaction = kv.begin(isolation, TIMEOUT)?;
    let read = get.iter().map(|key| transaction.get(key)).collect::<Result<Vec<_>, _>>()?;
    for IfText { key, version } in conditions {
        let found = transaction.get(key)?.map_or(0, |entry| entry.version);
        if found != *version {
            return Err(Failure::Version { key: key.clone(), expected: *version, found });
        }
    }
    transaction.write(operations)?;
    Ok((transaction.commit()?, read))
}

fn tell(
    global: &Global,
    labels: &[String],
    written: &Written,
    read: &[Option<Entry>],
) -> Result<(), Failure> {
    if global.json {
        let read = read.iter().map(|entry| entry.as_ref().map(Shown::of)).collect();
        return output::json(&Report { revision: written.revision, versions: &written.versions, read });
    }
    if global.quiet {
        return Ok(());
    }
    if !read.is_empty() {
        output::text(&shown::table(read.iter().flatten()).to_string())?;
    }
    for (label, version) in labels.iter().zip(&written.versions) {
        output::line(format_args!("{label}: version {version}"))?;
    }
    output::line(format_args!("committed at revision {}", written.revision))
}

fn key_of(operation: &Operation) -> &str {
    match operation {
        Operation::Put(put) => &put.key,
        Operation::Delete(key) => key,
        Operation::Expire(expire) => &expire.key,
    }
}

impl IfText {
    fn condition(self) -> Condition {
        Condition::Version(KeyVersion { key: self.key, version: self.version })
    }
}

impl DoText {
    /// What is done to which key.
    fn label(&self) -> String {
        match self {
            DoText::Put(put) => format!("put {}", put.key),
            DoText::Delete(delete) => format!("delete {}", delete.key),
            DoText::Expire(expire) => format!("expire {}", expire.key),
        }
    }

    fn operation(self) -> Result<Operation, Failure> {
        match self {
            DoText::Put(put) => put.operation(),
            DoText::Delete(DeleteText { key }) => Ok(Operation::Delete(key)),
            DoText::Expire(expire) => expire.operation(),
        }
    }
}

impl PutText {
    fn operation(self) -> Result<Operation, Failure> {
        let Self { key, value, value_base64, ttl, owner, labels } = self;
        let bytes = match (value, value_base64) {
            (Some(text), None) => text.into_bytes(),
            (None, Some(text)) => BASE64_STANDARD
                .decode(text)
                .map_err(|error| Failure::Usage(format!("`value_base64` of '{key}' is wrong: {error}")))?,
            _ => return Err(Failure::Usage(format!("the put of '{key}' takes `value` or `value_base64`"))),
        };
        let ttl_ms = ttl.as_deref().map(milliseconds).transpose()?;
        let (content, labels) = (Content::Value(bytes), labels.into_iter().collect());
        Ok(Operation::Put(Put { key, content, ttl_ms, owner, labels }))
    }
}

impl ExpireText {
    fn operation(self) -> Result<Operation, Failure> {
        let when = match (&self.set, &self.extend, self.remove) {
            (Some(time), None, false) => Expiry::In(milliseconds(time)?),
            (None, Some(time), false) => Expiry::Later(milliseconds(time)?),
            (None, None, true) => Expiry::Never,
            _ => {
                let text =
                    format!("`expire` of '{}' takes one of `set`, `extend` and `\"remove\": true`", self.key);
                return Err(Failure::Usage(text));
            }
        };
        Ok(Operation::Expire(Expire { key: self.key, when }))
    }
}

fn milliseconds(time: &str) -> Result<u64, Failure> {
    let time = parse_span(time).map_err(Failure::Usage)?;
    Ok(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operations(text: &str) -> Result<Vec<Operation>, Failure> {
        parse(text.as_bytes())?.operations.into_iter().map(DoText::operation).collect()
    }

    #[test]
    fn a_document_is_read() {
        let read = operations(
            r#"{"do":[{"put":{"key":"a","value":"x","ttl":"2s","labels":{"l":"t"}}},{"delete":{"key":"b"}},
            {"expire":{"key":"c","extend":"1m"}},{"put":{"key":"d","value_base64":"/wAB"}},{"expire":{"key":"e","remove":true}}]}"#,
        )
        .unwrap();
        let labels = vec![("l".into(), "t".into())];
        let put = |key: &str, bytes: &[u8]| Put {
            key: key.into(),
            content: Content::Value(bytes.into()),
            ttl_ms: None,
            owner: None,
            labels: Vec::new(),
        };
        assert_eq!(read[0], Operation::Put(Put { ttl_ms: Some(2_000), labels, ..put("a", b"x") }));
        assert_eq!(read[1], Operation::Delete("b".into()));
        assert_eq!(read[2], Operation::Expire(Expire { key: "c".into(), when: Expiry::Later(60_000) }));
        assert_eq!(read[3], Operation::Put(put("d", &[0xff, 0, 1])));
        assert_eq!(read[4], Operation::Expire(Expire { key: "e".into(), when: Expiry::Never }));
        assert!(operations("{}").unwrap().is_empty());
    }

    #[test]
    fn a_wrong_document_is_refused() {
        for text in [
            "",
            "[]",
            "{\"dont\":[]}",
            r#"{"do":[{"put":{"key":"a"}}]}"#,
            r#"{"do":[{"put":{"key":"a","value":"x","value_base64":""}}]}"#,
            r#"{"do":[{"put":{"key":"a","value_base64":"*"}}]}"#,
            r#"{"do":[{"put":{"key":"a","value":1}}]}"#,
            r#"{"do":[{"put":{"key":"a","value":"x","ttl":"soon"}}]}"#,
            r#"{"do":[{"expire":{"key":"a"}}]}"#,
            r#"{"do":[{"expire":{"key":"a","set":"1s","remove":true}}]}"#,
            r#"{"do":[{"move":{"key":"a"}}]}"#,
            r#"{"if":[{"key":"a"}]}"#,
            r#"{"if":[{"key":"a","version":-1}]}"#,
        ] {
            assert!(matches!(operations(text), Err(Failure::Usage(_))), "{text}");
        }
    }
}
