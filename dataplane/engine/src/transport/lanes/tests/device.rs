//! libibverbs conforms, on the devices of the machine. Without one the test says so and passes; with
//! `VERBS_REQUIRE_DEVICE=1` it fails then.

use std::os::fd::BorrowedFd;
use std::process::Command;
use std::sync::Arc;

use flow::time::Instant;
use memory::Arena;
use rustix::event::{PollFd, PollFlags, Timespec};

use ::verbs::Transport;

use crate::transport::lanes::adapter::VerbsAdapter;
use crate::transport::lanes::conformance::{self, Rig};
use crate::transport::lanes::devices::RdmaSettings;
use crate::transport::lanes::endpoint::{Endpoint, LaneEvent, ROOM};
use crate::transport::lanes::error::LaneError;
use crate::transport::lanes::fabric::{Adapter, Fabric, Health, LaneId, Room, Write};
use crate::transport::lanes::model::{pattern, patterned};
use crate::transport::lanes::verbs::VerbsFabric;

/// After this long a completion is taken for lost, in seconds. Far more than any takes.
const LOST_S: i64 = 60;

/// The devices of the machine: both ends on the first, or the second on the last one.
struct Devices {
    apart: bool,
    are_iwarp: bool,
}

impl Rig for Devices {
    type Fabric = Box<dyn Fabric>;

    fn open(&self, end: usize, arena: &Arena, room: Room) -> Box<dyn Fabric> {
        let mut adapters = VerbsAdapter::open_all(&RdmaSettings::default(), arena).unwrap();
        adapters.retain(|adapter| is_iwarp(adapter) == self.are_iwarp);
        let at = if self.apart && end == 1 { adapters.len() - 1 } else { 0 };
        adapters.swap_remove(at).open(room).unwrap()
    }

    fn device_answers(&self) -> bool {
        !self.are_iwarp
    }

    fn await_readable(&self, descriptors: &[BorrowedFd<'_>]) {
        await_readable(descriptors);
    }
}

/// The iWARP device of the machine, if there is one.
pub(super) fn iwarp(arena: &Arena) -> Option<Arc<VerbsAdapter>> {
    let adapters = VerbsAdapter::open_all(&RdmaSettings::default(), arena).ok();
    let found = adapters.into_iter().flatten().find(|adapter| is_iwarp(adapter));
    if found.is_none() {
        println!("skipped: there is no iWARP device");
    }
    found
}

fn is_iwarp(adapter: &VerbsAdapter) -> bool {
    adapter.context().device().transport() == Transport::Iwarp
}

pub(super) fn await_readable(descriptors: &[BorrowedFd<'_>]) {
    let polled = descriptors.iter().map(|descriptor| PollFd::from_borrowed_fd(*descriptor, PollFlags::IN));
    let mut descriptors: Vec<PollFd<'_>> = polled.collect();
    let limit = Timespec { tv_sec: LOST_S, tv_nsec: 0 };
    assert!(rustix::event::poll(&mut descriptors, Some(&limit)).unwrap() > 0, "nothing comes");
}

/// The link between rxe0 and rxe1 that `cargo xtask hw soft-roce` makes.
const LINK: &str = "shoal0";
const NOW: Instant = Instant::from_micros(1);

#[test]
fn libibverbs_conforms() {
    let arena = Arena::new(16 << 20, 1).unwrap();
    match VerbsAdapter::open_all(&RdmaSettings::default(), &arena) {
        Ok(adapters) => {
            let names: Vec<&str> = adapters.iter().map(|adapter| adapter.name()).collect();
            println!("on {}", names.join(", "));
            for are_iwarp in [false, true] {
                if adapters.iter().any(|adapter| is_iwarp(adapter) == are_iwarp) {
                    conformance::check(|| Devices { apart: false, are_iwarp });
                    conformance::check(|| Devices { apart: true, are_iwarp });
                }
            }
            // Last, and not beside the others: it cuts the link.
            match std::fs::read_to_string("/sys/class/infiniband/rxe0/parent") {
                Ok(parent) if parent.trim() == LINK => Linked::open().lanes_end_when_the_link_is_cut(),
                _ => println!("skipped: there is no link {LINK} to cut"),
            }
        }
        Err(error) => {
            let required = std::env::var_os("VERBS_REQUIRE_DEVICE").is_some_and(|value| value == "1");
            assert!(!required, "a device is required: {error}");
            println!("skipped: {error}");
        }
    }
}

/// An endpoint on rxe0 and one on rxe1.
struct Linked {
    arenas: [Arena; 2],
    adapters: [Arc<VerbsAdapter>; 2],
    ends: [Endpoint<VerbsFabric>; 2],
}

impl Linked {
    fn open() -> Self {
        let arenas = [(); 2].map(|()| Arena::new(16 << 20, 1).unwrap());
        let adapter = |end: usize| {
            let settings = RdmaSettings { devices: vec![format!("rxe{end}")], ..RdmaSettings::default() };
            VerbsAdapter::open_all(&settings, &arenas[end]).unwrap().remove(0)
        };
        let adapters = [adapter(0), adapter(1)];
        let ends =
            adapters.each_ref().map(|adapter| Endpoint::new(VerbsFabric::open(adapter, ROOM).unwrap()));
        Self { arenas, adapters, ends }
    }

    fn lanes_end_when_the_link_is_cut(mut self) {
        let lanes = self.connect();
        self.move_a_piece(lanes, 1);
        // A write is under way and a slot is granted while the link goes down.
        host(&["ip", "link", "set", LINK, "down"]);
        self.write(lanes, 2);
        // The news of the port may come before or after the failure of the write.
        let events = self.await_events(0);
        assert!(matches!(&events[..], [LaneEvent::Broken { unsent, .. }] if unsent.len() == 1), "{events:?}");
        drop(events);
        self.await_health(0, Health::PortDown);
        assert!(matches!(self.ends[0].offer(NOW), Err(LaneError::PortDown { .. })));
        self.ends[1].close(lanes[1]);
        let events = self.await_events(1);
        assert!(matches!(&events[..], [LaneEvent::Broken { slots, .. }] if slots.len() == 1), "{events:?}");
        drop(events);
        host(&["ip", "link", "set", LINK, "up"]);
        [0, 1].into_iter().for_each(|end| self.await_health(end, Health::Up));
        let lanes = self.connect();
        self.move_a_piece(lanes, 3);
        drop(self.ends);
        assert_eq!(self.arenas.each_ref().map(Arena::free_bytes), [16 << 20; 2]);
    }

    fn connect(&mut self) -> [LaneId; 2] {
        let [(a, from_a), (b, from_b)] = self.ends.each_mut().map(|end| end.offer(NOW).unwrap());
        self.ends[0].accept(a, &from_b, NOW).unwrap();
        self.ends[1].accept(b, &from_a, NOW).unwrap();
        [a, b]
    }

    fn write(&mut self, lanes: [LaneId; 2], tag: u32) {
        let slot = self.arenas[1].lease(0, 65_536).unwrap();
        let to = self.ends[1].grant(lanes[1], tag, slot, NOW).unwrap();
        let write = Write { lease: patterned(&self.arenas[0], 65_536, tag), length: 65_536, to, tag };
        self.ends[0].write(lanes[0], write, NOW).unwrap();
    }

    fn move_a_piece(&mut self, lanes: [LaneId; 2], tag: u32) {
        self.write(lanes, tag);
        let arrived = self.await_events(1);
        let [LaneEvent::Arrived { lease, .. }] = &arrived[..] else { panic!("{arrived:?}") };
        assert_eq!(lease.as_slice(), pattern(65_536, tag));
        let sent = self.await_events(0);
        assert!(matches!(&sent[..], [LaneEvent::Sent { .. }]), "{sent:?}");
    }

    fn await_events(&mut self, end: usize) -> Vec<LaneEvent> {
        loop {
            self.ends[end].arm().unwrap();
            let events = self.ends[end].poll(NOW).0;
            if !events.is_empty() {
                return events;
            }
            await_readable(&self.ends[end].descriptors());
        }
    }

    fn await_health(&self, end: usize, health: Health) {
        while self.adapters[end].health() != health {
            await_readable(&self.ends[end].descriptors());
        }
    }
}

fn host(command: &[&str]) {
    let status = Command::new(command[0]).args(&command[1..]).status().unwrap();
    assert!(status.success(), "{command:?}: {status}");
}
