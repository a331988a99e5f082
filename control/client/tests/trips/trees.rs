//! Files and directories come back as they were.

use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use client::kv::Consistency;
use client::{ClientError, GetOptions, PutOptions, Silent, Source};
use plan::manifest::Files;
use rustix::fs::{AtFlags, Timespec, Timestamps};

use crate::fake_node::FakeNode;

const VERIFY: GetOptions = GetOptions { verify: true, consistency: Consistency::Quorum };

/// Bytes that repeat nowhere.
pub fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        bytes.extend_from_slice(&(state ^ (state >> 29)).to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// All that is in a directory: path, mode, time, and content or target.
fn portrait(root: &Path) -> Vec<(PathBuf, u32, i64, i64, Vec<u8>)> {
    let metadata = fs::symlink_metadata(root).unwrap();
    let mut entries =
        vec![(PathBuf::new(), metadata.mode(), metadata.mtime(), metadata.mtime_nsec(), Vec::new())];
    let mut waiting = vec![root.to_path_buf()];
    while let Some(directory) = waiting.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let metadata = fs::symlink_metadata(&path).unwrap();
            let content = if metadata.is_symlink() {
                fs::read_link(&path).unwrap().into_os_string().as_bytes().to_vec()
            } else if metadata.is_dir() {
                waiting.push(path.clone());
                Vec::new()
            } else {
                fs::read(&path).unwrap()
            };
            let name = path.strip_prefix(root).unwrap().to_path_buf();
            entries.push((name, metadata.mode(), metadata.mtime(), metadata.mtime_nsec(), content));
        }
    }
    entries.sort();
    entries
}

fn set_time(path: &Path, seconds: i64, nanoseconds: i64) {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(rustix::fs::CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// A tree with one of everything.
fn zoo(root: &Path) {
    fs::create_dir_all(root.join("deep/er/and/deeper")).unwrap();
    fs::create_dir(root.join("empty directory")).unwrap();
    fs::write(root.join("empty"), "").unwrap();
    fs::write(root.join("small"), "small").unwrap();
    fs::write(root.join("deep/er/and/deeper/file"), noise(5000, 1)).unwrap();
    fs::write(root.join(OsStr::from_bytes(b"not \xff utf-8")), "name").unwrap();
    fs::write(root.join("medium"), noise((3 << 20) + 17, 2)).unwrap();
    fs::write(root.join("large"), noise((9 << 20) + 1234, 3)).unwrap();
    fs::write(root.join("large twin"), noise((9 << 20) + 1234, 3)).unwrap();
    fs::hard_link(root.join("small"), root.join("hard link")).unwrap();
    symlink("small", root.join("link")).unwrap();
    symlink("/nowhere/at all", root.join("deep/dangling")).unwrap();
    symlink("deep", root.join("link to directory")).unwrap();
    fs::set_permissions(root.join("small"), Permissions::from_mode(0o640)).unwrap();
    fs::set_permissions(root.join("empty"), Permissions::from_mode(0o400)).unwrap();
    fs::set_permissions(root.join("large"), Permissions::from_mode(0o755)).unwrap();
    set_time(&root.join("small"), 1_000_000_000, 123_456_789);
    set_time(&root.join("link"), 1_100_000_000, 987_654_321);
    set_time(&root.join("empty"), -5, 7);
    set_time(&root.join("deep/er"), 1_200_000_000, 1);
    fs::set_permissions(root.join("empty directory"), Permissions::from_mode(0o711)).unwrap();
}

fn leftovers(directory: &Path) -> Vec<PathBuf> {
    let names = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    names.filter(|path| path.to_string_lossy().contains(".shoal-")).collect()
}

fn round_trip(node: FakeNode) {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("source");
    zoo(&source);
    let client = node.connect();
    let put = client.put("a/zoo", Source::Path(source.clone()), &PutOptions::default(), &Silent).unwrap();
    assert_eq!((put.version, put.files), (1, 8));
    let target = folder.path().join("target");
    let got = client.get("a/zoo", &target, &VERIFY, &Silent).unwrap();
    assert_eq!((got.version, got.files, got.size), (1, 8, put.size));
    assert_eq!(portrait(&source), portrait(&target));
    assert_eq!(leftovers(folder.path()), Vec::<PathBuf>::new());

    let again = client
        .put("a/zoo", Source::Path(target), &PutOptions { volatile: true, ..PutOptions::default() }, &Silent)
        .unwrap();
    assert_eq!((again.version, again.new_bytes), (2, 0), "unchanged files are not new");
    assert!(put.new_bytes > 12 << 20);
    drop(client);
    assert_eq!(node.state().aborted, 0);
    assert_eq!(node.state().leases_open, 0);
    node.join();
}

#[test]
fn a_tree_returns_as_it_was_over_shared_memory() {
    round_trip(FakeNode::local());
}

#[test]
fn a_tree_returns_as_it_was_over_tcp() {
    round_trip(FakeNode::tcp());
}

#[test]
fn ten_thousand_files_return() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("source");
    for directory in 0..100 {
        let directory = source.join(format!("d{directory}"));
        fs::create_dir_all(&directory).unwrap();
        for file in 0..100u32 {
            fs::write(directory.join(format!("f{file}")), noise((file * 37) as usize, file.into())).unwrap();
        }
    }
    let node = FakeNode::local();
    let client = node.connect();
    client.put("many", Source::Path(source.clone()), &PutOptions::default(), &Silent).unwrap();
    assert!(matches!(node.manifest("many").files, Files::Chunk(_)), "a long list has a chunk of its own");
    assert_eq!(client.info("many").unwrap().files.len(), 10_101);
    let target = folder.path().join("target");
    client.get("many", &target, &VERIFY, &Silent).unwrap();
    assert_eq!(portrait(&source), portrait(&target));
}

#[test]
fn a_file_of_many_chunks_of_memory_returns() {
    let folder = tempfile::tempdir().unwrap();
    let (source, target) = (folder.path().join("source"), folder.path().join("target"));
    let bytes = noise(150 << 20, 5);
    fs::write(&source, &bytes).unwrap();
    let node = FakeNode::local();
    let client = node.connect();
    client.put("big", Source::Path(source), &PutOptions::default(), &Silent).unwrap();
    let manifest = client.info("big").unwrap();
    assert_eq!(manifest.manifest.chunks.len(), 1);
    assert_eq!(manifest.manifest.chunks[0].id, *blake3::hash(&bytes).as_bytes());
    client.get("big", &target, &VERIFY, &Silent).unwrap();
    assert!(fs::read(&target).unwrap() == bytes);
}

#[test]
fn holes_stay_holes_and_are_not_sent() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("source");
    fs::create_dir(&source).unwrap();
    let sparse = |name: &str, size: u64, data: &[(u64, usize)]| {
        let file = File::create(source.join(name)).unwrap();
        file.set_len(size).unwrap();
        for &(at, length) in data {
            file.write_all_at(&noise(length, at), at).unwrap();
        }
    };
    sparse("large", 64 << 20, &[(1 << 20, 3 << 20), (40 << 20, 5 << 20)]);
    sparse("small", 8 << 20, &[(4 << 20, 4096)]);
    sparse("nothing", 16 << 20, &[]);
    let node = FakeNode::local();
    let client = node.connect();
    let put = client.put("sparse", Source::Path(source.clone()), &PutOptions::default(), &Silent).unwrap();
    assert_eq!(put.size, 88 << 20);
    assert!(put.new_bytes < 12 << 20, "{} bytes were sent", put.new_bytes);
    let target = folder.path().join("target");
    client.get("sparse", &target, &VERIFY, &Silent).unwrap();
    assert!(portrait(&source) == portrait(&target));
    for name in ["large", "small", "nothing"] {
        let blocks = |root: &Path| fs::metadata(root.join(name)).unwrap().blocks();
        assert!(blocks(&target) <= blocks(&source) + 64, "{name} has lost its holes");
    }
    let mut bytes = Vec::new();
    client.put("alone", Source::Path(source.join("large")), &PutOptions::default(), &Silent).unwrap();
    client.get_to_writer("alone", &mut bytes, &VERIFY, &Silent).unwrap();
    assert!(bytes == fs::read(source.join("large")).unwrap());
}

#[test]
fn a_tree_joins_a_directory_file_by_file() {
    let folder = tempfile::tempdir().unwrap();
    let (source, target) = (folder.path().join("source"), folder.path().join("target"));
    fs::create_dir_all(source.join("both/new")).unwrap();
    fs::write(source.join("both/new/file"), "new").unwrap();
    fs::write(source.join("both/replaced"), "after").unwrap();
    symlink("replaced", source.join("both/link")).unwrap();
    fs::set_permissions(source.join("both/new"), Permissions::from_mode(0o750)).unwrap();
    fs::create_dir_all(target.join("both")).unwrap();
    fs::write(target.join("both/replaced"), "before").unwrap();
    fs::write(target.join("both/kept"), "kept").unwrap();
    fs::set_permissions(target.join("both"), Permissions::from_mode(0o700)).unwrap();
    let node = FakeNode::local();
    let client = node.connect();
    client.put("k", Source::Path(source.clone()), &PutOptions::default(), &Silent).unwrap();
    client.get("k", &target, &VERIFY, &Silent).unwrap();
    assert_eq!(fs::read(target.join("both/new/file")).unwrap(), b"new");
    assert_eq!(fs::read(target.join("both/link")).unwrap(), b"after");
    assert_eq!(fs::read(target.join("both/kept")).unwrap(), b"kept");
    assert_eq!(fs::metadata(target.join("both/new")).unwrap().mode() & 0o777, 0o750);
    assert_eq!(fs::metadata(target.join("both")).unwrap().mode() & 0o777, 0o700);
    assert_eq!(leftovers(&target), Vec::<PathBuf>::new());
    client.get("k", &target, &VERIFY, &Silent).unwrap();
}

#[test]
fn one_file_goes_into_a_directory_or_replaces_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("name");
    fs::write(&source, "content").unwrap();
    fs::create_dir(folder.path().join("directory")).unwrap();
    fs::write(folder.path().join("old"), "old").unwrap();
    let node = FakeNode::local();
    let client = node.connect();
    client.put("k", Source::Path(source), &PutOptions::default(), &Silent).unwrap();
    for (destination, file) in [("directory", "directory/name"), ("old", "old"), ("a/b/new", "a/b/new")] {
        client.get("k", &folder.path().join(destination), &VERIFY, &Silent).unwrap();
        assert_eq!(fs::read(folder.path().join(file)).unwrap(), b"content");
    }
    fs::create_dir_all(folder.path().join("taken/name")).unwrap();
    let error = client.get("k", &folder.path().join("taken"), &VERIFY, &Silent).unwrap_err();
    assert!(matches!(error, ClientError::InTheWay { .. }), "{error}");
}

#[test]
fn several_sources_become_one_tree() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("d")).unwrap();
    fs::write(folder.path().join("d/x"), "x").unwrap();
    fs::write(folder.path().join("y"), "y").unwrap();
    let node = FakeNode::local();
    let client = node.connect();
    let sources = Source::Paths(vec![folder.path().join("d"), folder.path().join("y")]);
    client.put("k", sources, &PutOptions::default(), &Silent).unwrap();
    let target = folder.path().join("target");
    client.get("k", &target, &VERIFY, &Silent).unwrap();
    assert_eq!(fs::read(target.join("d/x")).unwrap(), b"x");
    assert_eq!(fs::read(target.join("y")).unwrap(), b"y");
}

#[test]
fn depth_has_a_limit_and_all_above_it_returns() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("source");
    let mut deepest = source.clone();
    deepest.extend(std::iter::repeat_n("d", 512));
    fs::create_dir_all(&deepest).unwrap();
    fs::write(deepest.join("file"), "deep").unwrap();
    let node = FakeNode::local();
    let client = node.connect();
    client.put("k", Source::Path(source.clone()), &PutOptions::default(), &Silent).unwrap();
    let target = folder.path().join("target");
    client.get("k", &target, &VERIFY, &Silent).unwrap();
    let below = deepest.strip_prefix(&source).unwrap();
    assert_eq!(fs::read(target.join(below).join("file")).unwrap(), b"deep");

    fs::create_dir(deepest.join("d")).unwrap();
    fs::write(deepest.join("d/file"), "too deep").unwrap();
    let error = client.put("k", Source::Path(source), &PutOptions::default(), &Silent).unwrap_err();
    assert!(matches!(error, ClientError::TooDeep(_)), "{error}");
}

#[test]
fn a_tree_that_cannot_join_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (source, target) = (folder.path().join("source"), folder.path().join("target"));
    fs::create_dir_all(source.join("a/b")).unwrap();
    fs::write(source.join("a/b/file"), "x").unwrap();
    fs::write(source.join("another"), "x").unwrap();
    let node = FakeNode::local();
    let client = node.connect();
    client.put("k", Source::Path(source), &PutOptions::default(), &Silent).unwrap();
    for in_the_way in ["a", "a/b"] {
        fs::create_dir_all(target.join(in_the_way).parent().unwrap()).unwrap();
        fs::write(target.join(in_the_way), "in the way").unwrap();
        let before = portrait(&target);
        let error = client.get("k", &target, &VERIFY, &Silent).unwrap_err();
        assert!(matches!(error, ClientError::InTheWay { .. }), "{error}");
        assert_eq!(portrait(&target), before);
        fs::remove_dir_all(&target).unwrap();
    }
    fs::create_dir_all(target.join("another")).unwrap();
    let error = client.get("k", &target, &VERIFY, &Silent).unwrap_err();
    assert!(error.to_string().contains("a directory is in the way"), "{error}");
}
