//! Nodes that have their catalog on etcd: any of them does what any other does.

use std::path::Path;
use std::time::Duration;

use client::kv::{Isolation, PutValue};
use serde_json::json;
use suites::{Cluster, Etcds, Http, Node, Setup, Shoal, Signal, assert_same_tree, holds, shoal, write_noise};

fn small(setup: Setup) -> Setup {
    setup.memory("64MB")
}

fn put(node: &Node, key: &str, file: &Path) {
    Shoal::at(node).args(["put", key, "--src"]).arg(file).run().success();
}

fn get(node: &Node, key: &str, original: &Path) {
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("copy");
    Shoal::at(node).args(["get", key, "--verify", "--dest"]).arg(&copy).run().success();
    assert_same_tree(original, &copy);
}

/// What a node thinks of another.
fn state(node: &Node, name: &str) -> Option<String> {
    let nodes = shoal(node, ["node", "ls", "--json"]).success().json();
    let found = nodes.as_array().unwrap().iter().find(|node| node["name"] == name).cloned();
    found.map(|found| found["state"].as_str().unwrap().to_owned())
}

#[test]
fn what_one_node_writes_every_node_has() {
    let Some(etcds) = Etcds::start(3) else { return };
    let cluster = Cluster::start_on(&etcds, 3, small);
    let [first, second, third] = &cluster.nodes[..] else { panic!("three nodes") };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    write_noise(&file, 1, 5 << 20);
    put(first, "files/a", &file);
    get(second, "files/a", &file);
    get(third, "files/a", &file);
    assert!(shoal(third, ["ls"]).success().text().contains("files/"));

    shoal(second, ["kv", "put", "k", "one"]).success();
    assert_eq!(shoal(third, ["kv", "get", "k"]).success().text().trim_end(), "one");
    shoal(first, ["kv", "cas", "k", "--version", "1", "two"]).success();
    shoal(third, ["kv", "cas", "k", "--version", "1", "three"]).exits(5);
    shoal(third, ["service", "add", "s"]).success();
    shoal(first, ["kv", "put", "owned", "x", "--owner", "s"]).success();
    shoal(second, ["service", "rm", "s"]).success();
    shoal(third, ["kv", "get", "owned"]).exits(3);
    let (ours, theirs) = (first.client(), second.client());
    let transaction = ours.kv().begin(Isolation::Serializable, Duration::from_secs(60)).unwrap();
    assert_eq!(transaction.get("k").unwrap().unwrap().version, 2);
    theirs.kv().put("k", b"overtaken", &PutValue::default()).unwrap();
    transaction.delete("http/0").unwrap();
    transaction.commit().unwrap_err();

    for (at, node) in cluster.nodes.iter().enumerate() {
        let status = shoal(node, ["status", "--json"]).success().json();
        let told = status["findings"]["catalog"].as_str().unwrap().to_owned();
        assert!(told.starts_with("etcd at 127.0.0.1:") && told.contains("reached; revision"), "{told}");
        assert!(!shoal(node, ["status"]).success().text().contains("the head"));
        let nodes = shoal(node, ["node", "ls", "--json"]).success().json();
        let nodes = nodes.as_array().unwrap().clone();
        assert!(nodes.iter().all(|node| node["state"] == "alive" && node["head"] == false), "{nodes:?}");
        // All have the file in memory, and what is asked of them may be as old as a second.
        holds("the memory of all nodes is told", || {
            node.client().nodes().unwrap().nodes.iter().all(|node| node.memory_used > 0)
        });

        let http = Http::at(node);
        http.put(&format!("/v1/kv/http/{at}"), "v").is(200);
        let catalog = http.get("/v1/status").is(200).value()["catalog"].clone();
        assert_eq!((&catalog["kind"], &catalog["reached"]), (&json!("etcd"), &json!(true)));
        assert_eq!(catalog["endpoints"].as_array().unwrap().len(), 3);
        http.get("/v1/health").is(200);
    }
    for node in &cluster.nodes {
        (0..3).for_each(|at| drop(Http::at(node).get(&format!("/v1/kv/http/{at}")).is(200)));
    }
}

#[test]
fn a_name_is_taken_once_and_the_older_process_of_a_node_stops() {
    let Some(etcds) = Etcds::start(1) else { return };
    let mut cluster = Cluster::start_on(&etcds, 2, small);
    let (code, log) = small(Setup::named("n1").on(&etcds)).fails();
    assert!(code == Some(1) && log.contains("the name 'n1' is taken by the live node at"), "{log}");
    // Whoever comes back on its own data directory keeps its name, at once.
    cluster.nodes[1].kill();
    cluster.nodes[1].restart();
    cluster.wait_until_all_know(2);

    // Another process with the data directory of the second node, as a copy of a virtual machine would be.
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("data")).unwrap();
    for name in ["node-id", "incarnation"] {
        std::fs::copy(cluster.nodes[1].data_dir().join(name), folder.path().join("data").join(name)).unwrap();
    }
    let later = small(Setup::named("n2").on(&etcds)).start_in(folder);
    assert_eq!(cluster.nodes[1].wait().code(), Some(1));
    assert!(cluster.nodes[1].log().contains("has started again since"), "{}", cluster.nodes[1].log());
    cluster.nodes[1] = later;
    cluster.wait_until_all_know(2);

    // One that stops says so, and nobody waits for it.
    cluster.nodes[1].stop();
    holds("n1 sees that n2 has gone", || state(&cluster.nodes[0], "n2").as_deref() == Some("dead"));
    small(Setup::named("n2").on(&etcds)).start();
}

#[test]
fn a_node_that_was_silent_for_too_long_registers_anew() {
    let Some(etcds) = Etcds::start(1) else { return };
    let cluster = Cluster::start_on(&etcds, 3, small);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    write_noise(&file, 1, 3 << 20);
    put(&cluster.nodes[2], "k", &file);
    cluster.nodes[2].signal(Signal::STOP);
    holds("n1 sees that n3 is silent", || state(&cluster.nodes[0], "n3").as_deref() == Some("dead"));
    cluster.nodes[2].signal(Signal::CONT);
    cluster.wait_until_all_know(3);
    get(&cluster.nodes[0], "k", &file);
    assert!(cluster.nodes[2].log().contains("registering anew"));
}

#[test]
fn any_node_drains_any_other() {
    let Some(etcds) = Etcds::start(1) else { return };
    let mut cluster = Cluster::start_on(&etcds, 3, small);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    write_noise(&file, 1, 7 << 20);
    put(&cluster.nodes[0], "k", &file);
    shoal(&cluster.nodes[1], ["node", "drain", "n9"]).exits(3).tells("no node is called 'n9'");
    shoal(&cluster.nodes[1], ["node", "drain", "n1"]).success();
    for node in &cluster.nodes {
        holds("all see that n1 drains", || state(node, "n1").as_deref() == Some("draining"));
    }
    Shoal::at(&cluster.nodes[0]).args(["put", "more", "--src"]).arg(&file).run().exits(4).tells("drain");
    cluster.nodes[0].kill();
    get(&cluster.nodes[1], "k", &file);
    get(&cluster.nodes[2], "k", &file);
    // Started again it is a node like any other.
    cluster.nodes[0].restart();
    cluster.wait_until_all_know(3);
    write_noise(&file, 2, 1 << 20);
    put(&cluster.nodes[0], "more", &file);
}

#[test]
fn a_file_reaches_eight_nodes() {
    let Some(etcds) = Etcds::start(1) else { return };
    let cluster = Cluster::start_on(&etcds, 8, |setup| setup.memory("128MB"));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    write_noise(&file, 1, 48 << 20);
    put(&cluster.nodes[3], "k", &file);
    let copy = |at: usize| folder.path().join(format!("copy-{at}"));
    let others: Vec<usize> = (0..8).filter(|&at| at != 3).collect();
    let gets = others
        .iter()
        .map(|&at| Shoal::at(&cluster.nodes[at]).args(["get", "k", "--dest"]).arg(copy(at)).start());
    let gets: Vec<_> = gets.collect();
    gets.into_iter().for_each(|get| drop(get.wait().success()));
    others.into_iter().for_each(|at| assert_same_tree(&file, &copy(at)));
}
