//! The tests that need verbs: built on this machine, run in the kernel.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fmt;
use std::io::BufReader;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use cargo_metadata::Message;
use cargo_metadata::camino::Utf8Path;

use super::machine::{Kernel, LATE, Machine, STOPPED};
use super::{Device, Error};
use crate::cargo::{cargo, spelled};

/// A test program that needs verbs.
struct Suite {
    package: &'static str,
    /// A test target, or the unit tests of the library.
    test: Option<&'static str>,
    /// What the test program is told: which of its tests need verbs, where not all do.
    arguments: &'static [&'static str],
    /// On which devices, each in a kernel of its own.
    devices: &'static [Device],
    /// Whether each of its tests has a kernel of its own. A process of that kernel may not have more than about 65,530
    /// separate ranges of memory, as each is a mapping of this machine's (`vm.max_map_count`): at the limit its threads
    /// repeat the same page fault for ever. Ranges become shorter the longer a kernel has run.
    apart: bool,
    /// What its environment has besides.
    environment: &'static [(&'static str, &'static str)],
    /// Whether it is for Debian's own kernel too. What is not has deadlines that software emulation is too slow for.
    stock: bool,
}

const RXE: &[Device] = &[Device::Rxe];
const SIW: &[Device] = &[Device::Siw];
const BOTH: &[Device] = &[Device::Rxe, Device::Siw];
/// Without a device these tests would pass by having nothing to test.
const REQUIRED: (&str, &str) = ("VERBS_REQUIRE_DEVICE", "1");
/// UCX over one device by its IPv6 address, as its datagrams time out on the IPv4 one of rxe (1.13). Without the device's
/// events, at which UCX ends the process by an assertion of its own (1.13.1 and 1.18.1, `ib_device.c`).
const UCX_ON_RXE: &[(&str, &str)] = &[
    ("UCX_REQUIRE", "1"),
    ("UCX_NET_DEVICES", "rxe0:1"),
    ("UCX_IB_GID_INDEX", "0"),
    ("UCX_IB_ASYNC_EVENTS", "n"),
];

// Those that connect without librdmacm have nothing to do on siw.
const SUITES: &[Suite] = &[
    Suite {
        package: "verbs",
        test: Some("loopback"),
        arguments: &[],
        devices: RXE,
        apart: false,
        environment: &[],
        stock: true,
    },
    Suite {
        package: "verbs",
        test: Some("connection"),
        arguments: &[],
        devices: BOTH,
        apart: false,
        environment: &[],
        stock: true,
    },
    Suite {
        package: "verbs",
        test: Some("iwarp"),
        arguments: &[],
        devices: SIW,
        apart: false,
        environment: &[],
        stock: false,
    },
    Suite {
        package: "verbs",
        test: Some("link"),
        arguments: &[],
        devices: RXE,
        apart: false,
        environment: &[],
        stock: true,
    },
    Suite {
        package: "engine",
        test: None,
        arguments: &["transport::lanes::tests::device", "transport::lanes::tests::iwarp", "--nocapture"],
        devices: BOTH,
        apart: false,
        environment: &[],
        stock: true,
    },
    Suite {
        package: "engine",
        test: None,
        arguments: &["ucx_conforms_over_reliable_connections", "--nocapture"],
        devices: RXE,
        apart: false,
        environment: UCX_ON_RXE,
        stock: false,
    },
    Suite {
        package: "engine",
        test: None,
        arguments: &["over_rdma", "tests::rdma::"],
        devices: BOTH,
        apart: true,
        environment: &[],
        stock: false,
    },
    Suite {
        package: "suites",
        test: Some("cluster"),
        arguments: &["rdma"],
        devices: RXE,
        apart: true,
        environment: &[],
        stock: false,
    },
    // What differs from rxe lies below these, so that a few of them are enough.
    Suite {
        package: "suites",
        test: Some("cluster"),
        arguments: &["everywhere::over_rdma", "loss::over_rdma", "bench::rdma_is_measured"],
        devices: SIW,
        apart: true,
        environment: &[],
        stock: false,
    },
];

/// Runs every suite that is for the kernel, on its devices or on one of them alone, and says how long each took; the first
/// status that is not zero. A suite that failed counts before one that took too long.
pub(super) fn run(machine: &Machine, only: Option<Device>) -> Result<u8, Error> {
    let building = Instant::now();
    let programs = Programs::build()?;
    let mut lines = vec![Line { what: "the tests: built".into(), took: building.elapsed(), failed: 0 }];
    let mut first = 0;
    let is_stock = matches!(machine.kernel, Kernel::Stock(_));
    for suite in SUITES.iter().filter(|suite| suite.stock || !is_stock) {
        let wanted = |device: &Device| {
            only.is_none_or(|only| only == *device) && !(is_stock && *device == Device::Siw)
        };
        let devices: Vec<Device> = suite.devices.iter().copied().filter(wanted).collect();
        if devices.is_empty() {
            continue;
        }
        let commands = suite.commands(programs.of(suite)?)?;
        for device in devices {
            let machine = Machine { device, ..machine.clone() };
            let running = Instant::now();
            let mut failed = 0;
            for command in &commands {
                let status = suite.run(command, &machine)?;
                failed += usize::from(status != 0);
                if first == 0 || (first == LATE && status != 0 && !STOPPED.contains(&status)) {
                    first = status;
                }
                if STOPPED.contains(&status) {
                    return Ok(first);
                }
            }
            let what = format!("{} on {} (kernels: {})", suite.label(), device.name(), commands.len());
            lines.push(Line { what, took: running.elapsed(), failed });
        }
    }
    lines.iter().for_each(|line| eprintln!("{line}"));
    Ok(first)
}

/// What became of a suite, or of building all.
struct Line {
    what: String,
    took: Duration,
    /// Kernels that ended with a status that is not zero.
    failed: usize,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "soft-roce: {:6.1} s  {}", self.took.as_secs_f64(), self.what)?;
        if self.failed > 0 { write!(f, ", {} FAILED", self.failed) } else { Ok(()) }
    }
}

impl Suite {
    fn name(&self) -> String {
        format!("{}, {}", self.package, self.test.unwrap_or("unit tests"))
    }

    /// As its name, with the first of the tests that are chosen.
    fn label(&self) -> String {
        [self.name()].into_iter().chain(self.arguments.first().map(|first| format!(" {first}"))).collect()
    }

    /// Runs one of its commands in a kernel of its own; the status.
    fn run(&self, command: &[OsString], machine: &Machine) -> Result<u8, Error> {
        let test = if self.apart { command[1].to_string_lossy() } else { "all".into() };
        let name = format!("{}, {test}, on {}", self.name(), machine.device.name());
        eprintln!("soft-roce: {name}");
        let started = Instant::now();
        let status = machine.run(command, &[&[REQUIRED], self.environment].concat())?;
        eprintln!("soft-roce: {name}: status {status} after {:.1} s", started.elapsed().as_secs_f64());
        Ok(status)
    }

    /// What to run of its program: everything at once, or each test by itself.
    fn commands(&self, program: OsString) -> Result<Vec<Vec<OsString>>, Error> {
        let arguments = self.arguments.iter().map(OsString::from);
        if !self.apart {
            return Ok(vec![[program].into_iter().chain(arguments).collect()]);
        }
        let mut command = Command::new(&program);
        command.args(["--list", "--format", "terse"]).args(arguments);
        let listed = command.output();
        let listed = listed.map_err(|source| Error::Spawn { program: spelled(&command), source })?;
        let text = String::from_utf8_lossy(&listed.stdout).into_owned();
        let tests = text.lines().filter_map(|line| line.strip_suffix(": test"));
        let alone = |test: &str| vec![program.clone(), test.into(), "--exact".into(), "--nocapture".into()];
        Ok(tests.map(alone).collect())
    }
}

/// The test programs of the workspace, by the folder of their package and the name of their target.
struct Programs(HashMap<(String, String), OsString>);

impl Programs {
    /// Builds them all as `cargo xtask test` does, and `shoal` with them. A few packages by themselves would have fewer
    /// features, and so be built once more where everything has been tested before.
    fn build() -> Result<Self, Error> {
        let format = "--message-format=json-render-diagnostics";
        let mut command = cargo(&["test", "--workspace", "--locked", "--no-run", format]);
        let spawned = command.stdout(Stdio::piped()).spawn();
        let mut child = spawned.map_err(|source| Error::Spawn { program: spelled(&command), source })?;
        let messages = child.stdout.take().map(|output| Message::parse_stream(BufReader::new(output)));
        let mut programs = HashMap::new();
        for message in messages.into_iter().flatten().map_while(Result::ok) {
            if let Message::CompilerArtifact(artifact) = message
                && artifact.profile.test
                && let Some(program) = artifact.executable
                && let Some(package) = artifact.manifest_path.parent().and_then(Utf8Path::file_name)
            {
                programs.insert((package.to_owned(), artifact.target.name), program.into_os_string());
            }
        }
        let status = child.wait().map_err(|source| Error::Spawn { program: spelled(&command), source })?;
        if status.success() { Ok(Self(programs)) } else { Err(Error::Build) }
    }

    fn of(&self, suite: &Suite) -> Result<OsString, Error> {
        let target = suite.test.unwrap_or(suite.package);
        let program = self.0.get(&(suite.package.to_owned(), target.to_owned()));
        program.cloned().ok_or_else(|| Error::NoProgram(suite.name()))
    }
}
