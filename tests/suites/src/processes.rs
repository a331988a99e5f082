//! Which processes there are.

use std::fs;
use std::path::Path;

/// Numbers of the processes whose words name something below a folder, such as nodes with their data directory there.
pub fn processes_below(folder: &Path) -> Vec<u32> {
    let below = folder.to_str().expect("a folder whose name is text");
    let processes = fs::read_dir("/proc").expect("processes are listed").filter_map(|entry| {
        let entry = entry.ok()?;
        let process = entry.file_name().to_str()?.parse().ok()?;
        let words = fs::read(entry.path().join("cmdline")).ok()?;
        String::from_utf8_lossy(&words).contains(below).then_some(process)
    });
    processes.collect()
}
