//! Many small things in a few threads.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::thread;

/// Does the things `0..count` in up to `threads` threads, this one included. After a failure no more are begun, those
/// that run may look at the flag, and the first error is returned.
pub(crate) fn in_parallel<E, F>(threads: usize, count: usize, work: F) -> Result<(), E>
where
    E: Send,
    F: Fn(usize, &AtomicBool) -> Result<(), E> + Sync,
{
    let (next, stopped, failure) = (AtomicUsize::new(0), AtomicBool::new(false), Mutex::new(None));
    let run = || {
        while !stopped.load(Ordering::Acquire) {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= count {
                break;
            }
            if let Err(error) = work(number, &stopped) {
                stopped.store(true, Ordering::Release);
                failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
            }
        }
    };
    thread::scope(|scope| {
        for _ in 1..threads.min(processors()).min(count) {
            scope.spawn(run);
        }
        run();
    });
    failure.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
}

/// Processors that this process may use. Asking costs the reading of several files.
pub(crate) fn processors() -> usize {
    static PROCESSORS: LazyLock<usize> =
        LazyLock::new(|| thread::available_parallelism().map_or(1, usize::from));
    *PROCESSORS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_done_once() {
        let done: Vec<_> = (0..100).map(|_| AtomicUsize::new(0)).collect();
        let result = in_parallel(4, done.len(), |number, _| {
            done[number].fetch_add(1, Ordering::Relaxed);
            Ok::<(), ()>(())
        });
        assert_eq!(result, Ok(()));
        assert!(done.iter().all(|count| count.load(Ordering::Relaxed) == 1));
    }

    #[test]
    fn a_failure_ends_it() {
        assert_eq!(
            in_parallel(4, 1000, |number, _| if number < 7 { Ok(()) } else { Err("seven") }),
            Err("seven")
        );
    }
}
