//! Nodes and other programs on this machine that a command starts, and that end with it.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use client::{Address, Client};
use flow::wire::control::NodeState;
use rustix::process::{Pid, Signal, kill_process};

use crate::failure::Failure;
use crate::{global, interrupt};

/// Pause between two looks at whether something has come about.
const TICK: Duration = Duration::from_millis(20);
/// Bytes from the end of a log that an error quotes.
const LOG_TAIL: u64 = 2 << 10;

/// A program that runs, with a folder that has its log. Dropping it ends it.
pub struct Process {
    /// What it is called.
    pub name: String,
    folder: PathBuf,
    child: Child,
}

/// Why programs could not be started, or not become ready.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// One ended or did not become ready.
    #[error("{name} {what}{log}")]
    Unready {
        /// Its name.
        name: String,
        /// What happened.
        what: String,
        /// The end of its log, indented, behind a line break; may be empty.
        log: String,
    },
    /// A program is not installed.
    #[error("there is no program `{program}` on PATH")]
    Missing {
        /// The program.
        program: &'static str,
        /// How to come by it.
        remedy: &'static str,
    },
    /// Files or processes failed.
    #[error("cannot {action}: {source}")]
    Machine {
        /// What was tried.
        action: String,
        /// Why it failed.
        source: io::Error,
    },
}

impl ProcessError {
    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            ProcessError::Unready { .. } => "`shoal doctor` says what a node needs",
            ProcessError::Missing { remedy, .. } => remedy,
            ProcessError::Machine { .. } => "",
        }
    }

    /// The failure of `action`.
    pub fn machine(action: impl Into<String>) -> impl FnOnce(io::Error) -> Failure {
        let action = action.into();
        |source| Failure::Process(ProcessError::Machine { action, source })
    }
}

/// The command that runs a node whose files are in `folder`. It ends when this process does.
pub fn node(name: &str, folder: &Path, listen: &str) -> Result<Command, Failure> {
    let program = std::env::current_exe().map_err(ProcessError::machine("find this program"))?;
    let mut command = Command::new(program);
    // The settings of the user's own nodes are not for these.
    for (variable, _) in std::env::vars_os() {
        if variable.to_string_lossy().starts_with("SHOAL_") {
            command.env_remove(variable);
        }
    }
    command.args(["serve", "--listen", listen, "--name", name]).arg("--data-dir").arg(folder);
    // With its number the node notices even when this process is gone before the node looks.
    command.arg(format!("--exit-with-parent={}", std::process::id()));
    Ok(command)
}

impl Process {
    /// Starts a program. What it prints is appended to `log` in its folder, which is made where there is none.
    pub fn start(name: &str, folder: &Path, mut command: Command) -> Result<Self, Failure> {
        let failed = || ProcessError::machine(format!("start {name}"));
        fs::create_dir_all(folder).map_err(failed())?;
        let log = File::options().append(true).create(true).open(log_of(folder)).map_err(failed())?;
        // A group of its own keeps Ctrl-C from it: whoever has started it ends it.
        command.process_group(0);
        command.stdin(Stdio::null()).stdout(log.try_clone().map_err(failed())?).stderr(log);
        let child = command.spawn().map_err(failed())?;
        Ok(Self { name: name.into(), folder: folder.into(), child })
    }

    /// Its number.
    pub fn number(&self) -> u32 {
        self.child.id()
    }

    /// The local socket of a node.
    pub fn socket(&self) -> PathBuf {
        self.folder.join("shoal.sock")
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Result<Option<String>, Failure> {
        let ended = self.child.try_wait().map_err(ProcessError::machine(format!("watch {}", self.name)))?;
        Ok(ended.map(|status| status.to_string()))
    }

    /// Fails when it has ended.
    pub fn must_run(&mut self) -> Result<(), Failure> {
        let Some(status) = self.ended()? else { return Ok(()) };
        let what = format!("ended: {status}");
        Err(ProcessError::Unready { name: self.name.clone(), what, log: self.log_tail() }.into())
    }

    /// Waits until a node answers on its local socket.
    pub fn ready(&mut self, deadline: Instant) -> Result<Arc<Client>, Failure> {
        let address = Address::Local(self.socket());
        self.wait(deadline, "does not answer", || global::open(&address, None).ok())
    }

    /// Asks again and again until there is an answer, the program ends, or time is up.
    pub fn wait<T>(
        &mut self,
        deadline: Instant,
        problem: &str,
        ask: impl Fn() -> Option<T>,
    ) -> Result<T, Failure> {
        loop {
            interrupt::check()?;
            if let Some(answer) = ask() {
                return Ok(answer);
            }
            self.must_run()?;
            if Instant::now() > deadline {
                let what = format!("{problem} in time");
                return Err(
                    ProcessError::Unready { name: self.name.clone(), what, log: self.log_tail() }.into()
                );
            }
            thread::sleep(TICK);
        }
    }

    /// Waits until a node knows so many nodes that are alive.
    pub fn knows(&mut self, count: usize, client: &Client, deadline: Instant) -> Result<(), Failure> {
        self.wait(deadline, "does not know all other nodes", || {
            let nodes = client.nodes().ok()?.nodes;
            let alive = nodes.iter().filter(|node| node.state == NodeState::Alive).count();
            (alive == count).then_some(())
        })
    }

    /// The end of the log, indented, behind a line break.
    fn log_tail(&self) -> String {
        let mut bytes = Vec::new();
        let read = File::open(log_of(&self.folder)).and_then(|mut file| {
            let length = file.metadata()?.len();
            file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL)))?;
            file.read_to_end(&mut bytes)
        });
        match read {
            Ok(1..) => String::from_utf8_lossy(&bytes).lines().map(|line| format!("\n  {line}")).collect(),
            _ => String::new(),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Asks programs to end, and ends those that have not after a while.
pub fn stop(mut processes: Vec<Process>, patience: Duration) {
    for process in &mut processes {
        // The number of one that has ended may be another's.
        if matches!(process.ended(), Ok(None)) {
            let _ = kill_process(Pid::from_child(&process.child), Signal::TERM);
        }
    }
    wait_for(processes, patience);
}

/// Waits for programs to end by themselves, and ends those that have not after a while.
pub fn wait_for(mut processes: Vec<Process>, patience: Duration) {
    let deadline = Instant::now() + patience;
    while Instant::now() < deadline && processes.iter_mut().any(|process| matches!(process.ended(), Ok(None)))
    {
        thread::sleep(TICK);
    }
}

fn log_of(folder: &Path) -> PathBuf {
    folder.join("log")
}
