//! The catalog from a member: as at the head while that is there, and what is left of it while it is not.

use std::time::Duration;

use client::ClientError;
use client::kv::{Consistency, Isolation, PutValue, Reason, Selector, Start};
use serde_json::Value;
use suites::{Cluster, Shoal, Signal, shoal};

fn cluster() -> Cluster {
    Cluster::start_with(2, |setup| setup.memory("64MB"))
}

#[test]
fn a_member_answers_as_the_head_does() {
    let cluster = cluster();
    let (head, member) = (&cluster.nodes[0], &cluster.nodes[1]);
    shoal(member, ["kv", "put", "a/1", "one", "--ttl", "1h", "--label", "l=t"]).success();
    shoal(head, ["kv", "put", "a/2", "two"]).success();
    for node in [head, member] {
        let page = shoal(node, ["kv", "scan", "a/", "--json"]).success().json();
        assert_eq!(page["entries"].as_array().unwrap().len(), 2);
        assert_eq!(page["entries"][0]["labels"]["l"], "t");
        assert_eq!(shoal(node, ["kv", "count", "a/"]).success().text(), "2\n");
    }
    shoal(member, ["kv", "cas", "a/1", "--version", "7", "x"]).exits(5).tells("has version 1");
    shoal(member, ["service", "add", "s"]).success();
    shoal(member, ["kv", "put", "owned", "x", "--owner", "s"]).success();
    shoal(member, ["service", "rm", "s"]).success();
    shoal(head, ["kv", "get", "owned"]).exits(3);
    let (ours, theirs) = (member.client(), head.client());
    let transaction = ours.kv().begin(Isolation::Serializable, Duration::from_secs(60)).unwrap();
    assert_eq!(transaction.get("a/2").unwrap().unwrap().version, 1);
    transaction.delete("a/1").unwrap();
    theirs.kv().put("a/2", b"again", &PutValue::default()).unwrap();
    let Err(ClientError::Catalog(refused)) = transaction.commit() else { panic!("a read was overtaken") };
    assert!(matches!(refused.reason, Reason::Changed(_)), "{refused:?}");
    let entries: Vec<_> = ours.kv().entries("", true).unwrap().map(|entry| entry.unwrap().key).collect();
    assert_eq!(entries, ["a/1", "a/2"]);
    shoal(member, ["kv", "rm", "-r", "a"]).success();
    assert_eq!(theirs.kv().count("").unwrap(), 0);
}

#[test]
fn while_the_head_is_away_writes_fail_at_once_and_what_was_read_is_there() {
    let mut cluster = cluster();
    let bytes = vec![7; 3 << 20];
    let input = std::io::Cursor::new(bytes.clone());
    Shoal::at(&cluster.nodes[1]).args(["put", "files", "--src", "-"]).input(input).run().success();
    shoal(&cluster.nodes[1], ["get", "files", "--dest", "-"]).success();
    shoal(&cluster.nodes[1], ["kv", "put", "value", "x"]).success();
    shoal(&cluster.nodes[1], ["kv", "get", "value"]).success();
    let member_client = cluster.nodes[1].client();
    let mut watch = member_client.kv().watch(Selector::Prefix("w".into()), Start::Now).unwrap();
    cluster.nodes[0].kill();

    let member = &cluster.nodes[1];
    for words in
        [&["kv", "put", "value", "y"][..], &["kv", "get", "value"], &["kv", "scan"], &["service", "ls"]]
    {
        shoal(member, words).exits(4).tells("the head does not answer").tells("try again in");
    }
    let stale = shoal(member, ["kv", "get", "value", "--consistency", "one"]).success();
    assert_eq!(stale.text(), "x");
    assert!(stale.error().contains("was read earlier"), "{}", stale.error());
    shoal(member, ["kv", "get", "never-read", "--consistency", "one"]).exits(4);
    shoal(member, ["get", "files", "--dest", "-"]).exits(4);
    let words = ["get", "files", "--consistency", "one", "--dest"];
    let target = member.folder().join("again");
    let got = Shoal::at(member).args(words).arg(&target).arg("--json").run().success();
    assert_eq!((std::fs::read(&target).unwrap(), &got.json()["stale"]), (bytes, &Value::Bool(true)));

    cluster.nodes[0].restart();
    cluster.wait_until_all_know(2);
    shoal(&cluster.nodes[1], ["kv", "put", "w/1", "1"]).success();
    assert_eq!(watch.next().unwrap().unwrap().key, "w/1");
    let fresh = shoal(&cluster.nodes[1], ["kv", "get", "value", "--consistency", "one"]).success();
    assert!(!fresh.error().contains("earlier"));
}

#[test]
fn a_read_with_all_wants_every_live_node_to_answer() {
    let cluster = Cluster::start_with(3, |setup| setup.memory("64MB"));
    let input = std::io::Cursor::new(vec![7; 2 << 20]);
    Shoal::at(&cluster.nodes[1]).args(["put", "files", "--src", "-"]).input(input).run().success();
    shoal(&cluster.nodes[0], ["kv", "put", "value", "x"]).success();
    for node in &cluster.nodes {
        shoal(node, ["get", "files", "--consistency", "all", "--dest", "-"]).success();
    }
    let frozen = &cluster.nodes[2];
    frozen.signal(Signal::STOP);
    let refused = shoal(&cluster.nodes[0], ["get", "files", "--consistency", "all", "--dest", "-"]);
    // A value is in the catalog and nowhere else.
    shoal(&cluster.nodes[0], ["kv", "get", "value", "--consistency", "all"]).success();
    frozen.signal(Signal::CONT);
    refused.exits(4).tells("n3");
    let client = cluster.nodes[0].client();
    assert!(client.kv().get_many(&["files"], Consistency::Quorum).unwrap().entries[0].is_some());
}
