//! The tests that need verbs: built on this machine, run in the kernel.

use std::ffi::OsString;
use std::io::BufReader;
use std::process::Stdio;

use cargo_metadata::Message;

use super::Error;
use super::machine::Machine;
use crate::cargo::{cargo, spelled};

/// Crate and test target.
const SUITES: &[(&str, &str)] = &[("verbs", "loopback"), ("verbs", "link")];

/// Runs every suite, each in a kernel of its own; the first status that is not zero.
pub(super) fn run(machine: &Machine) -> Result<u8, Error> {
    let mut first = 0;
    for (package, test) in SUITES {
        let program = build(package, test)?;
        eprintln!("soft-roce: {package}, {test}");
        // Without a device these tests would pass by having nothing to test.
        let status = machine.run(&[program], &[("VERBS_REQUIRE_DEVICE", "1")])?;
        eprintln!("soft-roce: {package}, {test}: status {status}");
        if first == 0 {
            first = status;
        }
    }
    Ok(first)
}

/// Builds a test; its program.
fn build(package: &str, test: &str) -> Result<OsString, Error> {
    let format = "--message-format=json-render-diagnostics";
    let mut command = cargo(&["test", "--locked", "-p", package, "--test", test, "--no-run", format]);
    let spawned = command.stdout(Stdio::piped()).spawn();
    let mut child = spawned.map_err(|source| Error::Spawn { program: spelled(&command), source })?;
    let messages = child.stdout.take().map(|output| Message::parse_stream(BufReader::new(output)));
    let mut program = None;
    for message in messages.into_iter().flatten().map_while(Result::ok) {
        if let Message::CompilerArtifact(artifact) = message {
            let is_test = artifact.profile.test && artifact.target.name == test;
            program = artifact.executable.filter(|_| is_test).or(program);
        }
    }
    let status = child.wait().map_err(|source| Error::Spawn { program: spelled(&command), source })?;
    let built = program.filter(|_| status.success());
    built.map(|path| path.into_os_string()).ok_or_else(|| Error::Suite(format!("{package}/{test}")))
}
