//! Connections over a link that loses packets and is cut: between rxe0 and rxe1, over the interface `shoal0` that
//! `cargo xtask hw soft-roce` makes. Anywhere else the test says that it has no link of its own, and passes.
#![allow(clippy::unwrap_used)]

mod loopback {
    #![allow(dead_code)]
    pub mod rig; // two connected queue pairs
}

use std::process::Command;

use loopback::rig::{self, Rig, Side};
use verbs::{Event, Opcode, Operation, Reliability, Segments, WorkError};

const LINK: &str = "shoal0";

#[test]
fn a_link_that_is_lossy_or_cut_damages_nothing() {
    let Some((near, far)) = both_ends() else {
        println!("skipped: there is no link {LINK} between rxe0 and rxe1");
        return;
    };
    let (a, b) = near.connected_with(&far, Reliability::default());
    move_pieces(&a, &b);
    move_pieces(&b, &a);
    host("tc", &["qdisc", "add", "dev", LINK, "root", "netem", "loss", "3%"]);
    move_pieces(&a, &b);
    host("tc", &["qdisc", "del", "dev", LINK, "root"]);

    let (c, _d) = near.connected_with(&far, impatient());
    host("tc", &["qdisc", "add", "dev", LINK, "root", "netem", "loss", "100%"]);
    assert_eq!(failure_of_a_send(&c), WorkError::RetriesExceeded);
    host("tc", &["qdisc", "del", "dev", LINK, "root"]);

    let (c, _d) = near.connected_with(&far, impatient());
    host("ip", &["link", "set", LINK, "down"]);
    until(&near, Event::PortDown(1));
    // Soft-RoCE fails the queue pair by itself when the packet has no way.
    let failure = failure_of_a_send(&c);
    assert!(matches!(failure, WorkError::RetriesExceeded | WorkError::Flushed), "{failure}");
    host("ip", &["link", "set", LINK, "up"]);
    until(&near, Event::PortActive(1));

    let (near, far) = both_ends().expect("the link is up again");
    let (a, b) = near.connected_with(&far, Reliability::default());
    move_pieces(&a, &b);
}

/// Fails soon when nobody answers.
fn impatient() -> Reliability {
    Reliability { acknowledgement_timeout_exponent: 12, retries_max: 2, ..Reliability::default() }
}

/// Sends what cannot arrive, and says how that failed.
fn failure_of_a_send(from: &Side) -> WorkError {
    from.pair.post(Operation::Send { immediate: None }, from.segment(0, 64), 1).unwrap();
    let failed = from.wait();
    assert_eq!(failed.held, 1);
    failed.outcome.unwrap_err()
}

/// Writes with immediates from one side to the other, all of them told and none of them damaged.
fn move_pieces(from: &Side, to: &Side) {
    const PIECES: u32 = 48;
    const PIECE_BYTES: usize = 16 << 10;
    for number in 0..PIECES {
        let offset = number as usize * PIECE_BYTES;
        from.memory.write(offset, &[number as u8 + 1; PIECE_BYTES]);
        to.pair.post_receive(Segments::none(), number).unwrap();
        let remote = to.region.remote(offset as u64, PIECE_BYTES as u64).unwrap();
        let operation = Operation::Write { remote, immediate: Some(number) };
        from.pair.post(operation, from.segment(offset, PIECE_BYTES), number).unwrap();
    }
    for number in 0..PIECES {
        let told = to.wait();
        assert_eq!((told.outcome, told.immediate), (Ok(Opcode::ReceiveWrite), Some(number)));
        let offset = number as usize * PIECE_BYTES;
        assert_eq!(to.memory.read(offset, PIECE_BYTES), [number as u8 + 1; PIECE_BYTES]);
    }
    (0..PIECES).for_each(|_| assert_eq!(from.wait().outcome, Ok(Opcode::Write)));
    to.memory.write(0, &[0; PIECES as usize * PIECE_BYTES]);
}

/// rxe0 and rxe1, when the link between them is one that was made for tests.
fn both_ends() -> Option<(Rig, Rig)> {
    let parent = std::fs::read_to_string("/sys/class/infiniband/rxe0/parent").ok()?;
    let mut rigs: Vec<Rig> = if parent.trim() == LINK { rig::rigs() } else { Vec::new() };
    let mut named = |name: &str| {
        let index = rigs.iter().position(|rig| rig.context.device().name() == name)?;
        Some(rigs.swap_remove(index))
    };
    Some((named("rxe0")?, named("rxe1")?))
}

/// Waits until the device has reported an event.
fn until(rig: &Rig, awaited: Event) {
    loop {
        while let Some(event) = rig.context.next_event().unwrap() {
            if event == awaited {
                return;
            }
        }
        rig::readable(&*rig.context);
    }
}

fn host(program: &str, arguments: &[&str]) {
    let status = Command::new(program).args(arguments).status().unwrap();
    assert!(status.success(), "{program} {arguments:?}: {status}");
}
