//! What the machine offers and what the engine makes of it.

mod devices; // cores, network cards, GPUs
mod pages; // memory, hugepages, what may be locked
mod rdma; // the verbs library, its devices and their ports
mod storage; // the file system of the data directory
mod ucx; // libucp and its transports
mod uring; // io_uring and its features

use std::path::Path;

pub use pages::machine_memory_bytes;

/// One thing that was looked for on the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What was looked for, such as `io_uring` or `hugepages`.
    pub topic: &'static str,
    /// What is there.
    pub found: String,
    /// What the engine does because of it.
    pub taken: String,
    /// How to get the faster path, when it is not taken.
    pub remedy: Option<String>,
}

/// What [`Finding::taken`] says when there is no way round.
const CANNOT_RUN: &str = "a node cannot run here";

impl Finding {
    /// Whether a node cannot run because of it.
    pub fn prevents_running(&self) -> bool {
        self.taken == CANNOT_RUN
    }

    pub(crate) fn new(topic: &'static str, found: impl Into<String>, taken: impl Into<String>) -> Self {
        Self { topic, found: found.into(), taken: taken.into(), remedy: None }
    }

    pub(crate) fn remedy(self, remedy: impl Into<String>) -> Self {
        Self { remedy: Some(remedy.into()), ..self }
    }
}

/// Looks at the machine without changing it. `data_dir` need not exist yet.
pub fn probe(data_dir: &Path) -> Vec<Finding> {
    let mut findings = vec![kernel()];
    findings.extend(uring::probe());
    findings.extend(pages::probe());
    findings.extend(storage::probe(data_dir));
    findings.extend(devices::probe());
    findings.extend(rdma::probe());
    findings.push(ucx::probe());
    findings
}

/// What decides how a node that starts runs, of what [`probe`] finds; arena and store say of themselves what they took.
pub(crate) fn probe_at_start() -> Vec<Finding> {
    let locked = pages::probe().into_iter().filter(|finding| finding.topic == pages::LOCKED_MEMORY);
    [kernel()].into_iter().chain(uring::probe()).chain(locked).collect()
}

fn kernel() -> Finding {
    let system = rustix::system::uname();
    let found = format!("Linux {}", system.release().to_string_lossy());
    Finding::new("kernel", found, "what follows was asked of it, not derived from its version")
}

/// The text of a file of the kernel's, without the white space around it.
fn read(path: impl AsRef<Path>) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    Some(text.trim().to_owned())
}

/// The entries of a directory, sorted; none when there is no such directory.
fn names_in(directory: &str) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    let name = |entry: std::io::Result<std::fs::DirEntry>| {
        Some(entry.ok()?.file_name().to_string_lossy().into_owned())
    };
    let mut names: Vec<String> = entries.filter_map(name).collect();
    names.sort();
    names
}

/// The chosen word of a setting that is shown as `always [madvise] never`.
fn chosen(setting: &str) -> Option<&str> {
    setting.split(['[', ']']).nth(1)
}

/// A number of bytes for people.
fn show(bytes: u64) -> String {
    match bytes {
        _ if bytes >= 10 << 30 => format!("{} GiB", bytes >> 30),
        _ if bytes >= 10 << 20 => format!("{} MiB", bytes >> 20),
        _ if bytes >= 10 << 10 => format!("{} KiB", bytes >> 10),
        _ => format!("{bytes} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_finding_says_what_is_done() {
        let directory = tempfile::tempdir().unwrap();
        let findings = probe(&directory.path().join("not/there/yet"));
        for finding in &findings {
            assert!(!finding.found.is_empty() && !finding.taken.is_empty(), "{finding:?}");
        }
        let mut topics: Vec<&str> = findings.iter().map(|finding| finding.topic).collect();
        topics.sort_unstable();
        topics.dedup();
        assert_eq!(topics.len(), findings.len(), "a topic appears twice");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "probing left something behind");
    }

    #[test]
    fn settings_are_read_as_the_kernel_shows_them() {
        assert_eq!(chosen("always [madvise] never"), Some("madvise"));
        assert_eq!(chosen("garbage"), None);
    }
}
