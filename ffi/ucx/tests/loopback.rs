//! Two workers of one process, over each of UCX's transports that every machine has. Where there is no UCX these tests say
//! so and pass.
#![allow(clippy::unwrap_used)]

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::MemfdFlags;
use ucx::{Address, Context, EndpointId, Error, Event, Library, Region, Worker};

/// After this long an event is taken for lost, in seconds. Far more than any takes.
const LOST_S: i64 = 60;
const MEMORY: usize = 8 << 20;

/// Transports by the names of `UCX_TLS`.
const TRANSPORTS: [&str; 4] = ["tcp", "tcp,cma", "posix", "sysv,cma"];

/// A worker with memory.
struct End {
    file: OwnedFd,
    region: Arc<Region>,
    worker: Worker<u32>,
    seen: Vec<Event<u32>>,
}

impl End {
    fn open(transports: &str) -> Self {
        let context = Context::open(&[("TLS", transports)]).unwrap();
        let file = rustix::fs::memfd_create("test", MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&file, MEMORY as u64).unwrap();
        let region = Region::of_file(&context, file.as_fd(), MEMORY).unwrap();
        Self { file, region, worker: Worker::create(&context).unwrap(), seen: Vec::new() }
    }

    fn write(&self, offset: u64, bytes: &[u8]) {
        assert_eq!(rustix::io::pwrite(&self.file, bytes, offset).unwrap(), bytes.len());
    }

    fn read(&self, offset: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        assert_eq!(rustix::io::pread(&self.file, &mut bytes[..], offset).unwrap(), length);
        bytes
    }

    fn offer(&mut self, to: EndpointId, length: u32, held: u32) {
        let segment = self.region.segment(0, length).unwrap();
        self.worker.send(to, b"keykeykey", Some(segment), held).unwrap();
    }
}

fn ends(transports: &str) -> (End, End, EndpointId, EndpointId) {
    let (mut a, mut b) = (End::open(transports), End::open(transports));
    let address = |end: &End| Address::from_bytes(end.worker.address().unwrap().as_bytes()).unwrap();
    let (to_a, to_b) = (address(&a), address(&b));
    [&mut a, &mut b].into_iter().for_each(|end| end.worker.admit(u64::from_le_bytes(*b"keykeyke")));
    let (to_b, to_a) = (a.worker.connect(&to_b).unwrap(), b.worker.connect(&to_a).unwrap());
    (a, b, to_b, to_a)
}

/// The next event of the first end, which must come; both make progress.
fn next(a: &mut End, b: &mut End) -> Event<u32> {
    loop {
        let is_idle = [&mut *a, &mut *b].map(|end| end.worker.poll(&mut end.seen) == 0) == [true; 2];
        if !a.seen.is_empty() {
            return a.seen.remove(0);
        }
        if is_idle && [&mut *a, &mut *b].map(|end| end.worker.arm().unwrap()) == [true; 2] {
            let poll = |end| PollFd::from_borrowed_fd(end, PollFlags::IN);
            let mut both = [poll(a.worker.descriptor()), poll(b.worker.descriptor())];
            let limit = Timespec { tv_sec: LOST_S, tv_nsec: 0 };
            assert!(rustix::event::poll(&mut both, Some(&limit)).unwrap() > 0, "nothing comes");
        }
    }
}

/// Runs a test over every transport, or says why not.
fn over_each(test: impl Fn(&str)) {
    ucx::on_log(|severity, text| println!("{severity:?}: {text}"));
    match Library::get() {
        Ok(library) => TRANSPORTS.iter().for_each(|transports| {
            println!("UCX {} over {transports}", library.version_text());
            test(transports);
        }),
        Err(error) => {
            assert!(std::env::var_os("UCX_REQUIRE").is_none(), "UCX is required: {error}");
            println!("skipped: {error}");
        }
    }
}

#[test]
fn data_of_all_sizes_is_fetched() {
    over_each(|transports| {
        let (mut a, mut b, to_b, to_a) = ends(transports);
        for (round, length) in (0..).zip([1, 7, 4096, 65_537, 1 << 20, 4 << 20]) {
            let bytes: Vec<u8> = (0..length).map(|at: u32| (at % 251) as u8 ^ round as u8).collect();
            a.write(0, &bytes);
            a.offer(to_b, length, round);
            let Event::Offered { header, length: offered, offer } = next(&mut b, &mut a) else { panic!() };
            assert_eq!((&header[..], offered), (&b"keykeykey"[..], length as usize));
            let into = b.region.segment(4096, length).unwrap();
            b.worker.receive(offer, into, round).unwrap();
            let received = next(&mut b, &mut a);
            let Event::Received { held, outcome } = received else { panic!("{received:?}") };
            assert_eq!((held, outcome), (round, Ok(length as usize)));
            assert_eq!(b.read(4096, length as usize), bytes);
            let sent = next(&mut a, &mut b);
            assert!(matches!(sent, Event::Sent { held, outcome: Ok(()) } if held == round), "{sent:?}");
            b.worker.send(to_a, b"keykeykey thanks", None, 0).unwrap();
            let answer = next(&mut a, &mut b);
            let Event::Message { header: answer } = answer else { panic!("{answer:?}") };
            assert_eq!(answer, b"keykeykey thanks");
            let sent = next(&mut b, &mut a);
            assert!(matches!(sent, Event::Sent { outcome: Ok(()), .. }), "{sent:?}");
        }
        assert_eq!((a.worker.under_way(), b.worker.under_way()), (0, 0));
    });
}

#[test]
fn what_is_not_fetched_is_given_up() {
    over_each(|transports| {
        let (mut a, mut b, to_b, _) = ends(transports);
        a.offer(to_b, 1 << 20, 1);
        assert!(matches!(next(&mut b, &mut a), Event::Offered { .. }));
        let sent = next(&mut a, &mut b);
        assert!(matches!(sent, Event::Sent { held: 1, .. }), "{sent:?}");
    });
}

#[test]
fn data_under_a_key_that_is_not_known_is_refused() {
    over_each(|transports| {
        let (mut a, mut b, to_b, _) = ends(transports);
        b.worker.dismiss(u64::from_le_bytes(*b"keykeyke"));
        a.offer(to_b, 1 << 20, 1);
        let sent = next(&mut a, &mut b);
        assert!(matches!(sent, Event::Sent { held: 1, outcome: Err(_) }), "{sent:?}");
        assert!(b.seen.is_empty());
    });
}

#[test]
fn all_comes_back_of_an_endpoint_that_is_closed_and_the_other_end_fails() {
    over_each(|transports| {
        let (mut a, mut b, to_b, to_a) = ends(transports);
        // Something has passed, so that the two ends know each other.
        a.offer(to_b, 64, 0);
        assert!(matches!(next(&mut b, &mut a), Event::Offered { .. }));
        next(&mut a, &mut b);
        (1..5).for_each(|held| a.offer(to_b, 4 << 20, held));
        let Event::Offered { offer, .. } = next(&mut b, &mut a) else { panic!() };
        b.worker.receive(offer, b.region.segment(0, 4 << 20).unwrap(), 9).unwrap();
        a.worker.close(to_b);
        let mut back: Vec<u32> = (1..5)
            .map(|_| match next(&mut a, &mut b) {
                Event::Sent { held, .. } => held,
                other => panic!("{other:?}"),
            })
            .collect();
        back.sort_unstable();
        assert_eq!(back, [1, 2, 3, 4]);
        assert!(matches!(
            a.worker.send(to_b, b"", None, 5).unwrap_err(),
            ucx::Refused { error: Error::NoEndpoint, held: 5 }
        ));
        b.worker.close(to_a);
        let received = loop {
            match next(&mut b, &mut a) {
                Event::Received { held, .. } => break held,
                Event::Offered { .. } | Event::Failed { .. } => {}
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(received, 9);
    });
}

#[test]
fn an_end_learns_that_the_other_is_gone() {
    over_each(|transports| {
        let (mut a, mut b, to_b, _) = ends(transports);
        a.offer(to_b, 64, 0);
        assert!(matches!(next(&mut b, &mut a), Event::Offered { .. }));
        next(&mut a, &mut b);
        if transports != "tcp" {
            // Whether a process is there is asked from time to time only, and this one is.
            return;
        }
        drop(b);
        let mut other = End::open(transports);
        loop {
            match next(&mut a, &mut other) {
                Event::Failed { endpoint, .. } => break assert_eq!(endpoint, to_b),
                other => println!("{other:?}"),
            }
        }
    });
}

#[test]
fn what_was_offered_is_good_for_one_turn() {
    over_each(|transports| {
        let (mut a, mut b, to_b, _) = ends(transports);
        a.offer(to_b, 4096, 1);
        let Event::Offered { offer, .. } = next(&mut b, &mut a) else { panic!() };
        b.worker.poll(&mut Vec::new());
        let refused = b.worker.receive(offer, b.region.segment(0, 4096).unwrap(), 2).unwrap_err();
        assert_eq!(refused.held, 2);
        next(&mut a, &mut b);
    });
}

#[test]
fn segments_lie_within_their_region_and_context() {
    over_each(|transports| {
        let (mut a, b, to_b, _) = ends(transports);
        assert!(a.region.segment(MEMORY as u64, 0).is_ok());
        assert!(matches!(a.region.segment(MEMORY as u64, 1), Err(Error::OutOfRegion { .. })));
        assert!(matches!(a.region.segment(u64::MAX, 2), Err(Error::OutOfRegion { .. })));
        let foreign = b.region.segment(0, 1).unwrap();
        assert!(matches!(a.worker.send(to_b, b"", Some(foreign), 1).unwrap_err().error, Error::Mismatch(_)));
        let long = a.worker.send(to_b, &[0; 65], None, 1).unwrap_err().error;
        assert!(matches!(long, Error::HeaderTooLong { length: 65, length_max: 64 }), "{long}");
    });
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    over_each(|_| {
        assert!(matches!(Context::open(&[("RNDV_THRESH", "x\0")]), Err(Error::Setting { .. })));
        let error = Context::open(&[("RNDV_THRESH", "many")]).unwrap_err();
        assert!(error.to_string().contains("RNDV_THRESH"), "{error}");
        let error = Context::open(&[("TLS", "nothing-of-that-name")]).unwrap_err();
        assert!(error.to_string().contains("UCX_TLS"), "{error}");
        assert!(Context::open(&[("TLS", "tcp")]).unwrap().transports().iter().any(|name| name == "tcp/lo"));
    });
}
