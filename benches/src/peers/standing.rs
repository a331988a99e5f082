//! Programs that stay up between rounds and are told what to do.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::program;
use crate::descendants::{descendants, kill_with_descendants};
use crate::failure::Failure;
use crate::interrupt;

/// How long a program may take to end what it started.
const END_LIMIT: Duration = Duration::from_secs(10);
/// Time between two looks at whether a signal has arrived.
const TICK: Duration = Duration::from_millis(20);
/// Bytes of errors that are kept; the latest are.
const ERRORS_KEPT: usize = 64 << 10;

/// A program that is given orders on standard input, a line each, and answers each with a line: `ok`, and perhaps more,
/// or `failed` and why. It ends, with all that it started, when standard input does; dropping this closes it.
pub struct Standing {
    name: String,
    child: Child,
    orders: Option<ChildStdin>,
    answers: Receiver<String>,
    errors: Arc<Mutex<Vec<u8>>>,
}

impl Standing {
    /// Starts it, and waits for the line with which it says that it is ready for orders.
    pub fn start(name: &str, command: &mut Command, limit: Duration) -> Result<Self, Failure> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // A group of its own keeps Ctrl-C from it: it ends when its input does.
        command.process_group(0);
        let mut child = command.spawn().map_err(Failure::system(format!("run {name}")))?;
        let orders = child.stdin.take();
        let (said, answers) = channel();
        if let Some(output) = child.stdout.take() {
            thread::spawn(move || {
                BufReader::new(output).lines().map_while(Result::ok).try_for_each(|line| said.send(line))
            });
        }
        let errors = Arc::new(Mutex::new(Vec::new()));
        if let Some(stream) = child.stderr.take() {
            let kept = errors.clone();
            thread::spawn(move || keep_last(stream, &kept));
        }
        let standing = Self { name: name.to_owned(), child, orders, answers, errors };
        standing.answer("start", limit)?;
        Ok(standing)
    }

    /// Numbers of its process and of all that come from it.
    pub fn processes(&self) -> Vec<u32> {
        [self.child.id()].into_iter().chain(descendants(self.child.id())).collect()
    }

    /// Gives it an order, and waits for what it has to say to that beyond `ok`.
    pub fn order(&mut self, order: &str, limit: Duration) -> Result<String, Failure> {
        if let Some(orders) = &mut self.orders {
            // Whether it hears at all shows in its answer.
            let _ = writeln!(orders, "{order}");
        }
        self.answer(order, limit)
    }

    /// A failure of this program.
    pub fn failure(&self, what: String) -> Failure {
        let errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
        let output = program::tail(&String::from_utf8_lossy(&errors));
        Failure::Peer { program: self.name.clone(), what, output }
    }

    fn answer(&self, order: &str, limit: Duration) -> Result<String, Failure> {
        let begin = Instant::now();
        loop {
            interrupt::check()?;
            match self.answers.recv_timeout(TICK) {
                Ok(line) => {
                    let (word, rest) = line.split_once(' ').unwrap_or((&line, ""));
                    return match word {
                        "ok" => Ok(rest.to_owned()),
                        "failed" => {
                            let what = format!("failed at '{order}': {rest}");
                            Err(Failure::Peer { program: self.name.clone(), what, output: String::new() })
                        }
                        _ => Err(self.failure(format!("answers '{order}' with '{line}'"))),
                    };
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(self.failure(format!("ended at '{order}'")));
                }
                Err(RecvTimeoutError::Timeout) if begin.elapsed() > limit => {
                    let what = format!("did not answer '{order}' within {} s", limit.as_secs());
                    return Err(self.failure(what));
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }
}

impl Drop for Standing {
    fn drop(&mut self) {
        self.orders = None;
        let begin = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) && begin.elapsed() < END_LIMIT {
            thread::sleep(TICK);
        }
        if matches!(self.child.try_wait(), Ok(None)) {
            kill_with_descendants(self.child.id());
            // This fails only when it has ended already.
            let _ = self.child.wait();
        }
    }
}

/// Reads to the end and keeps the last of it.
fn keep_last(mut stream: impl Read, kept: &Mutex<Vec<u8>>) {
    let mut step = [0; 4096];
    while let Ok(length @ 1..) = stream.read(&mut step) {
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.extend_from_slice(&step[..length]);
        let excess = kept.len().saturating_sub(ERRORS_KEPT);
        kept.drain(..excess);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);

    fn shell(script: &str) -> Result<Standing, Failure> {
        Standing::start("sh", Command::new("sh").args(["-c", script]), LIMIT)
    }

    #[test]
    fn orders_are_answered() {
        let mut standing = shell("echo ok; while read order; do echo ok $order 7; done").unwrap();
        assert_eq!(standing.order("run", LIMIT).unwrap(), "run 7");
        assert_eq!(standing.processes().len(), 1);
    }

    #[test]
    fn failure_end_nonsense_and_silence_are_told() {
        let error = shell("echo failed for a reason").err().unwrap().to_string();
        assert_eq!(error, "sh failed at 'start': for a reason");
        let error = shell("echo why >&2; exit 3").err().unwrap().to_string();
        assert!(error.starts_with("sh ended at 'start'"), "{error}");
        let error = shell("echo what").err().unwrap().to_string();
        assert!(error.starts_with("sh answers 'start' with 'what'"), "{error}");
        let mut standing = shell("echo ok; cat >/dev/null").unwrap();
        let error = standing.order("run", Duration::from_millis(50)).err().unwrap().to_string();
        assert!(error.starts_with("sh did not answer 'run'"), "{error}");
    }
}
