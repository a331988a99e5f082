//! libibverbs without hardware and without root: a User Mode Linux kernel, which is an ordinary process, with Soft-RoCE
//! (`rxe`) and Soft-iWARP (`siw`) built in; or Debian's own kernel in QEMU. docs/soft-roce.md says what works in them.

mod cache; // what is made once, and how it is found again
mod check; // shows that the lane works
mod kernel; // builds the kernel
mod machine; // runs a command in the kernel
mod packages; // Debian's packages, unpacked and never installed
mod pipeline; // programs whose output feeds the next
mod stock; // Debian's own kernel in QEMU
mod suites; // the tests that need verbs

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use cache::Cache;
use machine::{Kernel, Machine};
use stock::Stock;

pub(crate) const HELP: &str = "\
The command runs as root of that kernel, beside a peer: rxe0 with 10.98.0.1 is in its network namespace, rxe1 with
10.98.0.2 in the namespace `peer`, and a link that can be cut or made lossy (shoal0 to shoal1) between them. It sees the
files of this machine. What it writes stays in memory, save in the checkout, the target folder and --share.

Exit status: that of the command; 124 when the time limit ran out, 125 when the kernel died, 77 when the packages cannot
be had, and the reason is then said. SHOAL_SOFT_ROCE_DIR is where packages and kernel are kept [default:
~/.cache/shoal/soft-roce].

Examples:
  cargo xtask hw soft-roce                                    the suites that need verbs
  cargo xtask hw soft-roce --self-check                       whether the lane itself works
  cargo xtask hw soft-roce -- ibv_devinfo                     a command
  cargo xtask hw soft-roce --qemu -- uname -a                 the same in Debian's own kernel
  cargo xtask hw soft-roce -- sh -c 'ip netns exec peer ip addr; tc qdisc add dev shoal0 root netem loss 1%'";

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Show that devices, messages, writes, connections and faults of the link work here
    #[arg(long, conflicts_with_all = ["command", "device"])]
    self_check: bool,
    /// Make packages and kernel ready, and run nothing
    #[arg(long, conflicts_with_all = ["command", "self_check"])]
    prepare: bool,
    /// Take Debian's own kernel in QEMU, with KVM where it boots that and in software elsewhere; it has no siw
    #[arg(long)]
    qemu: bool,
    /// End the kernel after this time
    #[arg(long, value_name = "SECONDS", default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    time_limit: u64,
    /// Memory of the kernel
    #[arg(long, value_name = "MIB", default_value_t = 5120, value_parser = clap::value_parser!(u32).range(128..=65_536))]
    memory: u32,
    /// Processors of the kernel
    #[arg(long, value_name = "COUNT", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=8))]
    cpus: u32,
    /// Which software device stands at each end of the link [default: rxe; for the suites, all that each can use]
    #[arg(long, value_enum)]
    device: Option<Device>,
    /// Another folder that the command may write to; repeat for several
    #[arg(long, value_name = "FOLDER")]
    share: Vec<PathBuf>,
    /// What --self-check runs inside the kernel
    #[arg(long, hide = true)]
    check_inside: bool,
    /// The command and its arguments
    #[arg(last = true)]
    command: Vec<std::ffi::OsString>,
}

#[derive(Clone, Copy, Debug, PartialEq, clap::ValueEnum)]
enum Device {
    /// Soft-RoCE: RoCE v2 over UDP
    Rxe,
    /// Soft-iWARP: over TCP, connected by librdmacm alone
    Siw,
    /// The link alone
    None,
}

impl Device {
    fn name(self) -> &'static str {
        match self {
            Self::Rxe => "rxe",
            Self::Siw => "siw",
            Self::None => "none",
        }
    }
}

/// Why the lane did not run its command.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// Something that this machine lacks, so that nothing was found out.
    #[error("{what}; {remedy}")]
    Missing { what: String, remedy: &'static str },
    #[error("cannot {action} {}: {source}", path.display())]
    File { action: &'static str, path: PathBuf, source: std::io::Error },
    #[error("cannot run {program}: {source}")]
    Spawn { program: String, source: std::io::Error },
    #[error("{program} failed: {output}")]
    Program { program: String, output: String },
    #[error("the kernel's configuration was not taken as it stands in hw-ci/soft-roce/kernel.config: {0}")]
    Configuration(String),
    #[error("{} has a space in it, which a kernel's command line cannot hold; choose another folder with {variable}", path.display())]
    Space { path: PathBuf, variable: &'static str },
    #[error("Debian's kernel {kernel} has no module {name}")]
    Driver { name: String, kernel: String },
    #[error("Debian's kernel is built without siw; leave --qemu out, or choose --device rxe")]
    Siw,
    #[error("stopped")]
    Stopped,
    #[error("cannot read the workspace: {0}")]
    Metadata(#[from] cargo_metadata::Error),
    #[error("the tests do not build; cargo's output above says why")]
    Build,
    #[error(
        "no test program of the workspace is the suite {0}; correct the table in hw-ci/xtask/src/hw/soft_roce/suites.rs"
    )]
    NoProgram(String),
}

/// Exit status when this machine lacks what the lane needs.
const SKIPPED: u8 = 77;

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Error> {
    match attempt(arguments) {
        Ok(status) => Ok(ExitCode::from(status)),
        Err(error @ Error::Missing { .. }) => {
            eprintln!("skipped: {error}");
            Ok(ExitCode::from(SKIPPED))
        }
        Err(error) => Err(error),
    }
}

fn attempt(arguments: &Arguments) -> Result<u8, Error> {
    if arguments.check_inside {
        return Ok(check::inside());
    }
    if std::env::consts::ARCH != "x86_64" {
        let what = format!("User Mode Linux does not run on {}", std::env::consts::ARCH);
        return Err(Error::Missing { what, remedy: "use a machine with x86-64" });
    }
    if arguments.qemu && arguments.device == Some(Device::Siw) {
        return Err(Error::Siw);
    }
    let cache = Cache::open()?;
    let packages = packages::ready(&cache)?;
    let kernel = if arguments.qemu {
        Kernel::Stock(Stock::ready(&cache, &packages)?)
    } else {
        Kernel::UserMode(kernel::ready(&cache)?)
    };
    let mut machine = Machine {
        packages,
        kernel,
        memory_mib: arguments.memory,
        cpus: arguments.cpus,
        device: arguments.device.unwrap_or(Device::Rxe),
        time_limit: Duration::from_secs(arguments.time_limit),
        shares: shares(arguments)?,
        scratch: cache.folder().to_owned(),
    };
    if let Kernel::Stock(stock) = machine.kernel.clone() {
        machine.kernel = Kernel::Stock(stock.accelerated(&machine)?);
    }
    drop(cache);
    if arguments.prepare {
        eprintln!("soft-roce: {} and {}", machine.kernel, machine.packages.display());
        return Ok(0);
    }
    if arguments.self_check {
        return check::outside(&machine);
    }
    match arguments.command.as_slice() {
        [] => suites::run(&machine, arguments.device),
        command => machine.run(command, &[]),
    }
}

/// The folders that the command may write to, without those that lie in another.
fn shares(arguments: &Arguments) -> Result<Vec<PathBuf>, Error> {
    let root = crate::cargo::root();
    let metadata = cargo_metadata::MetadataCommand::new().current_dir(root).no_deps().exec()?;
    let mut folders = vec![root.to_owned()];
    let target: PathBuf = metadata.target_directory.into();
    if target.exists() {
        folders.push(target);
    }
    folders.extend_from_slice(&arguments.share);
    if arguments.self_check {
        folders.push(check::program()?.with_file_name(""));
    }
    for folder in &mut folders {
        *folder = std::fs::canonicalize(&*folder).map_err(|source| Error::File {
            action: "share",
            path: folder.clone(),
            source,
        })?;
    }
    Ok(outermost(folders))
}

fn outermost(mut folders: Vec<PathBuf>) -> Vec<PathBuf> {
    folders.sort();
    folders.dedup_by(|later, earlier| later.starts_with(earlier));
    folders
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        arguments: Arguments,
    }

    fn parse(words: &[&str]) -> Result<Arguments, clap::Error> {
        Line::try_parse_from([&["soft-roce"], words].concat()).map(|line| line.arguments)
    }

    #[test]
    fn words_after_two_dashes_are_the_command() {
        let arguments = parse(&["--cpus", "1", "--", "sh", "-c", "exit 3"]).unwrap();
        assert_eq!(arguments.command, ["sh", "-c", "exit 3"]);
        assert_eq!((arguments.cpus, arguments.device), (1, None));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        assert!(parse(&["--cpus", "0"]).is_err() && parse(&["--memory", "1"]).is_err());
        assert!(parse(&["--self-check", "--", "true"]).is_err());
        assert!(parse(&["true"]).is_err());
    }

    #[test]
    fn debians_kernel_has_no_siw() {
        let arguments = parse(&["--qemu", "--device", "siw", "--", "true"]).unwrap();
        let error = attempt(&arguments).unwrap_err().to_string();
        assert!(error.contains("without siw"), "{error}");
    }

    #[test]
    fn a_folder_inside_another_is_shared_once() {
        let folders = ["/a/b/target", "/a/b", "/a/bc", "/a/b"].map(PathBuf::from);
        assert_eq!(outermost(folders.to_vec()), ["/a/b", "/a/bc"].map(PathBuf::from));
    }
}
