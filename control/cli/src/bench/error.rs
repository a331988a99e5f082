//! Why a benchmark cannot run, or does not count.

use std::io;
use std::path::PathBuf;

use daemon::NodeError;

use super::carried::Carried;
use crate::amount;

/// Why a benchmark cannot run.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// The cluster is too small.
    #[error("this needs {wanted} live nodes, and there are {found}")]
    TooFewNodes {
        /// How many it takes.
        wanted: usize,
        /// How many there are.
        found: usize,
    },
    /// No live node has this name.
    #[error("there is no live node named '{name}'")]
    NoSuchNode {
        /// The name.
        name: String,
    },
    /// The bytes of a round do not fit.
    #[error("there is no memory for {} of bytes to put", amount::size(*.size))]
    Memory {
        /// Bytes of a round.
        size: u64,
    },
    /// Nothing came over RDMA.
    #[error("{from} wrote nothing into the memory of {to} over RDMA; it came by {carried}")]
    NoLane {
        /// Who has the bytes.
        from: String,
        /// Who fetches them.
        to: String,
        /// How they came.
        carried: Carried,
    },
    /// A node of the benchmark's own cluster did not start.
    #[error("a node cannot run: {0}")]
    Node(#[from] NodeError),
    /// The flags ask for tasks that somebody else has to start.
    #[error(
        "the environment does not say which task this is; --launched is for what srun, mpirun or flux run starts"
    )]
    NotLaunched,
    /// Tasks would have nothing to do.
    #[error("{receivers} receivers are too few for {tasks} tasks, of which the first hosts the origin")]
    Idle {
        /// How many tasks there are.
        tasks: u32,
        /// How many receivers.
        receivers: u32,
    },
    /// There is no such interface, or it has no address.
    #[error("there is no IPv4 address on {name}")]
    Interface {
        /// Its name.
        name: String,
    },
    /// The file in which tasks find the first one failed.
    #[error("cannot use {}: {source}", path.display())]
    Rendezvous {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The machine allows too few open files.
    #[error(
        "{receivers} receivers on this machine take {wanted} open files, and a process may have {limit} of them"
    )]
    Files {
        /// How many receivers.
        receivers: u32,
        /// How many descriptors they take.
        wanted: u64,
        /// How many a process may have.
        limit: u64,
    },
    /// The receivers do not fit.
    #[error(
        "{receivers} receivers with {} each need {} of memory, and {} are available",
        amount::size(*.size), amount::size(*.needed), amount::size(*.available)
    )]
    Crowd {
        /// How many receivers.
        receivers: u32,
        /// Bytes of a round.
        size: u64,
        /// Bytes for all.
        needed: u64,
        /// Bytes that the machine has left.
        available: u64,
    },
    /// A task said that it cannot go on.
    #[error("task {rank} has failed: {message}")]
    Task {
        /// Which.
        rank: usize,
        /// Why.
        message: String,
    },
    /// A task said what this one does not understand.
    #[error("a task speaks another language: {message}")]
    Tongue {
        /// What is wrong with it.
        message: String,
    },
    /// A node is away.
    #[error("node {name} does not answer any more")]
    Gone {
        /// Its name.
        name: String,
    },
    /// Something took too long.
    #[error("{what} did not come to it in time")]
    Late {
        /// What was waited for.
        what: &'static str,
    },
    /// A receiver did not get everything.
    #[error("receiver {name} did not get everything: {message}")]
    Receiver {
        /// Its name.
        name: String,
        /// Why not.
        message: String,
    },
    /// A receiver has other bytes than the origin.
    #[error("receiver {name} has wrong bytes")]
    Wrong {
        /// Its name.
        name: String,
    },
    /// Receivers are missing in the tasks' answers.
    #[error("only {verified} of {receivers} receivers have shown that their bytes are right")]
    Incomplete {
        /// How many have.
        verified: u32,
        /// How many there are.
        receivers: usize,
    },
    /// One node was named twice.
    #[error("{name} cannot fetch from itself")]
    SameNode {
        /// The node.
        name: String,
    },
}

impl BenchError {
    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            BenchError::TooFewNodes { .. } => "start more nodes: shoal serve --join HOST:PORT",
            BenchError::NoSuchNode { .. } => "`shoal node ls` lists the nodes",
            BenchError::Memory { .. } => "use a smaller --size",
            BenchError::NoLane { .. } => {
                "`shoal doctor` on both says what devices there are; the log of a node says why a lane broke, and \
                 `--transports rdma,tcp` keeps nodes of one host from sharing memory"
            }
            BenchError::Node(_) => "`shoal doctor` says what a node needs",
            BenchError::NotLaunched => "srun -N 8 shoal bench broadcast --launched --report report.json",
            BenchError::Idle { .. } => "start fewer tasks, or use more --receivers",
            BenchError::Interface { .. } => "name one that has: --interface NAME; `ip -4 addr` lists them",
            BenchError::Rendezvous { .. } => {
                "--rendezvous names a folder that all tasks see and may write to"
            }
            BenchError::Files { .. } => {
                "raise the hard limit (`ulimit -Hn` shows it, LimitNOFILE= or limits.conf sets it), or use fewer --receivers"
            }
            BenchError::Crowd { .. } => "use fewer --receivers or a smaller --size",
            BenchError::Task { .. } | BenchError::Gone { .. } => "what it printed says more",
            BenchError::Tongue { .. } => "all tasks must run the same version of this program",
            BenchError::Late { .. } => "--limit allows more time; nodes must reach each other on --interface",
            BenchError::Receiver { .. } | BenchError::Incomplete { .. } => "",
            BenchError::Wrong { .. } => {
                "this must never happen: please report it, with the command and the report"
            }
            BenchError::SameNode { .. } => "name two nodes: --from NODE --to NODE",
        }
    }
}
