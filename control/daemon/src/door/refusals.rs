//! How often refused connections are told, so that strangers cannot fill the log.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Refusals that are told one by one when none was told lately.
const BURST: u32 = 8;
/// Time after which one more is told.
const PAUSE: Duration = Duration::from_secs(1);

/// The refusals of one node.
#[derive(Debug, Default)]
pub(super) struct Refusals(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// When all that were told will be forgotten.
    told_until: Option<Instant>,
    /// Those that were not told and of which the number is yet to be.
    untold: u64,
}

/// What is done about one refusal.
#[derive(Debug, PartialEq, Eq)]
enum Telling {
    Told,
    /// It is counted, and the first since the count was told last.
    CountedFirst,
    Counted,
}

impl Refusals {
    /// Tells of a refused connection, or counts it; the count is told a little later.
    pub(super) fn tell(self: &Arc<Self>, peer: &str, reason: &str) {
        match self.note(Instant::now()) {
            Telling::Told => tracing::warn!(peer, reason, "a connection was refused"),
            Telling::Counted => {}
            Telling::CountedFirst => {
                let refusals = self.clone();
                tokio::spawn(async move {
                    tokio::time::sleep(PAUSE).await;
                    let count = std::mem::take(&mut refusals.lock().untold);
                    tracing::warn!(count, "more connections were refused");
                });
            }
        }
    }

    fn note(&self, now: Instant) -> Telling {
        let mut state = self.lock();
        let told_until = state.told_until.unwrap_or(now).max(now);
        if told_until + PAUSE <= now + PAUSE * BURST {
            state.told_until = Some(told_until + PAUSE);
            return Telling::Told;
        }
        state.untold += 1;
        if state.untold == 1 { Telling::CountedFirst } else { Telling::Counted }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_are_told_and_then_one_each_second() {
        let (refusals, start) = (Refusals::default(), Instant::now());
        let at = |seconds: u32| refusals.note(start + PAUSE * seconds);
        (0..BURST).for_each(|_| assert_eq!(at(0), Telling::Told));
        assert_eq!(at(0), Telling::CountedFirst);
        (0..1000).for_each(|_| assert_eq!(at(0), Telling::Counted));
        assert_eq!((at(1), at(1)), (Telling::Told, Telling::Counted));
        (0..BURST).for_each(|_| assert_eq!(at(100), Telling::Told));
        assert_eq!(at(100), Telling::Counted);
    }

    #[test]
    fn what_was_counted_is_told_once() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        runtime.unwrap().block_on(async {
            let refusals = Arc::new(Refusals::default());
            (0..50).for_each(|_| refusals.tell("a peer", "a reason"));
            assert_eq!(refusals.lock().untold, 50 - u64::from(BURST));
            tokio::time::sleep(PAUSE * 2).await;
            assert_eq!(refusals.lock().untold, 0);
        });
    }
}
