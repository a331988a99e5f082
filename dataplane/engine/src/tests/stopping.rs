//! Engines that stop.

use futures_lite::future::block_on;

use crate::tests::cluster::{Cluster, bytes, config, put};
use crate::tests::conformance::way::fetching;
use crate::{Engine, EngineError};

#[test]
fn whoever_asks_an_engine_that_stops_has_an_answer() {
    let directory = tempfile::tempdir().unwrap();
    for round in 0..20 {
        let (engine, _events) = Engine::start(config(directory.path(), round, 2, 32 << 20)).unwrap();
        let handle = engine.handle().clone();
        let asker = std::thread::spawn(move || while block_on(handle.replicas(None)).is_ok() {});
        engine.stop();
        asker.join().unwrap();
    }
}

#[test]
fn nothing_of_an_engine_is_left_when_it_has_stopped() {
    let directory = tempfile::tempdir().unwrap();
    let (engine, events) = Engine::start(config(directory.path(), 1, 2, 32 << 20)).unwrap();
    put(engine.handle(), &bytes(1, 3 << 20), false).unwrap();
    engine.stop();
    events.try_iter().for_each(drop);
    assert!(events.is_disconnected(), "a shard is still there");
}

#[test]
fn a_fetch_ends_with_the_engine_that_runs_it() {
    let mut cluster = Cluster::new(&[1, 1], 32 << 20);
    let chunk = put(cluster.handle(1), &bytes(1, 3 << 20), false).unwrap();
    cluster.stop_one(1);
    let fetch = fetching(cluster.handle(2), chunk);
    cluster.stop_one(2);
    let outcome = fetch.join().unwrap();
    let is_expected = matches!(outcome, Err(EngineError::Stopping | EngineError::Unavailable { .. }));
    assert!(is_expected, "{outcome:?}");
}
