//! Members that die and freeze while writes go on.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use catalog::{Catalog, CatalogError, Consistency, Etcd, Write};
use futures_lite::future::block_on;
use suites::Etcds;

use super::{open, put, text};

const WRITERS: usize = 4;

/// What one writer has seen.
#[derive(Default)]
struct Log {
    acknowledged: Vec<(String, String)>,
    /// The longest time between two acknowledgements.
    gap: Duration,
    failed: usize,
}

/// Writes other keys, and the next value of the writer's own, until it is told to stop.
fn load(node: &Etcd, writer: usize, stop: &AtomicBool) -> Log {
    let (mut log, mut last) = (Log::default(), Instant::now());
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let rows =
            [(format!("w{writer}/{number}"), "x".to_owned()), (format!("own/{writer}"), number.to_string())];
        let operations = rows.iter().map(|(key, text)| put(key, text)).collect();
        match block_on(node.write(Write { conditions: Vec::new(), operations })) {
            Ok(_) => {
                log.gap = log.gap.max(last.elapsed());
                last = Instant::now();
                log.acknowledged.extend(rows);
            }
            Err(CatalogError::Unreachable { .. }) => log.failed += 1,
            Err(error) => panic!("{error}"),
        }
    }
    log
}

fn under_load(what: &str, disturb: impl FnOnce(&mut Etcds)) {
    let Some(mut etcds) = Etcds::start(3) else { return };
    let (node, stop) = (open(&etcds), AtomicBool::new(false));
    let logs: Vec<Log> = thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let (node, stop) = (&node, &stop);
                scope.spawn(move || load(node, writer, stop))
            })
            .collect();
        thread::sleep(Duration::from_millis(700));
        disturb(&mut etcds);
        thread::sleep(Duration::from_millis(4000));
        stop.store(true, Ordering::Relaxed);
        writers.into_iter().map(|writer| writer.join().unwrap()).collect()
    });
    for (writer, log) in logs.iter().enumerate() {
        assert!(!log.acknowledged.is_empty());
        let keys: Vec<String> = log.acknowledged.iter().map(|(key, _)| key.clone()).collect();
        for keys in keys.chunks(500) {
            let found = block_on(node.get(keys, Consistency::Quorum)).unwrap();
            assert!(found.entries.iter().all(Option::is_some), "acknowledged writes are lost");
        }
        let own: u64 = text(&node, &format!("own/{writer}")).unwrap().parse().unwrap();
        let acknowledged: u64 = log.acknowledged[log.acknowledged.len() - 1].1.parse().unwrap();
        assert!(own >= acknowledged, "a write has come after one that was asked for later");
    }
    let acknowledged: usize = logs.iter().map(|log| log.acknowledged.len() / 2).sum();
    let (gap, failed) =
        (logs.iter().map(|log| log.gap).max(), logs.iter().map(|log| log.failed).sum::<usize>());
    println!(
        "{what}: {acknowledged} writes, {failed} failed, longest gap {} ms",
        gap.unwrap_or_default().as_millis()
    );
}

#[test]
fn a_leader_that_is_killed_takes_no_acknowledged_write_along() {
    under_load("leader killed", |etcds| {
        let leader = etcds.leader();
        etcds.kill(leader);
    });
}

#[test]
fn a_leader_that_freezes_takes_no_acknowledged_write_along() {
    under_load("leader frozen", |etcds| {
        let leader = etcds.leader();
        etcds.freeze(leader);
        thread::sleep(Duration::from_millis(2500));
        etcds.thaw(leader);
    });
}
