//! Manifests that try to leave their destination, or to make the client hold or write what it must not.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;

use client::{ClientError, GetOptions, Silent};
use plan::manifest::{Extent, FileEntry, FileKind, Files, Manifest, Shape};

use crate::fake_node::FakeNode;
use crate::trees::noise;

fn regular(node: &FakeNode, path: &str, bytes: &[u8]) -> (FileEntry, plan::manifest::ChunkEntry) {
    let chunk = node.plant_chunk(bytes);
    let extents = vec![Extent { file_offset: 0, chunk: 0, chunk_offset: 0, length: bytes.len() as u64 }];
    let kind = FileKind::Regular { size: bytes.len() as u64, digest: blake3::hash(bytes).into(), extents };
    (FileEntry { path: path.into(), kind, mode: 0o644, mtime_ns: 0 }, chunk)
}

fn link(path: &str, target: &Path) -> FileEntry {
    let target = target.to_str().unwrap().into();
    FileEntry { path: path.into(), kind: FileKind::Symlink { target }, mode: 0o777, mtime_ns: 0 }
}

fn tree(files: Vec<FileEntry>, chunk: plan::manifest::ChunkEntry) -> Manifest {
    let size_of = |file: &FileEntry| match file.kind {
        FileKind::Regular { size, .. } => size,
        _ => 0,
    };
    let size = files.iter().map(size_of).sum();
    Manifest { shape: Shape::Tree, size, file_count: 1, chunks: vec![chunk], files: Files::Inline(files) }
}

/// Gets `manifest` into a directory, which exists or not, and says what happened. Nothing may appear in the directory
/// `outside`, which the manifest aims at.
fn try_to_escape(
    entries: impl Fn(&FakeNode, &Path) -> Manifest,
    prepare: impl Fn(&Path, &Path),
) -> ClientError {
    let folder = tempfile::tempdir().unwrap();
    let (outside, inside) = (folder.path().join("outside"), folder.path().join("inside"));
    fs::create_dir(&outside).unwrap();
    prepare(&inside, &outside);
    let node = FakeNode::local();
    let manifest = entries(&node, &outside);
    node.plant_key("k", &manifest);
    let client = node.connect();
    let error = client.get("k", &inside, &GetOptions::default(), &Silent).unwrap_err();
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0, "{error}");
    let names: Vec<_> =
        fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(names.iter().all(|name| name == "outside" || name == "inside"), "{names:?} {error}");
    error
}

#[test]
fn paths_that_climb_are_refused() {
    for path in ["../outside/x", "/x", "a/../../outside/x", "a//x", "a/./x", ""] {
        let entries = |node: &FakeNode, _: &Path| {
            let (mut file, chunk) = regular(node, path, b"x");
            file.path = path.into();
            tree(vec![file], chunk)
        };
        let error = try_to_escape(entries, |_, _| {});
        assert!(matches!(error, ClientError::Manifest { .. }), "{path}: {error}");
    }
}

#[test]
fn nothing_is_written_through_a_link_of_the_same_manifest() {
    for order in [0, 1] {
        let entries = |node: &FakeNode, outside: &Path| {
            let (file, chunk) = regular(node, "a/x", b"x");
            let mut files = vec![link("a", outside), file];
            files.rotate_left(order);
            tree(files, chunk)
        };
        let error = try_to_escape(entries, |_, _| {});
        assert!(matches!(error, ClientError::Manifest { .. }), "{error}");
    }
}

#[test]
fn nothing_is_written_through_a_link_at_the_destination() {
    let entries = |node: &FakeNode, _: &Path| {
        let (file, chunk) = regular(node, "a/x", b"x");
        tree(vec![file], chunk)
    };
    let error = try_to_escape(entries, |inside, outside| {
        fs::create_dir(inside).unwrap();
        symlink(outside, inside.join("a")).unwrap();
    });
    assert!(matches!(error, ClientError::InTheWay { .. }), "{error}");
}

#[test]
fn a_link_at_the_destination_is_replaced_and_not_followed() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("victim"), "untouched").unwrap();
    fs::create_dir(folder.path().join("inside")).unwrap();
    symlink("../victim", folder.path().join("inside/x")).unwrap();
    let node = FakeNode::local();
    let (file, chunk) = regular(&node, "x", b"bytes");
    node.plant_key("k", &tree(vec![file], chunk));
    node.connect().get("k", &folder.path().join("inside"), &GetOptions::default(), &Silent).unwrap();
    assert_eq!(fs::read(folder.path().join("victim")).unwrap(), b"untouched");
    assert_eq!(fs::read(folder.path().join("inside/x")).unwrap(), b"bytes");
    assert!(!fs::symlink_metadata(folder.path().join("inside/x")).unwrap().is_symlink());
}

#[test]
fn links_are_made_as_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let node = FakeNode::local();
    let (file, chunk) = regular(&node, "x", b"bytes");
    node.plant_key("k", &tree(vec![link("out", Path::new("/etc")), file], chunk));
    node.connect().get("k", &folder.path().join("t"), &GetOptions::default(), &Silent).unwrap();
    assert_eq!(fs::read_link(folder.path().join("t/out")).unwrap(), Path::new("/etc"));
}

#[test]
fn a_file_never_runs_as_its_owner() {
    let folder = tempfile::tempdir().unwrap();
    let node = FakeNode::local();
    let (mut file, chunk) = regular(&node, "x", b"bytes");
    file.mode = 0o6755;
    node.plant_key("k", &tree(vec![file], chunk));
    node.connect().get("k", &folder.path().join("t"), &GetOptions::default(), &Silent).unwrap();
    assert_eq!(fs::metadata(folder.path().join("t/x")).unwrap().mode() & 0o7777, 0o755);
}

#[test]
fn absurd_sizes_are_refused() {
    let endless = |node: &FakeNode, _: &Path| {
        let (mut file, chunk) = regular(node, "x", b"x");
        if let FileKind::Regular { size, .. } = &mut file.kind {
            *size = u64::MAX;
        }
        tree(vec![file], chunk)
    };
    try_to_escape(endless, |_, _| {});
    let chunkless = |node: &FakeNode, _: &Path| {
        let (file, mut chunk) = regular(node, "x", b"x");
        chunk.piece_size = 3;
        tree(vec![file], chunk)
    };
    try_to_escape(chunkless, |_, _| {});
    let list_too_large = |node: &FakeNode, _: &Path| {
        let (file, chunk) = regular(node, "x", b"x");
        let list = plan::manifest::ChunkEntry { size: 1 << 39, ..chunk.clone() };
        Manifest { files: Files::Chunk(list), ..tree(vec![file], chunk) }
    };
    try_to_escape(list_too_large, |_, _| {});
}

#[test]
fn bytes_that_differ_from_the_digest_do_not_appear() {
    let folder = tempfile::tempdir().unwrap();
    let node = FakeNode::local();
    let (mut file, chunk) = regular(&node, "x", b"bytes");
    if let FileKind::Regular { digest, .. } = &mut file.kind {
        *digest = [1; 32];
    }
    node.plant_key("k", &tree(vec![file], chunk));
    let client = node.connect();
    let target = folder.path().join("t");
    let error =
        client.get("k", &target, &GetOptions { verify: true, ..GetOptions::default() }, &Silent).unwrap_err();
    assert!(matches!(error, ClientError::Digest(_)), "{error}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn extents_may_come_in_any_order_and_more_than_once() {
    const MIB: u64 = 1 << 20;
    let folder = tempfile::tempdir().unwrap();
    let node = FakeNode::local();
    let bytes = noise(5 << 20, 3);
    let chunk = node.plant_chunk(&bytes);
    let places = [(0, 4 * MIB), (MIB, 7), (3 * MIB, 4 * MIB), (4 * MIB, 0)];
    let extents =
        places.map(|(file_offset, chunk_offset)| Extent { file_offset, chunk: 0, chunk_offset, length: MIB });
    let mut content = vec![0; 6 << 20];
    for (to, from) in places {
        let (to, from, length) = (to as usize, from as usize, MIB as usize);
        content[to..to + length].copy_from_slice(&bytes[from..from + length]);
    }
    let (size, digest) = (content.len() as u64, blake3::hash(&content).into());
    let kind = FileKind::Regular { size, digest, extents: extents.to_vec() };
    let file = FileEntry { path: b"x".to_vec(), kind, mode: 0o644, mtime_ns: 0 };
    node.plant_key("k", &Manifest { shape: Shape::File, ..tree(vec![file], chunk) });
    let client = node.connect();
    let (mut streamed, verify) = (Vec::new(), GetOptions { verify: true, ..GetOptions::default() });
    client.get_to_writer("k", &mut streamed, &verify, &Silent).unwrap();
    assert!(streamed == content);
    client.get("k", folder.path(), &verify, &Silent).unwrap();
    assert!(fs::read(folder.path().join("x")).unwrap() == content);
    drop(client);
    node.join();
}
