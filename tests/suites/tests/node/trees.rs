//! Files and trees come back as they were.

use std::ffi::OsStr;
use std::fs::{self, File, FileTimes, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, SystemTime};

use suites::{Portrait, Setup, Shoal, assert_same_tree, noise, shoal, write_noise};

use crate::corner::Corner;

/// Puts a tree, gets it elsewhere with `--verify`, and compares.
fn returns(corner: &Corner, source: &Path) {
    let put = corner.put("k", source).success().json();
    let copy = corner.path("copy");
    let got = Shoal::at(&corner.node).args(["get", "k", "--verify", "--json", "--dest"]).arg(&copy).run();
    let got = got.success().json();
    assert_eq!(
        (&got["version"], &got["size"], &got["files"]),
        (&put["version"], &put["size"], &put["files"])
    );
    assert_same_tree(source, &copy);
}

fn stamp(path: &Path, mode: u32, mtime_ns: u64) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    let time = SystemTime::UNIX_EPOCH + Duration::from_nanos(mtime_ns);
    File::open(path).unwrap().set_times(FileTimes::new().set_modified(time)).unwrap();
}

#[test]
fn one_file_returns() {
    let corner = Corner::start();
    let source = corner.path("weights.bin");
    write_noise(&source, 1, (9 << 20) + 13);
    stamp(&source, 0o640, 1_234_567_890_123_456_789);
    returns(&corner, &source);
    // Into a directory it goes under its own name.
    fs::create_dir(corner.path("into")).unwrap();
    corner.get("k", &corner.path("into")).success();
    assert_same_tree(&source, &corner.path("into/weights.bin"));
    // Without --dest it goes into the current directory, under the last part of the key.
    fs::create_dir(corner.path("here")).unwrap();
    Shoal::at(&corner.node).args(["get", "k"]).directory(&corner.path("here")).run().success();
    assert_same_tree(&source, &corner.path("here/k"));
}

#[test]
fn ten_thousand_files_return() {
    let corner = Corner::start();
    let source = corner.path("source");
    for directory in 0..100 {
        let directory = source.join(format!("d{directory:02}"));
        fs::create_dir_all(&directory).unwrap();
        for file in 0..100_u64 {
            let length = file as usize * 61 % 4096;
            fs::write(directory.join(format!("f{file:02}")), noise(file + 7, length)).unwrap();
        }
    }
    returns(&corner, &source);
    let info = shoal(&corner.node, ["info", "k", "--json"]).success().json();
    assert_eq!(info["file_count"], 10_000);
    assert_eq!(Portrait::of(&source).len(), 10_101);
}

#[test]
fn nothing_and_next_to_nothing_return() {
    let corner = Corner::start();
    let source = corner.path("source");
    fs::create_dir_all(source.join("empty/within empty")).unwrap();
    fs::write(source.join("no bytes"), "").unwrap();
    fs::write(source.join("one byte"), "1").unwrap();
    fs::write(source.join("one piece"), noise(1, 1 << 20)).unwrap();
    fs::write(source.join("one piece and a byte"), noise(2, (1 << 20) + 1)).unwrap();
    returns(&corner, &source);
    fs::create_dir(corner.path("bare")).unwrap();
    corner.put("bare", &corner.path("bare")).success();
    corner.get("bare", &corner.path("bare copy")).success();
    assert_same_tree(&corner.path("bare"), &corner.path("bare copy"));
    corner.put("void", &source.join("no bytes")).success();
    corner.get("void", &corner.path("void copy")).success();
    assert_same_tree(&source.join("no bytes"), &corner.path("void copy"));
}

#[test]
fn a_deep_tree_returns() {
    let corner = Corner::start();
    let mut deepest = corner.path("source");
    for level in 0..100 {
        deepest.push(format!("level {level}"));
        fs::create_dir_all(&deepest).unwrap();
        fs::write(deepest.join("file"), level.to_string()).unwrap();
    }
    returns(&corner, &corner.path("source"));
}

#[test]
fn any_name_returns() {
    let corner = Corner::start();
    let source = corner.path("source");
    fs::create_dir(&source).unwrap();
    let names: [&[u8]; 11] = [
        "grüße aus Köln.txt".as_bytes(),
        "重み🐟".as_bytes(),
        b"a name with  blanks ",
        b"two\nlines\r\n",
        b"-rf",
        b"--src",
        b"~",
        b"...",
        b"\xff\xfe not UTF-8 \x80",
        b"\x01\x1b[31m\x7f",
        &[b'n'; 255],
    ];
    for name in names {
        fs::write(source.join(OsStr::from_bytes(name)), name).unwrap();
    }
    let directory = source.join(OsStr::from_bytes(b"directory \xc3\x28"));
    fs::create_dir(&directory).unwrap();
    symlink(OsStr::from_bytes(b"\xff elsewhere"), directory.join(OsStr::from_bytes(b"link \xe2"))).unwrap();
    returns(&corner, &source);
    // What is shown of such names neither breaks JSON nor reaches the terminal raw.
    shoal(&corner.node, ["info", "k", "--json"]).success().json();
    let text = shoal(&corner.node, ["info", "k", "--files"]).success().text();
    assert!(!text.contains('\x1b'), "{text:?}");
}

#[test]
fn links_return_as_links() {
    let corner = Corner::start();
    let source = corner.path("source");
    fs::create_dir_all(source.join("directory")).unwrap();
    fs::write(source.join("file"), "bytes").unwrap();
    symlink("file", source.join("relative")).unwrap();
    symlink("../file", source.join("directory/upwards")).unwrap();
    symlink("directory", source.join("to a directory")).unwrap();
    symlink("nowhere", source.join("dangling")).unwrap();
    symlink("/etc/passwd", source.join("absolute")).unwrap();
    symlink("itself", source.join("itself")).unwrap();
    returns(&corner, &source);
    // Getting over what is there replaces links and does not follow them.
    fs::write(corner.path("victim"), "untouched").unwrap();
    fs::remove_file(corner.path("copy/file")).unwrap();
    symlink("../victim", corner.path("copy/file")).unwrap();
    corner.get("k", &corner.path("copy")).success();
    assert_eq!(fs::read(corner.path("victim")).unwrap(), b"untouched");
    assert_same_tree(&source.join("file"), &corner.path("copy/file"));
}

#[test]
fn modes_and_times_return() {
    let corner = Corner::start();
    let source = corner.path("source");
    fs::create_dir_all(source.join("read only/within")).unwrap();
    for mode in [0o400, 0o444, 0o600, 0o644, 0o755, 0o777, 0o200] {
        let file = source.join(format!("read only/{mode:o}"));
        fs::write(&file, mode.to_string()).unwrap();
        stamp(&file, mode, 1_000_000_000_000_000_001 + u64::from(mode));
    }
    stamp(&source.join("read only/within"), 0o511, 1);
    stamp(&source.join("read only"), 0o555, 981_173_106_987_654_321);
    stamp(&source, 0o750, 1_700_000_000_111_222_333);
    returns(&corner, &source);
    for folder in ["source", "copy"] {
        fs::set_permissions(corner.path(folder).join("read only"), Permissions::from_mode(0o755)).unwrap();
    }
}

#[test]
fn holes_stay_holes() {
    let corner = Corner::with(Setup::named("n1").memory("256MB"));
    let source = corner.path("source");
    fs::create_dir(&source).unwrap();
    let sparse = |name: &str, size: u64, data: &[(u64, usize)]| {
        let file = File::create(source.join(name)).unwrap();
        file.set_len(size).unwrap();
        for &(at, length) in data {
            file.write_all_at(&noise(at + 1, length), at).unwrap();
        }
    };
    sparse("nothing but a hole", 3 << 30, &[]);
    sparse("data at both ends", 2 << 30, &[(0, 1 << 20), ((2 << 30) - 5000, 5000)]);
    sparse("islands", 256 << 20, &[(4096, 8192), (20 << 20, 5 << 20), (200 << 20, 70_000)]);
    sparse("hole at the end", 8 << 20, &[(0, 4096)]);
    let put = corner.put("k", &source).success().json();
    assert!(put["new_bytes"].as_u64().unwrap() < 16 << 20, "holes were stored: {put}");
    corner.get("k", &corner.path("copy")).success();
    assert_same_tree(&source, &corner.path("copy"));
    for name in ["nothing but a hole", "data at both ends", "islands", "hole at the end"] {
        let blocks = |folder: &str| fs::metadata(corner.path(folder).join(name)).unwrap().blocks();
        assert!(blocks("copy") <= blocks("source") + 64, "{name}: {} blocks", blocks("copy"));
    }
}

/// Larger than the node's memory, than one chunk, and than what 32 bits count.
#[test]
fn six_gibibytes_stream_through_one_of_memory() {
    const SIZE: u64 = 6 << 30;
    let corner = Corner::with(Setup::named("n1").memory("1GB"));
    let disk = rustix::fs::statvfs(corner.folder()).unwrap();
    let (free, needed) = (disk.f_bavail * disk.f_frsize, 3 * SIZE + (1 << 30));
    let place = corner.folder().display();
    assert!(
        free > needed,
        "{place} has {free} bytes free and this test needs {needed}; set TMPDIR to a larger disk"
    );
    let source = corner.path("source");
    let digest = write_noise(&source, 6, SIZE);
    let put = corner.put("large", &source).success().json();
    assert_eq!(put["size"], SIZE);
    assert!(put["chunks"].as_u64().unwrap() >= 2, "{put}");
    fs::remove_file(&source).unwrap();
    let copy = corner.path("copy");
    corner.get("large", &copy).success();
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(File::open(&copy).unwrap()).unwrap();
    assert_eq!(*hasher.finalize().as_bytes(), digest);
    assert!(peak_memory(corner.node.process()) < 3 << 29, "the node needed more memory than it may");
}

/// The most memory that a process has had so far, in bytes.
fn peak_memory(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

#[test]
fn streams_go_in_and_out() {
    let corner = Corner::start();
    for length in [0, 1, 5 << 20, (33 << 20) + 7] {
        let bytes = noise(length as u64, length);
        corner.put_bytes("stream", &bytes);
        assert!(corner.bytes("stream") == bytes, "{length} bytes did not come back");
    }
    // A file leaves through standard output as well, and a stream becomes a file.
    fs::write(corner.path("file"), "of a file").unwrap();
    corner.put("file", &corner.path("file")).success();
    assert_eq!(corner.bytes("file"), b"of a file");
    corner.get("stream", &corner.path("stream")).success();
    assert_eq!(fs::metadata(corner.path("stream")).unwrap().len(), (33 << 20) + 7);
}

#[test]
fn several_sources_become_one_tree() {
    let corner = Corner::start();
    fs::create_dir_all(corner.path("source/d/e")).unwrap();
    fs::write(corner.path("source/d/e/x"), "x").unwrap();
    fs::write(corner.path("source/y"), "y").unwrap();
    let put = Shoal::at(&corner.node).args(["put", "k", "--src"]);
    put.arg(corner.path("source/d")).arg(corner.path("source/y")).run().success();
    corner.get("k", &corner.path("copy")).success();
    assert_same_tree(&corner.path("source/d"), &corner.path("copy/d"));
    assert_same_tree(&corner.path("source/y"), &corner.path("copy/y"));
    assert_eq!(Portrait::of(&corner.path("copy")).len(), 5);
}

#[test]
fn what_is_unchanged_is_not_stored_again() {
    let corner = Corner::start();
    let source = corner.path("source");
    fs::create_dir(&source).unwrap();
    write_noise(&source.join("large"), 3, 20 << 20);
    fs::write(source.join("small"), "before").unwrap();
    corner.put("k", &source).success();
    fs::write(source.join("small"), "after!").unwrap();
    let put = corner.put("k", &source).success().json();
    assert_eq!(put["version"], 2);
    assert!(put["new_bytes"].as_u64().unwrap() < 1 << 20, "{put}");
    corner.get("k", &corner.path("copy")).success();
    assert_same_tree(&source, &corner.path("copy"));
}
