//! Conditions that come true after a while.

use std::thread;
use std::time::{Duration, Instant};

/// Longest wait. Machines that run several suites at once are slow, and a test that passes does not wait so long.
const LIMIT: Duration = Duration::from_secs(60);
/// Time between two looks.
const TICK: Duration = Duration::from_millis(20);

/// Asks again and again until there is an answer, and gives it. Panics with `what` after a minute without one.
pub fn until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(begin.elapsed() < LIMIT, "after {} s still not: {what}", LIMIT.as_secs());
        thread::sleep(TICK);
    }
}

/// Looks again and again until `condition` holds. Panics with `what` after a minute.
pub fn holds(what: &str, mut condition: impl FnMut() -> bool) {
    until(what, || condition().then_some(()));
}
