//! Bytes that are not what they were: found, fetched again elsewhere, mended and counted.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use client::ChunkId;
use suites::{Cluster, Node, Setup, Shoal, Way, assert_same_tree, holds, shoal, write_noise};

use crate::broadcast::{counter, id_of, only_chunk};

const SIZE: u64 = 24 << 20;

/// A cluster, a file that its second node has on NVMe, and a folder for copies.
struct Scene {
    cluster: Cluster,
    folder: tempfile::TempDir,
    chunk: ChunkId,
}

impl Scene {
    fn set(cluster: Cluster) -> Self {
        let folder = tempfile::tempdir().unwrap();
        write_noise(&folder.path().join("original"), 5, SIZE);
        let mut scene = Self { cluster, folder, chunk: ChunkId([0; 32]) };
        scene.put(&scene.cluster.nodes[1], "key");
        scene.chunk = only_chunk(&scene.cluster.nodes[1], "key");
        scene
    }

    fn put(&self, node: &Node, key: &str) {
        let original = self.folder.path().join("original");
        Shoal::at(node).args(["put", key, "--src"]).arg(original).run().success();
    }

    fn copy_to(&self, node: &Node) {
        let to = format!("{}:nvme", node.name());
        shoal(node, ["chunk", "copy", &self.chunk.to_string(), "--to", &to]).success();
    }

    fn get(&self, node: &Node) -> suites::Outcome {
        Shoal::at(node).args(["get", "key", "--dest"]).arg(self.copy()).run()
    }

    fn copy(&self) -> PathBuf {
        self.folder.path().join("copy")
    }

    fn assert_right(&self, node: &Node) {
        self.get(node).success();
        assert_same_tree(&self.folder.path().join("original"), &self.copy());
        std::fs::remove_file(self.copy()).unwrap();
    }

    fn assert_nothing_written(&self) {
        assert_eq!(std::fs::read_dir(self.folder.path()).unwrap().count(), 1);
    }
}

#[test]
fn a_flipped_byte_on_disk_is_mended_from_another_node() {
    let mut scene = Scene::set(Cluster::start_with(3, |setup| setup.memory("128MB")));
    scene.copy_to(&scene.cluster.nodes[2]);
    let path = chunk_path(&scene.cluster.nodes[1], scene.chunk);
    let before = std::fs::read(&path).unwrap();
    // With nothing in memory the node must read the file again.
    scene.cluster.nodes[1].kill();
    flip(&path, 7 << 20);
    scene.cluster.nodes[1].restart();
    scene.cluster.wait_until_all_know(3);

    let node = &scene.cluster.nodes[1];
    scene.assert_right(node);
    assert!(counter(node, "pieces_corrupt") >= 1);
    let status = shoal(node, ["status"]).success().text();
    assert!(
        status.lines().any(|line| line.starts_with("pieces_corrupt") && !line.ends_with(" 0")),
        "{status}"
    );
    assert!(node.log().contains(&scene.chunk.to_string()) && node.log().contains("checksum"));
    holds("the file is whole again", || std::fs::read(&path).unwrap() == before);
}

#[test]
fn a_flipped_byte_on_the_only_disk_is_reported_by_the_node_that_wants_it() {
    let mut scene = Scene::set(Cluster::start_with(3, |setup| setup.memory("128MB")));
    let path = chunk_path(&scene.cluster.nodes[1], scene.chunk);
    scene.cluster.nodes[1].kill();
    flip(&path, 7 << 20);
    scene.cluster.nodes[1].restart();
    scene.cluster.wait_until_all_know(3);
    let outcome = scene.get(&scene.cluster.nodes[2]);
    assert!(matches!(outcome.code, Some(1 | 4)), "{outcome:?}");
    outcome.tells(&scene.chunk.to_string());
    scene.assert_nothing_written();
    assert!(counter(&scene.cluster.nodes[1], "pieces_corrupt") >= 1);
    assert_eq!(counter(&scene.cluster.nodes[2], "pieces_corrupt"), 0, "a damaged piece was sent");
}

each_way! { pieces_that_are_damaged_on_the_way_are_fetched_again who_sends_nothing_right_is_left_alone }

fn pieces_that_are_damaged_on_the_way_are_fetched_again(way: Way) {
    let damaging = |setup: Setup| setup.over(way).memory("128MB").flag("--corrupt-one-in", "12");
    let scene = Scene::set(Cluster::start_with(4, damaging));
    scene.put(&scene.cluster.nodes[2], "again");
    let receiver = &scene.cluster.nodes[3];
    scene.assert_right(receiver);
    assert!(counter(receiver, "pieces_corrupt") >= 1);
    let sender = format!("{:016x}", id_of(&scene.cluster.nodes[1]));
    let other = format!("{:016x}", id_of(&scene.cluster.nodes[2]));
    let log = receiver.log();
    let faults = log.lines().filter(|line| line.contains(&scene.chunk.to_string()));
    let named = faults.filter(|line| line.contains(&sender) || line.contains(&other)).count();
    assert!(named >= 1, "the log does not name who sent damaged pieces");
}

fn who_sends_nothing_right_is_left_alone(way: Way) {
    let setup = |name| Setup::named(name).over(way).memory("128MB");
    let mut cluster =
        Cluster::start_with(2, |setup| setup.over(way).memory("128MB").flag("--corrupt-one-in", "1"));
    cluster.add(setup("n3"));
    cluster.add(setup("n4"));
    let scene = Scene::set(cluster);
    let [_, liar, honest, receiver] = &scene.cluster.nodes[..] else { panic!("four nodes") };

    // From the liar alone nothing can be had; the get ends and says so.
    let outcome = scene.get(receiver).exits(1);
    outcome.tells(&scene.chunk.to_string()).tells("only damaged copies came").tells("from node 'n2'");
    scene.assert_nothing_written();
    let bad = counter(receiver, "pieces_corrupt");
    assert!((1..=16).contains(&bad), "{bad} damaged pieces were taken from one node");

    // The honest one got it by other means, and is enough.
    scene.put(honest, "again");
    assert_eq!(only_chunk(honest, "again"), scene.chunk);
    scene.assert_right(receiver);
    assert!(counter(liar, "pieces_sent") >= bad);
}

fn chunk_path(node: &Node, chunk: ChunkId) -> PathBuf {
    let name = chunk.to_string();
    node.data_dir().join("chunks").join(&name[..2]).join(format!("{name}.chunk"))
}

fn flip(path: &std::path::Path, at: u64) {
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
    file.sync_all().unwrap();
}
