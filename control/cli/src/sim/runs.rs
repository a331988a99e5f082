//! Many runs, on as many threads as wanted.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use indicatif::ProgressBar;
use sim::{Outcome, Scenario};

use crate::failure::Failure;
use crate::{interrupt, progress};

/// Time between two looks at whether a signal has arrived.
const LOOK: Duration = Duration::from_millis(100);

/// Simulates everything, with a bar that counts the runs. A signal ends it at once.
pub fn simulate_all(
    scenarios: &[Vec<Scenario>],
    jobs: usize,
    draws: bool,
) -> Result<Vec<Vec<Outcome>>, Failure> {
    let flat: Arc<[Scenario]> = scenarios.iter().flatten().cloned().collect();
    let bar = ProgressBar::with_draw_target(Some(flat.len() as u64), progress::target(draws));
    bar.set_style(progress::style("simulate {wide_bar} run {pos} of {len}, {elapsed} so far, {eta} left"));
    bar.enable_steady_tick(Duration::from_millis(250));
    let mut outcomes: Vec<Option<Outcome>> = (0..flat.len()).map(|_| None).collect();
    let (sender, results) = mpsc::channel();
    let workers = Workers { next: Arc::default(), given_up: Arc::default() };
    for _ in 0..jobs.min(flat.len()) {
        workers.start(flat.clone(), sender.clone());
    }
    drop(sender);
    loop {
        interrupt::check()?;
        match results.recv_timeout(LOOK) {
            Ok((at, outcome)) => {
                outcomes[at] = Some(outcome.map_err(Failure::from)?);
                bar.inc(1);
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
        }
    }
    bar.finish_and_clear();
    let mut outcomes = outcomes.into_iter();
    let of_strategy = |runs: &Vec<Scenario>| outcomes.by_ref().take(runs.len()).collect::<Option<Vec<_>>>();
    let outcomes: Option<Vec<Vec<Outcome>>> = scenarios.iter().map(of_strategy).collect();
    outcomes.ok_or(Failure::SimulationLost)
}

/// The threads that simulate. They take no further run once this is dropped; what they are at, the end of the process ends.
struct Workers {
    next: Arc<AtomicUsize>,
    given_up: Arc<AtomicBool>,
}

type Finished = (usize, Result<Outcome, sim::Failure>);

impl Workers {
    fn start(&self, scenarios: Arc<[Scenario]>, results: mpsc::Sender<Finished>) {
        let (next, given_up) = (self.next.clone(), self.given_up.clone());
        thread::spawn(move || {
            while !given_up.load(Ordering::Relaxed) {
                let at = next.fetch_add(1, Ordering::Relaxed);
                let Some(scenario) = scenarios.get(at) else { return };
                if results.send((at, sim::simulate(scenario))).is_err() {
                    return;
                }
            }
        });
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.given_up.store(true, Ordering::Relaxed);
    }
}
