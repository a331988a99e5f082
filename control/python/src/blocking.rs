//! Calls that wait, without the interpreter's lock.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use client::{Client, ClientError};
use pyo3::prelude::*;

use crate::error;

/// How often a call that waits looks whether it was interrupted.
const LOOK: Duration = Duration::from_millis(50);

/// When a call must be over.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadline(Option<Instant>);

impl Deadline {
    /// So many seconds from now; never when absent.
    pub(crate) fn after(seconds: Option<f64>) -> Self {
        let time =
            seconds.map(|seconds| Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX));
        Self(time.and_then(|time| Instant::now().checked_add(time)))
    }

    fn left(self) -> Duration {
        self.0.map_or(LOOK, |at| at.saturating_duration_since(Instant::now()).min(LOOK))
    }

    fn is_over(self) -> bool {
        self.0.is_some_and(|at| Instant::now() >= at)
    }
}

/// What became of a wait for a thread.
enum Waited<T> {
    Done(T),
    Late,
    Interrupted(PyErr),
}

/// Runs `work`, which uses `client` alone and waits for nothing else, on this thread. When it takes too long, or a signal's
/// handler raises, the client is cancelled, which ends the work.
pub(crate) fn run_here<T: Send>(
    py: Python<'_>,
    client: &Arc<Client>,
    deadline: Deadline,
    work: impl FnOnce() -> Result<T, ClientError> + Send,
) -> PyResult<T> {
    py.detach(|| {
        let stopped = Rc::new(RefCell::new(None));
        let look = {
            let (stopped, client) = (stopped.clone(), client.clone());
            move || {
                let why = Python::attach(|py| py.check_signals()).map_err(Stopped::Interrupted).err();
                let why = why.or_else(|| deadline.is_over().then_some(Stopped::Late));
                if let Some(why) = why {
                    stopped.borrow_mut().get_or_insert(why);
                    client.cancel();
                }
                deadline.left()
            }
        };
        let outcome = client::looking(deadline.left(), Rc::new(look), work);
        match (stopped.take(), outcome) {
            (Some(Stopped::Interrupted(raised)), _) => Err(raised),
            (Some(Stopped::Late), Err(_)) => Err(error::late()),
            // It may have been done before it was cancelled.
            (_, outcome) => outcome.map_err(|failed| error::raise(&failed)),
        }
    })
}

/// Why a call was cancelled.
enum Stopped {
    Late,
    Interrupted(PyErr),
}

/// Runs `work`, which uses `client` alone, in a thread. When it takes too long, or a signal's handler raises, the client
/// is cancelled, which ends the work.
pub(crate) fn run<T: Send>(
    py: Python<'_>,
    client: &Arc<Client>,
    deadline: Deadline,
    work: impl FnOnce() -> Result<T, ClientError> + Send,
) -> PyResult<T> {
    py.detach(|| {
        thread::scope(|scope| {
            let (sender, receiver) = channel();
            scope.spawn(move || {
                // It is received, unless the receiver panicked.
                let _ = sender.send(work());
            });
            let mut waited = wait(&receiver, deadline);
            if !matches!(waited, Waited::Done(_)) {
                client.cancel();
                // Now it ends, and may have been done before it was cancelled.
                if let (Waited::Late, Ok(outcome @ Ok(_))) = (&waited, receiver.recv()) {
                    waited = Waited::Done(outcome);
                }
            }
            match waited {
                Waited::Done(outcome) => outcome.map_err(|failed| error::raise(&failed)),
                Waited::Late => Err(error::late()),
                Waited::Interrupted(raised) => Err(raised),
            }
        })
    })
}

/// Connects, which takes a while to give up by itself; a caller who does not wait for that leaves it to its end.
pub(crate) fn connect(
    py: Python<'_>,
    deadline: Deadline,
    work: impl FnOnce() -> Result<Client, ClientError> + Send + 'static,
) -> PyResult<Client> {
    py.detach(|| {
        let (sender, receiver) = channel();
        thread::spawn(move || drop(sender.send(work())));
        match wait(&receiver, deadline) {
            Waited::Done(outcome) => outcome.map_err(|failed| error::raise(&failed)),
            Waited::Late => Err(error::late()),
            Waited::Interrupted(raised) => Err(raised),
        }
    })
}

/// Waits for one thing, looking for signals meanwhile; it must be called without the interpreter's lock.
fn wait<T>(
    receiver: &Receiver<Result<T, ClientError>>,
    deadline: Deadline,
) -> Waited<Result<T, ClientError>> {
    loop {
        match receiver.recv_timeout(deadline.left()) {
            Ok(outcome) => return Waited::Done(outcome),
            // The sender is gone only when its thread panicked, which the scope passes on.
            Err(RecvTimeoutError::Disconnected) => return Waited::Late,
            Err(RecvTimeoutError::Timeout) => {}
        }
        if let Err(raised) = Python::attach(|py| py.check_signals()) {
            return Waited::Interrupted(raised);
        }
        if deadline.is_over() {
            return Waited::Late;
        }
    }
}

/// Waits for the next thing that a channel behind a mutex brings; `None` when the time is over, or nothing comes any more.
pub(crate) fn next<T: Send>(
    py: Python<'_>,
    receiver: &Mutex<Receiver<T>>,
    deadline: Deadline,
) -> PyResult<Option<T>> {
    loop {
        let received = py.detach(|| {
            let receiver = receiver.lock().unwrap_or_else(PoisonError::into_inner);
            receiver.recv_timeout(deadline.left())
        });
        match received {
            Ok(next) => return Ok(Some(next)),
            Err(RecvTimeoutError::Disconnected) => return Ok(None),
            Err(RecvTimeoutError::Timeout) if deadline.is_over() => return Ok(None),
            Err(RecvTimeoutError::Timeout) => py.check_signals()?,
        }
    }
}
