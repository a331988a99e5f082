//! Other people's programs, run to their end.

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::failure::Failure;
use crate::interrupt;

/// Longest that a program may take before it counts as hanging.
const LIMIT: Duration = Duration::from_secs(600);
/// How long a program that was asked to end may take to do so.
const END_LIMIT: Duration = Duration::from_secs(5);
/// Time between two looks at whether a program has ended.
const TICK: Duration = Duration::from_millis(10);
/// Bytes from the end of what a program printed that an error quotes.
const OUTPUT_SHOWN: usize = 1 << 10;

/// Runs a program and gives what it printed on standard output. It is ended when a signal arrives.
pub fn run(command: &mut Command) -> Result<String, Failure> {
    let name = command.get_program().to_string_lossy().into_owned();
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // A group of its own keeps Ctrl-C from it: asked to end twice, some programs leave theirs behind.
    command.process_group(0);
    let mut child = command.spawn().map_err(Failure::system(format!("run {name}")))?;
    let (stdout, stderr) = (collect(child.stdout.take()), collect(child.stderr.take()));
    let mut running = Running { child };
    let begin = Instant::now();
    let status = loop {
        interrupt::check()?;
        match running.child.try_wait().map_err(Failure::system(format!("wait for {name}")))? {
            Some(status) => break status,
            None if begin.elapsed() > LIMIT => {
                let what = format!("did not end within {} s", LIMIT.as_secs());
                return Err(Failure::Peer { program: name, what, output: String::new() });
            }
            None => thread::sleep(TICK),
        }
    };
    let text =
        |bytes: JoinHandle<Vec<u8>>| String::from_utf8_lossy(&bytes.join().unwrap_or_default()).into_owned();
    let (stdout, stderr) = (text(stdout), text(stderr));
    if status.success() {
        return Ok(stdout);
    }
    let output = if stderr.trim().is_empty() { stdout } else { stderr };
    Err(Failure::Peer { program: name, what: format!("failed: {status}"), output: tail(&output) })
}

/// Starts a program that runs until it is dropped. What it prints is thrown away.
pub fn start(command: &mut Command) -> Result<Running, Failure> {
    let name = command.get_program().to_string_lossy().into_owned();
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.process_group(0);
    let child = command.spawn().map_err(Failure::system(format!("run {name}")))?;
    Ok(Running { child })
}

/// The end of what a program printed, indented, behind a line break.
pub fn tail(output: &str) -> String {
    let from = output.ceil_char_boundary(output.len().saturating_sub(OUTPUT_SHOWN));
    output[from..].trim().lines().map(|line| format!("\n  {line}")).collect()
}

/// A program that runs. Dropping it asks it to end, so that it ends what it started itself, and then makes it.
pub struct Running {
    child: Child,
}

impl Running {
    /// The number of its process.
    pub fn process(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(None)) {
            return;
        }
        // All of this fails only when it has ended already.
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let begin = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) && begin.elapsed() < END_LIMIT {
            thread::sleep(TICK);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn collect(stream: Option<impl Read + Send + 'static>) -> JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut stream) = stream {
            // What was read before an error is still worth seeing.
            let _ = stream.read_to_end(&mut bytes);
        }
        bytes
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_comes_back_and_failure_is_told() {
        assert_eq!(run(Command::new("sh").args(["-c", "echo out; echo err >&2"])).unwrap(), "out\n");
        let error = run(Command::new("sh").args(["-c", "echo why >&2; exit 3"])).unwrap_err().to_string();
        assert!(error.starts_with("sh failed: ") && error.ends_with("\n  why"), "{error}");
        assert!(matches!(run(&mut Command::new("no-such-program")), Err(Failure::System { .. })));
    }
}
