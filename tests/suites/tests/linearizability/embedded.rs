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
        // Threads may happen to take turns such that what is broken does not show in a history.
        let shows = |&seed: &u64| {
            let broken = Broken::new(&catalog, defect, seed);
            Workload::new(CALLS, seed).record(&format!("{defect:?}/"), &broken).check().is_err()
        };
        let noticed = (0..runs(3)).filter(shows).count() as u64;
        println!("{defect:?}: noticed in {noticed} of {} histories", runs(3));
        assert!(2 * noticed > runs(3), "{defect:?} is noticed in {noticed} histories");
    }
}
