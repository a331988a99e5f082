//! Ctrl-C and its kin.
//!
//! The first signal lets everything that waits fail, so that the program goes back the way it came and each value
//! ends what it started and removes what it wrote. A second signal ends the process at once; the nodes end with it.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use signal_hook::consts::signal::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::failure::Failure;

/// A signal so soon after the first is the same one again: some programs signal both a process and its group.
const ECHO: Duration = Duration::from_millis(500);

static SIGNAL: AtomicU8 = AtomicU8::new(0);
static ALARMS: Mutex<Alarms> = Mutex::new(Alarms { next: 0, actions: BTreeMap::new() });

struct Alarms {
    next: u64,
    actions: BTreeMap<u64, Box<dyn Fn() + Send>>,
}

/// Begins to watch for SIGINT, SIGTERM and SIGHUP.
pub fn watch() -> io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    thread::Builder::new().name("signals".into()).spawn(move || {
        let mut first: Option<Instant> = None;
        for number in signals.forever() {
            match first {
                None => {
                    first = Some(Instant::now());
                    SIGNAL.store(number as u8, Ordering::SeqCst);
                    alarms().actions.values().for_each(|action| action());
                }
                Some(first) if first.elapsed() >= ECHO => std::process::exit(128 + number),
                Some(_) => {}
            }
        }
    })?;
    Ok(())
}

/// The signal that arrived, if one did.
pub fn signal() -> Option<u8> {
    Some(SIGNAL.load(Ordering::SeqCst)).filter(|&number| number != 0)
}

/// Fails once a signal has arrived.
pub fn check() -> Result<(), Failure> {
    if signal().is_some() { Err(Failure::Interrupted) } else { Ok(()) }
}

/// Lets what waits go when a signal arrives, until it is dropped.
pub struct Alarm {
    number: u64,
}

impl Alarm {
    /// Has a signal do `action`, at once if one has arrived already.
    pub fn set(action: impl Fn() + Send + 'static) -> Self {
        let mut alarms = alarms();
        // Under the lock: a signal that comes later finds the action in the list.
        if signal().is_some() {
            action();
        }
        alarms.next += 1;
        let number = alarms.next;
        alarms.actions.insert(number, Box::new(action));
        Self { number }
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        alarms().actions.remove(&self.number);
    }
}

fn alarms() -> MutexGuard<'static, Alarms> {
    ALARMS.lock().unwrap_or_else(PoisonError::into_inner)
}
