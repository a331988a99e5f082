//! The embedded engine killed in the middle of group commits, again and again on the same directory.
//!
//! Writers in a process of their own each put a pair of keys in one write, and say so when it is acknowledged. After
//! SIGKILL no acknowledged write may be missing, none half there, and none twice or out of order among the changes.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use catalog::{Catalog, ChangeKind, Consistency, Embedded, Selector, Start, Write};
use suites::catalog::{next, put, run, text};

const ROUNDS: usize = 100;
const WRITERS: usize = 8;
/// Where the process that is to be killed finds its catalog.
const DIRECTORY: &str = "SHOAL_TEST_CRASH_DIRECTORY";

fn pair(writer: usize) -> [String; 2] {
    [format!("w/{writer}/a"), format!("w/{writer}/b")]
}

/// The numbers that the writers' pairs have.
async fn numbers(catalog: &Embedded) -> Vec<u64> {
    let mut numbers = Vec::new();
    for writer in 0..WRITERS {
        let found = catalog.get(&pair(writer), Consistency::Quorum).await.unwrap().entries;
        let [a, b] =
            [&found[0], &found[1]].map(|entry| entry.as_ref().map(|entry| (text(entry), entry.revision)));
        assert_eq!(a, b, "a write is half there");
        numbers.push(a.map_or(0, |(number, _)| number.parse().unwrap()));
    }
    numbers
}

/// What the other test runs in a process of its own; alone it has nothing to do.
#[test]
fn writes_until_it_is_killed() {
    let Some(directory) = std::env::var_os(DIRECTORY) else { return };
    let catalog = Embedded::open(Path::new(&directory)).unwrap();
    let began = run(numbers(&catalog));
    thread::scope(|scope| {
        for (writer, began) in began.into_iter().enumerate() {
            let catalog = &catalog;
            scope.spawn(move || {
                for number in began + 1.. {
                    let operations = pair(writer).iter().map(|key| put(key, &number.to_string())).collect();
                    let write = catalog.write(Write { conditions: Vec::new(), operations });
                    let revision = run(write).unwrap().revision;
                    // On a line of its own, since the harness may have begun one.
                    let line = format!("\n{writer} {number} {revision}\n");
                    if std::io::stdout().write_all(line.as_bytes()).is_err() {
                        return;
                    }
                }
            });
        }
    });
}

/// Runs the writers and kills them a while after their first acknowledgement; what was acknowledged: writer, number,
/// revision.
fn one_life(directory: &Path, life: Duration) -> Vec<[u64; 3]> {
    let mut writers = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "crash::writes_until_it_is_killed", "--nocapture", "--test-threads=1"])
        .env(DIRECTORY, directory)
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(writers.stdout.take().unwrap()).split(b'\n').map(Result::unwrap);
    let acknowledged = |line: Vec<u8>| {
        let numbers: Vec<u64> =
            std::str::from_utf8(&line).ok()?.split(' ').map_while(|word| word.parse().ok()).collect();
        <[u64; 3]>::try_from(numbers).ok()
    };
    let first = lines.find_map(acknowledged).expect("the writers have ended by themselves");
    thread::sleep(life);
    writers.kill().unwrap();
    writers.wait().unwrap();
    std::iter::once(first).chain(lines.filter_map(acknowledged)).collect()
}

#[test]
fn nothing_acknowledged_is_lost_by_kills_during_group_commits() {
    let directory = tempfile::tempdir().unwrap();
    let mut random = fastrand::Rng::with_seed(41);
    let mut numbers_before = vec![0; WRITERS];
    let mut revision_before = 0;
    for round in 0..ROUNDS {
        let acknowledged = one_life(directory.path(), Duration::from_millis(random.u64(0..25)));
        let catalog = Embedded::open(directory.path()).unwrap();
        let found = run(numbers(&catalog));
        let mut last = numbers_before.clone();
        let mut revisions = BTreeMap::new();
        for [writer, number, revision] in acknowledged {
            let writer = writer as usize;
            assert_eq!(number, last[writer] + 1, "round {round}: writer {writer} skipped a number");
            last[writer] = number;
            assert_eq!(revisions.insert(revision, (writer, number)), None);
        }
        for (writer, (&found, last)) in found.iter().zip(last).enumerate() {
            // One write of each may have been under way.
            assert!(
                (last..=last + 1).contains(&found),
                "round {round}: writer {writer} has {found} after {last}"
            );
        }
        revision_before = run(check_changes(&catalog, revision_before, &numbers_before, &found, &revisions));
        numbers_before = found;
    }
    assert!(numbers_before.iter().sum::<u64>() > ROUNDS as u64);
}

/// Follows the changes since the last round; the last revision.
async fn check_changes(
    catalog: &Embedded,
    after: u64,
    before: &[u64],
    found: &[u64],
    acknowledged: &BTreeMap<u64, (usize, u64)>,
) -> u64 {
    let mut stream = catalog.changes(Start::After(after), Selector::Prefix("w/".into())).await.unwrap();
    let mut last = before.to_vec();
    let end = after + found.iter().zip(before).map(|(found, before)| found - before).sum::<u64>();
    for revision in after + 1..=end {
        let changes = next(&mut stream).await;
        let keys: Vec<String> = changes.iter().map(|change| change.key.clone()).collect();
        let writer = (0..WRITERS).find(|&writer| pair(writer) == *keys).expect("a change of no pair");
        last[writer] += 1;
        for change in changes {
            assert_eq!(change.revision, revision);
            let ChangeKind::Put(entry) = change.kind else { panic!("nothing but puts was written") };
            assert_eq!(text(&entry), last[writer].to_string());
        }
        if let Some(said) = acknowledged.get(&revision) {
            assert_eq!(*said, (writer, last[writer]));
        }
    }
    assert_eq!(last, found);
    assert!(acknowledged.keys().all(|revision| (after + 1..=end).contains(revision)));
    assert_eq!(stream.position(), end);
    end
}
