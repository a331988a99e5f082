//! What can go wrong, and what to do about it.

use std::io;
use std::path::PathBuf;

use catalog::CatalogError;
use client::ClientError;
use suites::network::NetworkError;

/// Why a benchmark cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// A signal arrived.
    #[error("interrupted")]
    Interrupted,
    /// The machine has too little memory for it.
    #[error(
        "it needs {needed_bytes} bytes of memory and {available_bytes} are free; end other programs, or shrink it with --shrink"
    )]
    Memory {
        /// Bytes that it takes.
        needed_bytes: u64,
        /// Bytes that are left.
        available_bytes: u64,
    },
    /// Nodes did not start, and have said why.
    #[error("the nodes did not start: {0}; what they logged is above")]
    Nodes(String),
    /// A node refused something.
    #[error("{what} failed: {source}")]
    Client {
        /// What was asked for.
        what: &'static str,
        /// Why it failed.
        source: ClientError,
    },
    /// A catalog refused something.
    #[error("{what} failed: {source}")]
    Catalog {
        /// What was asked for.
        what: &'static str,
        /// Why it failed.
        source: CatalogError,
    },
    /// Files, sockets or processes failed.
    #[error("cannot {what}: {source}")]
    System {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: io::Error,
    },
    /// Other bytes arrived than were sent.
    #[error("the bytes that arrived {place} are not those that were sent")]
    Wrong {
        /// Where.
        place: String,
    },
    /// The simulator refused a scenario, or found a promise broken.
    #[error("the simulated broadcast failed: {0}")]
    Simulated(String),
    /// A peer is not installed.
    #[error("{program} is missing; {remedy}")]
    Missing {
        /// The program.
        program: &'static str,
        /// How to come by it.
        remedy: &'static str,
    },
    /// There is no network of our own.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// A peer failed, or said something else than was expected.
    #[error("{program} {what}{output}")]
    Peer {
        /// The program.
        program: String,
        /// What it did.
        what: String,
        /// The end of what it printed, behind a line break; may be empty.
        output: String,
    },
    /// The kernel does not have a congestion control.
    #[error("the kernel does not take the congestion control '{name}': {source}; it offers: {offered}")]
    CongestionControl {
        /// What was asked for.
        name: String,
        /// What the kernel says.
        source: io::Error,
        /// What it has.
        offered: String,
    },
    /// No scenario is named so.
    #[error("there is no scenario '{name}'; there are: {known}")]
    Unknown {
        /// What was asked for.
        name: String,
        /// All names.
        known: String,
    },
    /// The results cannot be written.
    #[error("cannot write the results to {}: {source}", path.display())]
    Results {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

impl Failure {
    /// The failure of a call to a node, for `map_err`.
    pub fn client(what: &'static str) -> impl FnOnce(ClientError) -> Self {
        move |source| Self::Client { what, source }
    }

    /// The failure of a call to a catalog, for `map_err`.
    pub fn catalog(what: &'static str) -> impl FnOnce(CatalogError) -> Self {
        move |source| Self::Catalog { what, source }
    }

    /// The failure of a call to the system, for `map_err`.
    pub fn system<E: Into<io::Error>>(what: impl Into<String>) -> impl FnOnce(E) -> Self {
        move |source| Self::System { what: what.into(), source: source.into() }
    }
}
