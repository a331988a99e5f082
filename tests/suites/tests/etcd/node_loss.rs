//! Nodes that die under load, and etcd's leader: what was acknowledged stays, and the others go on.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use client::kv::PutValue;
use flow::wire::session::FailureCode;
use suites::{Cluster, Etcds, Node, Shoal, assert_same_tree, holds, noise, shoal, until, write_noise};

/// How long the load goes on before it is disturbed, and after.
const BEFORE: Duration = Duration::from_millis(700);
const AFTER: Duration = Duration::from_millis(4000);
/// Bytes of each file: two pieces.
const FILE_SIZE: usize = 2 << 20;

/// What a writer has seen.
#[derive(Default)]
struct Log {
    acknowledged: Vec<String>,
    failed: usize,
    /// The longest time between two acknowledgements.
    gap: Duration,
}

impl Log {
    fn note(&mut self, last: &mut Instant, key: String, done: bool) {
        if done {
            self.acknowledged.push(key);
            self.gap = self.gap.max(last.elapsed());
            *last = Instant::now();
        } else {
            self.failed += 1;
        }
    }
}

/// Puts values until it is told to stop. What fails, fails because the catalog is away.
fn values(node: &Node, name: &str, stop: &AtomicBool) -> Log {
    let (mut log, mut last, client) = (Log::default(), Instant::now(), node.client());
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let key = format!("{name}/{number}");
        let put = client.kv().put(&key, key.as_bytes(), &PutValue::default());
        if let Err(error) = &put {
            assert_eq!(error.code(), Some(FailureCode::Unavailable), "{error}");
        }
        log.note(&mut last, key, put.is_ok());
    }
    log
}

/// Puts files until it is told to stop; their names say what is in them.
fn files(node: &Node, name: &str, stop: &AtomicBool) -> Log {
    let (mut log, mut last) = (Log::default(), Instant::now());
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let key = format!("{name}/{number}");
        let bytes = std::io::Cursor::new(content(&key));
        let put = Shoal::at(node).args(["put", &key, "--src", "-"]).input(bytes).run();
        assert!(matches!(put.code, Some(0 | 4)), "{}", put.error());
        log.note(&mut last, key, put.code == Some(0));
    }
    log
}

fn content(key: &str) -> Vec<u8> {
    let seed = key.bytes().fold(0_u64, |seed, byte| seed.wrapping_mul(31).wrapping_add(byte.into()));
    noise(seed, FILE_SIZE)
}

#[track_caller]
fn assert_values(node: &Node, logs: &[Log]) {
    let client = node.client();
    for key in logs.iter().flat_map(|log| &log.acknowledged) {
        let found = until("a value is read", || client.kv().get(key).ok());
        assert!(found.is_some(), "acknowledged value {key} is lost");
    }
}

#[track_caller]
fn assert_files(node: &Node, log: &Log) {
    for key in &log.acknowledged {
        let found = shoal(node, ["get", key, "--dest", "-"]).success();
        assert!(found.stdout == content(key), "file {key} has other bytes");
    }
}

#[test]
fn any_node_may_die_under_load() {
    let Some(etcds) = Etcds::start(3) else { return };
    let mut cluster = Cluster::start_on(&etcds, 3, |setup| setup.memory("128MB"));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    write_noise(&file, 1, 9 << 20);
    Shoal::at(&cluster.nodes[0]).args(["put", "everywhere", "--src"]).arg(&file).run().success();
    for node in &cluster.nodes {
        shoal(node, ["get", "everywhere", "--dest", "-"]).success();
    }
    for victim in 0..3 {
        let mut fallen = None;
        let stop = AtomicBool::new(false);
        let logs: Vec<Log> = thread::scope(|scope| {
            let (doomed, survivors): (Vec<_>, Vec<_>) =
                cluster.nodes.iter_mut().enumerate().partition(|(at, _)| *at == victim);
            let survivors: Vec<&Node> = survivors.into_iter().map(|(_, node)| &*node).collect();
            let (_, doomed) = doomed.into_iter().next().unwrap();
            let stop = &stop;
            let load = |node: &'_ Node, name: String| values(node, &name, stop);
            let writers: Vec<_> = survivors
                .iter()
                .map(|&node| {
                    let name = format!("v{victim}/{}", node.name());
                    scope.spawn(move || load(node, name))
                })
                .collect();
            let writing_files = scope.spawn({
                let (node, name) = (survivors[0], format!("f{victim}"));
                move || files(node, &name, stop)
            });
            let client = doomed.client();
            let its_own = scope.spawn(move || {
                let mut acknowledged = Vec::new();
                for number in 0.. {
                    let key = format!("v{victim}/doomed/{number}");
                    match client.kv().put(&key, key.as_bytes(), &PutValue::default()) {
                        Ok(_) => acknowledged.push(key),
                        Err(_) => break,
                    }
                }
                Log { acknowledged, ..Log::default() }
            });
            thread::sleep(BEFORE);
            doomed.kill();
            fallen = Some(its_own.join().unwrap());
            thread::sleep(AFTER);
            stop.store(true, Ordering::Relaxed);
            let mut logs: Vec<Log> = writers.into_iter().map(|writer| writer.join().unwrap()).collect();
            logs.push(writing_files.join().unwrap());
            logs
        });
        let others: Vec<usize> = (0..3).filter(|&at| at != victim).collect();
        let survivor = &cluster.nodes[others[1]];
        let [first, second, filed] = &logs[..] else { panic!("three writers") };
        let fallen = fallen.unwrap();
        println!(
            "node {} killed: {} values by the others ({} failed, longest gap {} ms), {} files ({} failed), {} values by \
             itself before",
            victim + 1,
            first.acknowledged.len() + second.acknowledged.len(),
            first.failed + second.failed,
            first.gap.max(second.gap).as_millis(),
            filed.acknowledged.len(),
            filed.failed,
            fallen.acknowledged.len(),
        );
        assert!(
            !first.acknowledged.is_empty()
                && !second.acknowledged.is_empty()
                && !fallen.acknowledged.is_empty()
        );
        assert_files(survivor, filed);
        assert_values(survivor, &logs[..2]);
        assert_values(survivor, &[fallen]);
        shoal(survivor, ["get", "everywhere", "--consistency", "quorum", "--dest", "-"]).success();
        cluster.nodes[victim].restart();
        cluster.wait_until_all_know(3);
        let copy = folder.path().join(format!("copy-{victim}"));
        Shoal::at(&cluster.nodes[victim]).args(["get", "everywhere", "--dest"]).arg(&copy).run().success();
        assert_same_tree(&file, &copy);
    }
}

#[test]
fn the_leader_of_etcd_may_die_while_nodes_write() {
    let Some(mut etcds) = Etcds::start(3) else { return };
    let cluster = Cluster::start_on(&etcds, 3, |setup| setup.memory("256MB"));
    let stop = AtomicBool::new(false);
    let logs: Vec<Log> = thread::scope(|scope| {
        let stop = &stop;
        let mut writers: Vec<_> = cluster
            .nodes
            .iter()
            .map(|node| scope.spawn(move || values(node, &format!("v/{}", node.name()), stop)))
            .collect();
        let node = &cluster.nodes[0];
        writers.push(scope.spawn(move || files(node, "f", stop)));
        thread::sleep(BEFORE);
        let leader = etcds.leader();
        etcds.kill(leader);
        thread::sleep(AFTER);
        stop.store(true, Ordering::Relaxed);
        writers.into_iter().map(|writer| writer.join().unwrap()).collect()
    });
    let (values, filed) = logs.split_at(3);
    println!(
        "leader of etcd killed: {} values ({} failed, longest gap {} ms), {} files ({} failed, longest gap {} ms)",
        values.iter().map(|log| log.acknowledged.len()).sum::<usize>(),
        values.iter().map(|log| log.failed).sum::<usize>(),
        values.iter().map(|log| log.gap).max().unwrap().as_millis(),
        filed[0].acknowledged.len(),
        filed[0].failed,
        filed[0].gap.as_millis(),
    );
    assert!(logs.iter().all(|log| !log.acknowledged.is_empty()));
    assert_values(&cluster.nodes[2], values);
    assert_files(&cluster.nodes[1], &filed[0]);
    holds("the nodes are all there", || {
        cluster.nodes.iter().all(|node| {
            node.client().nodes().is_ok_and(|listing| {
                listing
                    .nodes
                    .iter()
                    .filter(|node| node.state == flow::wire::control::NodeState::Alive)
                    .count()
                    == 3
            })
        })
    });
}
