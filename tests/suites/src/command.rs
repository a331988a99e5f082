//! One call of the command line.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
use rustix::pty::OpenptFlags;
use serde_json::Value;

use crate::binary;
use crate::node::{Node, Signal, send};
use crate::ordinary::Ordinary;

/// Longest that a call may take before it counts as hanging.
const LIMIT: Duration = Duration::from_secs(180);
/// Time between two looks at whether a call has ended.
const TICK: Duration = Duration::from_millis(4);

/// Runs the command line against a node's local socket and waits for its end.
pub fn shoal<Word: AsRef<OsStr>>(node: &Node, words: impl IntoIterator<Item = Word>) -> Outcome {
    Shoal::at(node).args(words).run()
}

/// A call of the command line that is put together word by word.
pub struct Shoal {
    command: Command,
    input: Option<Box<dyn Read + Send>>,
    has_terminal: bool,
}

impl Shoal {
    /// A call that talks to this node over its local socket.
    pub fn at(node: &Node) -> Self {
        let mut call = Self::alone();
        call.command.env("SHOAL_NODE", node.socket());
        call
    }

    /// A call that talks to no node, or to one that its words name.
    pub fn alone() -> Self {
        Self::of(binary::command(&[], &binary::path()))
    }

    /// A call by an ordinary user, that talks to no node or to one that its words name.
    pub fn by(user: &Ordinary) -> Self {
        Self::of(binary::command(user.becomes(), &user.program()))
    }

    fn of(command: Command) -> Self {
        Self { command, input: None, has_terminal: false }
    }

    /// Adds a word.
    pub fn arg(mut self, word: impl AsRef<OsStr>) -> Self {
        self.command.arg(word);
        self
    }

    /// Adds words.
    pub fn args<Word: AsRef<OsStr>>(mut self, words: impl IntoIterator<Item = Word>) -> Self {
        self.command.args(words);
        self
    }

    /// Sets an environment variable.
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Runs in this directory.
    pub fn directory(mut self, path: &Path) -> Self {
        self.command.current_dir(path);
        self
    }

    /// Gives it these bytes on standard input; otherwise that is empty.
    pub fn input(mut self, bytes: impl Read + Send + 'static) -> Self {
        self.input = Some(Box::new(bytes));
        self
    }

    /// Makes standard error a terminal.
    pub fn terminal(mut self) -> Self {
        self.command.env("TERM", "xterm");
        self.has_terminal = true;
        self
    }

    /// Runs it to its end. Panics when that does not come within three minutes.
    pub fn run(self) -> Outcome {
        self.start().wait()
    }

    /// Starts it and returns while it runs.
    pub fn start(mut self) -> Running {
        let words: Vec<_> = self.command.get_args().map(|word| word.to_string_lossy().into_owned()).collect();
        self.command.stdin(if self.input.is_some() { Stdio::piped() } else { Stdio::null() });
        self.command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let terminal = self.has_terminal.then(|| {
            let (ours, theirs) = pseudo_terminal().expect("a pseudo-terminal can be made");
            self.command.stderr(theirs);
            File::from(ours)
        });
        let mut child = self.command.spawn().expect("the shoal binary starts");
        if let (Some(mut bytes), Some(mut stdin)) = (self.input, child.stdin.take()) {
            // A command that has failed does not read its input to the end.
            thread::spawn(move || std::io::copy(&mut bytes, &mut stdin).and_then(|_| stdin.flush()));
        }
        let stdout = Collected::begin(child.stdout.take());
        // The end of the terminal that the call has must be its own, or reading ours would not end.
        drop(self.command);
        let stderr = match terminal {
            Some(terminal) => Collected::begin(Some(terminal)),
            None => Collected::begin(child.stderr.take()),
        };
        Running { child, words: words.join(" "), stdout, stderr }
    }
}

/// Both ends of a terminal: ours and that of a program.
fn pseudo_terminal() -> rustix::io::Result<(OwnedFd, OwnedFd)> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let ours = rustix::pty::openpt(flags)?;
    rustix::pty::grantpt(&ours)?;
    rustix::pty::unlockpt(&ours)?;
    let theirs = rustix::pty::ioctl_tiocgptpeer(&ours, flags)?;
    Ok((ours, theirs))
}

/// What a call prints, read while it runs.
struct Collected {
    bytes: Arc<Mutex<Vec<u8>>>,
    reader: Option<JoinHandle<()>>,
}

impl Collected {
    fn begin(stream: Option<impl Read + Send + 'static>) -> Self {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let reader = stream.map(|mut stream| {
            let bytes = bytes.clone();
            thread::spawn(move || {
                let mut part = [0; 8192];
                loop {
                    let length = match stream.read(&mut part) {
                        Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                        // What was read before an error is still worth seeing.
                        Ok(0) | Err(_) => break,
                        Ok(length) => length,
                    };
                    bytes.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&part[..length]);
                }
            })
        });
        Self { bytes, reader }
    }

    /// What has come so far.
    fn so_far(&self) -> Vec<u8> {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// All of it, once the stream has ended.
    fn all(&mut self) -> Vec<u8> {
        self.reader.take().map(JoinHandle::join);
        self.so_far()
    }
}

/// A call that runs. Dropping it kills it.
pub struct Running {
    child: Child,
    words: String,
    stdout: Collected,
    stderr: Collected,
}

impl Running {
    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        send(&self.child, signal);
    }

    /// What it has printed on standard output so far.
    pub fn printed(&self) -> String {
        String::from_utf8_lossy(&self.stdout.so_far()).into_owned()
    }

    /// Whether it has not ended yet.
    pub fn runs(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits for its end. Panics when that does not come within three minutes.
    pub fn wait(mut self) -> Outcome {
        let begin = Instant::now();
        let looking = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        let process = WaitId::Pid(Pid::from_child(&self.child));
        while waitid(process.clone(), looking).expect("a child can be waited for").is_none() {
            assert!(begin.elapsed() < LIMIT, "`shoal {}` hangs", self.words);
            thread::sleep(TICK);
        }
        // The kernel counts for as long as nobody has taken notice of the end.
        let (read, written) = moved(&self.child);
        let status = self.child.wait().expect("a child can be waited for");
        let (stdout, stderr) = (self.stdout.all(), self.stderr.all());
        Outcome { words: std::mem::take(&mut self.words), code: status.code(), stdout, stderr, read, written }
    }
}

/// What a process has read and written; nothing where the kernel does not count.
fn moved(child: &Child) -> (u64, u64) {
    let counts = std::fs::read_to_string(format!("/proc/{}/io", child.id())).unwrap_or_default();
    let count = |name: &str| {
        let line = counts.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|bytes| bytes.trim().parse().ok()).unwrap_or(0)
    };
    (count("rchar:"), count("wchar:"))
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How a call ended.
#[derive(Debug, Clone)]
pub struct Outcome {
    words: String,
    /// The exit code; none when a signal ended it.
    pub code: Option<i32>,
    /// All of standard output.
    pub stdout: Vec<u8>,
    /// All of standard error.
    pub stderr: Vec<u8>,
    /// Bytes that it read with system calls, as proc_pid_io(5) counts them: what sockets alone have, such as recv, is
    /// not among them.
    pub read: u64,
    /// Bytes that it wrote, counted likewise.
    pub written: u64,
}

impl Outcome {
    /// Panics unless it succeeded.
    #[track_caller]
    pub fn success(self) -> Self {
        self.exits(0)
    }

    /// Panics unless it ended with this exit code.
    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        assert!(
            self.code == Some(code),
            "`shoal {}` ended with {:?} in place of {code}\n{}{}",
            self.words,
            self.code,
            self.error(),
            String::from_utf8_lossy(&self.stdout[..self.stdout.len().min(4096)]),
        );
        self
    }

    /// Panics unless standard error has this text in it.
    #[track_caller]
    pub fn tells(self, text: &str) -> Self {
        assert!(
            self.error().contains(text),
            "`shoal {}` does not say '{text}':\n{}",
            self.words,
            self.error()
        );
        self
    }

    /// Standard output as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Standard error as text.
    pub fn error(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// What `--json` printed on standard output.
    #[track_caller]
    pub fn json(&self) -> Value {
        self.parse(&self.stdout)
    }

    /// What `--json` printed about a failure on standard error.
    #[track_caller]
    pub fn error_json(&self) -> Value {
        self.parse(&self.stderr)
    }

    #[track_caller]
    fn parse(&self, bytes: &[u8]) -> Value {
        serde_json::from_slice(bytes).unwrap_or_else(|error| {
            let text = String::from_utf8_lossy(bytes);
            panic!("`shoal {}` printed no JSON ({error}):\n{text}\n{}", self.words, self.error())
        })
    }
}
