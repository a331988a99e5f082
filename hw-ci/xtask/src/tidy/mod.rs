//! Everything that is checked without running the code.

mod edges; // which crate may import which
mod source; // what the tokens of a Rust file show
mod words; // what may not stand in any file

use std::fmt;
use std::path::Path;

use cargo_metadata::MetadataCommand;
use ignore::WalkBuilder;

use crate::Error;
use crate::cargo::{cargo, root, spelled, succeeds};

pub(crate) const HELP: &str = "\
Checks, in this order: Cargo.lock is current; which crate imports which; `unsafe` only in its rooms; names of
modules; lengths of files; words that no file may hold; formatting; clippy; documentation.

Every finding says what, where, and what to do. Warnings do not fail the run.

Examples:
  cargo xtask tidy          everything
  cargo xtask tidy --fast   only what needs no compiler";

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Only what needs no compiler: leaves out clippy and documentation
    #[arg(long)]
    fast: bool,
}

/// Something that is not as it should be.
#[derive(Debug, PartialEq)]
pub(crate) struct Finding {
    /// Whether it fails the run.
    pub(crate) fails: bool,
    /// File and line, or crate.
    pub(crate) place: String,
    /// What was found, and what to do.
    pub(crate) text: String,
}

impl Finding {
    fn error(place: impl Into<String>, text: impl Into<String>) -> Self {
        Self { fails: true, place: place.into(), text: text.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.fails { "error" } else { "warning" };
        write!(f, "{kind}: {}: {}", self.place, self.text)
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<bool, Error> {
    let mut findings = Vec::new();
    // With --locked this fails by itself, and says what to do, when Cargo.lock is not current.
    let options = vec!["--locked".to_owned()];
    let metadata = MetadataCommand::new().current_dir(root()).other_options(options).exec()?;
    edges::check(&metadata, &mut findings);
    check_files(&mut findings)?;

    let mut commands = vec![(
        cargo(&["fmt", "--all", "--", "--check", "-l"]),
        "run `cargo fmt --all`; the files are named above",
    )];
    if !arguments.fast {
        let clippy = ["clippy", "--locked", "--workspace", "--all-targets", "--", "-D", "warnings"];
        commands.push((cargo(&clippy), "mend what clippy names above"));
        let mut doc = cargo(&["doc", "--locked", "--workspace", "--no-deps"]);
        doc.env("RUSTDOCFLAGS", "-D warnings -D missing_docs");
        commands.push((doc, "mend what rustdoc names above"));
    }
    for (mut command, remedy) in commands {
        let name = spelled(&command);
        eprintln!("tidy: {name}");
        if !succeeds(&mut command)? {
            findings.push(Finding::error(name, format!("failed; {remedy}")));
        }
    }

    findings.sort_by_key(|finding| finding.fails);
    findings.iter().for_each(|finding| eprintln!("{finding}"));
    let errors = findings.iter().filter(|finding| finding.fails).count();
    match errors {
        0 => eprintln!("tidy: fine, {} warnings", findings.len()),
        _ => eprintln!("tidy: {errors} errors, {} warnings", findings.len() - errors),
    }
    Ok(errors == 0)
}

/// Reads every file that git would not ignore.
fn check_files(findings: &mut Vec<Finding>) -> Result<(), Error> {
    let walk = WalkBuilder::new(root())
        .hidden(false)
        .require_git(false)
        .filter_entry(|entry| entry.file_name() != ".git")
        .sort_by_file_name(Ord::cmp)
        .build();
    for entry in walk {
        let entry = entry?;
        if !entry.file_type().is_some_and(|kind| kind.is_file()) {
            continue;
        }
        let path = entry.path();
        let bytes =
            std::fs::read(path).map_err(|source| Error::Read { path: path.display().to_string(), source })?;
        // What is not text is data, and data is not read here.
        let Ok(text) = String::from_utf8(bytes) else {
            continue;
        };
        let place = path.strip_prefix(root()).unwrap_or(path);
        check_file(place, &text, findings);
    }
    Ok(())
}

fn check_file(place: &Path, text: &str, findings: &mut Vec<Finding>) {
    words::check(place, text, findings);
    if place.ends_with("Cargo.toml") && !takes_lints(text) {
        let advice = "does not take the lints of the workspace: add `[lints]` with `workspace = true`";
        findings.push(Finding::error(place.display().to_string(), advice));
    }
    if place.extension().is_some_and(|extension| extension == "rs") {
        source::check(place, text, findings);
    }
}

/// Whether a manifest takes the lints of the workspace, or is that of the fuzz targets, which stand outside it.
fn takes_lints(manifest: &str) -> bool {
    let is_crate = manifest.lines().any(|line| line == "[package]");
    !is_crate || manifest.contains("[lints]\nworkspace = true") || manifest.contains("cargo-fuzz = true")
}
