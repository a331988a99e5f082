//! What a tree is, for comparison.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Blocks of 512 bytes that a copy may have more than its original: file systems allocate in steps of their own.
const BLOCKS_MORE: u64 = 256;

/// Everything about a file or a tree that a put and a get keep, by path below its root. The root's path is empty.
#[derive(Debug, PartialEq, Eq)]
pub struct Portrait(BTreeMap<Vec<u8>, Entry>);

#[derive(Debug, PartialEq, Eq)]
struct Entry {
    kind: Kind,
    mode: u32,
    mtime_ns: i128,
    blocks: u64,
}

#[derive(Debug, PartialEq, Eq)]
enum Kind {
    File { size: u64, digest: String },
    Directory,
    Link(Vec<u8>),
    Other,
}

impl Portrait {
    /// Looks at a file or a tree.
    pub fn of(root: &Path) -> Self {
        let mut portrait = Self(BTreeMap::new());
        portrait.add(root, Vec::new());
        portrait
    }

    /// How many files, directories and links there are, the root included.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is nothing; never so, since the root counts.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn add(&mut self, path: &Path, name: Vec<u8>) {
        let found = fs::symlink_metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let kind = if found.is_symlink() {
            Kind::Link(fs::read_link(path).expect("a link can be read").as_os_str().as_bytes().into())
        } else if found.is_dir() {
            Kind::Directory
        } else if found.is_file() {
            Kind::File { size: found.len(), digest: digest(path) }
        } else {
            Kind::Other
        };
        if kind == Kind::Directory {
            for entry in fs::read_dir(path).expect("a directory can be listed") {
                let entry = entry.expect("a directory can be listed");
                let mut below = name.clone();
                if !below.is_empty() {
                    below.push(b'/');
                }
                below.extend_from_slice(entry.file_name().as_bytes());
                self.add(&entry.path(), below);
            }
        }
        let mtime_ns = i128::from(found.mtime()) * 1_000_000_000 + i128::from(found.mtime_nsec());
        let entry = Entry { kind, mode: found.mode() & 0o7777, mtime_ns, blocks: found.blocks() };
        self.0.insert(name, entry);
    }

    /// What differs from this portrait in that of a copy, in words.
    fn differences(&self, copy: &Self) -> Vec<String> {
        let mut found = Vec::new();
        for (path, original) in &self.0 {
            let Some(copy) = copy.0.get(path) else {
                found.push(format!("{} is missing", path.escape_ascii()));
                continue;
            };
            // Directories grow and shrink as their file system likes.
            let holes = original.kind == Kind::Directory || copy.blocks <= original.blocks + BLOCKS_MORE;
            let same =
                (&copy.kind, copy.mode, copy.mtime_ns) == (&original.kind, original.mode, original.mtime_ns);
            if !same || !holes {
                found.push(format!("{}: {original:?} has become {copy:?}", path.escape_ascii()));
            }
        }
        let more = copy.0.keys().filter(|path| !self.0.contains_key(*path));
        found.extend(more.map(|path| format!("{} was not there before", path.escape_ascii())));
        found
    }
}

fn digest(path: &Path) -> String {
    let mut hasher = blake3::Hasher::new();
    let file = File::open(path).expect("a file can be opened");
    hasher.update_reader(file).expect("a file can be read");
    hasher.finalize().to_hex().to_string()
}

/// Panics unless two files or trees are the same in names, kinds, bytes, modes, times, link targets and holes. A copy
/// may have more holes than its original.
#[track_caller]
pub fn assert_same_tree(original: &Path, copy: &Path) {
    let differences = Portrait::of(original).differences(&Portrait::of(copy));
    let shown = &differences[..differences.len().min(10)];
    assert!(differences.is_empty(), "{} differences, among them:\n{}", differences.len(), shown.join("\n"));
}
