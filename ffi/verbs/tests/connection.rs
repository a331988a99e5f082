//! Connections by address, through librdmacm, at every address of this machine that an RDMA device has: also on iWARP.
//!
//! Without such a device the tests say so and pass; with `VERBS_REQUIRE_DEVICE=1` they fail then.

#![allow(clippy::unwrap_used)]

mod loopback {
    #![allow(dead_code)]
    pub mod rig; // one end without connections
    pub mod town; // devices with addresses, and ends that call each other
}

use std::any::Any;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use loopback::rig::{End, REGION_BYTES};
use loopback::town::{self, CallError, Exchange, Party, at_every_address, pair, patient};
use verbs::{
    ConnectError, ConnectionEvent, Error, Identifier, Listener, Opcode, Operation, PRIVATE_BYTES_MAX,
    QueuePair, RemoteRange, Segments, SharedReceiveQueue, WorkError,
};

/// The port of a service that is not in use any more. No listener is given it that asks for any port.
const UNUSED_PORT: u16 = 9;
const SEND: Operation = Operation::Send { immediate: None };

/// Bytes that differ by place and by seed.
fn pattern(length: usize, seed: usize) -> Vec<u8> {
    (0..length).map(|index| (index * 7 + index / 256 + seed) as u8).collect()
}

/// Writes into the memory of the other end, tells it with a message, and looks whether all came. An iWARP device has no
/// writes with immediates.
fn write_and_tell(from: &Party, to: &Party, length: usize, seed: usize) {
    let bytes = pattern(length, seed);
    from.end.memory.write(0, &bytes);
    to.connection.queue_pair().post_receive(to.end.segment(0, 0), 1).unwrap();
    let remote = to.end.region.remote(64, length as u64).unwrap();
    let write = Operation::Write { remote, immediate: None };
    from.connection.queue_pair().post(write, from.end.segment(0, length), 2).unwrap();
    from.connection.queue_pair().post(SEND, Segments::none(), 3).unwrap();
    assert_eq!(to.end.wait().outcome, Ok(Opcode::Receive));
    let told = [from.end.wait(), from.end.wait()].map(|completion| (completion.held, completion.outcome));
    assert_eq!(told, [(2, Ok(Opcode::Write)), (3, Ok(Opcode::Send))]);
    assert!(to.end.memory.read(64, length) == bytes, "{length} bytes did not come as they were");
}

fn send(from: &Party, to: &Party, bytes: &[u8]) {
    from.end.memory.write(0, bytes);
    to.connection.queue_pair().post_receive(to.end.segment(512, 256), 1).unwrap();
    from.connection.queue_pair().post(SEND, from.end.segment(0, bytes.len()), 2).unwrap();
    let received = to.end.wait();
    assert_eq!((received.outcome, received.bytes as usize), (Ok(Opcode::Receive), bytes.len()));
    assert_eq!(from.end.wait().outcome, Ok(Opcode::Send));
    assert_eq!(to.end.memory.read(512, bytes.len()), bytes);
}

#[test]
fn messages_and_writes_pass_both_ways() {
    at_every_address(|house| {
        let (a, b) = house.connected(REGION_BYTES);
        assert_eq!(a.connection.peer_address().map(|peer| peer.ip()), Some(house.address));
        send(&a, &b, b"the caller sends first");
        send(&b, &a, b"then the other end");
        for (length, seed) in [(1, 1), (4097, 2), (300_000, 3)] {
            write_and_tell(&a, &b, length, seed);
            write_and_tell(&b, &a, length, seed + 100);
        }
        let remote = a.end.region.remote(64, 300_000).unwrap();
        b.connection
            .queue_pair()
            .post(Operation::Read { remote }, b.end.segment(400_000, 300_000), 4)
            .unwrap();
        assert_eq!(b.end.wait().outcome, Ok(Opcode::Read));
        assert_eq!(b.end.memory.read(400_000, 300_000), pattern(300_000, 103));
    });
}

#[test]
fn pieces_of_all_sizes_arrive() {
    const LARGEST: usize = 16 << 20;
    at_every_address(|house| {
        let (a, b) = house.connected(LARGEST + 64);
        let sizes = [0, 1, 63, 64, 65, 4095, 4096, 4097, 65_535, 65_536, 1 << 20, (1 << 20) + 1, LARGEST];
        for (seed, length) in sizes.into_iter().enumerate() {
            write_and_tell(&a, &b, length, seed);
        }
        write_and_tell(&b, &a, LARGEST, 77);
    });
}

#[test]
fn many_connections_of_one_listener_are_told_apart() {
    at_every_address(|house| {
        let (caller, answerer) = (Exchange::new(), Exchange::new());
        let listener = house.listen(&answerer);
        let end = || End::open(&house.context, 4096);
        let mut both = Vec::new();
        for number in 0..4_u8 {
            let (a, b) = (end(), end());
            let calling = caller.call(listener.address().unwrap(), &a, &[number]).unwrap();
            let request = answerer.request(&listener);
            assert_eq!(request.private_data()[0], number);
            let answering = request.attach(pair(&b)).unwrap().accept(patient(), &[]).unwrap();
            both.push((calling, answering, a, b, number));
        }
        for (calling, answering, a, b, number) in both {
            let (to_b, _) = caller.establish(calling).unwrap();
            b.memory.write(0, &[0]);
            answering.queue_pair().post_receive(b.segment(0, 16), 1).unwrap();
            a.memory.write(0, &[number + 1]);
            to_b.queue_pair().post(SEND, a.segment(0, 1), 2).unwrap();
            let (_to_a, _) = answerer.establish(answering).unwrap();
            assert_eq!(b.wait().outcome, Ok(Opcode::Receive));
            assert_eq!(b.memory.read(0, 1), [number + 1]);
        }
    });
}

#[test]
fn one_listener_serves_every_address_and_shares_receives() {
    at_every_address(|house| {
        let (caller, answerer) = (Exchange::new(), Exchange::new());
        // Soft-iWARP takes the port for each device, also where they share a namespace, and finds it taken.
        let listener = if house.is_iwarp() {
            house.listen(&answerer)
        } else {
            Listener::bind(&answerer.channel, "0.0.0.0:0".parse().unwrap(), 8).unwrap()
        };
        assert_eq!(listener.device_name().is_some(), house.is_iwarp());
        let to = SocketAddr::new(house.address, listener.address().unwrap().port());
        let b = End::open(&house.context, 4096);
        let shared = SharedReceiveQueue::create(&b.domain, &b.completions, 8).unwrap();
        for number in 0..2 {
            shared.post_receive(b.segment(0, 16), number).unwrap();
        }
        let connect = || {
            let a = End::open(&house.context, 4096);
            let calling = caller.call(to, &a, &[]).unwrap();
            let request = answerer.request(&listener);
            assert_eq!(request.device_name().as_deref(), Some(house.context.device().name()));
            let pair = QueuePair::create(&b.domain, &b.completions, Some(&shared), town::SIZES).unwrap();
            let answering = request.attach(pair).unwrap().accept(patient(), &[]).unwrap();
            let (to_b, _) = caller.establish(calling).unwrap();
            (to_b, answerer.establish(answering).unwrap().0, a)
        };
        for (to_b, to_a, a) in [connect(), connect()] {
            to_b.queue_pair().post(SEND, a.segment(0, 8), 2).unwrap();
            let received = b.wait();
            assert_eq!(received.outcome, Ok(Opcode::Receive));
            assert_eq!(received.queue_pair, to_a.queue_pair().number());
        }
    });
}

#[test]
fn the_other_end_may_reject() {
    at_every_address(|house| {
        let (caller, answerer) = (Exchange::new(), Exchange::new());
        let listener = house.listen(&answerer);
        let end = End::open(&house.context, 4096);
        let call = || caller.call(listener.address().unwrap(), &end, b"may I?").unwrap();

        let calling = call();
        answerer.request(&listener).reject(b"not here").unwrap();
        match caller.establish(calling).unwrap_err() {
            ConnectError::Rejected { private_data, .. } => assert!(private_data.starts_with(b"not here")),
            other => panic!("{other}"),
        }
        let calling = call();
        drop(answerer.request(&listener));
        let error = caller.establish(calling).unwrap_err();
        assert!(matches!(error, ConnectError::Rejected { .. }), "{error}");
    });
}

#[test]
fn what_is_posted_to_a_call_that_fails_comes_back() {
    at_every_address(|house| {
        let (caller, answerer) = (Exchange::new(), Exchange::new());
        let listener = house.listen(&answerer);
        let end = End::open(&house.context, 4096);
        let attached = caller.route(listener.address().unwrap()).unwrap().attach(pair(&end)).unwrap();
        attached.queue_pair().post_receive(end.segment(0, 16), 7).unwrap();
        let calling = attached.connect(patient(), &[]).unwrap();
        answerer.request(&listener).reject(&[]).unwrap();
        assert!(matches!(caller.event(calling.number()), ConnectionEvent::Failed(_)));
        let mut held = calling.close().unwrap();
        held.extend(std::iter::from_fn(|| end.poll()).map(|completion| completion.held));
        assert_eq!((held, end.completions.outstanding()), (vec![7], 0));
    });
}

#[test]
fn calling_where_nobody_listens_fails() {
    at_every_address(|house| {
        let caller = Exchange::new();
        let free = SocketAddr::new(house.address, UNUSED_PORT);
        let end = End::open(&house.context, 4096);
        let calling = caller.call(free, &end, &[]).unwrap();
        let error = caller.establish(calling).unwrap_err();
        let iwarp = house.is_iwarp() && matches!(error, ConnectError::Rejected { .. });
        assert!(iwarp || error == ConnectError::NobodyListens, "{error}");
    });
}

#[test]
fn calling_an_address_that_nobody_has_fails() {
    at_every_address(|house| {
        let std::net::IpAddr::V4(address) = house.address else { return };
        let [first, second, third, _] = address.octets();
        let nobody = SocketAddr::from(([first, second, third, 233], 7471));
        let error = Exchange::new().route(nobody).unwrap_err();
        let known = matches!(error, ConnectError::AddressNotFound { .. } | ConnectError::Unreachable { .. });
        assert!(known, "{error}");
    });
}

#[test]
fn an_end_is_told_that_the_other_is_gone() {
    at_every_address(|house| {
        for caller_leaves in [true, false] {
            let (a, b) = house.connected(4096);
            send(&a, &b, b"first");
            let (leaves, stays) = if caller_leaves { (a, b) } else { (b, a) };
            stays.connection.queue_pair().post_receive(stays.end.segment(0, 16), 5).unwrap();
            assert_eq!(leaves.connection.close().unwrap(), []);
            assert!(matches!(stays.exchange.event(stays.connection.number()), ConnectionEvent::Disconnected));
            flushed(&stays);
        }
    });
}

/// The end that is left takes back what it had posted.
fn flushed(stays: &Party) {
    // The device may have ended the queue pair already.
    let _ = stays.connection.disconnect();
    let flushed = stays.end.wait();
    assert_eq!((flushed.held, flushed.outcome), (5, Err(WorkError::Flushed)));
    // What is posted from here on never completes on Soft-iWARP, and comes back when the queue pair is closed.
    let posted = stays.connection.queue_pair().post(SEND, Segments::none(), 6).is_ok();
    if posted && !stays.is_iwarp() {
        assert_eq!(stays.end.wait().outcome, Err(WorkError::Flushed));
    }
}

#[test]
fn both_ends_hear_of_a_disconnect() {
    at_every_address(|house| {
        let (a, b) = house.connected(4096);
        send(&a, &b, b"first");
        b.connection.queue_pair().post_receive(b.end.segment(0, 16), 5).unwrap();
        a.connection.disconnect().unwrap();
        assert!(matches!(b.exchange.event(b.connection.number()), ConnectionEvent::Disconnected));
        flushed(&b);
        assert!(matches!(a.exchange.event(a.connection.number()), ConnectionEvent::Disconnected));
    });
}

#[test]
fn a_wrong_key_opens_nothing() {
    at_every_address(|house| {
        let (a, b) = house.connected(4096);
        send(&a, &b, b"first");
        let before = b.end.memory.read(0, 4096);
        let granted = b.end.region.remote(0, 64).unwrap();
        let remote = RemoteRange { key: granted.key ^ 0x5500, ..granted };
        a.end.memory.write(0, &[9; 64]);
        let write = Operation::Write { remote, immediate: None };
        a.connection.queue_pair().post(write, a.end.segment(0, 64), 1).unwrap();
        let outcome = a.end.wait().outcome;
        if house.is_iwarp() {
            // A write is done when it is sent; the other end ends the connection.
            assert!(matches!(outcome, Ok(Opcode::Write) | Err(_)), "{outcome:?}");
            assert!(matches!(a.exchange.event(a.connection.number()), ConnectionEvent::Disconnected));
        } else {
            assert_eq!(outcome, Err(WorkError::RemoteAccess));
        }
        assert!(b.end.memory.read(0, 4096) == before, "memory was written that was not granted");
    });
}

#[test]
fn steps_may_be_given_up() {
    at_every_address(|house| {
        let (caller, answerer) = (Exchange::new(), Exchange::new());
        let listener = house.listen(&answerer);
        let to = listener.address().unwrap();
        let end = End::open(&house.context, 4096);
        let identifier = Identifier::create(&caller.channel).unwrap();
        identifier.resolve_address(None, to, 1000).unwrap();
        drop(identifier);
        drop(caller.route(to).unwrap());
        drop(caller.route(to).unwrap().attach(pair(&end)).unwrap());
        // Over iWARP that waits until the kernel knows what comes of the call.
        if !house.is_iwarp() {
            drop(caller.call(to, &end, &[]).unwrap());
            // The request of a caller that is gone may be answered, and that fails or leads nowhere.
            drop(answerer.request(&listener).attach(pair(&end)));
        }
        let calling = caller.call(to, &end, &[]).unwrap();
        let answering = answerer.request(&listener).attach(pair(&end)).unwrap();
        drop((answering, calling));
        drop((caller, listener, answerer));
        let (a, b) = house.connected(4096);
        send(&a, &b, b"still there");
    });
}

#[test]
fn everything_may_be_dropped_in_any_order() {
    at_every_address(|house| {
        for order in orders(4) {
            let (a, b) = house.connected(4096);
            let Party { connection: to_b, exchange: caller, end: end_a } = a;
            let Party { connection: to_a, exchange: answerer, end: end_b } = b;
            to_a.queue_pair().post_receive(end_b.segment(0, 16), 1).unwrap();
            let parts: [Box<dyn Any>; 4] =
                [Box::new(to_b), Box::new(to_a), Box::new((caller, answerer)), Box::new((end_a, end_b))];
            let mut parts = parts.map(Some);
            order.into_iter().for_each(|index| drop(parts[index].take()));
        }
    });
}

/// All orders of the first numbers.
fn orders(count: usize) -> Vec<Vec<usize>> {
    let Some(last) = count.checked_sub(1) else { return vec![vec![]] };
    let mut all = Vec::new();
    for shorter in orders(last) {
        for place in 0..count {
            let mut order = shorter.clone();
            order.insert(place, last);
            all.push(order);
        }
    }
    all
}

#[test]
fn events_of_others_prove_nothing() {
    at_every_address(|house| {
        let exchange = Exchange::new();
        let to = house.listen(&exchange).address().unwrap();
        let (first, second) =
            (Identifier::create(&exchange.channel).unwrap(), Identifier::create(&exchange.channel).unwrap());
        first.resolve_address(None, to, 1000).unwrap();
        let ConnectionEvent::AddressResolved(proof) = exchange.event(first.number()) else { panic!() };
        assert!(matches!(second.address_resolved(proof), Err(Error::Mismatch(_))));
    });
}

#[test]
fn a_queue_pair_of_another_device_is_refused() {
    at_every_address(|house| {
        let devices = verbs::devices().unwrap();
        let Some(other) = devices.iter().find(|device| device.name() != house.context.device().name()) else {
            println!("skipped: there is one device");
            return;
        };
        let exchange = Exchange::new();
        let listener = house.listen(&exchange);
        let route = exchange.route(listener.address().unwrap()).unwrap();
        let end = End::open(&verbs::Context::open(other).unwrap(), 4096);
        assert!(matches!(route.attach(pair(&end)), Err(Error::Mismatch(_))));
    });
}

#[test]
fn private_data_have_a_limit() {
    at_every_address(|house| {
        let (caller, answerer) = (Exchange::new(), Exchange::new());
        let listener = house.listen(&answerer);
        let end = End::open(&house.context, 4096);
        let longest = [7; PRIVATE_BYTES_MAX];
        let calling = caller.call(listener.address().unwrap(), &end, &longest).unwrap();
        assert!(answerer.request(&listener).private_data().starts_with(&longest));
        drop(calling);
        let refused = caller.call(listener.address().unwrap(), &end, &[7; PRIVATE_BYTES_MAX + 1]);
        assert!(matches!(refused, Err(CallError::AtOnce(Error::PrivateData { .. }))));
    });
}

#[test]
fn an_address_without_a_device_says_so() {
    at_every_address(|_| {
        let exchange = Exchange::new();
        let nowhere = "192.0.2.1:7471".parse().unwrap();
        let error = Listener::bind(&exchange.channel, nowhere, 1).unwrap_err();
        assert!(error.to_string().contains("rdma_bind_addr on 192.0.2.1:7471"), "{error}");
    });
}

/// Set for the process that answers at the other end of the link.
const ANSWER_AT: &str = "CONNECTION_ANSWER_AT";
const FAR: &str = "10.98.0.2:7471";

/// The other end is a process in the namespace `peer`, which `cargo xtask hw soft-roce` makes, and it is killed.
#[test]
fn a_process_that_is_killed_is_gone_for_the_other_end() {
    if let Ok(address) = std::env::var(ANSWER_AT) {
        return answer(address.parse().unwrap());
    }
    let has_peer = std::path::Path::new("/run/netns/peer").exists();
    let houses = if has_peer { town::houses() } else { Vec::new() };
    let Some(house) = houses.iter().find(|house| house.address.to_string() == "10.98.0.1") else {
        println!("skipped: there is no namespace `peer` with a link to it");
        return;
    };
    let mut process = start_the_answerer();
    let (exchange, end) = (Exchange::new(), End::open(&house.context, REGION_BYTES));
    let calling = exchange.call(FAR.parse().unwrap(), &end, b"over the link").unwrap();
    let (connection, answer) = exchange.establish(calling).unwrap();
    let party = Party { connection, exchange, end };
    let remote = RemoteRange {
        address: u64::from_le_bytes(answer[..8].try_into().unwrap()),
        length: REGION_BYTES as u64,
        key: u32::from_le_bytes(answer[8..12].try_into().unwrap()),
    };
    party.end.memory.write(0, &pattern(REGION_BYTES, 5));
    let pair = party.connection.queue_pair();
    let write = Operation::Write { remote, immediate: None };
    pair.post_receive(party.end.segment(0, 16), 5).unwrap();
    pair.post(write, party.end.segment(0, REGION_BYTES), 1).unwrap();
    pair.post(SEND, Segments::none(), 2).unwrap();
    // What was posted completes in its order; the message that says that all came may do so before, between or after.
    let outcomes = [(); 3].map(|()| party.end.wait().outcome.unwrap());
    let posted: Vec<Opcode> =
        outcomes.iter().copied().filter(|outcome| *outcome != Opcode::Receive).collect();
    assert_eq!(posted, [Opcode::Write, Opcode::Send]);

    pair.post_receive(party.end.segment(0, 16), 5).unwrap();
    process.kill().unwrap();
    process.wait().unwrap();
    assert!(matches!(party.exchange.event(party.connection.number()), ConnectionEvent::Disconnected));
    flushed(&party);
}

fn start_the_answerer() -> Child {
    let this = std::env::current_exe().unwrap();
    let mut command = Command::new("ip");
    command.args(["netns", "exec", "peer"]).arg(this);
    command.args(["--exact", "a_process_that_is_killed_is_gone_for_the_other_end", "--nocapture"]);
    let mut process = command.env(ANSWER_AT, FAR).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("listening")), "the other end did not start");
    process
}

/// Grants all its memory to who calls, says when all of it came, and waits for its end.
fn answer(address: SocketAddr) {
    let house = town::houses().into_iter().find(|house| house.address == address.ip()).unwrap();
    let exchange = Exchange::new();
    let listener = Listener::bind(&exchange.channel, address, 1).unwrap();
    println!("listening");
    let end = End::open(&house.context, REGION_BYTES);
    let request = exchange.request(&listener);
    assert!(request.private_data().starts_with(b"over the link"));
    let granted = end.region.remote(0, REGION_BYTES as u64).unwrap();
    let told = [granted.address.to_le_bytes().as_slice(), &granted.key.to_le_bytes()].concat();
    let attached = request.attach(pair(&end)).unwrap();
    attached.queue_pair().post_receive(end.segment(0, 0), 1).unwrap();
    let (connection, _) = exchange.establish(attached.accept(patient(), &told).unwrap()).unwrap();
    assert_eq!(end.wait().outcome, Ok(Opcode::Receive));
    assert!(end.memory.read(0, REGION_BYTES) == pattern(REGION_BYTES, 5));
    connection.queue_pair().post(SEND, Segments::none(), 2).unwrap();
    assert_eq!(end.wait().outcome, Ok(Opcode::Send));
    exchange.event(connection.number());
}
