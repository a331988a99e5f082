//! libucp conforms, over the transports that every machine has. Where there is no UCX the test says so and passes; with
//! `UCX_REQUIRE=1` it fails then.

use std::os::fd::BorrowedFd;

use memory::Arena;
use rustix::event::{PollFd, PollFlags, Timespec};

use crate::transport::lanes::conformance::{self, Rig};
use crate::transport::lanes::fabric::Room;
use crate::transport::lanes::ucx::{UcxAdapter, UcxFabric, UcxSettings};

/// After this long a completion is taken for lost, in seconds. Far more than any takes.
const LOST_S: i64 = 20;

/// UCX over some of its transports.
struct Transports(&'static str);

impl Rig for Transports {
    type Fabric = UcxFabric;

    fn open(&self, _end: usize, arena: &Arena, room: Room) -> UcxFabric {
        UcxFabric::open(&UcxAdapter::open(&settings(self.0), arena).unwrap(), room).unwrap()
    }

    fn await_readable(&self, descriptors: &[BorrowedFd<'_>]) {
        let polled =
            descriptors.iter().map(|descriptor| PollFd::from_borrowed_fd(*descriptor, PollFlags::IN));
        let mut descriptors: Vec<PollFd<'_>> = polled.collect();
        let limit = Timespec { tv_sec: LOST_S, tv_nsec: 0 };
        assert!(rustix::event::poll(&mut descriptors, Some(&limit)).unwrap() > 0, "nothing comes");
    }

    fn device_answers(&self) -> bool {
        false
    }

    fn names_memory(&self) -> bool {
        false
    }
}

fn settings(transports: &str) -> UcxSettings {
    UcxSettings { options: vec![("TLS".to_owned(), transports.to_owned())] }
}

fn conforms(transports: &'static str) {
    let arena = Arena::new(1 << 20, 1).unwrap();
    match UcxAdapter::open(&settings(transports), &arena) {
        Ok(adapter) => {
            println!("on {}", crate::transport::lanes::Adapter::name(&*adapter));
            conformance::check(|| Transports(transports));
        }
        Err(error) => {
            assert!(std::env::var_os("UCX_REQUIRE").is_none(), "UCX is required: {error}");
            println!("skipped: {error}");
        }
    }
}

#[test]
fn ucx_conforms_over_tcp() {
    conforms("tcp");
}

#[test]
fn ucx_conforms_over_tcp_with_cross_memory_attach() {
    conforms("tcp,cma");
}

#[test]
fn ucx_conforms_over_shared_memory() {
    conforms("posix");
}

#[test]
fn ucx_conforms_over_shared_memory_with_cross_memory_attach() {
    conforms("sysv,cma");
}

/// Over reliable connections of RDMA devices, which only some machines have.
#[test]
fn ucx_conforms_over_reliable_connections() {
    let devices = std::fs::read_dir("/sys/class/infiniband").map_or(0, Iterator::count);
    if devices == 0 {
        println!("skipped: there is no RDMA device");
    } else {
        conforms("rc");
    }
}
