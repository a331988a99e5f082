//! Every node answers for the whole cluster.

use std::cell::Cell;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use serde_json::{Value, json};
use suites::{Cluster, Node, Running, Shoal, Way, assert_same_tree, holds, shoal, write_noise};

use crate::broadcast::counter;

each_way! { eight_nodes_share_files_and_trees }

fn eight_nodes_share_files_and_trees(way: Way) {
    // Chunks are spread over the shards of a node, of which each has as many as it likes.
    let started = Cell::new(0);
    let cluster = Cluster::start_with(8, |setup| {
        started.set(started.get() + 1);
        let rack = format!("r{}", started.get() % 2);
        setup
            .over(way)
            .memory("160MB")
            .flag("--cores", (started.get() % 3 + 1).to_string())
            .flag("--rack", rack)
    });
    let folder = tempfile::tempdir().unwrap();
    let (file, tree) = (folder.path().join("file"), folder.path().join("tree"));
    write_noise(&file, 1, (40 << 20) + 17);
    make_tree(&tree);
    put(&cluster.nodes[1], "shared/file", &file);
    put(&cluster.nodes[4], "shared/tree", &tree);

    for (key, original) in [("shared/file", &file), ("shared/tree", &tree)] {
        let copy = |node: &Node| folder.path().join(format!("{}-of-{}", node.name(), &key[7..]));
        let get = |node| Shoal::at(node).args(["get", key, "--dest"]).arg(copy(node)).start();
        let gets: Vec<Running> = cluster.nodes.iter().map(get).collect();
        gets.into_iter().for_each(|get| drop(get.wait().success()));
        let below = |path: &Path| if path.is_dir() { path.join("below") } else { path.to_owned() };
        for node in &cluster.nodes {
            assert_same_tree(&below(original), &below(&copy(node)));
        }
    }
    every_node_tells_the_same(&cluster.nodes);
    let counters = [
        ("bytes_received_shm", Way::Found),
        ("bytes_received_rdma", Way::Rdma),
        ("bytes_received_ucx", Way::Ucx),
    ];
    for (counted, by) in counters {
        let bytes: u64 = cluster.nodes.iter().map(|node| counter(node, counted)).sum();
        assert_eq!(bytes > 0, way == by, "{counted} is {bytes} in all");
    }

    // What one node removes, replaces or adds is so for all.
    shoal(&cluster.nodes[7], ["rm", "shared/file"]).success();
    put(&cluster.nodes[6], "shared/tree", &file);
    put(&cluster.nodes[3], "third", &file);
    for node in &cluster.nodes {
        shoal(node, ["info", "shared/file"]).exits(3).tells("there is no key 'shared/file'");
        let keys = shoal(node, ["ls", "-R", "--json"]).success().json();
        let versions: Vec<_> =
            keys.as_array().unwrap().iter().map(|key| (&key["key"], &key["version"])).collect();
        assert_eq!(versions, [(&json!("shared/tree"), &json!(2)), (&json!("third"), &json!(1))]);
    }
}

#[test]
fn racks_with_scarce_uplinks_share_a_file() {
    let started = Cell::new(0);
    let cluster = Cluster::start_with(8, |setup| {
        let at = started.replace(started.get() + 1);
        let rack = format!("r{}", at % 2);
        // One node of each rack was not told, which the others must get along with.
        let uplinks = if at < 2 { "full" } else { "scarce" };
        setup.memory("160MB").flag("--rack", rack).flag("--uplinks", uplinks)
    });
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    write_noise(&file, 3, (60 << 20) + 5);
    put(&cluster.nodes[2], "shared", &file);
    let copy = |node: &Node| folder.path().join(node.name());
    let get = |node| Shoal::at(node).args(["get", "shared", "--dest"]).arg(copy(node)).start();
    let gets: Vec<Running> = cluster.nodes.iter().map(get).collect();
    gets.into_iter().for_each(|get| drop(get.wait().success()));
    for node in &cluster.nodes {
        assert_same_tree(&file, &copy(node));
    }
    let size = fs::metadata(&file).unwrap().len();
    let sum = |counted: &str, first: usize, step: usize| -> u64 {
        cluster.nodes.iter().skip(first).step_by(step).map(|node| counter(node, counted)).sum()
    };
    for rack in 0..2 {
        let [all, near] = ["bytes_received", "bytes_received_near"].map(|counted| sum(counted, rack, 2));
        // The file was put in the first one.
        assert!(near > 0 && all - near >= rack as u64 * size, "{near} of {all} bytes came from the rack");
    }
    let [told, heard] = ["room_told", "room_heard"].map(|counted| sum(counted, 0, 1));
    assert!(told >= heard && heard > 0, "{told} were told of room, {heard} heard of it");
}

/// A small tree with something of everything. The root's own mode and time are not part of a key.
fn make_tree(root: &Path) {
    let root = root.join("below");
    fs::create_dir_all(root.join("deep/er/empty")).unwrap();
    fs::write(root.join("empty"), "").unwrap();
    fs::write(root.join("deep/naïve name"), "some words\n").unwrap();
    symlink("deep/naïve name", root.join("link")).unwrap();
    for at in 0..200 {
        fs::write(root.join(format!("deep/er/{at}")), suites::noise(at, 3 * at as usize)).unwrap();
    }
    write_noise(&root.join("large"), 2, 9 << 20);
}

fn put(node: &Node, key: &str, source: &Path) {
    Shoal::at(node).args(["put", key, "--src"]).arg(source).run().success();
}

/// Whichever node is asked, the answer is the same once the last announcements have gone round.
fn every_node_tells_the_same(nodes: &[Node]) {
    let questions: [(&[&str], &[&str]); 4] = [
        (&["node", "ls", "--json"], &["name", "node", "state", "head", "address", "rack", "shards"]),
        (
            &["chunk", "ls", "--json"],
            &["chunk", "size", "node", "pieces", "dram_pieces", "pinned", "fetching"],
        ),
        (&["info", "shared/tree", "--json"], &["key", "version", "size", "file_count", "files"]),
        (&["ls", "shared", "-l", "--json"], &["key", "version", "size", "files"]),
    ];
    for (words, fields) in questions {
        holds(&format!("`shoal {}` is the same everywhere", words.join(" ")), || {
            let ask = |node| only(&shoal(node, words).success().json(), fields);
            let first = ask(&nodes[0]);
            nodes[1..].iter().all(|node| ask(node) == first)
        });
    }
    let members = shoal(&nodes[5], ["node", "ls", "--json"]).success().json();
    let members = members.as_array().unwrap();
    assert_eq!(members.len(), nodes.len());
    assert_eq!(members.iter().filter(|member| member["rack"] == "r1").count(), nodes.len() / 2);
    let info = shoal(&nodes[2], ["info", "shared/file", "--json"]).success().json();
    assert_eq!(info["chunks"][0]["replicas"].as_array().unwrap().len(), nodes.len(), "{info}");
}

/// The named fields of an object or of each object in a list, in an order that does not matter.
fn only(value: &Value, fields: &[&str]) -> Vec<String> {
    let objects = value.as_array().cloned().unwrap_or_else(|| vec![value.clone()]);
    let picked = |object: &Value| fields.iter().map(|field| object[field].to_string()).collect::<Vec<_>>();
    let mut lines: Vec<String> = objects.iter().map(|object| picked(object).join(" ")).collect();
    lines.sort();
    lines
}
