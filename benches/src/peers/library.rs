//! Libraries for Python that broadcast: gloo, Ray, libtorrent and Mooncake Store.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::rc::Rc;
use std::time::Duration;

use tempfile::TempDir;

use super::program;
use super::standing::Standing;
use crate::conditions::Conditions;
use crate::cost::{Cost, Meter};
use crate::failure::Failure;
use crate::machine;
use crate::payload::PayloadFile;
use crate::scenario::Contender;

/// What the programs share.
const CONTENDER: &str = include_str!("../../peers/contender.py");
/// Gives their sockets the congestion control of all.
const CONGESTION: &str = include_str!("../../peers/congestion.c");
/// Where files are that lie in memory.
const MEMORY_FOLDER: &str = "/dev/shm";
/// How long all processes of one may take to start: Ray has several for each receiver, one after another.
const START_LIMIT: Duration = Duration::from_secs(300);
/// How long each step of a round may take.
const STEP_LIMIT: Duration = Duration::from_secs(120);

/// Which library.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Library {
    /// `torch.distributed.broadcast` with gloo.
    Gloo,
    /// The object store of Ray, one for each receiver.
    Ray,
    /// BitTorrent.
    Libtorrent,
    /// Mooncake Store.
    Mooncake,
}

/// A library that broadcasts, in processes of its own that a program in Python starts. They are there from the first round
/// on, and are stopped between its runs.
pub struct Broadcaster {
    library: Library,
    receivers: usize,
    conditions: Conditions,
    payload: Rc<PayloadFile>,
    standing: Option<Standing>,
    // Last, so that it is removed when all processes have ended.
    folder: TempDir,
}

impl Library {
    /// All of them.
    pub const ALL: [Library; 4] = [Library::Gloo, Library::Ray, Library::Libtorrent, Library::Mooncake];

    /// What the contender is called.
    pub fn name(self) -> &'static str {
        match self {
            Library::Gloo => "gloo",
            Library::Ray => "ray",
            Library::Libtorrent => "libtorrent",
            Library::Mooncake => "mooncake-store",
        }
    }

    /// The program that drives it.
    fn program(self) -> &'static str {
        match self {
            Library::Gloo => include_str!("../../peers/broadcast_gloo.py"),
            Library::Ray => include_str!("../../peers/broadcast_ray.py"),
            Library::Libtorrent => include_str!("../../peers/broadcast_libtorrent.py"),
            Library::Mooncake => include_str!("../../peers/broadcast_mooncake.py"),
        }
    }

    /// What Python calls it.
    fn module(self) -> &'static str {
        match self {
            Library::Gloo => "torch",
            Library::Ray => "ray",
            Library::Libtorrent => "libtorrent",
            Library::Mooncake => "mooncake",
        }
    }

    fn remedy(self) -> &'static str {
        match self {
            Library::Gloo => "name a Python that has torch and numpy with --peers-python",
            Library::Ray => "name a Python that has ray and numpy with --peers-python",
            Library::Libtorrent => "name a Python that has libtorrent and numpy with --peers-python",
            Library::Mooncake => {
                "name a Python that has mooncake-transfer-engine-non-cuda and numpy with --peers-python"
            }
        }
    }

    /// Bytes of memory for each receiver beyond what it receives, as measured.
    fn overhead_bytes(self) -> u64 {
        match self {
            Library::Gloo => 24 << 20,
            Library::Libtorrent => 8 << 20,
            Library::Mooncake => 80 << 20,
            Library::Ray => 350 << 20,
        }
    }
}

impl Broadcaster {
    /// Finds a library, which is to bring the bytes of a file to so many receivers.
    pub fn find(
        library: Library,
        receivers: usize,
        payload: &Rc<PayloadFile>,
        conditions: &Conditions,
    ) -> Result<Self, Failure> {
        let missing = || Failure::Missing { program: library.name(), remedy: library.remedy() };
        let look = format!(
            "import sys, importlib.util as i; sys.exit(not all(map(i.find_spec, ['{}', 'numpy'])))",
            library.module()
        );
        let mut python = Command::new(&conditions.peers_python);
        program::run(python.args(["-c", &look])).map_err(|failure| match failure {
            Failure::Interrupted => failure,
            _ => missing(),
        })?;
        let mut folder = tempfile::Builder::new();
        // Short, for the sake of the sockets that Ray makes in it, whose paths are limited.
        let folder = folder.prefix("sb-").tempdir_in(match Path::new(MEMORY_FOLDER) {
            memory if memory.is_dir() => memory,
            _ => &conditions.folder,
        });
        let folder = folder.map_err(Failure::system(format!("make a folder for {}", library.name())))?;
        let (conditions, payload) = (conditions.clone(), payload.clone());
        Ok(Self { library, receivers, conditions, payload, standing: None, folder })
    }

    fn start(&self) -> Result<Standing, Failure> {
        let (bytes, name) = (self.payload.length(), self.library.name());
        let needed_bytes = (1 + self.receivers as u64) * (bytes + self.library.overhead_bytes());
        if let Some(available_bytes) = machine::available_memory_bytes().filter(|&free| free < needed_bytes) {
            return Err(Failure::Memory { needed_bytes, available_bytes });
        }
        let failed = || Failure::system(format!("write the program of {name}"));
        let program = self.folder.path().join("broadcast.py");
        fs::write(&program, self.library.program()).map_err(failed())?;
        fs::write(self.folder.path().join("contender.py"), CONTENDER).map_err(failed())?;
        let mut command = Command::new(&self.conditions.peers_python);
        // Code that was compiled would lie beside the programs, and what else is written goes with them.
        command.env("PYTHONDONTWRITEBYTECODE", "1").env("TMPDIR", self.folder.path());
        if let Some(control) = &self.conditions.congestion_control {
            let (source, object) =
                (self.folder.path().join("congestion.c"), self.folder.path().join("congestion.so"));
            fs::write(&source, CONGESTION).map_err(failed())?;
            let mut compiler = Command::new("cc");
            compiler.args(["-O2", "-shared", "-fPIC", "-o"]).arg(&object).arg(&source).arg("-ldl");
            program::run(&mut compiler)?;
            command.env("LD_PRELOAD", object).env("CONGESTION_CONTROL", control);
        }
        command.arg(&program).arg(self.receivers.to_string()).arg(bytes.to_string());
        command.arg(self.payload.path()).arg(self.folder.path());
        Standing::start(name, &mut command, START_LIMIT)
    }

    fn standing(&mut self) -> Result<&mut Standing, Failure> {
        if self.standing.is_none() {
            self.standing = Some(self.start()?);
        }
        Ok(self.standing.as_mut().expect("it was started above"))
    }
}

impl Contender for Broadcaster {
    fn name(&self) -> String {
        self.library.name().into()
    }

    fn ready(&mut self, round: u32) -> Result<(), Failure> {
        self.payload.stamp(round)?;
        self.standing()?.order("ready", STEP_LIMIT).map(drop)
    }

    fn run(&mut self) -> Result<Cost, Failure> {
        let standing = self.standing()?;
        let meter = Meter::start(&standing.processes())?;
        let said = standing.order("run", STEP_LIMIT)?;
        let cost = meter.stop()?;
        let seconds = said.parse().map_err(|_| standing.failure(format!("counts time oddly: '{said}'")))?;
        let wall = Duration::try_from_secs_f64(seconds)
            .map_err(|error| standing.failure(format!("counts time oddly: {error}")))?;
        // As measured where the bytes are, without the way of the answer to here.
        Ok(Cost { wall, ..cost })
    }

    fn verify(&mut self) -> Result<(), Failure> {
        let receivers = self.receivers;
        let standing = self.standing()?;
        let right = standing.order("verify", STEP_LIMIT)?;
        if right == receivers.to_string() {
            return Ok(());
        }
        Err(standing.failure(format!("brought right bytes to {right} of {receivers} receivers")))
    }
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::Instant;

    use super::*;

    /// Starts a process that the others must see, and receives nothing.
    const IDLE: &str = r#"
import subprocess
from contender import main

class Idle:
    def __init__(self, task):
        self.task, self.child = task, subprocess.Popen(["sleep", "1000"])
    def ready(self):
        assert self.state() != "T"
    def run(self):
        print("what libraries say")
        return 0.25
    def verify(self):
        if self.task.length == 7:
            raise ValueError("so\nmuch")
        return self.task.receivers
    def state(self):
        with open(f"/proc/{self.child.pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0]

main(Idle)
"#;

    fn state(process: u32) -> Option<char> {
        let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
        stat.rsplit_once(") ")?.1.chars().next()
    }

    /// Starts it to receive so many bytes, if there is a Python.
    fn idle(folder: &Path, bytes: u32) -> Option<Standing> {
        program::run(Command::new("python3").arg("--version")).ok()?;
        fs::write(folder.join("broadcast.py"), IDLE).unwrap();
        fs::write(folder.join("contender.py"), CONTENDER).unwrap();
        let mut command = Command::new("python3");
        command.arg(folder.join("broadcast.py")).args(["3", &bytes.to_string(), "/no/such/file"]).arg(folder);
        Some(Standing::start("idle", &mut command, START_LIMIT).unwrap())
    }

    #[test]
    fn a_program_rests_between_rounds_and_ends_with_all_it_started() {
        let folder = tempfile::tempdir().unwrap();
        let Some(mut standing) = idle(folder.path(), 8) else { return };
        let [_, child] = standing.processes()[..] else { panic!("{:?}", standing.processes()) };
        for _ in 0..2 {
            assert_eq!(standing.order("ready", STEP_LIMIT).unwrap(), "");
            assert_ne!(state(child), Some('T'));
            assert_eq!(standing.order("run", STEP_LIMIT).unwrap(), "0.250000000");
            assert_eq!(standing.order("verify", STEP_LIMIT).unwrap(), "3");
            // It stops when it next has a processor.
            let begin = Instant::now();
            while state(child) != Some('T') && begin.elapsed() < STEP_LIMIT {
                thread::sleep(Duration::from_millis(1));
            }
            assert_eq!(state(child), Some('T'));
        }
        drop(standing);
        assert_eq!(state(child), None);
        assert!(!folder.path().exists());
    }

    #[test]
    fn what_fails_is_told_in_a_line() {
        let folder = tempfile::tempdir().unwrap();
        let Some(mut standing) = idle(folder.path(), 7) else { return };
        let error = standing.order("verify", STEP_LIMIT).unwrap_err().to_string();
        assert_eq!(error, "idle failed at 'verify': ValueError: so much");
        let error = standing.order("dance", STEP_LIMIT).unwrap_err().to_string();
        assert_eq!(error, "idle failed at 'dance': 'dance' is no order");
    }
}
