//! A place to put from and get to.

use std::fs;
use std::path::{Path, PathBuf};

use suites::{Node, Outcome, Setup, Shoal};
use tempfile::TempDir;

/// A node and a folder for files of the test.
pub(crate) struct Corner {
    pub(crate) node: Node,
    folder: TempDir,
}

impl Corner {
    pub(crate) fn start() -> Self {
        Self::with(Setup::named("n1"))
    }

    pub(crate) fn with(setup: Setup) -> Self {
        Self { node: setup.start(), folder: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn put(&self, key: &str, source: &Path) -> Outcome {
        Shoal::at(&self.node).args(["put", key, "--json", "--src"]).arg(source).run()
    }

    pub(crate) fn get(&self, key: &str, destination: &Path) -> Outcome {
        Shoal::at(&self.node).args(["get", key, "--json", "--dest"]).arg(destination).run()
    }

    /// Puts bytes and expects that to succeed.
    pub(crate) fn put_bytes(&self, key: &str, bytes: &[u8]) {
        put_bytes(&self.node, key, bytes, &[]).success();
    }

    /// Gets the bytes of a key and expects that to succeed.
    pub(crate) fn bytes(&self, key: &str) -> Vec<u8> {
        get_bytes(&self.node, key).success().stdout
    }

    /// The keys that `ls` shows.
    pub(crate) fn keys(&self) -> Vec<String> {
        keys(&self.node)
    }
}

pub(crate) fn put_bytes(node: &Node, key: &str, bytes: &[u8], more: &[&str]) -> Outcome {
    let bytes = std::io::Cursor::new(bytes.to_vec());
    Shoal::at(node).args(["put", key, "--json", "--src", "-"]).args(more).input(bytes).run()
}

pub(crate) fn get_bytes(node: &Node, key: &str) -> Outcome {
    Shoal::at(node).args(["get", key, "--quiet", "--dest", "-"]).run()
}

pub(crate) fn keys(node: &Node) -> Vec<String> {
    let listing = suites::shoal(node, ["ls", "-R", "--json"]).success().json();
    listing.as_array().unwrap().iter().map(|line| line["key"].as_str().unwrap().to_owned()).collect()
}

/// Every file below a directory that is not of a chunk, the catalog or the node's own few: drafts and leftovers.
pub(crate) fn files_below(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut left = vec![directory.to_path_buf()];
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() && !path.is_symlink() {
                left.push(path);
            } else {
                found.push(path);
            }
        }
    }
    found
}
