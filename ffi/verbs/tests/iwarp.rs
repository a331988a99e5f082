//! What iWARP devices do beyond connecting, and what they refuse, at every address that one has.
//!
//! Without such a device the tests say so and pass; with `VERBS_REQUIRE_DEVICE=1` they fail then.

#![allow(clippy::unwrap_used)]

mod loopback {
    #![allow(dead_code)]
    pub mod rig; // one end without connections
    pub mod town; // devices with addresses, and ends that call each other
}

use std::os::fd::AsFd;
use std::sync::Arc;

use loopback::rig;
use loopback::town::{self, House, Party};
use verbs::{Access, ConnectionEvent, Mapping, MemoryRegion, Opcode, Operation, RemoteRange, Segments};

const SEND: Operation = Operation::Send { immediate: None };

fn at_every_iwarp_address(case: impl Fn(&House)) {
    let houses: Vec<House> = town::houses().into_iter().filter(House::is_iwarp).collect();
    if houses.is_empty() {
        rig::absent::<()>("no iWARP device has an address");
    }
    houses.iter().for_each(case);
}

fn write(from: &Party, remote: RemoteRange, immediate: Option<u32>) -> Result<(), verbs::Error> {
    let length = remote.length as usize;
    let operation = Operation::Write { remote, immediate };
    let posted = from.connection.queue_pair().post(operation, from.end.segment(0, length), 1);
    posted.map(drop).map_err(|refused| refused.error)
}

/// Waits until all that was sent before has come.
fn flush(from: &Party, to: &Party) {
    to.connection.queue_pair().post_receive(to.end.segment(0, 0), 2).unwrap();
    from.connection.queue_pair().post(SEND, Segments::none(), 3).unwrap();
    assert_eq!(to.end.wait().outcome, Ok(Opcode::Receive));
}

#[test]
fn a_memfd_is_written_through_its_other_mapping() {
    at_every_iwarp_address(|house| {
        let (a, b) = house.connected(4096);
        let file = rustix::fs::memfd_create("iwarp", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&file, 65_536).unwrap();
        let mapping = || Mapping::of_file(file.as_fd(), 0, 65_536).unwrap();
        let region = MemoryRegion::register(&b.end.domain, Arc::new(mapping()), Access::FULL).unwrap();
        let seen = mapping();
        a.end.memory.write(0, b"through the memfd");
        write(&a, region.remote(40_000, 17).unwrap(), None).unwrap();
        flush(&a, &b);
        assert_eq!(seen.read(40_000, 17), b"through the memfd");
    });
}

#[test]
fn a_revoked_key_opens_nothing() {
    at_every_iwarp_address(|house| {
        let (a, b) = house.connected(4096);
        let granted = MemoryRegion::register(&b.end.domain, b.end.memory.clone(), Access::FULL).unwrap();
        let remote = granted.remote(0, 64).unwrap();
        a.end.memory.write(0, &[7; 64]);
        write(&a, remote, None).unwrap();
        flush(&a, &b);
        assert_eq!(b.end.memory.read(0, 64), [7; 64]);
        granted.revoke().map_err(|(error, _)| error).unwrap();
        a.end.memory.write(0, &[9; 64]);
        write(&a, remote, None).unwrap();
        // A write is done when it is sent; that it was refused shows in the end of the connection.
        assert!(matches!(a.exchange.event(a.connection.number()), ConnectionEvent::Disconnected));
        assert_eq!(b.end.memory.read(0, 64), [7; 64]);
    });
}

#[test]
fn a_write_with_an_immediate_changes_nothing() {
    at_every_iwarp_address(|house| {
        let (a, b) = house.connected(4096);
        b.connection.queue_pair().post_receive(b.end.segment(0, 0), 2).unwrap();
        a.end.memory.write(0, &[9; 64]);
        let remote = b.end.region.remote(512, 64).unwrap();
        let refused = write(&a, remote, Some(1)).is_err() || a.end.wait().outcome.is_err();
        assert!(refused, "iWARP has no immediates");
        assert!(b.end.poll().is_none_or(|completion| completion.outcome.is_err()), "an immediate was told");
        assert_eq!(b.end.memory.read(512, 64), [0; 64]);
    });
}
