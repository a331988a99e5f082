//! io_uring and its features.

use io_uring::{IoUring, Probe, cqueue, opcode, squeue};

use super::{CANNOT_RUN, Finding, read};

/// Entries of the ring that is made to look at.
const ENTRIES: u32 = 8;

pub(super) fn probe() -> Vec<Finding> {
    let ring = match IoUring::new(ENTRIES) {
        Ok(ring) => ring,
        Err(error) => return vec![absent(&error)],
    };
    let mut findings = vec![
        Finding::new("io_uring", "available", "chunk bytes go through one ring per shard"),
        running(),
        waiting(&ring),
    ];
    let mut operations = Probe::new();
    if ring.submitter().register_probe(&mut operations).is_ok() {
        findings.push(zero_copy(&operations));
        findings.push(registered(&ring, &operations));
    }
    findings
}

fn absent(error: &std::io::Error) -> Finding {
    let disabled = read("/proc/sys/kernel/io_uring_disabled");
    let (found, remedy) = match disabled.as_deref() {
        Some("2") => (
            "switched off: kernel.io_uring_disabled is 2".to_owned(),
            "set `sysctl kernel.io_uring_disabled=0`",
        ),
        Some("1") => (
            format!("{error}; kernel.io_uring_disabled is 1, which leaves it to privileged processes"),
            "set `sysctl kernel.io_uring_disabled=0`, or run as a member of the group kernel.io_uring_group",
        ),
        _ => (
            format!("refused: {error}"),
            "in a container, allow io_uring in its seccomp profile; otherwise use Linux 5.19 or later",
        ),
    };
    Finding::new("io_uring", found, CANNOT_RUN).remedy(remedy)
}

fn running() -> Finding {
    let topic = "io_uring task running";
    let mut builder = IoUring::<squeue::Entry, cqueue::Entry>::builder();
    builder.setup_single_issuer().setup_coop_taskrun();
    match builder.build(ENTRIES) {
        Ok(_) => Finding::new(topic, "COOP_TASKRUN and SINGLE_ISSUER", "completions do not interrupt shards"),
        Err(error) => Finding::new(topic, format!("COOP_TASKRUN: {error}"), "completions interrupt shards")
            .remedy("use Linux 6.0 or later"),
    }
}

fn waiting(ring: &IoUring) -> Finding {
    let topic = "io_uring timed waits";
    if ring.params().is_feature_ext_arg() {
        return Finding::new(topic, "EXT_ARG", "waits with a time limit cost one call");
    }
    Finding::new(topic, "no EXT_ARG", CANNOT_RUN).remedy("use Linux 5.11 or later")
}

fn zero_copy(operations: &Probe) -> Finding {
    let known =
        operations.is_supported(opcode::SendZc::CODE) && operations.is_supported(opcode::SendMsgZc::CODE);
    let found = if known { "SEND_ZC and SENDMSG_ZC are known" } else { "the kernel has no SENDMSG_ZC" };
    Finding::new("zero-copy send", found, "not used yet by this build; sockets copy what is sent")
}

fn registered(ring: &IoUring, operations: &Probe) -> Finding {
    let known =
        operations.is_supported(opcode::ReadFixed::CODE) && operations.is_supported(opcode::WriteFixed::CODE);
    let found = match ring.submitter().register_buffers_sparse(1) {
        Ok(()) if known => "can be registered".to_owned(),
        Ok(()) => "can be registered, but not used for files".to_owned(),
        Err(error) => format!("cannot be registered: {error}"),
    };
    Finding::new(
        "registered buffers",
        found,
        "not used yet by this build; the kernel looks pages up each time",
    )
}
