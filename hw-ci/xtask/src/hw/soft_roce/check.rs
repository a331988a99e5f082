//! Shows that the lane works, with rdma-core's own programs, so that a suite that fails there means something.
//!
//! This program runs itself inside the kernel, where its checks are.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use super::Error;
use super::machine::Machine;
use super::pipeline::ending;
use super::stock::FLAVOUR;

/// How often a client calls before its server is taken for dead, and how long it waits between two calls.
const CALLS: u32 = 50;
const PAUSE: Duration = Duration::from_millis(100);
/// The address of the end that the checks run at.
const HERE: &str = "10.98.0.1";

/// A check: what it shows, and what finds it out.
type Check = (&'static str, fn() -> Result<(), String>);

const SIW: &str = "siw stands on the same link";

const CHECKS: &[Check] = &[
    ("both devices are up", devices),
    ("RC messages cross the link", || pair("ibv_rc_pingpong -d rxe0 -g 1", "ibv_rc_pingpong -d rxe1 -g 1")),
    ("SRQ messages cross the link", || {
        pair("ibv_srq_pingpong -d rxe0 -g 1", "ibv_srq_pingpong -d rxe1 -g 1")
    }),
    ("ib_write_bw writes 1 MiB", || pair(&write_bandwidth("rxe0"), &write_bandwidth("rxe1"))),
    ("rdma_cm connects, rping reads and writes", || pair("rping -s -C 3 -a", "rping -c -C 3 -a")),
    ("a link that loses 2 % is survived", lossy),
    ("a cut link is seen, and its return", cut),
    (SIW, siw),
];

/// Runs the checks in the kernel.
pub(super) fn outside(machine: &Machine) -> Result<u8, Error> {
    let words = ["hw", "soft-roce", "--check-inside"].map(OsString::from);
    let command: Vec<OsString> = std::iter::once(program()?.into_os_string()).chain(words).collect();
    machine.run(&command, &[])
}

/// Where this program is.
pub(super) fn program() -> Result<PathBuf, Error> {
    std::env::current_exe().map_err(|source| Error::Spawn { program: "the checks".into(), source })
}

/// Runs every check and prints what it found; 1 if any failed.
pub(super) fn inside() -> u8 {
    // The checks take devices away, which must not happen to a machine.
    if !Path::new("/sys/class/net/shoal0").exists() {
        eprintln!("--check-inside is for the kernel that --self-check starts");
        return 1;
    }
    let mut checks = CHECKS.to_vec();
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    if release.trim().ends_with(FLAVOUR) {
        println!("Debian's kernel: it is built without siw");
        checks.retain(|(name, _)| *name != SIW);
    }
    let mut failed = 0;
    for (name, check) in &checks {
        match check() {
            Ok(()) => println!("works  {name}"),
            Err(reason) => {
                failed += 1;
                println!("FAILS  {name}: {reason}");
            }
        }
    }
    println!("{} of {} work", checks.len() - failed, checks.len());
    u8::from(failed > 0)
}

fn devices() -> Result<(), String> {
    for device in ["rxe0", "rxe1"] {
        state(device, "PORT_ACTIVE")?;
    }
    Ok(())
}

fn write_bandwidth(device: &str) -> String {
    format!("ib_write_bw -d {device} -x 1 -F -s 1048576 -n 50")
}

fn lossy() -> Result<(), String> {
    output("tc qdisc add dev shoal0 root netem loss 2%")?;
    let outcome = pair("ibv_rc_pingpong -d rxe0 -g 1 -n 200", "ibv_rc_pingpong -d rxe1 -g 1 -n 200");
    output("tc qdisc del dev shoal0 root")?;
    outcome
}

fn cut() -> Result<(), String> {
    output("ip link set shoal0 down")?;
    let outcome = state("rxe0", "PORT_DOWN");
    output("ip link set shoal0 up")?;
    outcome.and_then(|()| state("rxe0", "PORT_ACTIVE"))
}

fn siw() -> Result<(), String> {
    for (namespace, number) in [("", 0), ("ip netns exec peer ", 1)] {
        output(&format!("{namespace}rdma link del rxe{number}"))?;
        output(&format!("{namespace}rdma link add siw{number} type siw netdev shoal{number}"))?;
    }
    pair("rping -s -C 3 -a", "rping -c -C 3 -a")
}

/// Waits until a port is in a state.
fn state(device: &str, wanted: &str) -> Result<(), String> {
    let mut found = String::new();
    for _ in 0..CALLS {
        found = output(&format!("ibv_devinfo -d {device}"))?;
        if found.contains(wanted) {
            return Ok(());
        }
        thread::sleep(PAUSE);
    }
    Err(format!("{device} did not come to {wanted}: {}", ending(&found, 12)))
}

/// Runs a server here and its client at the other end of the link, which calls until the server listens.
fn pair(server: &str, client: &str) -> Result<(), String> {
    // rping's server wants its address too; the others take one for that of a server to call.
    let server = if server.ends_with("-a") { format!("{server} {HERE}") } else { server.to_owned() };
    let mut process = start(&server)?;
    let mut outcome = Err(String::new());
    for _ in 0..CALLS {
        outcome = output(&format!("ip netns exec peer timeout 20 {client} {HERE}"));
        // A server serves one client. When it is gone, another call says nothing.
        if outcome.is_ok() || process.try_wait().is_ok_and(|ended| ended.is_some()) {
            break;
        }
        thread::sleep(PAUSE);
    }
    let _ = process.kill();
    let _ = process.wait();
    outcome.map(|_| ())
}

fn start(line: &str) -> Result<Child, String> {
    let mut command = words(line);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().map_err(|error| format!("cannot run {line}: {error}"))
}

/// Runs a command; what it wrote.
fn output(line: &str) -> Result<String, String> {
    let output = words(line).stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("cannot run {line}: {error}"))?;
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    if output.status.success() { Ok(text) } else { Err(format!("{line}: {}", ending(&text, 5))) }
}

fn words(line: &str) -> Command {
    let mut words = line.split_whitespace();
    let mut command = Command::new(words.next().unwrap_or_default());
    command.args(words);
    command
}
