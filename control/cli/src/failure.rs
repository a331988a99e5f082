//! What can go wrong, how it is told, and the exit code.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use client::ClientError;
use client::kv::Reason;
use daemon::SettingsError;
use flow::wire::session::FailureCode;
use serde::Serialize;

use crate::bench::BenchError;
use crate::demo::DemoError;
use crate::interrupt;
use crate::processes::ProcessError;

/// Exit code of wrong usage, the same that clap uses.
pub const USAGE: u8 = 2;

const FAILED: u8 = 1;
const NOT_FOUND: u8 = 3;
const UNAVAILABLE: u8 = 4;
const CONFLICT: u8 = 5;
/// What a shell reports of a program that SIGPIPE ended.
const PIPE_CLOSED: u8 = 128 + 13;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The node refused, or could not be reached.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The flags contradict each other or make no sense.
    #[error("{0}")]
    Usage(String),
    /// There is no such key, chunk or node.
    #[error("{what}")]
    NotFound {
        /// What is not there.
        what: String,
        /// What to do.
        hint: &'static str,
    },
    /// The token file cannot be read.
    #[error("cannot read the token file {}: {source}", path.display())]
    TokenFile {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file that was named cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    ReadFile {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file cannot be written.
    #[error("cannot write {}: {source}", path.display())]
    WriteFile {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Standard input cannot be read.
    #[error("cannot read standard input: {0}")]
    Input(io::Error),
    /// A value is larger than the catalog keeps.
    #[error("the value of key '{key}' has more than 64 KiB, which is the most that the catalog keeps")]
    ValueSize {
        /// The key.
        key: String,
    },
    /// A key has another version than a transaction wants.
    #[error("key '{key}' has version {found}, version {expected} was expected (0 means absent)")]
    Version {
        /// The key.
        key: String,
        /// What was expected.
        expected: u64,
        /// What there is.
        found: u64,
    },
    /// A server of gswarm's data API was not reached, or refused.
    #[error("{place}: {message}")]
    Server {
        /// Where it is.
        place: String,
        /// What it said, or why it was not reached.
        message: String,
        /// The status of its answer, if there was one.
        code: Option<u16>,
    },
    /// Standard output cannot be written.
    #[error("cannot write to standard output: {0}")]
    Output(#[from] io::Error),
    /// No handler for Ctrl-C could be set.
    #[error("cannot watch for signals: {0}")]
    Signals(io::Error),
    /// A replica does not have the bytes that its name promises.
    #[error("the bytes of chunk {chunk} on node {node} are wrong: their digest is {digest}")]
    Corrupt {
        /// The chunk.
        chunk: flow::chunk::ChunkId,
        /// The node that holds the replica.
        node: String,
        /// What the bytes really are.
        digest: flow::chunk::ChunkId,
    },
    /// `doctor` found that no node can run here.
    #[error("this machine cannot run a node: {0}")]
    Unfit(String),
    /// A signal ended the command.
    #[error("interrupted")]
    Interrupted,
    /// The demonstration failed.
    #[error(transparent)]
    Demo(#[from] DemoError),
    /// Programs on this machine could not be started.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// The settings of a node make no sense.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// A benchmark failed.
    #[error(transparent)]
    Bench(#[from] BenchError),
    /// A simulated cluster broke a promise.
    #[error(transparent)]
    Simulated(#[from] sim::Failure),
    /// A simulation came to no end.
    #[error("a thread that simulated ended without a result")]
    SimulationLost,
    /// A drawing failed.
    #[error("cannot draw the simulation: {0}")]
    Chart(String),
}

/// A failure as `--json` prints it.
#[derive(Serialize)]
struct Report<'a> {
    code: FailureCodeOr,
    message: String,
    hint: &'a str,
}

/// A node's code, or one of the command's own.
#[derive(Serialize)]
#[serde(untagged)]
enum FailureCodeOr {
    Node(FailureCode),
    Own(&'static str),
}

impl Failure {
    /// Tells the failure on standard error and gives the exit code.
    pub fn report(self, json: bool) -> ExitCode {
        let failure = self.or_interrupted();
        if !failure.is_closed_pipe() {
            // When standard error is closed too, only the exit code is left.
            let _ = failure.write(json, &mut io::stderr().lock());
        }
        ExitCode::from(failure.exit_code())
    }

    /// A signal closes the connections, and what fails because of that is not worth telling.
    fn or_interrupted(self) -> Self {
        if interrupt::signal().is_some() { Failure::Interrupted } else { self }
    }

    fn is_closed_pipe(&self) -> bool {
        matches!(self, Failure::Output(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }

    fn write(&self, json: bool, to: &mut dyn Write) -> io::Result<()> {
        let hint = self.hint();
        if json {
            let report = Report { code: self.code(), message: self.to_string(), hint: &hint };
            return writeln!(to, "{}", serde_json::to_string(&report)?);
        }
        writeln!(to, "error: {self}")?;
        hint.lines().try_for_each(|line| writeln!(to, "hint: {line}"))
    }

    fn code(&self) -> FailureCodeOr {
        match (self, self.exit_code()) {
            (Failure::Client(error), _) => {
                error.code().map_or(FailureCodeOr::Own("failed"), FailureCodeOr::Node)
            }
            (Failure::ValueSize { .. }, _) => FailureCodeOr::Node(FailureCode::Invalid),
            (Failure::Interrupted, _) => FailureCodeOr::Own("interrupted"),
            (Failure::Corrupt { .. }, _) => FailureCodeOr::Node(FailureCode::Corrupt),
            (_, USAGE) => FailureCodeOr::Own("usage"),
            (_, NOT_FOUND) => FailureCodeOr::Node(FailureCode::NotFound),
            (_, UNAVAILABLE) => FailureCodeOr::Node(FailureCode::Unavailable),
            (_, CONFLICT) => FailureCodeOr::Node(FailureCode::Conflict),
            _ => FailureCodeOr::Own("failed"),
        }
    }

    fn exit_code(&self) -> u8 {
        match self {
            Failure::Client(ClientError::Address(_) | ClientError::ChunkPrefix(_)) => USAGE,
            Failure::Client(ClientError::Catalog(refused))
                if matches!(refused.reason, Reason::Conflict(_) | Reason::Changed(_)) =>
            {
                CONFLICT
            }
            Failure::Version { .. } => CONFLICT,
            Failure::Client(error) => error.code().map_or(FAILED, exit_code_of),
            Failure::Usage(_) | Failure::Settings(_) => USAGE,
            Failure::NotFound { .. } => NOT_FOUND,
            Failure::Server { code: Some(404), .. } => NOT_FOUND,
            Failure::Server { code: None | Some(503), .. } => UNAVAILABLE,
            Failure::Interrupted => 128u8.saturating_add(interrupt::signal().unwrap_or(interrupt::SIGINT)),
            Failure::Output(_) if self.is_closed_pipe() => PIPE_CLOSED,
            Failure::Bench(BenchError::NoSuchNode { .. }) => NOT_FOUND,
            Failure::Bench(BenchError::TooFewNodes { .. } | BenchError::NoLane { .. }) => UNAVAILABLE,
            _ => FAILED,
        }
    }

    fn hint(&self) -> String {
        match self {
            Failure::Client(error) => error.hint().unwrap_or_default().to_owned(),
            Failure::Usage(_) => "--help shows the usage".into(),
            Failure::Server { code: None, .. } => "check that a node listens there: --host HOST:PORT".into(),
            Failure::Server { code: Some(401), .. } => "show the token: --token-file FILE".into(),
            Failure::NotFound { hint, .. } => (*hint).into(),
            Failure::TokenFile { .. } => {
                "name the file that the nodes were started with: --token-file FILE".into()
            }
            Failure::Corrupt { node, chunk, .. } => {
                format!("drop the replica: shoal chunk rm {chunk} --on {node} --force")
            }
            Failure::ValueSize { key } => format!("`shoal put {key} --src FILE` stores bytes of any size"),
            Failure::Version { .. } => "read it again, then try with what it has".into(),
            Failure::Unfit(_) => "the remedies are in the table above".into(),
            Failure::Demo(error) => error.hint().into(),
            Failure::Process(error) => error.hint().into(),
            Failure::Bench(error) => error.hint().into(),
            _ => String::new(),
        }
    }
}

fn exit_code_of(code: FailureCode) -> u8 {
    match code {
        FailureCode::NotFound => NOT_FOUND,
        FailureCode::Unavailable | FailureCode::Draining => UNAVAILABLE,
        _ => FAILED,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(failure: &Failure, json: bool) -> String {
        let mut text = Vec::new();
        failure.write(json, &mut text).unwrap();
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn an_error_is_told_with_its_hint() {
        let failure = Failure::NotFound { what: "no key 'a'".into(), hint: "`shoal ls` lists the keys" };
        assert_eq!(told(&failure, false), "error: no key 'a'\nhint: `shoal ls` lists the keys\n");
        let report: serde_json::Value = serde_json::from_str(&told(&failure, true)).unwrap();
        assert_eq!(report["code"], "not_found");
        assert_eq!(report["message"], "no key 'a'");
        assert_eq!(report["hint"], "`shoal ls` lists the keys");
    }

    #[test]
    fn exit_codes_are_those_of_the_help() {
        assert_eq!(exit_code_of(FailureCode::NotFound), 3);
        assert_eq!(exit_code_of(FailureCode::Unavailable), 4);
        assert_eq!(exit_code_of(FailureCode::Draining), 4);
        assert_eq!(exit_code_of(FailureCode::Corrupt), 1);
        assert_eq!(Failure::Usage(String::new()).exit_code(), 2);
        let closed = Failure::Output(io::ErrorKind::BrokenPipe.into());
        assert!(closed.is_closed_pipe());
        assert_eq!(Failure::Output(io::ErrorKind::StorageFull.into()).exit_code(), 1);
    }
}
