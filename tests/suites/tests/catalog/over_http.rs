//! The HTTP door of a real node, as an engine: whatever the suite asks of a catalog goes over HTTP.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use catalog::{
    Catalog, CatalogError, Change, ChangeKind, ChangeStream, Condition, Consistency, Content, Entry, Expiry,
    Found, Operation, Page, Scan, Selector, Service, Snapshot, Start, Swept, Write, Written,
};
use serde_json::{Value, json};
use suites::catalog::Bed;
use suites::{Answer, Event, Http, Node};
use tokio::sync::mpsc;

// Files have another door, so that manifests, leases and references are not among these; nor are sweeps that are counted,
// since the node sweeps by itself.
suites::conformance! { crate::over_http::open;
    entries: versions_count_the_writes_of_a_key revisions_order_all_writes an_entry_says_all_about_it
        a_plain_put_clears_what_is_not_named values_of_any_bytes_fit;
    writes: a_batch_is_all_or_nothing versions_are_compared a_delete_is_of_one_version
        writes_that_change_nothing_say_so bad_writes_change_nothing the_largest_write_fits
        nothing_may_have_changed_since concurrent_counters_lose_nothing trees_are_removed_whole;
    reads: many_keys_are_read_at_one_revision pages_follow_each_other names_come_without_contents
        counts_are_exact bad_reads_are_refused pages_are_bounded;
    expiry: expiries_can_be_changed conditions_see_expiries many_expire_at_once;
    changes: every_kind_of_write_comes_once streams_begin_where_they_are_asked_to keys_are_selected
        streams_wait_for_news a_dropped_wait_loses_nothing positions_go_on the_future_cannot_be_followed;
    services: only_services_own_keys what_a_service_owns_ends_with_it services_are_kept_alive
        services_are_listed;
}

async fn open() -> Bed {
    let node = Node::start();
    let http = Http::at(&node);
    let cluster = http.get("/v1/status").is(200).value()["cluster"].as_str().unwrap().to_owned();
    let cluster = u64::from_str_radix(&cluster, 16).unwrap();
    Bed {
        catalog: Arc::new(OverHttp { http, cluster }),
        hands: None,
        real_services: true,
        keep: Box::new(node),
    }
}

struct OverHttp {
    http: Http,
    cluster: u64,
}

impl OverHttp {
    /// Sends a request from a thread of its own, so that others go on meanwhile.
    async fn ask(
        &self,
        method: &'static str,
        path: String,
        body: Option<Value>,
    ) -> Result<Answer, CatalogError> {
        let http = self.http.clone();
        let asking = tokio::task::spawn_blocking(move || match body {
            Some(body) => http.json(method, &path, &body),
            None => http.ask(method, &path, None),
        });
        told(asking.await.unwrap())
    }
}

fn told(answer: Answer) -> Result<Answer, CatalogError> {
    if answer.status == 200 { Ok(answer) } else { Err(error_of(&answer)) }
}

fn error_of(answer: &Answer) -> CatalogError {
    let problem = answer.value();
    let key = || problem["key"].as_str().unwrap_or_default().to_owned();
    let number = |name: &str| problem[name].as_u64().unwrap_or_default();
    let text = problem["message"].as_str().unwrap().to_owned();
    match problem["code"].as_str().unwrap() {
        "bad_key" => CatalogError::Key(plan::key::KeyError { key: key(), reason: "the node says so" }),
        "key_twice" => CatalogError::Twice { key: key() },
        // An empty name of a service makes another path of it.
        "bad_request" | "no_route" => CatalogError::Invalid { what: "a request", found: text, reason: "" },
        "conflict" => CatalogError::Conflict {
            key: key(),
            expected: number("expected_version"),
            found: number("found_version"),
        },
        "changed" => CatalogError::Changed { prefix: String::new(), revision: 0 },
        "no_key" => CatalogError::NoKey { key: key() },
        "no_expiry" => CatalogError::NoExpiry { key: key() },
        "no_service" => {
            let name = text.split('\'').nth(1).unwrap_or_default();
            CatalogError::NoService { name: name.into() }
        }
        "value_too_large" => CatalogError::ValueSize { key: key(), size: 0 },
        "too_large" => CatalogError::TooLarge {
            what: "things",
            found: number("found") as usize,
            most: number("most") as usize,
        },
        "gone" => CatalogError::ChangesGone { asked: 0, kept: number("kept_revision") },
        code => CatalogError::Elsewhere { message: format!("{code}: {text}") },
    }
}

/// A text as it stands in a path or a query.
fn escaped(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

fn freshness(consistency: Consistency) -> &'static str {
    match consistency {
        Consistency::One => "one",
        Consistency::Quorum => "quorum",
        Consistency::Serial => "serial",
        Consistency::All => "all",
    }
}

fn entry(value: &Value) -> Entry {
    let text = |name: &str| value[name].as_str().map(str::to_owned);
    let number = |name: &str| value[name].as_u64().unwrap();
    let labels = value["labels"].as_object().unwrap().iter();
    let content = match (text("value"), text("value_base64")) {
        (Some(text), None) => Some(Content::Value(text.into_bytes())),
        (None, Some(text)) => Some(Content::Value(BASE64_STANDARD.decode(text).unwrap())),
        (None, None) => None,
        _ => panic!("two values: {value}"),
    };
    Entry {
        key: text("key").unwrap(),
        version: number("version"),
        revision: number("revision"),
        created_ms: number("created_ms"),
        updated_ms: number("updated_ms"),
        expires_ms: value["expires_ms"].as_u64(),
        owner: text("owner"),
        labels: labels.map(|(name, value)| (name.clone(), value.as_str().unwrap().into())).collect(),
        size: number("size"),
        files: 0,
        content,
    }
}

fn operation(operation: &Operation) -> Value {
    match operation {
        Operation::Put(put) => {
            let Content::Value(bytes) = &put.content else { panic!("files have another door") };
            let mut document = json!({"key": put.key, "labels": put.labels});
            // Both ways to send a value are used; JSON takes six bytes for a control character.
            match std::str::from_utf8(bytes).ok().filter(|text| !text.contains(char::is_control)) {
                Some(text) => document["value"] = text.into(),
                None => document["value_base64"] = BASE64_STANDARD.encode(bytes).into(),
            }
            if let Some(ttl_ms) = put.ttl_ms {
                document["ttl_ms"] = ttl_ms.into();
            }
            if let Some(owner) = &put.owner {
                document["owner"] = owner.as_str().into();
            }
            json!({"put": document})
        }
        Operation::Delete { key } => json!({"delete": {"key": key}}),
        Operation::Expire { key, when } => json!({"expire": match when {
            Expiry::In(ms) => json!({"key": key, "ttl_ms": ms}),
            Expiry::Later(ms) => json!({"key": key, "extend_ms": ms}),
            Expiry::Never => json!({"key": key, "persist": true}),
        }}),
    }
}

fn condition(condition: &Condition) -> Value {
    match condition {
        Condition::Version { key, version } => json!({"key": key, "version": version}),
        Condition::Unchanged { prefix, exact: true, revision } => {
            json!({"key": prefix, "unchanged_since": revision})
        }
        Condition::Unchanged { prefix, exact: false, revision } => {
            json!({"prefix": prefix, "unchanged_since": revision})
        }
    }
}

fn numbers(value: &Value) -> Vec<u64> {
    value.as_array().unwrap().iter().map(|number| number.as_u64().unwrap()).collect()
}

/// A cursor as nodes make it; clients take it as it is.
fn cursor(prefix: &str, after: &str) -> String {
    let checksum = flow::verify::frame_checksum_of(format!("{prefix}\0{after}").as_bytes());
    BASE64_URL_SAFE_NO_PAD.encode([&[1], &checksum.to_le_bytes()[..], after.as_bytes()].concat())
}

/// The key that a cursor holds.
fn key_of(cursor: &str) -> String {
    String::from_utf8(BASE64_URL_SAFE_NO_PAD.decode(cursor).unwrap()[5..].to_vec()).unwrap()
}

#[async_trait]
impl Catalog for OverHttp {
    fn cluster_id(&self) -> u64 {
        self.cluster
    }

    async fn get(&self, keys: &[String], consistency: Consistency) -> Result<Found, CatalogError> {
        let body = json!({"keys": keys, "consistency": freshness(consistency)});
        let found = self.ask("POST", "/v1/mget".into(), Some(body)).await?.value();
        let entries = found["entries"].as_array().unwrap().iter();
        Ok(Found {
            revision: found["revision"].as_u64().unwrap(),
            entries: entries.map(|value| (!value.is_null()).then(|| entry(value))).collect(),
            stale: found["stale"].as_bool().unwrap(),
        })
    }

    async fn scan(&self, scan: &Scan, consistency: Consistency) -> Result<Page, CatalogError> {
        let Scan { prefix, after, limit, contents } = scan;
        let (prefix, freshness) = (escaped(prefix), freshness(consistency));
        let limit = (*limit).min(catalog::SCAN_LIMIT_MAX);
        let mut path =
            format!("/v1/kv?prefix={prefix}&limit={limit}&keys_only={}&consistency={freshness}", !contents);
        if let Some(after) = after {
            let cursor = cursor(&scan.prefix, after);
            path += &format!("&cursor={cursor}");
        }
        let page = self.ask("GET", path, None).await?.value();
        Ok(Page {
            revision: page["revision"].as_u64().unwrap(),
            entries: page["entries"].as_array().unwrap().iter().map(entry).collect(),
            next: page["cursor"].as_str().map(key_of),
        })
    }

    async fn count(&self, prefix: &str, consistency: Consistency) -> Result<u64, CatalogError> {
        let path = format!("/v1/count?prefix={}&consistency={}", escaped(prefix), freshness(consistency));
        Ok(self.ask("GET", path, None).await?.value()["count"].as_u64().unwrap())
    }

    async fn snapshot(&self) -> Result<Box<dyn Snapshot>, CatalogError> {
        panic!("snapshots do not go over HTTP; /v1/stream and transactions read from one")
    }

    async fn write(&self, write: Write) -> Result<Written, CatalogError> {
        let is_value = |operation: &Operation| match operation {
            Operation::Put(put) => matches!(put.content, Content::Value(_)),
            _ => true,
        };
        if !write.operations.iter().all(is_value) {
            return Err(catalog::check::write(write).expect_err("files have another door"));
        }
        let body = json!({
            "if": write.conditions.iter().map(condition).collect::<Vec<_>>(),
            "do": write.operations.iter().map(operation).collect::<Vec<_>>(),
        });
        let written = self.ask("POST", "/v1/write".into(), Some(body)).await?.value();
        Ok(Written {
            revision: written["revision"].as_u64().unwrap(),
            versions: numbers(&written["versions"]),
        })
    }

    async fn remove(&self, key: &str, recursive: bool) -> Result<u64, CatalogError> {
        let path = format!("/v1/kv/{}?recursive={recursive}", escaped(key));
        Ok(self.ask("DELETE", path, None).await?.value()["deleted"].as_u64().unwrap())
    }

    async fn changes(&self, start: Start, selector: Selector) -> Result<Box<dyn ChangeStream>, CatalogError> {
        let mut path = String::from("/v1/watch?")
            + &match selector {
                Selector::Key(key) => format!("key={}", escaped(&key)),
                Selector::Prefix(prefix) => format!("prefix={}", escaped(&prefix)),
                Selector::Glob(glob) => format!("glob={}", escaped(&glob)),
            };
        match start {
            Start::Now => {}
            Start::After(revision) => path += &format!("&after_revision={revision}"),
            Start::At(time) => path += &format!("&since_ms={time}"),
        }
        let http = self.http.clone();
        let begun = tokio::task::spawn_blocking(move || http.events(&path)).await.unwrap();
        let mut events = begun.map_err(|answer| error_of(&answer))?;
        let (told, news) = mpsc::channel(16);
        // It ends with the node, at the latest.
        std::thread::spawn(move || {
            while let Some(event) = events.next_sign() {
                if told.blocking_send(event).is_err() {
                    return;
                }
            }
        });
        let position = if let Start::After(revision) = start { revision } else { 0 };
        Ok(Box::new(Following { news, position }))
    }

    async fn open_leased(&self, _key: &str) -> Result<Option<(Entry, u64)>, CatalogError> {
        panic!("files have another door")
    }

    async fn renew(&self, _leases: &[u64]) -> Result<Vec<u64>, CatalogError> {
        panic!("files have another door")
    }

    async fn release(&self, _lease: u64) -> Result<(), CatalogError> {
        panic!("files have another door")
    }

    async fn references(&self, _chunks: &[[u8; 32]]) -> Result<Vec<bool>, CatalogError> {
        panic!("files have another door")
    }

    /// The node sweeps by itself, about twice a second.
    async fn sweep(&self) -> Result<Swept, CatalogError> {
        tokio::time::sleep(Duration::from_millis(800)).await;
        Ok(Swept::default())
    }

    async fn keep_service(&self, name: &str, ttl_ms: u64) -> Result<(), CatalogError> {
        let path = format!("/v1/services/{}", escaped(name));
        self.ask("PUT", path, Some(json!({"ttl_ms": ttl_ms}))).await.map(drop)
    }

    async fn end_service(&self, name: &str) -> Result<u64, CatalogError> {
        let ended = self.ask("DELETE", format!("/v1/services/{}", escaped(name)), None).await?;
        Ok(ended.value()["removed"].as_u64().unwrap())
    }

    async fn services(&self) -> Result<Vec<Service>, CatalogError> {
        let services = self.ask("GET", "/v1/services".into(), None).await?.value();
        let service = |value: &Value| Service {
            name: value["name"].as_str().unwrap().into(),
            ttl_ms: value["ttl_ms"].as_u64().unwrap(),
            left_ms: value["left_ms"].as_u64().unwrap(),
            keys: value["keys"].as_u64().unwrap(),
        };
        Ok(services["services"].as_array().unwrap().iter().map(service).collect())
    }
}

/// Server-sent events as a stream of changes.
struct Following {
    news: mpsc::Receiver<Event>,
    position: u64,
}

#[async_trait]
impl ChangeStream for Following {
    async fn next(&mut self) -> Result<Vec<Change>, CatalogError> {
        loop {
            let Some(event) = self.news.recv().await else {
                return Err(CatalogError::Elsewhere { message: "the stream has ended".into() });
            };
            self.position = event.id.unwrap_or(self.position);
            if event.name == "change" {
                let changes = event.data["changes"].as_array().unwrap().iter();
                return Ok(changes.map(|value| change(&event.data, value)).collect());
            }
            assert!(["start", ""].contains(&event.name.as_str()), "{event:?}");
        }
    }

    fn position(&self) -> u64 {
        self.position
    }
}

fn change(write: &Value, value: &Value) -> Change {
    let version = value["version"].as_u64().unwrap();
    let kind = match value["kind"].as_str().unwrap() {
        "put" => {
            let entry = entry(&value["entry"]);
            assert_eq!(entry.version, version);
            ChangeKind::Put(entry)
        }
        "delete" => ChangeKind::Delete { version },
        "expire" => ChangeKind::Expire { version },
        "owner_ended" => ChangeKind::OwnerEnded { version },
        kind => panic!("{kind}"),
    };
    let (revision, at_ms) = (write["revision"].as_u64().unwrap(), write["at_ms"].as_u64().unwrap());
    Change { revision, at_ms, key: value["key"].as_str().unwrap().into(), kind }
}
