//! What cannot be put or got, and what must not be.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use flow::wire::Message;
use flow::wire::catalog::{CatalogContent, CatalogOperation, CatalogPut, CatalogWrite};
use flow::wire::session::FailureCode;
use plan::manifest::{Extent, FileEntry, FileKind, Files, Manifest, Shape, encode_files};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use suites::{Ordinary, Running, Shoal, Signal, holds, noise, shoal, write_noise};

use crate::corner::{Corner, files_below};
use crate::wire::Wire;

#[test]
fn what_cannot_be_put_is_refused() {
    let corner = Corner::start();
    let missing = corner.path("missing");
    corner.put("k", &missing).exits(1).tells("missing");
    let fifo = corner.path("tree/fifo");
    fs::create_dir(corner.path("tree")).unwrap();
    fs::write(corner.path("tree/file"), "fine").unwrap();
    mknodat(CWD, &fifo, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    corner.put("k", &fifo).exits(1).tells("fifo");
    corner.put("k", &corner.path("tree")).exits(1).tells("fifo");
    // Several sources of one name, or standard input among others, say nothing that could be meant.
    fs::create_dir(corner.path("other")).unwrap();
    fs::write(corner.path("other/file"), "other").unwrap();
    let same = Shoal::at(&corner.node).args(["put", "k", "--src"]);
    same.arg(corner.path("tree/file")).arg(corner.path("other/file")).run().exits(1).tells("file");
    let mixed = Shoal::at(&corner.node).args(["put", "k", "--src", "-"]);
    mixed.arg(corner.path("tree/file")).run().exits(2).tells("standard input");
    assert!(corner.keys().is_empty());
}

#[test]
fn an_unreadable_file_is_named_and_nothing_is_stored() {
    let corner = Corner::start();
    let source = corner.path("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("open"), "readable").unwrap();
    fs::write(source.join("closed"), "secret").unwrap();
    fs::set_permissions(source.join("closed"), fs::Permissions::from_mode(0o000)).unwrap();
    // Permissions do not stop root.
    let Some(user) = Ordinary::find() else { return };
    fs::set_permissions(corner.folder(), fs::Permissions::from_mode(0o755)).unwrap();
    let put = Shoal::by(&user).args(["put", "k", "--node", corner.node.address(), "--src"]).arg(&source);
    put.run().exits(1).tells("source/closed");
    fs::remove_file(source.join("closed")).unwrap();
    fs::create_dir(source.join("shut")).unwrap();
    fs::set_permissions(source.join("shut"), fs::Permissions::from_mode(0o000)).unwrap();
    let put = Shoal::by(&user).args(["put", "k", "--node", corner.node.address(), "--src"]).arg(&source);
    put.run().exits(1).tells("source/shut");
    assert!(corner.keys().is_empty());
}

#[test]
fn bad_keys_are_wrong_usage() {
    let corner = Corner::start();
    let long = "k".repeat(1025);
    for key in ["", "/k", "k/", "a//b", "a/../b", ".", &long] {
        for words in [["put", key, "--src", "-"], ["get", key, "--dest", "-"]] {
            shoal(&corner.node, words).exits(2);
        }
    }
}

#[test]
fn a_key_that_is_not_there_ends_with_3() {
    let corner = Corner::start();
    let get = corner.get("nothing/here", &corner.path("copy")).exits(3);
    assert_eq!(get.error_json()["code"], "not_found");
    assert!(get.stdout.is_empty());
    for words in [vec!["info", "nothing"], vec!["rm", "nothing"], vec!["ls", "nothing"]] {
        shoal(&corner.node, words).exits(3).tells("nothing");
    }
    assert_eq!(files_below(corner.folder()), Vec::<PathBuf>::new());
}

#[test]
fn what_is_in_the_way_stays() {
    let corner = Corner::start();
    fs::create_dir(corner.path("tree")).unwrap();
    fs::write(corner.path("tree/x"), "x").unwrap();
    corner.put("tree", &corner.path("tree")).success();
    corner.put("file", &corner.path("tree/x")).success();
    fs::write(corner.path("plain"), "plain").unwrap();
    fs::create_dir_all(corner.path("full/x/y")).unwrap();
    // A tree does not replace a file, nor a file a directory.
    corner.get("tree", &corner.path("plain")).exits(1).tells("in the way");
    corner.get("tree", &corner.path("full")).exits(1).tells("in the way");
    corner.get("file", &corner.path("full")).exits(1).tells("in the way");
    assert_eq!(fs::read(corner.path("plain")).unwrap(), b"plain");
    assert_eq!(fs::read_dir(corner.path("full")).unwrap().count(), 1);
    // A file replaces a file, and a tree joins a directory.
    corner.get("file", &corner.path("plain")).success();
    assert_eq!(fs::read(corner.path("plain")).unwrap(), b"x");
    fs::write(corner.path("tree/more"), "more").unwrap();
    corner.get("tree", &corner.path("tree")).success();
    assert_eq!(fs::read(corner.path("tree/more")).unwrap(), b"more");
    Shoal::at(&corner.node).args(["get", "tree", "--dest", "-"]).run().exits(1).tells("directory");
}

/// A list of files in a chunk of the node, where only a client sees it, and a manifest that refers to it.
fn plant(corner: &Corner, key: &str, files: &[FileEntry]) -> Manifest {
    corner.put_bytes("list", &encode_files(files));
    let mut listed = corner.node.client().info("list").unwrap().manifest;
    corner.put_bytes("bytes", b"x");
    let bytes = corner.node.client().info("bytes").unwrap().manifest.chunks.remove(0);
    let size = files.iter().filter(|file| matches!(file.kind, FileKind::Regular { .. })).count() as u64;
    let files = Files::Chunk(listed.chunks.remove(0));
    let manifest = Manifest { shape: Shape::Tree, size, file_count: size, chunks: vec![bytes], files };
    let answer = commit(corner, key, &manifest);
    assert!(matches!(answer, Message::CatalogWritten(_)), "{answer:?}");
    manifest
}

fn commit(corner: &Corner, key: &str, manifest: &Manifest) -> Message {
    let content = CatalogContent::Manifest(manifest.encode());
    let put = CatalogPut { key: key.into(), content, ttl_ms: None, owner: None, labels: Vec::new() };
    let operations = vec![CatalogOperation::Put(put)];
    Wire::open(&corner.node).ask(CatalogWrite { conditions: Vec::new(), operations })
}

fn regular(path: &str) -> FileEntry {
    let extents = vec![Extent { file_offset: 0, chunk: 0, chunk_offset: 0, length: 1 }];
    let kind = FileKind::Regular { size: 1, digest: blake3::hash(b"x").into(), extents };
    FileEntry { path: path.into(), kind, mode: 0o644, mtime_ns: 0 }
}

fn link(path: &str, target: &Path) -> FileEntry {
    let target = target.as_os_str().as_encoded_bytes().into();
    FileEntry { path: path.into(), kind: FileKind::Symlink { target }, mode: 0o777, mtime_ns: 0 }
}

#[test]
fn a_path_does_not_leave_its_destination() {
    let corner = Corner::start();
    let (outside, inside) = (corner.path("outside"), corner.path("inside"));
    fs::create_dir(&outside).unwrap();
    let absolute = outside.join("x").to_str().unwrap().to_owned();
    let hostile = [
        vec![regular("../outside/x")],
        vec![regular("a/../../outside/x")],
        vec![regular(&absolute)],
        vec![regular("./x")],
        vec![regular("a//x")],
        vec![link("a", &outside), regular("a/x")],
        vec![regular("a/x"), link("a", &outside)],
        vec![link("a", &outside), link("a/b", Path::new("/"))],
    ];
    for (number, files) in hostile.iter().enumerate() {
        // The node refuses what it can see; what hides in a chunk is refused by whoever gets it.
        let key = format!("hostile/{number}");
        let manifest = plant(&corner, &key, files);
        let seen = Manifest { files: Files::Inline(files.clone()), ..manifest };
        let answer = commit(&corner, "seen", &seen);
        assert!(
            matches!(&answer, Message::CatalogRefused(refused) if refused.failure.code == FailureCode::Invalid),
            "{answer:?}"
        );
        for prepared in [false, true] {
            if prepared {
                fs::create_dir(&inside).unwrap();
            }
            let got = corner.get(&key, &inside).exits(1).tells("manifest");
            assert_eq!(fs::read_dir(&outside).unwrap().count(), 0, "{}", got.error());
            assert_eq!(files_below(corner.folder()), Vec::<PathBuf>::new(), "{}", got.error());
            if prepared {
                fs::remove_dir(&inside).unwrap();
            }
        }
        shoal(&corner.node, ["info", &key]).exits(1);
    }
    shoal(&corner.node, ["info", "seen"]).exits(3);
    // The same tree without its harm arrives, which shows that the rest of it is right.
    plant(&corner, "harmless", &[link("a", &outside), regular("b/x")]);
    corner.get("harmless", &inside).success();
    assert_eq!(fs::read(inside.join("b/x")).unwrap(), b"x");
}

#[test]
fn nothing_is_written_through_a_link_at_the_destination() {
    let corner = Corner::start();
    fs::create_dir_all(corner.path("tree/a")).unwrap();
    fs::write(corner.path("tree/a/x"), "x").unwrap();
    corner.put("tree", &corner.path("tree")).success();
    fs::create_dir(corner.path("outside")).unwrap();
    fs::create_dir(corner.path("inside")).unwrap();
    symlink("../outside", corner.path("inside/a")).unwrap();
    corner.get("tree", &corner.path("inside")).exits(1).tells("in the way");
    assert_eq!(fs::read_dir(corner.path("outside")).unwrap().count(), 0);
    assert_eq!(fs::read_dir(corner.path("inside")).unwrap().count(), 1);
}

/// Waits until a call is in the middle of its work, interrupts it, and expects it to end as Ctrl-C ends commands.
fn interrupt(mut running: Running, is_busy: impl Fn() -> bool) {
    holds("the command is busy", || is_busy() || !running.runs());
    running.signal(Signal::INT);
    let outcome = running.wait().exits(130);
    assert!(outcome.stdout.is_empty() && outcome.error().contains("interrupted"), "{}", outcome.error());
}

#[test]
fn an_interrupted_put_leaves_nothing() {
    let corner = Corner::start();
    corner.put_bytes("k", b"before");
    let chunks = corner.node.data_dir().join("chunks");
    // Standard input that does not end keeps the put in its middle.
    let (reader, mut writer) = std::io::pipe().unwrap();
    writer.write_all(&noise(1, 40 << 10)).unwrap();
    let put = Shoal::at(&corner.node).args(["put", "k", "--src", "-"]).input(reader).start();
    std::thread::spawn(move || {
        let block = noise(2, 1 << 20);
        while writer.write_all(&block).is_ok() {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    });
    interrupt(put, || files_below(&chunks).len() > 1);
    assert_eq!(corner.bytes("k"), b"before");
    holds("the bytes of the put are gone", || files_below(&chunks).len() == 1);
}

#[test]
fn an_interrupted_get_leaves_nothing() {
    let corner = Corner::start();
    let source = corner.path("source");
    fs::create_dir(&source).unwrap();
    for number in 0..6 {
        write_noise(&source.join(number.to_string()), number, 64 << 20);
    }
    corner.put("k", &source).success();
    fs::remove_dir_all(&source).unwrap();
    for prepared in [false, true] {
        if prepared {
            fs::create_dir(corner.path("copy")).unwrap();
        }
        let get = Shoal::at(&corner.node).args(["get", "k", "--dest"]).arg(corner.path("copy")).start();
        interrupt(get, || !files_below(corner.folder()).is_empty());
        assert_eq!(files_below(corner.folder()), Vec::<PathBuf>::new());
        assert_eq!(corner.path("copy").exists(), prepared);
    }
}
