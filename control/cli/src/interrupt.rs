//! Ctrl-C and its kin.
//!
//! The first signal closes all connections, so that what waits for a node fails, cleans up after itself and
//! returns; the command then exits with 128 + signal. A second signal, or ten seconds, end the process at once.

use std::io;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use client::Client;
use signal_hook::consts::signal;
use signal_hook::iterator::Signals;

use crate::failure::Failure;

/// The number of the signal that Ctrl-C sends.
pub const SIGINT: u8 = signal::SIGINT as u8;

/// How long a command may take to clean up.
const CLEAN_UP_LIMIT: Duration = Duration::from_secs(10);

/// A signal so soon after the first is the same one again: `timeout` sends each to the process and to its group.
const ECHO: Duration = Duration::from_millis(500);

static SIGNAL: AtomicU8 = AtomicU8::new(0);
static CLIENTS: Mutex<Vec<Weak<Client>>> = Mutex::new(Vec::new());

/// Begins to watch for SIGINT, SIGTERM and SIGHUP.
pub fn watch() -> io::Result<()> {
    let mut signals = Signals::new([signal::SIGINT, signal::SIGTERM, signal::SIGHUP])?;
    thread::Builder::new().name("signals".into()).spawn(move || {
        let mut first: Option<Instant> = None;
        for number in signals.forever() {
            if let Some(first) = first {
                if first.elapsed() >= ECHO {
                    std::process::exit(128 + number);
                }
                continue;
            }
            first = Some(Instant::now());
            SIGNAL.store(number as u8, Ordering::SeqCst);
            close_all();
            thread::spawn(move || {
                thread::sleep(CLEAN_UP_LIMIT);
                std::process::exit(128 + number);
            });
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

/// Has a signal close this connection.
pub fn closes(client: &Arc<Client>) {
    let mut clients = CLIENTS.lock().unwrap_or_else(PoisonError::into_inner);
    clients.retain(|client| client.strong_count() > 0);
    clients.push(Arc::downgrade(client));
    drop(clients);
    // A signal between connecting and this call has seen an older list.
    if signal().is_some() {
        client.cancel();
    }
}

fn close_all() {
    let clients = CLIENTS.lock().unwrap_or_else(PoisonError::into_inner);
    clients.iter().filter_map(Weak::upgrade).for_each(|client| client.cancel());
}
