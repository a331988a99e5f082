//! Runs a command in a kernel: hands it its folders, its output on as it comes, and its status back.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::{self, File};
use std::io::{self, IsTerminal, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::fs::{StatVfsMountFlags, statvfs};
use rustix::process::{Pid, Signal, kill_process_group};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use tempfile::TempDir;

use super::pipeline::ending;
use super::stock::Stock;
use super::{Device, Error};

/// Exit status when the time limit ran out.
pub(super) const LATE: u8 = 124;
/// Exit statuses when a signal stopped the run.
pub(super) const STOPPED: [u8; 3] = [129, 130, 143];
/// Exit status when the kernel ended without a status of the command.
const DIED: u8 = 125;
const INIT: &str = include_str!("../../../../soft-roce/init");
/// Gives the kernel the command's output as 3 and 4, keeps its own words in a file, and lets it die with its parent.
const START: &str =
    r#"log=$1; shift; exec 3>&1 4>&2 >"$log" 2>&1 </dev/null; exec setpriv --pdeathsig KILL "$@""#;
/// How often a kernel that runs is looked at.
const LOOK: Duration = Duration::from_millis(10);
/// What a kernel says of its own faults.
const FAULTS: [&str; 4] = ["BUG:", "WARNING:", "Kernel panic", "rcu: INFO:"];

/// What is started.
#[derive(Clone, Debug)]
pub(super) enum Kernel {
    /// A User Mode Linux kernel, which is a program.
    UserMode(PathBuf),
    /// Debian's own, in QEMU.
    Stock(Stock),
}

impl fmt::Display for Kernel {
    fn fmt(&self, text: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UserMode(program) => write!(text, "{}", program.display()),
            Self::Stock(stock) => write!(text, "{}", stock.description()),
        }
    }
}

/// A kernel that can be started, each time from nothing.
#[derive(Clone, Debug)]
pub(super) struct Machine {
    pub(super) kernel: Kernel,
    pub(super) packages: PathBuf,
    pub(super) memory_mib: u32,
    pub(super) cpus: u32,
    pub(super) device: Device,
    pub(super) time_limit: Duration,
    /// The folders that a command may write to.
    pub(super) shares: Vec<PathBuf>,
    /// Where the kernel's memory lies when /dev/shm cannot hold it.
    pub(super) scratch: PathBuf,
}

impl Machine {
    /// Runs a command with the caller's environment and `variables`; the exit status for the caller.
    pub(super) fn run(&self, command: &[OsString], variables: &[(&str, &str)]) -> Result<u8, Error> {
        let folder = self.prepare(command, variables)?;
        let end = self.drive(folder.path())?;
        Ok(self.judge(end, folder.path()))
    }

    /// Whether the kernel starts and ends by itself here. Says nothing of why it did not.
    pub(super) fn starts(&self) -> Result<bool, Error> {
        let folder = self.prepare(&["true".into()], &[])?;
        let end = self.drive(folder.path())?;
        if STOPPED.contains(&end) {
            return Err(Error::Stopped);
        }
        Ok(end == DIED && status(folder.path()) == Some(0))
    }

    /// Starts the kernel with a folder that was prepared, and waits; DIED when it ended, by itself or not.
    fn drive(&self, folder: &Path) -> Result<u8, Error> {
        let caught = catch_signals()?;
        let mut child = self.start(folder)?;
        let copies = [
            child.stdout.take().map(|output| hand_on(output, io::stdout())),
            child.stderr.take().map(|output| hand_on(output, io::stderr())),
        ];
        let started = Instant::now();
        let end = loop {
            match child.try_wait() {
                Ok(Some(_)) => break DIED,
                Ok(None) => {}
                Err(source) => return Err(Error::Spawn { program: "the kernel".into(), source }),
            }
            match caught.load(Ordering::Relaxed) {
                0 => {}
                // A shell's status for a command that a signal ended.
                signal => break 128_u8.saturating_add(u8::try_from(signal).unwrap_or(0)),
            }
            if started.elapsed() > self.time_limit {
                break LATE;
            }
            thread::sleep(LOOK);
        };
        finish(child, copies);
        Ok(end)
    }

    /// Makes the folder that the kernel and its first process read.
    fn prepare(&self, command: &[OsString], variables: &[(&str, &str)]) -> Result<TempDir, Error> {
        let folder = tempfile::Builder::new().prefix("shoal-soft-roce-").tempdir();
        let folder =
            folder.map_err(|source| Error::File { action: "make", path: std::env::temp_dir(), source })?;
        if folder.path().as_os_str().as_bytes().iter().any(u8::is_ascii_whitespace) {
            return Err(Error::Space { path: folder.path().to_owned(), variable: "TMPDIR" });
        }
        let shares = self.shares.iter().enumerate().flat_map(|(number, share)| {
            [Self::tag(number).as_bytes(), b" ", share.as_os_str().as_bytes(), b"\n"].concat()
        });
        let shares: Vec<u8> = shares.collect();
        // Inside, output goes to a terminal whoever reads it here.
        let plain = [("TERM", "dumb"), ("NO_COLOR", "1")];
        let plain = plain.into_iter().filter(|_| !io::stdout().is_terminal());
        let own = variables.iter().copied().chain(plain);
        let own = own.map(|(name, value)| (OsString::from(name), OsString::from(value)));
        let script = script(command, &self.directory(), std::env::vars_os().chain(own));
        let processors = fs::read("/proc/cpuinfo").unwrap_or_default();
        let files: [(&str, &[u8]); 4] =
            [("init", INIT.as_bytes()), ("shares", &shares), ("command", &script), ("cpuinfo", &processors)];
        for (name, bytes) in files {
            let path = folder.path().join(name);
            let written = fs::write(&path, bytes).and_then(|()| executable(&path));
            written.map_err(|source| Error::File { action: "write", path, source })?;
        }
        Ok(folder)
    }

    /// Where the command starts: where the caller is, or the checkout if the kernel does not share that.
    fn directory(&self) -> PathBuf {
        let here = std::env::current_dir().ok();
        let shared = here.filter(|here| self.shares.iter().any(|share| here.starts_with(share)));
        shared.unwrap_or_else(|| crate::cargo::root().to_owned())
    }

    /// The name by which QEMU offers a shared folder.
    pub(super) fn tag(number: usize) -> String {
        format!("share{number}")
    }

    fn start(&self, folder: &Path) -> Result<Child, Error> {
        let mut command = Command::new("sh");
        command.args(["-c", START, "sh"]).arg(folder.join("log"));
        match &self.kernel {
            Kernel::UserMode(program) => self.user_mode(program, folder, &mut command),
            Kernel::Stock(stock) => stock.words(self, folder, &mut command),
        }
        command.process_group(0);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().map_err(|source| Error::Spawn { program: "sh".into(), source })
    }

    /// Adds User Mode Linux and its settings to a command line.
    fn user_mode(&self, program: &Path, folder: &Path, command: &mut Command) {
        let run = folder.display();
        command.arg(program).args([format!("mem={}M", self.memory_mib), format!("ncpus={}", self.cpus)]);
        command.args(["seccomp=on", "root=/dev/root", "rootfstype=hostfs", "rootflags=/", "ro", "quiet"]);
        // Kernel messages, then what the command writes to standard output and to standard error.
        command.args(["con=null", "con0=null,fd:1", "con1=null,fd:3", "con2=null,fd:4"]);
        command.args([format!("init={run}/init"), format!("uml_dir={run}"), format!("run={run}")]);
        command.args([
            format!("packages={}", self.packages.display()),
            format!("device={}", self.device.name()),
        ]);
        command.args(["files=hostfs", "output=tty1", "errors=tty2"]).env("TMPDIR", self.memory_folder());
    }

    /// A folder for the file that is the kernel's memory. It is executed from, and /dev/shm keeps it off the disk.
    fn memory_folder(&self) -> &Path {
        let shared = Path::new("/dev/shm");
        let fits = statvfs(shared).is_ok_and(|found| {
            let free = found.f_bavail.saturating_mul(found.f_frsize);
            free > u64::from(self.memory_mib) << 20 && !found.f_flag.contains(StatVfsMountFlags::NOEXEC)
        });
        if fits { shared } else { &self.scratch }
    }

    /// The caller's status; says what a caller must know beyond it.
    fn judge(&self, end: u8, folder: &Path) -> u8 {
        let log = fs::read(folder.join("log")).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        for line in log.lines().filter(|line| FAULTS.iter().any(|fault| line.contains(fault))) {
            eprintln!("soft-roce: the kernel says: {line}");
        }
        match (end, status(folder)) {
            (DIED, Some(status)) => return status,
            (DIED, None) => {
                eprintln!(
                    "soft-roce: the kernel ended without a status; it said last:\n{}",
                    ending(&log, 20)
                );
            }
            (LATE, _) => eprintln!("soft-roce: the limit of {} s ran out", self.time_limit.as_secs()),
            _ => eprintln!("soft-roce: stopped"),
        }
        end
    }
}

/// The command's exit status, if it came to its end.
fn status(folder: &Path) -> Option<u8> {
    fs::read_to_string(folder.join("status")).ok()?.trim().parse().ok()
}

/// Ends the kernel with all its processes, and waits until their output is out.
fn finish(mut child: Child, copies: [Option<JoinHandle<()>>; 2]) {
    // The group is gone already when the kernel ended by itself.
    if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        let _ = kill_process_group(group, Signal::KILL);
    }
    let _ = child.wait();
    for copy in copies.into_iter().flatten() {
        let _ = copy.join();
    }
}

/// Hands output on at once, line or no line.
fn hand_on(
    mut output: impl Read + Send + 'static,
    mut terminal: impl Write + Send + 'static,
) -> JoinHandle<()> {
    thread::spawn(move || {
        let mut buffer = [0; 16 << 10];
        while let Ok(length @ 1..) = output.read(&mut buffer) {
            // The command runs on when nobody reads what it says.
            let _ = terminal.write_all(&buffer[..length]).and_then(|()| terminal.flush());
        }
    })
}

/// The number of the signal that asked this process to end, or 0.
fn catch_signals() -> Result<Arc<AtomicUsize>, Error> {
    let caught = Arc::new(AtomicUsize::new(0));
    for signal in [SIGHUP, SIGINT, SIGTERM] {
        let number = usize::try_from(signal).unwrap_or(0);
        signal_hook::flag::register_usize(signal, caught.clone(), number)
            .map_err(|source| Error::Spawn { program: "a handler of signals".into(), source })?;
    }
    Ok(caught)
}

fn executable(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    File::open(path)?.set_permissions(fs::Permissions::from_mode(0o700))
}

/// A script for sh that runs a command in a folder, with an environment.
fn script(
    command: &[OsString],
    directory: &Path,
    variables: impl Iterator<Item = (OsString, OsString)>,
) -> Vec<u8> {
    let mut script = Vec::new();
    for (name, mut value) in variables.filter(|(name, _)| is_handed_on(name)) {
        if name == "PATH" {
            value.push(":/usr/local/sbin:/usr/sbin:/sbin");
        }
        script.extend([b"export ", name.as_bytes(), b"=", &quoted(&value), b"\n"].concat());
    }
    script.extend([b"cd ", &*quoted(directory.as_os_str()), b" || exit 126\nexec"].concat());
    for word in command {
        script.extend([b" ", &*quoted(word)].concat());
    }
    script.push(b'\n');
    script
}

/// Whether a variable has a name for sh, and means the same inside.
fn is_handed_on(name: &OsStr) -> bool {
    let bytes = name.as_bytes();
    let outside = ["_", "OLDPWD", "PWD", "SHLVL", "TMPDIR"];
    bytes.first().is_some_and(|first| !first.is_ascii_digit())
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'_')
        && !outside.iter().any(|left_out| name == *left_out)
}

/// A word as sh takes it literally.
fn quoted(word: &OsStr) -> Vec<u8> {
    let mut quoted = vec![b'\''];
    for byte in word.as_bytes() {
        match byte {
            b'\'' => quoted.extend_from_slice(br"'\''"),
            byte => quoted.push(*byte),
        }
    }
    quoted.push(b'\'');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sh_gets_words_and_variables_as_they_are() {
        let words = ["printf", "%s|", "a b", "it's", "$HOME \\ \"", "", "*"].map(OsString::from);
        let variables = [("A", "x 'y'\nz"), ("no-name", "1"), ("1", "2"), ("PWD", "/x")];
        let variables = variables.map(|(name, value)| (name.into(), value.into()));
        let script = script(&words, Path::new("/"), variables.into_iter());
        let mut show = script.clone();
        show.truncate(script.len() - 1);
        let output = Command::new("sh").arg("-c").arg(OsStr::from_bytes(&show)).output().unwrap();
        assert_eq!(output.stdout, b"a b|it's|$HOME \\ \"||*|");
        let text = String::from_utf8(script).unwrap();
        assert!(text.starts_with("export A='x '\\''y'\\''\nz'\ncd '/' || exit 126\nexec "), "{text}");
    }

    #[test]
    fn the_path_reaches_programs_for_root() {
        let variables = [(OsString::from("PATH"), OsString::from("/a"))];
        let text = String::from_utf8(script(&[], Path::new("/"), variables.into_iter())).unwrap();
        assert!(text.contains("export PATH='/a:/usr/local/sbin:/usr/sbin:/sbin'\n"), "{text}");
    }
}
