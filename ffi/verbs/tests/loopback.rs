//! Reliable connections between two queue pairs of one process, on every device with an active port.
//!
//! Without such a device the tests say so and pass; with `VERBS_REQUIRE_DEVICE=1` they fail then.

#![allow(clippy::unwrap_used)]

mod loopback {
    pub mod rig; // two connected queue pairs
}

use std::sync::Arc;

use loopback::rig::{self, End, Rig, Side, both};
use verbs::{
    Access, Error, Event, MemoryRegion, Opcode, Operation, RemoteRange, Segments, SharedReceiveQueue,
    WorkError,
};

const SEND: Operation = Operation::Send { immediate: None };

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|index| (index * 7 + index / 256) as u8).collect()
}

#[test]
fn messages_of_all_sizes_arrive() {
    rig::on_every_device(|rig| {
        let (a, b) = both(&rig);
        for (index, length) in [0, 1, 4096, 4097, rig::REGION_BYTES / 2].into_iter().enumerate() {
            let bytes = pattern(length);
            a.memory.write(0, &bytes);
            b.pair.post_receive(b.segment(0, rig::REGION_BYTES / 2), 100).unwrap();
            a.pair.post(SEND, a.segment(0, length), index as u32).unwrap();
            let sent = a.wait();
            assert_eq!(
                (sent.outcome, sent.held, sent.queue_pair),
                (Ok(Opcode::Send), index as u32, a.pair.number())
            );
            let received = b.wait();
            assert_eq!((received.outcome, received.held), (Ok(Opcode::Receive), 100));
            assert_eq!((received.bytes as usize, received.immediate), (length, None));
            assert_eq!(b.memory.read(0, length), bytes);
        }
    });
}

#[test]
fn a_message_is_gathered_and_scattered() {
    rig::on_every_device(|rig| {
        let (a, b) = both(&rig);
        a.memory.write(0, b"two ");
        a.memory.write(8192, b"parts");
        let parts = Segments::new([b.segment(0, 6), b.segment(4096, 100)]).unwrap();
        b.pair.post_receive(parts, 1).unwrap();
        let parts = Segments::new([a.segment(0, 4), a.segment(8192, 5)]).unwrap();
        a.pair.post(Operation::Send { immediate: Some(0xfeed) }, parts, 2).unwrap();
        assert_eq!(a.wait().outcome, Ok(Opcode::Send));
        let received = b.wait();
        assert_eq!((received.bytes, received.immediate), (9, Some(0xfeed)));
        assert_eq!((b.memory.read(0, 6), b.memory.read(4096, 3)), (b"two pa".to_vec(), b"rts".to_vec()));
        let many = (0..Segments::MAX + 1).map(|_| a.segment(0, 1));
        assert!(matches!(Segments::new(many), Err(Error::TooManySegments { .. })));
    });
}

#[test]
fn memory_is_written_and_read_without_the_other_end() {
    rig::on_every_device(|rig| {
        let (a, b) = both(&rig);
        let bytes = pattern(300_000);
        a.memory.write(0, &bytes);
        let remote = b.region.remote(4096, 300_000).unwrap();
        a.pair.post(Operation::Write { remote, immediate: None }, a.segment(0, 300_000), 1).unwrap();
        assert_eq!(a.wait().outcome, Ok(Opcode::Write));
        assert_eq!(b.memory.read(4096, 300_000), bytes);
        assert_eq!(b.memory.read(4095, 1), [0]);
        a.pair.post(Operation::Read { remote }, a.segment(400_000, 300_000), 2).unwrap();
        assert_eq!(a.wait().outcome, Ok(Opcode::Read));
        assert_eq!(a.memory.read(400_000, 300_000), bytes);
        assert!(b.poll().is_none(), "the other end has a completion");
    });
}

#[test]
fn a_write_with_an_immediate_tells_the_other_end() {
    rig::on_every_device(|rig| {
        let (a, b) = both(&rig);
        let bytes = pattern(70_000);
        a.memory.write(0, &bytes);
        let remote = b.region.remote(8192, 70_000).unwrap();
        b.pair.post_receive(Segments::none(), 7).unwrap();
        let operation = Operation::Write { remote, immediate: Some(0x0102_0304) };
        a.pair.post(operation, a.segment(0, 70_000), 8).unwrap();
        assert_eq!(a.wait().outcome, Ok(Opcode::Write));
        let told = b.wait();
        assert_eq!(
            (told.outcome, told.held, told.immediate),
            (Ok(Opcode::ReceiveWrite), 7, Some(0x0102_0304))
        );
        assert_eq!(told.bytes, 70_000);
        assert_eq!(b.memory.read(8192, 70_000), bytes);
        assert_eq!((b.memory.read(8191, 1), b.memory.read(78_192, 1)), (vec![0], vec![0]));
        let refused = a.pair.post(operation, a.segment(0, 70_001), 9).unwrap_err();
        assert!(matches!(refused.error, Error::BeyondRemote { .. }) && refused.held == 9);
    });
}

#[test]
fn many_writes_with_immediates_are_all_told() {
    const WRITES: u32 = 60;
    rig::on_every_device(|rig| {
        let (a, b) = both(&rig);
        for number in 0..WRITES {
            b.pair.post_receive(Segments::none(), number).unwrap();
        }
        for number in 0..WRITES {
            let offset = number as usize * 4096;
            a.memory.write(offset, &[number as u8 + 1; 4096]);
            let remote = b.region.remote(offset as u64, 4096).unwrap();
            let operation = Operation::Write { remote, immediate: Some(number) };
            a.pair.post(operation, a.segment(offset, 4096), number).unwrap();
        }
        let mut told: Vec<u32> = (0..WRITES).map(|_| b.wait().immediate.unwrap()).collect();
        told.sort_unstable();
        assert_eq!(told, (0..WRITES).collect::<Vec<_>>());
        (0..WRITES).for_each(|_| assert!(a.wait().outcome.is_ok()));
        for number in 0..WRITES {
            assert_eq!(b.memory.read(number as usize * 4096, 4096), [number as u8 + 1; 4096]);
        }
        assert_eq!((a.completions.outstanding(), b.completions.outstanding()), (0, 0));
    });
}

/// Writes to a range that is not granted; it must fail and change nothing, and what follows is flushed.
fn refused_write(a: &Side, b: &Side, remote: RemoteRange) {
    a.memory.write(0, &[9; 64]);
    a.pair.post(Operation::Write { remote, immediate: None }, a.segment(0, 64), 1).unwrap();
    let failed = a.wait();
    assert_eq!((failed.outcome, failed.held), (Err(WorkError::RemoteAccess), 1));
    let all = b.memory.read(0, rig::REGION_BYTES);
    assert!(all.iter().all(|byte| *byte == 0), "memory was written that was not granted");
    a.pair.post(SEND, Segments::none(), 2).unwrap();
    let flushed = a.wait();
    assert_eq!((flushed.outcome, flushed.held), (Err(WorkError::Flushed), 2));
}

#[test]
fn a_wrong_key_opens_nothing() {
    rig::on_every_device(|rig| {
        let (a, b) = both(&rig);
        let remote = b.region.remote(0, 64).unwrap();
        refused_write(&a, &b, RemoteRange { key: remote.key ^ 0x5500, ..remote });
    });
}

#[test]
fn a_key_opens_no_more_than_its_region() {
    rig::on_every_device(|rig| {
        let (a, b) = both(&rig);
        let remote = b.region.remote(rig::REGION_BYTES as u64 - 32, 32).unwrap();
        refused_write(&a, &b, RemoteRange { length: 64, ..remote });
        assert!(matches!(b.region.remote(rig::REGION_BYTES as u64 - 32, 33), Err(Error::OutOfRegion { .. })));
        assert!(b.region.segment(u64::MAX, 2).is_err());
    });
}

#[test]
fn a_region_that_others_may_only_read_is_not_written() {
    rig::on_every_device(|rig| {
        let (a, b) = both(&rig);
        let access = Access { remote_read: true, ..Access::default() };
        let readable = MemoryRegion::register(&b.domain, b.memory.clone(), access).unwrap();
        refused_write(&a, &b, readable.remote(0, 64).unwrap());
    });
}

#[test]
fn a_revoked_key_opens_nothing() {
    rig::on_every_device(|rig| {
        let (a, b) = both(&rig);
        let granted = MemoryRegion::register(&b.domain, b.memory.clone(), Access::FULL).unwrap();
        let remote = granted.remote(0, 64).unwrap();
        a.pair.post(Operation::Write { remote, immediate: None }, a.segment(0, 64), 0).unwrap();
        assert_eq!(a.wait().outcome, Ok(Opcode::Write), "before it is revoked");
        granted.revoke().map_err(|(error, _)| error).unwrap();
        refused_write(&a, &b, remote);
    });
}

#[test]
fn a_region_under_way_cannot_be_revoked() {
    rig::on_every_device(|rig| {
        let (a, b) = both(&rig);
        let granted = MemoryRegion::register(&b.domain, b.memory.clone(), Access::FULL).unwrap();
        b.pair.post_receive(granted.segment(0, 64).unwrap(), 1).unwrap();
        let (error, granted) = granted.revoke().unwrap_err();
        assert!(matches!(error, Error::Held { holders: 1 }), "{error}");
        a.pair.post(SEND, a.segment(0, 64), 2).unwrap();
        assert_eq!(b.wait().outcome, Ok(Opcode::Receive));
        granted.revoke().map_err(|(error, _)| error).unwrap();
    });
}

#[test]
fn what_is_posted_to_a_failed_pair_comes_back_flushed() {
    rig::on_every_device(|rig| {
        let (_a, b) = both(&rig);
        for number in 0..5 {
            b.pair.post_receive(b.segment(0, 64), number).unwrap();
        }
        b.pair.fail().unwrap();
        let mut held: Vec<u32> = (0..5)
            .map(|_| {
                let flushed = b.wait();
                assert_eq!(flushed.outcome, Err(WorkError::Flushed));
                flushed.held
            })
            .collect();
        held.sort_unstable();
        assert_eq!(held, [0, 1, 2, 3, 4]);
    });
}

#[test]
fn what_is_posted_to_a_closed_pair_is_given_back() {
    rig::on_every_device(|rig| {
        let (_a, b) = both(&rig);
        for number in 0..3 {
            b.pair.post_receive(b.segment(0, 64), number).unwrap();
        }
        let Side { pair, end: End { completions, region, .. } } = b;
        let mut held = pair.close().unwrap();
        held.sort_unstable();
        assert_eq!(held, [0, 1, 2]);
        assert_eq!(completions.outstanding(), 0);
        region.revoke().map_err(|(error, _)| error).expect("the pair held the last segments");
    });
}

#[test]
fn what_a_closed_pair_had_done_is_delivered_and_takes_no_room() {
    rig::on_every_device(|rig| {
        let b = rig.open();
        // More completions than the queue has room for, unless each closed pair takes its own with it.
        for _ in 0..2 * rig::CAPACITY / 8 {
            let (a, pair) = rig.connect_to(&b, None);
            for number in 0..8 {
                pair.post_receive(b.segment(0, 8), number).unwrap();
            }
            for number in 0..6 {
                a.pair.post(SEND, a.segment(0, 8), number).unwrap();
            }
            // A send is acknowledged after the other end has its completion.
            (0..6).for_each(|number| assert_eq!(a.wait().held, number));
            let mut held = pair.close().unwrap();
            held.extend(std::iter::from_fn(|| b.poll()).map(|completion| completion.held));
            held.sort_unstable();
            assert_eq!(held, [0, 1, 2, 3, 4, 5, 6, 7]);
            assert_eq!(b.completions.outstanding(), 0);
        }
    });
}

#[test]
fn dependants_may_be_dropped_last() {
    rig::on_every_device(|rig| {
        let (a, b) = both(&rig);
        let segment = b.segment(0, 64);
        b.pair.post_receive(segment.clone(), 1).unwrap();
        let Side { pair, end: End { domain, memory, region, completions, .. } } = b;
        drop((rig, domain, memory, region, completions));
        a.pair.post(SEND, a.segment(0, 64), 2).unwrap();
        assert_eq!(a.wait().outcome, Ok(Opcode::Send));
        drop(a);
        drop(pair);
        assert_eq!(segment.length(), 64);
    });
}

#[test]
fn devices_report_by_themselves() {
    rig::on_every_device(|rig| {
        let b = rig.open();
        let shared = SharedReceiveQueue::create(&b.domain, &b.completions, 16).unwrap();
        let (_a, pair) = rig.connect_to(&b, Some(&shared));
        pair.fail().unwrap();
        rig::readable(&*rig.context);
        assert_eq!(rig.context.next_event().unwrap(), Some(Event::LastReceive(pair.number())));
        assert_eq!(rig.context.next_event().unwrap(), None);
    });
}

#[test]
fn a_peer_without_receives_is_told_from_a_dead_one() {
    rig::on_every_device(|rig| {
        let impatient = verbs::Reliability {
            acknowledgement_timeout_exponent: 10,
            retries_max: 1,
            receiver_not_ready_retries_max: 1,
            ..Default::default()
        };
        let (a, b) = rig.connected(impatient);
        a.pair.post(SEND, a.segment(0, 64), 1).unwrap();
        assert_eq!(a.wait().outcome, Err(WorkError::ReceiverNotReady));
        drop((a, b));
        let (a, b) = rig.connected(impatient);
        drop(b.pair.close().unwrap());
        a.pair.post(SEND, a.segment(0, 64), 1).unwrap();
        assert_eq!(a.wait().outcome, Err(WorkError::RetriesExceeded));
    });
}

#[test]
fn a_message_that_is_too_long_fails_at_both_ends() {
    rig::on_every_device(|rig| {
        let (a, b) = both(&rig);
        b.pair.post_receive(b.segment(0, 16), 1).unwrap();
        a.pair.post(SEND, a.segment(0, 64), 2).unwrap();
        // Devices differ in what they call it; Soft-RoCE has no name for the length.
        let received = b.wait().outcome;
        assert!(matches!(received, Err(WorkError::Length | WorkError::QueuePair)), "{received:?}");
        let sent = a.wait().outcome;
        assert!(matches!(sent, Err(WorkError::RemoteInvalid | WorkError::RemoteOperation)), "{sent:?}");
        assert_eq!(b.memory.read(16, 64), [0; 64]);
    });
}

#[test]
fn posting_ends_when_the_completion_queue_has_no_room() {
    rig::on_every_device(|rig| {
        let (_a, b) = both(&rig);
        let limit = rig::CAPACITY;
        // The receive queue may be fuller sooner; either is an error that gives the value back.
        let refused = (0..limit + 1).find_map(|number| b.pair.post_receive(Segments::none(), number).err());
        let refused = refused.expect("posting has an end");
        assert_eq!(b.completions.outstanding(), refused.held as usize);
    });
}

#[test]
fn pairs_share_receives() {
    rig::on_every_device(|rig| {
        let b = rig.open();
        let shared = SharedReceiveQueue::create(&b.domain, &b.completions, 16).unwrap();
        let (first, to_first) = rig.connect_to(&b, Some(&shared));
        let (second, to_second) = rig.connect_to(&b, Some(&shared));
        for number in 0..4 {
            shared.post_receive(b.segment(number * 64, 64), number as u32).unwrap();
        }
        assert!(matches!(
            to_first.post_receive(Segments::none(), 9).unwrap_err().error,
            Error::SharedReceives
        ));
        first.pair.post(Operation::Send { immediate: Some(1) }, first.segment(0, 8), 0).unwrap();
        let from_first = b.wait();
        assert_eq!((from_first.immediate, from_first.queue_pair), (Some(1), to_first.number()));
        let remote = b.region.remote(8192, 8).unwrap();
        let operation = Operation::Write { remote, immediate: Some(2) };
        second.pair.post(operation, second.segment(0, 8), 0).unwrap();
        let from_second = b.wait();
        assert_eq!(from_second.outcome, Ok(Opcode::ReceiveWrite));
        assert_eq!((from_second.immediate, from_second.queue_pair), (Some(2), to_second.number()));
        drop((to_first, to_second));
        assert_eq!(b.completions.outstanding(), 2);
        drop(shared);
        assert_eq!(b.completions.outstanding(), 0);
    });
}

#[test]
fn a_memfd_is_written_through_its_other_mapping() {
    use std::os::fd::AsFd;

    rig::on_every_device(|rig| {
        let (a, b) = both(&rig);
        let file = rustix::fs::memfd_create("loopback", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&file, 65_536).unwrap();
        let mapping = |length| verbs::Mapping::of_file(file.as_fd(), 0, length).unwrap();
        let region = MemoryRegion::register(&b.domain, Arc::new(mapping(65_536)), Access::FULL).unwrap();
        let seen = mapping(65_536);
        a.memory.write(0, b"through the memfd");
        let remote = region.remote(40_000, 17).unwrap();
        a.pair.post(Operation::Write { remote, immediate: None }, a.segment(0, 17), 1).unwrap();
        assert_eq!(a.wait().outcome, Ok(Opcode::Write));
        assert_eq!(seen.read(40_000, 17), b"through the memfd");
    });
}

#[test]
fn devices_describe_themselves() {
    rig::on_every_device(|rig: Rig| {
        let attributes = rig.context.attributes().unwrap();
        assert!(attributes.ports > 0 && attributes.queue_pairs_max > 1 && attributes.segments_max > 0);
        let ports = rig.context.ports().unwrap();
        assert_eq!(ports.len(), usize::from(attributes.ports));
        let gids = rig.context.gids(&ports[0]).unwrap();
        assert!(gids.iter().any(|entry| entry.index == rig.attachment.gid.index));
        while let Some(event) = rig.context.next_event().unwrap() {
            println!("{}: {event:?}", rig.context.device().name());
        }
    });
}
