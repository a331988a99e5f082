//! Programs that the lane is made with, one by one or each feeding the next.

use std::process::{Command, Stdio};

use super::Error;

/// A program with its arguments.
pub(super) fn program<const COUNT: usize>(name: &str, arguments: [&str; COUNT]) -> Command {
    let mut command = Command::new(name);
    command.args(arguments);
    command
}

/// Runs a program in silence; its output stands in the error when it fails.
pub(super) fn run(mut command: Command) -> Result<(), Error> {
    let name = spelled(&command);
    let output = command.stdin(Stdio::null()).output();
    let output = output.map_err(|source| Error::Spawn { program: name.clone(), source })?;
    if output.status.success() {
        return Ok(());
    }
    let text = [output.stdout, output.stderr].concat();
    Err(Error::Program { program: name, output: ending(&String::from_utf8_lossy(&text), 20) })
}

/// Runs programs of which each reads what the one before it writes. What they complain of goes to the terminal.
pub(super) fn feed(commands: impl IntoIterator<Item = Command>) -> Result<(), Error> {
    let mut children = Vec::new();
    let mut input = Stdio::null();
    for mut command in commands {
        let program = spelled(&command);
        let spawned = command.stdin(input).stdout(Stdio::piped()).spawn();
        let mut child = spawned.map_err(|source| Error::Spawn { program: program.clone(), source })?;
        input = child.stdout.take().map_or_else(Stdio::null, Stdio::from);
        children.push((program, child));
    }
    drop(input);
    let mut outcome = Ok(());
    for (program, mut child) in children.into_iter().rev() {
        let status = child.wait().map_err(|source| Error::Spawn { program: program.clone(), source })?;
        if !status.success() {
            outcome = Err(Error::Program { program, output: status.to_string() });
        }
    }
    outcome
}

/// The last lines of a text.
pub(super) fn ending(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.trim_end().lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

fn spelled(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_anywhere_in_a_pipeline_is_named() {
        let words = |script| program("sh", ["-c", script]);
        assert!(feed([words("echo a"), words("grep -q a")]).is_ok());
        let error = feed([words("exit 3"), words("cat >&2")]).unwrap_err().to_string();
        assert!(error.contains("exit 3"), "{error}");
    }

    #[test]
    fn what_a_program_said_last_is_in_the_error() {
        assert!(run(program("true", [])).is_ok());
        let error = run(program("sh", ["-c", "echo sorry; exit 1"])).unwrap_err().to_string();
        assert!(error.ends_with("failed: sorry"), "{error}");
        assert_eq!(ending("a\nb\nc\n", 2), "b\nc");
    }
}
