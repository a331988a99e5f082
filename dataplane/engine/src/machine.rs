//! What the machine offers and what the engine makes of it.

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

/// Bytes of memory that the machine has, from `/proc/meminfo`.
pub fn machine_memory_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

/// Looks at the machine without changing it. `data_dir` need not exist yet.
pub fn probe(_data_dir: &std::path::Path) -> Vec<Finding> {
    Vec::new()
}
