//! The tests and benchmarks of the Python package, where Python is.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use cargo_metadata::MetadataCommand;

use crate::Error;
use crate::cargo::root;

/// Interpreters that are tried, and what each must have: the version that the package wants, and the modules that make
/// a folder for it.
const INTERPRETERS: [&str; 5] = ["python3", "python3.11", "python3.12", "python3.13", "python3.14"];
const SUITS: &str = "import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))";
/// What the tests need. What else they can use, such as torch, is tested where it is installed already.
const TESTS_NEED: [&str; 7] = ["maturin", "numpy", "pytest", "hypothesis", "fsspec", "requests", "mypy"];
/// What the benchmarks need; the client of Redis is of no use without a server.
const BENCHMARKS_NEED: [&str; 3] = ["maturin", "numpy", "redis"];

/// A folder of Python packages, with the package in it.
struct Environment {
    folder: PathBuf,
}

impl Environment {
    /// Makes the folder `name` below the target folder, with what is needed and the package of this checkout, which is built
    /// with a profile of cargo. The other answer is why that cannot be here.
    fn with_package(name: &str, needed: &[&str], profile: &str) -> Result<Result<Self, &'static str>, Error> {
        let Some(interpreter) = INTERPRETERS.iter().find(|name| runs(name, &["-c", SUITS])) else {
            return Ok(Err("there is no Python 3.11 or later with the modules venv and ensurepip"));
        };
        let target: PathBuf =
            MetadataCommand::new().current_dir(root()).no_deps().exec()?.target_directory.into();
        let environment = Self { folder: target.join(name) };
        let python = environment.python().display().to_string();
        // Whatever is installed beside the interpreter, such as torch, can be used.
        let make = ["-m", "venv", "--system-site-packages", &environment.folder.display().to_string()];
        if !runs(&python, &["-c", ""]) && !runs(interpreter, &make) {
            return Ok(Err("no folder for its packages could be made"));
        }
        let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"];
        if !runs(&python, &[&pip[..], needed].concat()) {
            return Ok(Err("pip could not install what is needed; its output above says why"));
        }
        eprintln!("python: building the wheel");
        let build = ["--no-build-isolation", "--no-deps", "--force-reinstall", "--config-settings"];
        let package = root().join("control/python").display().to_string();
        let mut install = Command::new(&python);
        install.args(pip).args(build).args([&format!("build-args=--profile {profile}"), &package]);
        install.env("CARGO_TARGET_DIR", &target).env("PATH", with_first(&environment.folder.join("bin")));
        if !install.status().is_ok_and(|status| status.success()) {
            return Err(Error::Failed(format!("{python} -m pip install {package}")));
        }
        Ok(Ok(environment))
    }

    fn python(&self) -> PathBuf {
        self.folder.join("bin/python")
    }
}

/// How many tests passed and failed; `None` when they could not run here, which is said.
pub(crate) fn test(binary: &Path) -> Result<Option<(u64, u64)>, Error> {
    // The profile of the other tests, into their folder.
    let environment = match Environment::with_package("python-tests", &TESTS_NEED, "dev")? {
        Ok(environment) => environment,
        Err(why) => {
            eprintln!("python: its tests are skipped: {why}");
            return Ok(None);
        }
    };
    let python = environment.python();
    let mut tests = Command::new(&python);
    tests.args(["-m", "pytest", "--quiet", "-p", "no:cacheprovider"]);
    tests.current_dir(root().join("control/python")).env("SHOAL_BINARY", binary);
    tests.env("PYTHONDONTWRITEBYTECODE", "1").stdout(Stdio::piped());
    let output = tests.spawn().and_then(std::process::Child::wait_with_output);
    let output = output.map_err(|source| Error::Spawn { command: python.display().to_string(), source })?;
    let text = String::from_utf8_lossy(&output.stdout);
    print!("{text}");
    match counted(&text) {
        Some((_, 0)) | None if !output.status.success() => Err(Error::Failed("pytest".into())),
        counted => Ok(counted),
    }
}

/// The benchmarks, ready to run with the node that `binary` is.
pub(crate) fn bench(binary: &Path) -> Result<Command, Error> {
    let environment = Environment::with_package("python-bench", &BENCHMARKS_NEED, "release")?;
    let environment = environment.map_err(|why| {
        eprintln!("python: {why}");
        Error::Failed("python -m venv".into())
    })?;
    let mut command = Command::new(environment.python());
    command.arg(root().join("benches/python/arrays.py"));
    command.env("SHOAL_BINARY", binary).env("PYTHONDONTWRITEBYTECODE", "1");
    Ok(command)
}

fn runs(program: &str, arguments: &[&str]) -> bool {
    Command::new(program).args(arguments).status().is_ok_and(|status| status.success())
}

/// The search path with a folder before all others.
fn with_first(folder: &Path) -> std::ffi::OsString {
    let rest = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::iter::once(folder.to_path_buf()).chain(std::env::split_paths(&rest));
    std::env::join_paths(folders).unwrap_or(rest)
}

/// The numbers of the last line, such as `2 failed, 7 passed, 1 skipped in 3.21s`.
fn counted(output: &str) -> Option<(u64, u64)> {
    let line = output.lines().rev().find(|line| line.contains(" in ") && line.contains("ed"))?;
    let words: Vec<&str> = line.split([' ', ',']).filter(|word| !word.is_empty()).collect();
    let sum = |names: &[&str]| {
        let found = words.windows(2).filter(|pair| names.contains(&pair[1]));
        found.filter_map(|pair| pair[0].parse::<u64>().ok()).sum()
    };
    Some((sum(&["passed"]), sum(&["failed", "error", "errors"])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_is_counted() {
        assert_eq!(counted("....\n9 passed in 1.00s\n"), Some((9, 0)));
        assert_eq!(counted("F\n1 failed, 7 passed, 2 skipped, 1 error in 3.21s\n"), Some((7, 2)));
        assert_eq!(counted("nothing"), None);
    }
}
