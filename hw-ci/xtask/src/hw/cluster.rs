//! The validation kit for a real cluster, which is a script of its own so that hosts need neither cargo nor this tree's
//! build. This hands it its words.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::Error;
use crate::cargo::root;

pub(crate) const HELP: &str = "\
This is hw-ci/cluster/validate, which needs bash, a shoal binary and a folder that all hosts see. On a cluster it is
started by srun, one task per host; docs/cluster-validation.md says how, and what its report holds.

Examples:
  srun --ntasks-per-node=1 hw-ci/cluster/validate --interface ib0       on a cluster
  cargo xtask hw cluster -- --hosts n1,n2,n3 --interface ib0            the same over ssh
  cargo xtask hw cluster -- --help                                      its options
  cargo xtask hw cluster --stand-in 3 -- --shoal target/release/shoal   try it on this machine, without a fabric";

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Run so many tasks on this machine, by a stand-in for srun, over addresses of the loopback interface
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u8).range(2..=64))]
    stand_in: Option<u8>,
    /// Passed on to the script
    #[arg(last = true)]
    passed: Vec<OsString>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<std::process::ExitCode, Error> {
    let mut command = command(arguments);
    // In place of this process, so that Ctrl-C is over when the script has cleaned up. It returns only when it fails.
    let source = command.exec();
    Err(Error::Spawn { command: command.get_program().to_string_lossy().into_owned(), source })
}

fn command(arguments: &Arguments) -> Command {
    let folder = root().join("hw-ci/cluster");
    let script = folder.join("validate");
    let mut command = match arguments.stand_in {
        None => Command::new(script),
        Some(count) => {
            let addresses: Vec<String> = (1..=count).map(|rank| format!("127.90.15.{rank}")).collect();
            let mut command = Command::new(folder.join("tests/srun"));
            command.arg(count.to_string()).arg(script).args(["--addresses", &addresses.join(",")]);
            command
        }
    };
    command.args(&arguments.passed);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(stand_in: Option<u8>) -> Vec<String> {
        let arguments = Arguments { stand_in, passed: vec!["--rounds".into(), "2".into()] };
        let command = command(&arguments);
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        words.map(|word| word.to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn words_reach_the_script_with_and_without_the_stand_in() {
        let alone = words(None);
        assert!(alone[0].ends_with("hw-ci/cluster/validate") && alone[1..] == ["--rounds", "2"]);
        let stand_in = words(Some(2));
        assert!(stand_in[0].ends_with("hw-ci/cluster/tests/srun") && stand_in[1] == "2");
        assert_eq!(stand_in[3..], ["--addresses", "127.90.15.1,127.90.15.2", "--rounds", "2"]);
    }
}
