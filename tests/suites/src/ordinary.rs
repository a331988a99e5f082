//! An ordinary user, for tests that are run by root.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::binary;

/// The user and group that everybody knows as nobody.
const NOBODY: u32 = 65_534;

/// A user without capabilities: nobody when the tests are run by root, else whoever runs them. The binary under test is
/// copied to where that user can reach it.
#[derive(Debug)]
pub struct Ordinary {
    folder: TempDir,
    becomes: Vec<String>,
}

impl Ordinary {
    /// Finds a way to become an ordinary user; without one it says why on standard error, for the test to be skipped.
    pub fn find() -> Option<Self> {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        open_to_all(folder.path());
        let mut ordinary = Self { folder, becomes: Vec::new() };
        if rustix::process::geteuid().is_root() {
            let identity = [format!("--reuid={NOBODY}"), format!("--regid={NOBODY}")];
            let powers = ["--clear-groups", "--inh-caps=-all", "--bounding-set=-all"].map(str::to_owned);
            ordinary.becomes = ["setpriv".to_owned()].into_iter().chain(identity).chain(powers).collect();
            let mut trial = Command::new("setpriv");
            trial.args(&ordinary.becomes[1..]).arg("true").stdout(Stdio::null()).stderr(Stdio::null());
            if !trial.status().is_ok_and(|status| status.success()) {
                eprintln!("skipped: setpriv is missing, or does not let this user become another");
                return None;
            }
        }
        fs::copy(binary::path(), ordinary.program()).expect("the binary can be copied");
        open_to_all(&ordinary.program());
        Some(ordinary)
    }

    /// Gives a file or directory to this user.
    pub fn give(&self, path: &Path) {
        if !self.becomes.is_empty() {
            chown(path, Some(NOBODY), Some(NOBODY)).expect("root may give files away");
        }
    }

    pub(crate) fn becomes(&self) -> &[String] {
        &self.becomes
    }

    pub(crate) fn program(&self) -> PathBuf {
        self.folder.path().join("shoal")
    }
}

fn open_to_all(path: &Path) {
    fs::set_permissions(path, Permissions::from_mode(0o755))
        .expect("a file of one's own can be opened to all");
}
