//! One network namespace.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Output, Stdio};

use super::NetworkError;

/// Lets an ordinary user make networks, where the system lets users be masters of namespaces of their own: this program
/// starts again, as the master of one. Gives only why not, if it should have and could not.
pub fn take_charge() -> Result<(), NetworkError> {
    let mut trial = Command::new("unshare");
    trial.args(["--user", "--map-root-user", "--net", "true"]);
    trial.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    if rustix::process::geteuid().is_root() || !trial.status().is_ok_and(|status| status.success()) {
        return Ok(());
    }
    let failed = || NetworkError::system("start again as the master of a namespace");
    let program = std::env::current_exe().map_err(failed())?;
    let mut again = Command::new("unshare");
    again.args(["--user", "--map-root-user", "--"]).arg(program).args(std::env::args_os().skip(1));
    Err(failed()(again.exec()))
}

/// A network namespace, for as long as it is open.
pub(super) struct Namespace {
    file: File,
}

impl Namespace {
    pub(super) fn make() -> Result<Self, NetworkError> {
        let mut command = Command::new("unshare");
        command.args(["--net", "cat"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let failed = |reason: String| NetworkError::Denied { what: "make a network namespace", reason };
        let told = |error: io::Error| failed(error.to_string());
        let mut holder = command.spawn().map_err(told)?;
        // `cat` answers once it is in the namespace.
        let mut answered = || {
            holder.stdin.as_mut()?.write_all(b"\n").ok()?;
            holder.stdout.as_mut()?.read_exact(&mut [0]).ok()
        };
        let opened = answered().map(|()| File::open(format!("/proc/{}/ns/net", holder.id())));
        let output = holder.wait_with_output().map_err(told)?;
        match opened {
            Some(opened) => Ok(Self { file: opened.map_err(told)? }),
            None => Err(failed(said(&output))),
        }
    }

    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Where other processes find it.
    pub(super) fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd())
    }

    pub(super) fn entry(&self) -> [String; 2] {
        ["nsenter".into(), format!("--net={}", self.path())]
    }

    /// Has `ip` or `tc` obey these lines there.
    pub(super) fn run(&self, program: &'static str, lines: &[&str]) -> Result<(), NetworkError> {
        let [enter, namespace] = self.entry();
        let mut command = Command::new(enter);
        command.args([&namespace, program, "-batch", "-"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let failed = |reason: String| NetworkError::Denied { what: "lay links between namespaces", reason };
        let mut child = command.spawn().map_err(|error| failed(error.to_string()))?;
        let mut input = child.stdin.take().expect("standard input was piped");
        // What fails here, the program says better.
        let _ = input.write_all((lines.join("\n") + "\n").as_bytes());
        drop(input);
        let output = child.wait_with_output().map_err(|error| failed(error.to_string()))?;
        if output.status.success() { Ok(()) } else { Err(failed(said(&output))) }
    }
}

/// The first thing that a program complained about.
fn said(output: &Output) -> String {
    let complaint = String::from_utf8_lossy(&output.stderr);
    complaint.lines().find(|line| !line.is_empty()).map_or_else(|| output.status.to_string(), str::to_owned)
}
