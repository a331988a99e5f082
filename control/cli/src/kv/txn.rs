//! `shoal kv txn`

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use std::time::Duration;

use client::kv::{Condition, Entry, Isolation, KeyVersion, Kv, Operation, Write, Written};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::shown::{self, Shown};
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
The document is the one that POST /v1/write takes over HTTP, and may also have `get` and `isolation`. Every part may be left
out:
  {
    \"get\": [\"settings\"],
    \"if\":  [{\"key\": \"settings\", \"version\": 3}, {\"key\": \"lock\", \"version\": 0}],
    \"do\":  [
      {\"put\":    {\"key\": \"settings\", \"value\": \"…\", \"ttl_ms\": 3600000, \"labels\": {\"team\": \"a\"}, \"owner\": \"web\"}},
      {\"put\":    {\"key\": \"raw\", \"value_base64\": \"/wAB\"}},
      {\"delete\": {\"key\": \"draft\"}},
      {\"expire\": {\"key\": \"lock\", \"ttl_ms\": 30000}}
    ],
    \"isolation\": \"serializable\"
  }
Version 0 means that the key must be absent; {\"prefix\": \"jobs/\", \"unchanged_since\": 100} that nothing there was changed
after a revision. `expire` takes `ttl_ms`, `extend_ms` or `\"persist\": true`. With `get` it is a transaction, whose isolation
is read_committed, snapshot or serializable, and conditions name versions.

Examples:
  shoal kv txn transfer.json
  echo '{\"if\":[{\"key\":\"a\",\"version\":1}],\"do\":[{\"delete\":{\"key\":\"a\"}}]}' | shoal kv txn -")]
pub struct Txn {
    /// The document; `-` is standard input
    #[arg(value_name = "FILE")]
    document: PathBuf,
}

/// What the document says: what `POST /v1/write` takes over HTTP, and beside it what is read.
struct Document {
    isolation: IsolationName,
    get: Vec<String>,
    write: Write,
}

#[derive(Deserialize, Default, Clone, Copy)]
#[serde(rename_all = "snake_case")]
enum IsolationName {
    ReadCommitted,
    Snapshot,
    #[default]
    Serializable,
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
        let Document { isolation, get, write } = parse(&self.read()?)?;
        let mut labels: Vec<String> = write.operations.iter().map(label_of).collect();
        let client = global.connect()?;
        let (written, read) = if get.is_empty() {
            (client.kv().write(write)?, Vec::new())
        } else {
            // A transaction keeps one operation for each key, in the order of the keys.
            let by_key = write.operations.iter().map(key_of).zip(labels).collect::<BTreeMap<_, _>>();
            labels = by_key.into_values().collect();
            transact(client.kv(), isolation, &get, write)?
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
    let wrong = |what: String| Failure::Usage(format!("the document is wrong: {what}"));
    let object = serde_json::from_slice::<Map<String, Value>>(bytes);
    let mut object = object.map_err(|error| wrong(error.to_string()))?;
    let isolation = object.remove("isolation").map_or(Ok(IsolationName::default()), serde_json::from_value);
    let isolation = isolation.map_err(|error| wrong(format!("`isolation`: {error}")))?;
    let get = object.remove("get").map_or(Ok(Vec::new()), serde_json::from_value);
    let get = get.map_err(|error| wrong(format!("`get`: {error}")))?;
    let write = daemon::parse_write(Value::Object(object)).map_err(wrong)?;
    Ok(Document { isolation, get, write })
}

/// Reads, compares and writes in one transaction.
fn transact(
    kv: Kv<'_>,
    isolation: IsolationName,
    get: &[String],
    write: Write,
) -> Result<(Written, Vec<Option<Entry>>), Failure> {
    let isolation = match isolation {
        IsolationName::ReadCommitted => Isolation::ReadCommitted,
        IsolationName::Snapshot => Isolation::Snapshot,
        IsolationName::Serializable => Isolation::Serializable,
    };
    let mut expected = Vec::new();
    for condition in write.conditions {
        let Condition::Version(version) = condition else {
            return Err(Failure::Usage("with `get`, a condition names a `version`".into()));
        };
        expected.push(version);
    }
    let transaction = kv.begin(isolation, TIMEOUT)?;
    let read = get.iter().map(|key| transaction.get(key)).collect::<Result<Vec<_>, _>>()?;
    for KeyVersion { key, version: expected } in expected {
        let found = transaction.get(&key)?.map_or(0, |entry| entry.version);
        if found != expected {
            return Err(Failure::Version { key, expected, found });
        }
    }
    transaction.write(write.operations)?;
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

/// What is done to which key.
fn label_of(operation: &Operation) -> String {
    let what = match operation {
        Operation::Put(_) => "put",
        Operation::Delete(_) => "delete",
        Operation::Expire(_) => "expire",
    };
    format!("{what} {}", key_of(operation))
}

#[cfg(test)]
mod tests {
    use client::kv::{Content, Expire, Expiry, Put, UnchangedSince};

    use super::*;

    fn operations(text: &str) -> Result<Vec<Operation>, Failure> {
        parse(text.as_bytes()).map(|document| document.write.operations)
    }

    #[test]
    fn a_document_is_read() {
        let text = r#"{"get":["a","b"],"isolation":"snapshot","if":[{"prefix":"p/","unchanged_since":7}],
            "do":[{"put":{"key":"a","value":"x","ttl_ms":2000,"labels":{"l":"t"}}},{"delete":{"key":"b"}},
            {"expire":{"key":"c","extend_ms":60000}},{"put":{"key":"d","value_base64":"/wAB"}},
            {"expire":{"key":"e","persist":true}}]}"#;
        let document = parse(text.as_bytes()).unwrap();
        let unchanged = UnchangedSince { prefix: "p/".into(), exact: false, revision: 7 };
        assert_eq!(
            (document.get.len(), document.write.conditions),
            (2, vec![Condition::Unchanged(unchanged)])
        );
        assert!(matches!(document.isolation, IsolationName::Snapshot));
        let read = document.write.operations;
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
            r#"{"do":[{"put":{"key":"a","value":"x","ttl":"1s"}}]}"#,
            r#"{"do":[{"expire":{"key":"a"}}]}"#,
            r#"{"do":[{"expire":{"key":"a","ttl_ms":1000,"persist":true}}]}"#,
            r#"{"get":"a"}"#,
            r#"{"isolation":"none"}"#,
            r#"{"do":[{"move":{"key":"a"}}]}"#,
            r#"{"if":[{"key":"a"}]}"#,
            r#"{"if":[{"key":"a","version":-1}]}"#,
        ] {
            assert!(matches!(operations(text), Err(Failure::Usage(_))), "{text}");
        }
    }
}
