//! Small values: put, read, watched, committed together.

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use client::ClientError;
use client::kv::{
    ChangeKind, Condition, Consistency, Content, Expiry, Isolation, KeyVersion, Operation, Put, PutValue,
    Reason, Scan, Selector, Start, Write,
};
use flow::wire::session::FailureCode;
use serde_json::Value;
use suites::{Node, Setup, Shoal, Signal, holds, shoal};

use crate::corner::put_bytes;

fn put(key: &str, bytes: &[u8]) -> Put {
    let (content, labels) = (Content::Value(bytes.to_vec()), Vec::new());
    Put { key: key.into(), content, ttl_ms: None, owner: None, labels }
}

#[test]
fn values_have_versions_and_conflicts_have_an_exit_code() {
    let node = Node::start();
    shoal(&node, ["kv", "put", "a", "one", "--label", "team=x"]).success();
    shoal(&node, ["kv", "cas", "a", "--version", "1", "two"]).success();
    shoal(&node, ["kv", "cas", "a", "--version", "1", "three"]).exits(5).tells("has version 2");
    shoal(&node, ["kv", "cas", "a", "--version", "0", "three"]).exits(5);
    assert_eq!(shoal(&node, ["kv", "get", "a"]).success().text(), "two");
    let entry = shoal(&node, ["kv", "get", "a", "--json"]).success().json();
    assert_eq!(
        (&entry["version"], &entry["value"], &entry["base64"]),
        (&2.into(), &"two".into(), &false.into())
    );
    assert_eq!(entry["labels"], Value::Object(Default::default()));
    shoal(&node, ["kv", "rm", "a", "--version", "1"]).exits(5);
    let failure =
        Shoal::at(&node).args(["--json", "kv", "rm", "a", "--version", "1"]).run().exits(5).error_json();
    assert_eq!(failure["code"], "conflict");
    shoal(&node, ["kv", "rm", "a", "--version", "2"]).success();
    shoal(&node, ["kv", "rm", "a"]).exits(3);
    shoal(&node, ["kv", "get", "a"]).exits(3).tells("there is no key 'a'");
    // Versions go on after a deletion.
    let again = shoal(&node, ["kv", "put", "a", "four", "--json"]).success().json();
    assert!(again["version"].as_u64() > Some(2), "{again}");
}

#[test]
fn values_come_from_anywhere_and_may_be_any_bytes() {
    let node = Node::start();
    const BYTES: [u8; 4] = [0xff, 0, b'\n', 7];
    Shoal::at(&node).args(["kv", "put", "raw"]).input(&BYTES[..]).run().success();
    assert_eq!(shoal(&node, ["kv", "get", "raw"]).success().stdout, BYTES);
    let shown = shoal(&node, ["kv", "get", "raw", "--json"]).success().json();
    assert_eq!((&shown["value"], &shown["base64"]), (&"/wAKBw==".into(), &true.into()));
    let file = node.folder().join("value");
    std::fs::write(&file, "from a file").unwrap();
    shoal(&node, ["kv", "put", "file", &format!("@{}", file.display())]).success();
    assert_eq!(shoal(&node, ["kv", "get", "file"]).success().text(), "from a file");
    shoal(&node, ["kv", "put", "dash", "-x"]).success();
    let table = shoal(&node, ["kv", "get", "raw", "file", "dash"]).success().text();
    assert!(table.contains("from a file") && table.contains("4 B that are no text"), "{table}");
}

#[test]
fn what_cannot_be_is_refused_and_changes_nothing() {
    let node = Node::start();
    shoal(&node, ["kv", "put", "a", "x"]).success();
    let long = "k".repeat(1025);
    let wrong: [&[&str]; 17] = [
        &["kv", "put", "/a", "x"],
        &["kv", "put", "", "x"],
        &["kv", "put", &long, "x"],
        &["kv", "put", "b", "x", "--ttl", "0s"],
        &["kv", "put", "b", "x", "--ttl", "soon"],
        &["kv", "put", "b", "x", "--label", "nothing"],
        &["kv", "cas", "b", "x"],
        &["kv", "cas", "b", "--version", "-1", "x"],
        &["kv", "rm", "a", "b", "--version", "1"],
        &["kv", "rm", "a", "--version", "1", "--recursive"],
        &["kv", "scan", "--limit", "0"],
        &["kv", "scan", "--after", "nonsense"],
        &["kv", "scan", "other/", "--after", "Aa4JPN5hL2I"],
        &["kv", "watch"],
        &["kv", "watch", "a", "--prefix", "b"],
        &["kv", "watch", "a", "--since", "yesterday"],
        &["kv", "ttl", "a", "--set", "1h", "--remove"],
    ];
    for words in wrong {
        shoal(&node, words).exits(2);
    }
    let large = vec![0; (64 << 10) + 1];
    let refused = Shoal::at(&node).args(["kv", "put", "b"]).input(std::io::Cursor::new(large)).run();
    refused.exits(1).tells("more than 64 KiB").tells("`shoal put b --src FILE`");
    shoal(&node, ["kv", "put", "b", "x", "--owner", "nobody"]).exits(3).tells("no service 'nobody'");
    shoal(&node, ["kv", "ttl", "a", "--extend", "1h"]).exits(1).tells("does not expire");
    shoal(&node, ["kv", "watch", "--glob", "[", "--count", "1"]).exits(1);
    for document in [
        "",
        "{\"do\":[{\"put\":{\"key\":\"a\"}}]}",
        "{\"dont\":[]}",
        "{\"do\":[{\"delete\":{\"key\":\"/\"}}]}",
    ] {
        let outcome = Shoal::at(&node).args(["kv", "txn", "-"]).input(document.as_bytes()).run();
        assert!(matches!(outcome.code, Some(1 | 2)), "{outcome:?}");
    }
    assert_eq!(shoal(&node, ["kv", "scan", "--all", "--keys-only"]).success().text(), "a\n");
    assert_eq!(shoal(&node, ["kv", "get", "a", "--json"]).success().json()["version"], 1);
}

#[test]
fn files_and_values_are_told_apart() {
    let node = Node::start();
    put_bytes(&node, "files", b"bytes", &[]).success();
    shoal(&node, ["kv", "put", "value", "x"]).success();
    shoal(&node, ["kv", "get", "files"]).exits(2).tells("shoal get");
    shoal(&node, ["get", "value", "--dest", "-"]).exits(1).tells("shoal kv get");
    let listed = shoal(&node, ["ls", "--json"]).success().json();
    assert_eq!(listed.as_array().unwrap().len(), 2);
    let table = shoal(&node, ["kv", "scan"]).success().text();
    assert!(table.contains("1 file"), "{table}");
    // Either may take the place of the other.
    put_bytes(&node, "value", b"bytes", &[]).success();
    shoal(&node, ["kv", "put", "files", "x"]).success();
    assert_eq!(shoal(&node, ["kv", "get", "files"]).success().text(), "x");
    assert_eq!(shoal(&node, ["get", "value", "--dest", "-"]).success().stdout, b"bytes");
}

#[test]
fn a_listing_goes_on_where_it_was_after_a_restart() {
    let mut node = Node::start();
    for at in 0..25 {
        shoal(&node, ["kv", "put", &format!("k/{at:02}"), "x"]).success();
    }
    let first = shoal(&node, ["kv", "scan", "k/", "--limit", "10", "--json"]).success().json();
    let cursor = first["next"].as_str().unwrap().to_owned();
    node.kill();
    node.restart();
    let second =
        shoal(&node, ["kv", "scan", "k/", "--limit", "100", "--after", &cursor, "--json"]).success().json();
    let keys = |page: &Value| -> Vec<String> {
        let entries = page["entries"].as_array().unwrap();
        entries.iter().map(|entry| entry["key"].as_str().unwrap().to_owned()).collect()
    };
    let all = [keys(&first), keys(&second)].concat();
    assert_eq!(all, (0..25).map(|at| format!("k/{at:02}")).collect::<Vec<_>>());
    assert!(second["next"].is_null());
    assert_eq!(shoal(&node, ["kv", "count", "k/1"]).success().text(), "10\n");
    shoal(&node, ["kv", "rm", "-r", "k"]).success();
    assert_eq!(shoal(&node, ["kv", "count"]).success().text(), "0\n");
}

#[test]
fn a_watch_misses_nothing_while_the_node_is_away() {
    let mut node = Node::start();
    shoal(&node, ["kv", "put", "w/0", "before"]).success();
    let words = ["kv", "watch", "--prefix", "w/", "--from-revision", "1", "--json", "--count", "4"];
    let watch = Shoal::at(&node).args(words).start();
    shoal(&node, ["kv", "put", "other", "x"]).success();
    shoal(&node, ["kv", "put", "w/1", "one"]).success();
    // A watch that finds no node at its beginning says so and ends.
    holds("the watch has begun", || watch.printed().contains("w/0"));
    node.kill();
    node.restart();
    shoal(&node, ["kv", "rm", "w/1"]).success();
    shoal(&node, ["kv", "put", "w/2", "two", "--ttl", "1h"]).success();
    let text = watch.wait().success().text();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let told: Vec<_> =
        lines.iter().map(|line| (line["key"].as_str().unwrap(), line["change"].as_str().unwrap())).collect();
    assert_eq!(told, [("w/0", "put"), ("w/1", "put"), ("w/1", "delete"), ("w/2", "put")]);
    assert!(lines.is_sorted_by_key(|line| line["revision"].as_u64()));
    assert_eq!(lines[3]["entry"]["value"], "two");
}

#[test]
fn a_watch_ends_when_it_shall_and_keeps_no_node_from_stopping() {
    let mut node = Node::start();
    let watch = Shoal::at(&node).args(["kv", "watch", "a"]).start();
    // Not SIGINT, which a process that a shell has put into the background ignores until it watches for signals. One that has
    // not got so far is ended by the signal itself.
    watch.signal(Signal::TERM);
    assert!(matches!(watch.wait().code, Some(143) | None));
    let client = node.client();
    let mut watch = client.kv().watch(Selector::Key("a".into()), Start::Now).unwrap();
    thread::scope(|scope| {
        let waiting = scope.spawn(move || watch.next());
        node.stop();
        client.cancel();
        assert!(matches!(waiting.join().unwrap(), Some(Err(ClientError::Cancelled))));
    });
}

#[test]
fn several_writes_are_committed_together_or_not_at_all() {
    let node = Node::start();
    shoal(&node, ["kv", "put", "a", "1"]).success();
    let txn = |document: &'static str| {
        Shoal::at(&node).args(["kv", "txn", "-", "--json"]).input(document.as_bytes()).run()
    };
    let done = txn(r#"{"if":[{"key":"a","version":1},{"key":"b","version":0}],
            "do":[{"put":{"key":"b","value":"2","ttl_ms":3600000}},{"delete":{"key":"a"}}]}"#);
    assert_eq!(done.success().json()["versions"], serde_json::json!([1, 1]));
    txn(r#"{"if":[{"key":"a","version":1}],"do":[{"put":{"key":"c","value":"3"}}]}"#).exits(5);
    shoal(&node, ["kv", "get", "c"]).exits(3);
    let read = txn(
        r#"{"get":["b","z"],"if":[{"key":"b","version":1}],"do":[{"expire":{"key":"b","persist":true}}]}"#,
    );
    let read = read.success().json();
    assert_eq!((&read["read"][0]["value"], &read["read"][1]), (&"2".into(), &Value::Null));
    txn(r#"{"get":["b"],"if":[{"key":"b","version":1}],"do":[{"delete":{"key":"b"}}]}"#).exits(5);
    assert!(shoal(&node, ["kv", "ttl", "b"]).success().text().contains("does not expire"));
}

#[test]
fn transactions_of_a_client_are_isolated_and_end_with_it() {
    let node = Node::start();
    let (one, other) = (node.client(), node.client());
    one.kv().put("a", b"1", &PutValue::default()).unwrap();
    let begin = |isolation| one.kv().begin(isolation, Duration::from_secs(60)).unwrap();
    let transaction = begin(Isolation::Snapshot);
    transaction.put(put("a", b"2")).unwrap();
    transaction.put(put("b", b"2")).unwrap();
    assert!(other.kv().get("b").unwrap().is_none());
    let page =
        transaction.scan(Scan { prefix: String::new(), after: None, limit: 10, contents: true }).unwrap();
    assert_eq!(page.entries.len(), 2);
    other.kv().put("a", b"3", &PutValue::default()).unwrap();
    let Err(ClientError::Catalog(refused)) = transaction.commit() else { panic!("a lost update") };
    assert!(matches!(refused.reason, Reason::Changed(_)), "{refused:?}");
    let reader = begin(Isolation::Serializable);
    assert!(reader.get("b").unwrap().is_none());
    reader.expire("a", Expiry::In(60_000)).unwrap();
    other.kv().put("b", b"9", &PutValue::default()).unwrap();
    assert!(reader.commit().is_err());
    begin(Isolation::ReadCommitted).rollback().unwrap();
    let short = one.kv().begin(Isolation::Snapshot, Duration::from_millis(1)).unwrap();
    thread::sleep(Duration::from_millis(5));
    assert_eq!(short.get("a").unwrap_err().code(), Some(FailureCode::Gone));
    let kept: Vec<_> = (0..60).map(|_| begin(Isolation::ReadCommitted)).collect();
    let few = || one.kv().begin(Isolation::ReadCommitted, Duration::from_secs(60));
    let more: Vec<_> = (0..4).map_while(|_| few().ok()).collect();
    assert!(few().is_err(), "{} are open", kept.len() + more.len());
}

#[test]
fn entries_are_read_at_one_revision_however_many_there_are() {
    let node = Node::start();
    let client = node.client();
    let kv = client.kv();
    for batch in 0..20 {
        let operations = (0..125).map(|at| Operation::Put(put(&format!("e/{batch:02}/{at:03}"), &[7; 2000])));
        kv.write(Write { conditions: Vec::new(), operations: operations.collect() }).unwrap();
    }
    let mut entries = kv.entries("e/", true).unwrap();
    let first = entries.next().unwrap().unwrap();
    kv.delete_below("e/19").unwrap();
    assert_eq!(kv.count("e/").unwrap(), 19 * 125);
    let rest: Vec<_> = entries.map(|entry| entry.unwrap()).collect();
    assert_eq!((first.key.as_str(), rest.len()), ("e/00/000", 20 * 125 - 1));
    assert!(rest.is_sorted_by(|left, right| left.key < right.key));
    assert!(
        rest.iter().all(|entry| matches!(&entry.content, Some(Content::Value(bytes)) if bytes.len() == 2000))
    );
}

#[test]
fn what_belongs_to_a_service_goes_with_it() {
    let node = Node::start();
    let client = node.client();
    let kv = client.kv();
    shoal(&node, ["service", "add", "long", "--ttl", "1h"]).success();
    kv.keep_service("short", Duration::from_secs(3)).unwrap();
    for (key, owner) in [("s", "short"), ("l", "long")] {
        let options = PutValue { owner: Some(owner.into()), ..PutValue::default() };
        kv.put(key, b"x", &options).unwrap();
    }
    let mut watch = kv.watch(Selector::Key("s".into()), Start::After(0)).unwrap();
    assert!(matches!(watch.next().unwrap().unwrap().kind, ChangeKind::Put(_)));
    assert!(matches!(watch.next().unwrap().unwrap().kind, ChangeKind::OwnerEnded(1)));
    let services = shoal(&node, ["service", "ls", "--json"]).success().json();
    assert_eq!((&services[0]["name"], &services[0]["keys"]), (&"long".into(), &1.into()));
    shoal(&node, ["service", "rm", "long"]).success();
    assert!(!kv.exists("l").unwrap());
    let keeping = Shoal::at(&node).args(["service", "keep", "kept", "--ttl", "300ms"]).start();
    holds("it is kept", || kv.services().unwrap().iter().any(|service| service.name == "kept"));
    keeping.signal(Signal::INT);
    keeping.wait().exits(130);
    holds("it has ended", || kv.services().unwrap().is_empty());
}

#[test]
fn what_expires_is_gone_and_told() {
    let node = Setup::named("n1").start();
    let client = node.client();
    let kv = client.kv();
    let brief = PutValue { ttl: Some(Duration::from_millis(300)), ..PutValue::default() };
    kv.put("brief", b"x", &brief).unwrap();
    kv.put("stays", b"x", &PutValue { ttl: Some(Duration::from_secs(600)), ..PutValue::default() }).unwrap();
    kv.persist("stays").unwrap();
    let mut watch = kv.watch(Selector::Glob("b*f".into()), Start::After(0)).unwrap();
    let kinds: Vec<_> = watch.by_ref().take(2).map(|change| change.unwrap().kind).collect();
    assert!(matches!(kinds[..], [ChangeKind::Put(_), ChangeKind::Expire(1)]), "{kinds:?}");
    let found = kv.get_many(&["brief", "stays"], Consistency::One).unwrap();
    assert!(found.entries[0].is_none() && found.entries[1].is_some());
    let conditions = vec![Condition::Version(KeyVersion { key: "brief".into(), version: 0 })];
    let written =
        kv.write(Write { conditions, operations: vec![Operation::Put(put("brief", b"y"))] }).unwrap();
    assert!(written.versions[0] > 1);
    let labels: BTreeMap<_, _> = kv.get("brief").unwrap().unwrap().labels.into_iter().collect();
    assert!(labels.is_empty());
}
