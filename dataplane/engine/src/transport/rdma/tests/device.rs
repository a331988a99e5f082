//! libibverbs conforms, on the devices of the machine. Without one the test says so and passes; with
//! `VERBS_REQUIRE_DEVICE=1` it fails then.

use std::os::fd::BorrowedFd;

use memory::Arena;
use rustix::event::{PollFd, PollFlags, Timespec};

use crate::transport::rdma::conformance::{self, Rig};
use crate::transport::rdma::devices::Settings;
use crate::transport::rdma::fabric::Room;
use crate::transport::rdma::verbs::{Adapter, VerbsFabric};

/// After this long a completion is taken for lost, in seconds. Far more than any takes.
const LOST_S: i64 = 60;

/// The devices of the machine: both ends on the first, or the second on the last one.
struct Devices {
    apart: bool,
}

impl Rig for Devices {
    type Fabric = VerbsFabric;

    fn open(&self, end: usize, arena: &Arena, room: Room) -> VerbsFabric {
        let adapters = Adapter::open_all(&Settings::default(), arena).unwrap();
        let at = if self.apart && end == 1 { adapters.len() - 1 } else { 0 };
        VerbsFabric::open(&adapters[at], room).unwrap()
    }

    fn await_readable(&self, descriptor: BorrowedFd<'_>) {
        let mut descriptors = [PollFd::from_borrowed_fd(descriptor, PollFlags::IN)];
        let limit = Timespec { tv_sec: LOST_S, tv_nsec: 0 };
        assert!(rustix::event::poll(&mut descriptors, Some(&limit)).unwrap() > 0, "nothing comes");
    }
}

#[test]
fn libibverbs_conforms() {
    let arena = Arena::new(16 << 20, 1).unwrap();
    match Adapter::open_all(&Settings::default(), &arena) {
        Ok(adapters) => {
            let names: Vec<&str> = adapters.iter().map(|adapter| adapter.name()).collect();
            println!("on {}", names.join(", "));
            conformance::check(|| Devices { apart: false });
            conformance::check(|| Devices { apart: true });
        }
        Err(error) => {
            let required = std::env::var_os("VERBS_REQUIRE_DEVICE").is_some_and(|value| value == "1");
            assert!(!required, "a device is required: {error}");
            println!("skipped: {error}");
        }
    }
}
