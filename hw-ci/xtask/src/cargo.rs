//! Runs cargo.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use cargo_metadata::MetadataCommand;

use crate::Error;

/// A cargo command with the workspace root as its folder.
pub(crate) fn cargo(arguments: &[&str]) -> Command {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(program);
    command.args(arguments).current_dir(root());
    // Cargo describes the package that it runs in these variables. Passed on, they look to build scripts like a
    // change and make them run again.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_CRATE_", "CARGO_BIN_"]
            .iter()
            .any(|head| text.starts_with(head))
        {
            command.env_remove(&name);
        }
    }
    command
}

/// Runs a command whose output goes to the terminal; whether it succeeded.
pub(crate) fn succeeds(command: &mut Command) -> Result<bool, Error> {
    let status = command.status().map_err(|source| Error::Spawn { command: spelled(command), source })?;
    Ok(status.success())
}

/// The command line, for messages.
pub(crate) fn spelled(command: &Command) -> String {
    let words = command.get_args().map(|word| word.to_string_lossy());
    std::iter::once("cargo".into()).chain(words).collect::<Vec<_>>().join(" ")
}

/// Where a program of the workspace is once it is built; the profile `dev` builds into `debug`.
pub(crate) fn built(folder: &str, program: &str) -> Result<PathBuf, Error> {
    let metadata = MetadataCommand::new().current_dir(root()).no_deps().exec()?;
    Ok(metadata.target_directory.join(folder).join(program).into())
}

/// The folder of the workspace. Cargo says where this crate lies whenever it runs it; where it was built may be another checkout
/// that shares the folder of build output.
pub(crate) fn root() -> &'static Path {
    static ROOT: LazyLock<PathBuf> = LazyLock::new(|| {
        let run = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
        let here = run.unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
        here.ancestors().nth(2).expect("this crate lies two folders below the root").to_owned()
    });
    &ROOT
}
