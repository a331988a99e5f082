//! Memory, hugepages, what may be locked.

use rustix::process::{Resource, getrlimit};

use super::{Finding, chosen, read, show};

/// Number of the capability to lock memory without limit (linux/capability.h).
const CAP_IPC_LOCK: u32 = 14;
const SHMEM_ENABLED: &str = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";
/// What the finding about locked memory is called.
pub(super) const LOCKED_MEMORY: &str = "locked memory";

/// Bytes of memory that the machine has, from `/proc/meminfo`.
pub fn machine_memory_bytes() -> u64 {
    field(&meminfo(), "MemTotal:").unwrap_or(0) * 1024
}

pub(super) fn probe() -> Vec<Finding> {
    vec![memory(), hugepages(), transparent(), locking()]
}

fn meminfo() -> String {
    read("/proc/meminfo").unwrap_or_default()
}

/// The number behind a name in `/proc/meminfo` or `/proc/self/status`.
fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

fn memory() -> Finding {
    let text = meminfo();
    let bytes = |name| field(&text, name).unwrap_or(0) * 1024;
    let (total, available) = (bytes("MemTotal:"), bytes("MemAvailable:"));
    let found = format!("{}, of which {} are available", show(total), show(available));
    let finding = Finding::new("memory", found, "--max-memory bounds what a node takes of it");
    match control_group_limit() {
        Some(limit) if limit < total => {
            let found = format!("{}; its control group may use {}", finding.found, show(limit));
            let remedy = format!("keep --max-memory well below {}, or raise the group's limit", show(limit));
            Finding { found, ..finding }.remedy(remedy)
        }
        _ => finding,
    }
}

/// Bytes that the control group of this process, or one above it, may use.
fn control_group_limit() -> Option<u64> {
    let groups = read("/proc/self/cgroup")?;
    let own = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    let above = std::path::Path::new(own).ancestors();
    let limit = |group: &std::path::Path| {
        let directory = std::path::Path::new("/sys/fs/cgroup").join(group.strip_prefix("/").unwrap_or(group));
        read(directory.join("memory.max"))?.parse().ok()
    };
    above.filter_map(limit).min()
}

fn hugepages() -> Finding {
    let text = meminfo();
    let number = |name| field(&text, name).unwrap_or(0);
    let (total, free, size_kib) =
        (number("HugePages_Total:"), number("HugePages_Free:"), number("Hugepagesize:"));
    let found = format!("{total} of {} reserved, {free} free", show(size_kib * 1024));
    let remedy = "reserve --max-memory divided by 2 MiB of them: `sysctl vm.nr_hugepages=N`";
    match (free, size_kib) {
        (0, _) => Finding::new("hugepages", found, "not used").remedy(remedy),
        (_, 2048) => Finding::new("hugepages", found, "used when they suffice for all of --max-memory"),
        _ => Finding::new("hugepages", found, "not used: only pages of 2 MiB are").remedy(remedy),
    }
}

fn transparent() -> Finding {
    let topic = "transparent hugepages";
    let Some(setting) = read(SHMEM_ENABLED) else {
        return Finding::new(topic, "the kernel has none for shared memory", "pages of 4 KiB");
    };
    let chosen = chosen(&setting).unwrap_or("unknown");
    let found = format!("shmem_enabled is '{chosen}'");
    match chosen {
        "always" | "within_size" | "advise" | "force" => {
            Finding::new(topic, found, "pages of 2 MiB where the kernel finds them")
        }
        "deny" => {
            Finding::new(topic, found, "pages of 4 KiB").remedy(format!("`echo advise > {SHMEM_ENABLED}`"))
        }
        _ => {
            let taken = "pages of 2 MiB where the kernel makes them when asked (Linux 6.1), else of 4 KiB";
            Finding::new(topic, found, taken)
        }
    }
}

fn locking() -> Finding {
    let topic = LOCKED_MEMORY;
    let taken = "RDMA devices lock all of --max-memory; nothing else is locked";
    if has_capability(CAP_IPC_LOCK) {
        return Finding::new(topic, "without limit (CAP_IPC_LOCK)", taken);
    }
    match getrlimit(Resource::Memlock).current {
        None => Finding::new(topic, "without limit", taken),
        Some(bytes) => {
            let finding = Finding::new(topic, format!("at most {} (RLIMIT_MEMLOCK)", show(bytes)), taken);
            match super::rdma::has_devices() {
                true => {
                    finding.remedy("`ulimit -l unlimited`, or LimitMEMLOCK=infinity in the unit, for RDMA")
                }
                false => finding,
            }
        }
    }
}

fn has_capability(number: u32) -> bool {
    let status = read("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let bits = line.and_then(|line| u64::from_str_radix(line.trim(), 16).ok());
    bits.is_some_and(|bits| bits >> number & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found_by_their_names() {
        let text = "MemTotal:       16316412 kB\nHugePages_Free:        3\n";
        assert_eq!(field(text, "MemTotal:"), Some(16_316_412));
        assert_eq!(field(text, "HugePages_Free:"), Some(3));
        assert_eq!(field(text, "MemAvailable:"), None);
        assert!(machine_memory_bytes() > 0);
    }
}
