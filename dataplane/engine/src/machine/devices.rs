//! Cores, network cards, GPUs.

use std::path::Path;

use super::{Finding, names_in, read};
use crate::gpu::found_by_cuda;

pub(super) fn probe() -> Vec<Finding> {
    vec![cores(), congestion_control(), gpus()]
}

fn cores() -> Finding {
    let allowed = std::thread::available_parallelism().map_or(1, usize::from);
    let machine = read("/proc/cpuinfo")
        .map_or(0, |text| text.lines().filter(|line| line.starts_with("processor")).count());
    let taken = "--cores says how many move bytes";
    if machine > allowed {
        let found = format!("{allowed} of the machine's {machine} (affinity or control group)");
        return Finding::new("cores", found, taken).remedy("give the process more cores if they are free");
    }
    Finding::new("cores", allowed.to_string(), taken)
}

fn congestion_control() -> Finding {
    let setting = |name: &str| read(Path::new("/proc/sys/net/ipv4").join(name)).unwrap_or_default();
    let (current, available) =
        (setting("tcp_congestion_control"), setting("tcp_available_congestion_control"));
    let found = format!("{current} is the system's own; loaded are: {available}");
    Finding::new(
        "TCP congestion control",
        found,
        format!("{current}, unless --congestion-control says otherwise"),
    )
}

fn gpus() -> Finding {
    let seen = names_in("/proc/driver/nvidia/gpus");
    let finding = found_by_cuda(&cuda::devices());
    match seen.is_empty() {
        true => finding,
        // The kernel's part of the driver is there in containers too that lack the rest.
        false => Finding {
            found: format!("{} (the kernel's driver has {})", finding.found, seen.join(", ")),
            ..finding
        },
    }
}
