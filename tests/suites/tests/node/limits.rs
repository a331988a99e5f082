//! Full disks, full memory, flipped bits.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use suites::{Node, Setup, Shoal, holds, noise, shoal};

use crate::corner::{Corner, files_below, get_bytes, keys, put_bytes};

/// Bytes of the disk that is filled.
const DISK: u64 = 128 << 20;

fn node_on_a_small_disk() -> Option<Node> {
    node_on(&format!("tmpfs -o size={DISK}"))
}

/// A node whose data directory is a file system of its own, or `None` where none can be mounted.
fn node_on(file_system: &str) -> Option<Node> {
    let folder = tempfile::Builder::new().prefix("shoal-suite-").tempdir().unwrap();
    let data = folder.path().join("data");
    fs::create_dir(&data).unwrap();
    let mount = format!("mount -t {file_system} none \"$0\" && exec \"$@\"");
    let through = ["unshare", "-rm", "sh", "-c", &mount, data.to_str().unwrap()];
    let mut trial = Command::new(through[0]);
    trial.args(&through[1..]).arg("true").stdout(Stdio::null()).stderr(Stdio::null());
    if !trial.status().is_ok_and(|status| status.success()) {
        eprintln!("skipped: unshare and mount are not there, or not permitted to this user");
        return None;
    }
    Some(Setup::named("n1").memory("64MB").through(&through).with_own_mounts().start_in(folder))
}

fn used(directory: &Path) -> u64 {
    let disk = rustix::fs::statvfs(directory).unwrap();
    (disk.f_blocks - disk.f_bfree) * disk.f_frsize
}

#[test]
fn a_full_disk_is_told_and_room_comes_back() {
    let Some(node) = node_on_a_small_disk() else { return };
    let data = node.data_dir();
    assert!(data.join("chunks").is_dir(), "{} is not the disk of the node", data.display());
    let kept = noise(1, 40 << 20);
    put_bytes(&node, "kept", &kept, &[]).success();
    // One chunk that is too large, several chunks that are too much together, and a stream.
    let folder = tempfile::tempdir().unwrap();
    let sources = ["one", "many"].map(|name| folder.path().join(name));
    fs::write(&sources[0], noise(2, 120 << 20)).unwrap();
    fs::create_dir(&sources[1]).unwrap();
    for number in 0..6_u64 {
        fs::write(sources[1].join(number.to_string()), noise(number + 10, 20 << 20)).unwrap();
    }
    for source in &sources {
        let put = Shoal::at(&node).args(["put", "k", "--json", "--src"]).arg(source).run().exits(1);
        let error = put.error_json();
        assert_eq!(error["code"], "disk_full", "{error}");
        assert!(!error["hint"].as_str().unwrap().is_empty());
    }
    put_bytes(&node, "kept", &noise(3, 120 << 20), &[]).exits(1).tells("disk_full");
    assert_eq!(keys(&node), ["kept"]);
    holds("nothing is left of what did not fit", || used(&data) < 45 << 20);
    assert_eq!(files_below(&data.join("chunks/tmp")), Vec::<PathBuf>::new());

    // What fits is taken, and what was there is still right.
    let smaller = noise(4, 50 << 20);
    put_bytes(&node, "smaller", &smaller, &[]).success();
    assert!(get_bytes(&node, "smaller").success().stdout == smaller);
    assert!(get_bytes(&node, "kept").success().stdout == kept);

    // Removing a key, and putting it again, free what only it referred to.
    shoal(&node, ["rm", "smaller"]).success();
    holds("the room of a key that was removed comes back", || used(&data) < 45 << 20);
    put_bytes(&node, "kept", b"little", &[]).success();
    holds("the room of a version that was replaced comes back", || used(&data) < 5 << 20);
    put_bytes(&node, "kept", &noise(5, 60 << 20), &[]).success();
}

#[test]
fn a_disk_without_direct_access_is_used_through_the_page_cache() {
    let Some(node) = node_on("ramfs") else { return };
    let log = node.log();
    assert!(log.contains("refuses O_DIRECT") && log.contains("buffered reads and writes"), "{log}");
    let bytes = noise(1, (90 << 20) + 7);
    put_bytes(&node, "larger than memory", &bytes, &[]).success();
    assert!(get_bytes(&node, "larger than memory").success().stdout == bytes);
}

fn chunk_of(node: &Node, key: &str) -> String {
    let info = shoal(node, ["info", key, "--json"]).success().json();
    info["chunks"][0]["id"].as_str().unwrap().to_owned()
}

#[test]
fn full_memory_lets_go_of_what_is_not_pinned() {
    let node = Setup::named("n1").memory("64MB").start();
    let content = |number: usize| noise(number as u64, 12 << 20);
    let name = |number: usize| format!("k{number}");
    let volatile = |number: usize| put_bytes(&node, &name(number), &content(number), &["--volatile"]);
    for number in 0..4 {
        volatile(number).success();
    }
    shoal(&node, ["chunk", "pin", &chunk_of(&node, "k0")]).success();
    // Reading is use: of those that are not pinned, the second is the one that was not used for longest.
    for number in [2, 3] {
        assert!(get_bytes(&node, &name(number)).success().stdout == content(number));
    }
    for number in 4..6 {
        volatile(number).success();
    }
    assert!(get_bytes(&node, "k0").success().stdout == content(0), "what is pinned stays");
    assert!(get_bytes(&node, "k5").success().stdout == content(5));
    get_bytes(&node, "k1").exits(4);

    // When all that is there is pinned, there is no room, and nothing half is left by who asked for some.
    for number in 6..9 {
        volatile(number).success();
        shoal(&node, ["chunk", "pin", &chunk_of(&node, &name(number))]).success();
    }
    let refused = put_bytes(&node, "refused", &noise(99, 30 << 20), &["--volatile"]).exits(1);
    let error = refused.error_json();
    assert_eq!(error["code"], "memory_full", "{error}");
    assert!(error["hint"].as_str().unwrap().contains("unpin"), "{error}");
    shoal(&node, ["info", "refused"]).exits(3);
    for number in [0, 6, 7, 8] {
        assert!(get_bytes(&node, &name(number)).success().stdout == content(number));
    }
    shoal(&node, ["chunk", "unpin", &chunk_of(&node, "k0")]).success();
    shoal(&node, ["chunk", "unpin", &chunk_of(&node, "k6")]).success();
    put_bytes(&node, "refused", &noise(99, 30 << 20), &["--volatile"]).success();
    assert!(get_bytes(&node, "refused").success().stdout == noise(99, 30 << 20));
    get_bytes(&node, "k0").exits(4);
}

#[test]
fn more_than_memory_holds_is_put_and_got_durably() {
    let node = Setup::named("n1").memory("64MB").start();
    for number in 0..4 {
        put_bytes(&node, &format!("k{number}"), &noise(number, 50 << 20), &[]).success();
    }
    for number in 0..4 {
        assert!(get_bytes(&node, &format!("k{number}")).success().stdout == noise(number, 50 << 20));
    }
}

#[test]
fn a_flipped_bit_on_disk_is_found_and_named() {
    let mut corner = Corner::start();
    let source = corner.path("source");
    fs::write(&source, noise(1, (3 << 20) + 100)).unwrap();
    corner.put("k", &source).success();
    corner.put_bytes("other", b"not harmed");
    let chunk = chunk_of(&corner.node, "k");
    // Memory still has the bytes; a start reads them from disk.
    corner.node.stop();
    let file = corner.node.data_dir().join("chunks").join(&chunk[..2]).join(format!("{chunk}.chunk"));
    flip(&file, (2 << 20) + 77);
    corner.node.restart();

    let get = corner.get("k", &corner.path("copy")).exits(1);
    let error = get.error_json();
    assert_eq!(error["code"], "corrupt", "{error}");
    let message = error["message"].as_str().unwrap();
    assert!(message.contains(&chunk) && message.contains("piece 2"), "{message}");
    assert_eq!(files_below(corner.folder()), std::slice::from_ref(&source));
    // What is damaged is not kept, so that from then on it is missing.
    get_bytes(&corner.node, "k").exits(4).tells(&chunk);
    assert!(corner.node.log().contains(&chunk), "the log names what is damaged");
    assert_eq!(corner.bytes("other"), b"not harmed");

    // To put the data again, as the error says, mends it, also on disk.
    corner.put("k", &source).success();
    for _ in 0..2 {
        corner.get("k", &corner.path("copy")).success();
        suites::assert_same_tree(&source, &corner.path("copy"));
        corner.node.kill();
        corner.node.restart();
    }
}

fn flip(path: &Path, offset: u64) {
    let file = fs::File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], offset).unwrap();
}
