//! The engine in this process, whole and broken.

use catalog::Embedded;
use suites::linearizability::{Broken, Defect, Workload, runs};

use super::{CALLS, Tally};

#[test]
fn histories_of_the_embedded_engine_are_linearizable() {
    let directory = tempfile::tempdir().unwrap();
    let catalog = Embedded::open(directory.path()).unwrap();
    let mut tally = Tally::default();
    for seed in 0..runs(5) {
        tally.check(seed, &Workload::new(CALLS, seed).record("embedded/", &catalog));
    }
    println!("{tally:?}");
    assert!(tally.written > 0 && tally.answered > tally.written && tally.unknown == 0);
}

#[test]
fn a_broken_engine_is_caught() {
    let directory = tempfile::tempdir().unwrap();
    let catalog = Embedded::open(directory.path()).unwrap();
    let defects =
        [Defect::StaleReads, Defect::EarlyAcknowledgements, Defect::LostWrites, Defect::ForgottenConditions];
    for defect in defects {
        for seed in 0..runs(3) {
            let broken = Broken::new(&catalog, defect, seed);
            let history = Workload::new(CALLS, seed).record(&format!("{defect:?}/"), &broken);
            assert!(history.check().is_err(), "{defect:?} is not noticed in history {seed}");
        }
    }
}
