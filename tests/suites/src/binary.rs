//! The program under test.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A command that runs a program through others that become what follows them. None of the `SHOAL_` variables that the
/// tests themselves were started with reaches it.
pub(crate) fn command(through: &[String], program: &Path) -> Command {
    let mut words = through.iter().map(PathBuf::from).chain([program.to_path_buf()]);
    let mut command = Command::new(words.next().expect("the program is always among the words"));
    command.args(words);
    for (variable, _) in std::env::vars_os() {
        if variable.to_string_lossy().starts_with("SHOAL_") {
            command.env_remove(variable);
        }
    }
    command
}

/// The binary that `SHOAL_BINARY` names, or else the one that was built beside this test.
pub fn path() -> PathBuf {
    if let Some(path) = std::env::var_os("SHOAL_BINARY") {
        return path.into();
    }
    let test = std::env::current_exe().expect("a running test has a path");
    // Tests lie in `debug/deps`, programs in `debug`.
    let mut beside = test.ancestors().skip(1).take(2).map(|folder| folder.join("shoal"));
    let found = beside.find(|path| path.is_file());
    found.expect(
        "no shoal binary beside the tests; build it with `cargo build -p cli`, or name one in SHOAL_BINARY",
    )
}
