//! What the numbers depend on.

use std::fs;

use serde::Serialize;

/// The machine that was measured on.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    /// Processors that may be used.
    pub processors: usize,
    /// What the first of them calls itself.
    pub processor_model: String,
    /// Bytes of memory.
    pub memory_bytes: Option<u64>,
    /// Name and release of the kernel.
    pub kernel: String,
    /// The system's TCP congestion control.
    pub system_congestion_control: String,
    /// When the kernel takes large pages for private memory.
    pub large_pages: String,
}

/// How busy the machine is: processes that run or want to, averaged over the last minute.
pub type Load = Option<f64>;

impl Machine {
    /// This machine.
    pub fn here() -> Self {
        let system = rustix::system::uname();
        let kernel = format!("{} {}", system.sysname().to_string_lossy(), system.release().to_string_lossy());
        Self {
            processors: std::thread::available_parallelism().map_or(1, usize::from),
            processor_model: field("/proc/cpuinfo", "model name").unwrap_or_default(),
            memory_bytes: memory("MemTotal"),
            kernel,
            system_congestion_control: line("/proc/sys/net/ipv4/tcp_congestion_control"),
            large_pages: chosen(&line("/sys/kernel/mm/transparent_hugepage/enabled")).to_owned(),
        }
    }
}

/// How busy the machine is.
pub fn load() -> Load {
    line("/proc/loadavg").split(' ').next()?.parse().ok()
}

/// Bytes of memory that programs can still take.
pub fn available_memory_bytes() -> Option<u64> {
    memory("MemAvailable")
}

fn memory(name: &str) -> Option<u64> {
    let kibibytes: u64 = field("/proc/meminfo", name)?.strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kibibytes << 10)
}

fn line(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

/// What stands behind `name:` in a file of such lines.
fn field(path: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let value = |line: &str| Some(line.strip_prefix(name)?.trim_start().strip_prefix(':')?.trim().to_owned());
    text.lines().find_map(value)
}

/// The word in brackets, where a file of the kernel lists what could be chosen.
fn chosen(list: &str) -> &str {
    let inner = list.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
    inner.map_or(list, |(word, _)| word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_is_described() {
        let machine = Machine::here();
        assert!(machine.processors > 0 && machine.kernel.starts_with("Linux "));
        assert!(machine.memory_bytes > available_memory_bytes());
        assert!(load().is_some());
    }

    #[test]
    fn a_choice_is_read() {
        assert_eq!(chosen("always [madvise] never"), "madvise");
        assert_eq!(chosen(""), "");
    }
}
