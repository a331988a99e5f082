//! Chunks that operators move, pin and drop, and nodes that they empty.

use std::collections::BTreeMap;
use std::path::Path;

use client::ChunkId;
use suites::{Cluster, Node, Shoal, assert_same_tree, shoal, write_noise};

use crate::broadcast::only_chunk;

/// Where a chunk is, by node: whether all of it is in memory, on NVMe, and pinned.
fn places(node: &Node, chunk: ChunkId) -> BTreeMap<String, (bool, bool, bool)> {
    let listing = shoal(node, ["chunk", "ls", "--json"]).success().json();
    let of_chunk = listing.as_array().unwrap().iter().filter(|replica| replica["chunk"] == chunk.to_string());
    let place = |replica: &serde_json::Value| {
        let all = |device: &str| replica[device] == replica["pieces"];
        let pinned = replica["pinned"].as_bool().unwrap();
        (replica["node"].as_str().unwrap().to_owned(), (all("dram_pieces"), all("nvme_pieces"), pinned))
    };
    of_chunk.map(place).collect()
}

fn put(node: &Node, key: &str, file: &Path, more: &[&str]) -> ChunkId {
    Shoal::at(node).args(["put", key]).args(more).arg("--src").arg(file).run().success();
    only_chunk(node, key)
}

fn get(node: &Node, key: &str, original: &Path) {
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("copy");
    Shoal::at(node).args(["get", key, "--dest"]).arg(&copy).run().success();
    assert_same_tree(original, &copy);
}

#[test]
fn chunks_go_where_they_are_sent() {
    let cluster = Cluster::start_with(3, |setup| setup.memory("128MB"));
    let [first, second, _] = &cluster.nodes[..] else { panic!("three nodes") };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    write_noise(&file, 3, 9 << 20);
    let chunk = put(second, "key", &file, &["--volatile"]);
    let id = chunk.to_string();
    let order = |words: &[&str]| shoal(first, [&["chunk"], words].concat());
    let names = || places(second, chunk).into_keys().collect::<Vec<_>>();
    assert_eq!(places(second, chunk)["n2"], (true, false, false));

    // A prefix is enough; the copy is on the device that was named, and the source stays.
    order(&["copy", &id[..8], "--to", "n3:nvme"]).success();
    assert_eq!(names(), ["n2", "n3"]);
    assert!(places(second, chunk)["n3"].1, "the copy is on NVMe");
    order(&["copy", &id, "--to", "n1:dram"]).success();
    assert_eq!(places(second, chunk)["n1"], (true, false, false));

    // A move takes away one source when it is named, else all.
    order(&["move", &id, "--to", "n1:nvme", "--from", "n2"]).success();
    assert_eq!(names(), ["n1", "n3"]);
    order(&["move", &id, "--to", "n2:nvme"]).success();
    assert_eq!(names(), ["n2"]);
    assert!(places(second, chunk)["n2"].1);
    order(&["move", &id, "--to", "n2:dram"]).success();
    assert_eq!(places(second, chunk)["n2"], (true, false, false));

    // A pin moves along.
    order(&["pin", &id[..8]]).success();
    assert!(places(second, chunk)["n2"].2);
    order(&["move", &id, "--to", "n3:nvme"]).success();
    assert_eq!(names(), ["n3"]);
    assert!(places(second, chunk)["n3"].2);
    cluster.nodes.iter().for_each(|node| get(node, "key", &file));
}

#[test]
fn what_is_needed_is_dropped_only_by_force() {
    let cluster = Cluster::start_with(2, |setup| setup.memory("128MB"));
    let [first, second] = &cluster.nodes[..] else { panic!("two nodes") };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    write_noise(&file, 4, 5 << 20);
    let chunk = put(second, "key", &file, &[]);
    let id = chunk.to_string();
    let order = |words: &[&str]| shoal(first, [&["chunk"], words].concat());

    order(&["pin", &id, "--on", "n2"]).success();
    order(&["rm", &id]).exits(1).tells("a key refers to chunk").tells("hint:");
    order(&["rm", &id, "--on", "n2:dram"]).exits(1);
    assert_eq!(places(first, chunk)["n2"], (true, true, true), "a refusal changes nothing");
    order(&["unpin", &id]).success();
    order(&["rm", &id, "--on", "n2:dram", "--force"]).success();
    assert_eq!(places(first, chunk)["n2"], (false, true, false));
    get(first, "key", &file);

    // By force the last replica of a key goes as well, and its readers hear of it.
    order(&["rm", &id, "--force"]).success();
    assert!(places(first, chunk).is_empty());
    let copy = folder.path().join("copy");
    Shoal::at(first).args(["get", "key", "--dest"]).arg(&copy).run().exits(4).tells(&id);
    assert!(!copy.exists());
}

#[test]
fn what_comes_to_a_node_after_its_removal_does_not_stay() {
    let mut cluster = Cluster::start_with(3, |setup| setup.memory("128MB"));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    write_noise(&file, 6, 5 << 20);
    let chunk = put(&cluster.nodes[0], "key", &file, &[]);
    let id = chunk.to_string();
    let order = |node: &Node, words: &[&str]| shoal(node, [&["chunk"], words].concat());
    order(&cluster.nodes[0], &["copy", &id, "--to", "n2:nvme"]).success();
    // A node that is away while the chunk is removed everywhere has it still when it comes back.
    cluster.nodes[1].kill();
    order(&cluster.nodes[0], &["rm", &id, "--force"]).success();
    shoal(&cluster.nodes[0], ["rm", "key"]).success();
    cluster.nodes[1].restart();
    suites::holds("the node is back", || places(&cluster.nodes[0], chunk).contains_key("n2"));
    // Whoever asks another node to fetch it does so as if they had asked before.
    order(&cluster.nodes[0], &["copy", &id, "--to", "n3:dram"]).success();
    suites::holds("the third node has it no more", || !places(&cluster.nodes[0], chunk).contains_key("n3"));
    assert!(places(&cluster.nodes[0], chunk)["n2"].1, "what was not removed is not collected so soon");
    // Who puts it again means it.
    assert_eq!(put(&cluster.nodes[2], "again", &file, &[]), chunk);
    order(&cluster.nodes[0], &["copy", &id, "--to", "n1:nvme"]).success();
    std::thread::sleep(std::time::Duration::from_secs(5)); // Not a condition, only rounds of the collector.
    assert_eq!(places(&cluster.nodes[0], chunk).into_keys().collect::<Vec<_>>(), ["n1", "n2", "n3"]);
}

#[test]
fn orders_that_cannot_be_followed_change_nothing() {
    let cluster = Cluster::start_with(2, |setup| setup.memory("128MB"));
    let [first, second] = &cluster.nodes[..] else { panic!("two nodes") };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    // Of more chunks than there are hexadecimal digits, two begin with the same.
    let mut ids: Vec<String> = (0..17)
        .map(|seed| {
            write_noise(&file, seed, 5000);
            put(first, &format!("key/{seed}"), &file, &[]).to_string()
        })
        .collect();
    ids.sort();
    let shared = ids.windows(2).find(|pair| pair[0][..1] == pair[1][..1]).unwrap()[0][..1].to_owned();
    let order = |words: &[&str]| shoal(second, [&["chunk"], words].concat());
    let before = shoal(first, ["chunk", "ls", "--json"]).success().json();

    order(&["rm", &shared, "--force"]).exits(1).tells("give more digits");
    order(&["info", "not-hex"]).exits(2).tells("is not a chunk id");
    order(&["info", &"f".repeat(65)]).exits(2);
    let absent = "0".repeat(64);
    order(&["copy", &absent, "--to", "n2:nvme"]).exits(3).tells("no node has chunk");
    order(&["pin", &absent]).exits(3);
    order(&["move", &ids[0], "--to", "n9:nvme"]).exits(3).tells("no node is called 'n9'");
    order(&["move", &ids[0], "--to", "n2:nvme", "--from", "n9"]).exits(3);
    order(&["move", &ids[0], "--to", "n1:nvme", "--from", "n2"]).exits(3).tells("does not have all of chunk");
    order(&["move", &ids[0], "--to", "n2:tape"]).exits(2).tells("a device is dram, nvme, gpu or gpu:N");
    order(&["unpin", &ids[0], "--on", "n2"]).exits(3);
    order(&["rm", &ids[0], "--on", "n2", "--force"]).exits(3);
    assert_eq!(shoal(first, ["chunk", "ls", "--json"]).success().json(), before);
}

#[test]
fn a_drained_node_can_be_lost() {
    let mut cluster = Cluster::start_with(4, |setup| setup.memory("128MB"));
    let folder = tempfile::tempdir().unwrap();
    let files: Vec<_> = (0..3).map(|at| folder.path().join(at.to_string())).collect();
    files.iter().zip(0..).for_each(|(file, seed)| {
        write_noise(file, seed, (7 << 20) + seed);
    });
    let [_, second, third, _] = &cluster.nodes[..] else { panic!("four nodes") };
    put(third, "durable", &files[0], &[]);
    put(third, "volatile", &files[1], &["--volatile"]);
    let pinned = put(third, "pinned", &files[2], &[]);
    shoal(second, ["chunk", "pin", &pinned.to_string()]).success();

    shoal(second, ["node", "drain", "n9"]).exits(3).tells("no node is called 'n9'");
    shoal(second, ["node", "drain", "n1"]).exits(1).tells("is the head");
    shoal(second, ["node", "drain", "n3"]).success();
    let state = |name: &str| {
        let nodes = shoal(second, ["node", "ls", "--json"]).success().json();
        let found = nodes.as_array().unwrap().iter().find(|node| node["name"] == name).cloned();
        found.unwrap()["state"].as_str().unwrap().to_owned()
    };
    assert_eq!(state("n3"), "draining");
    assert_eq!(state("n1"), "alive");

    // Nothing comes to it any more, and what it still has can be read.
    let more = folder.path().join("more");
    write_noise(&more, 9, 1 << 20);
    Shoal::at(third).args(["put", "more", "--src"]).arg(&more).run().exits(4).tells("drain");
    shoal(second, ["chunk", "copy", &pinned.to_string(), "--to", "n3:nvme"]).exits(4).tells("drain");
    get(third, "durable", &files[0]);

    cluster.nodes[2].kill();
    for node in [&cluster.nodes[1], &cluster.nodes[3]] {
        for (key, file) in ["durable", "volatile", "pinned"].iter().zip(&files) {
            get(node, key, file);
        }
    }
    assert!(places(&cluster.nodes[1], pinned).iter().any(|(name, place)| name != "n3" && place.2));

    // Started again it is a node like any other.
    cluster.nodes[2].restart();
    cluster.wait_until_all_know(4);
    put(&cluster.nodes[2], "more", &more, &[]);
}
