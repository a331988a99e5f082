//! A seeded world that drives the scheduler of `flow` and the trackers of `plan` as they run in production: a broadcast
//! to thousands of nodes in seconds to minutes, and the same broadcast by what it is compared with.
//!
//! ```
//! use sim::{Faults, Scenario, Strategy, simulate};
//!
//! let faults = Faults { slow: 0.1, ..Faults::default() };
//! let scenario = Scenario { faults, ..Scenario::new(1, 60, 128 << 20) };
//! let swarm = simulate(&scenario)?;
//! let chain = simulate(&Scenario { strategy: Strategy::Chain, ..scenario })?;
//! assert!(swarm.median() < chain.median());
//! # Ok::<(), sim::Failure>(())
//! ```
//!
//! [`Scenario`] says what is broadcast, to whom, and by which [`Strategy`]; [`Cluster`] what the machines and the network
//! can do; [`Faults`] what goes wrong. [`Outcome`] has the time of every receiver, the percentiles of progress over time
//! and the bytes of every rack. The same scenario gives the same outcome.
//!
//! docs/simulation.md says what is modelled, what is not, and what came of it.
//!
//! With every event the world checks that no piece is visible that was not verified, that chunks do not mix, that no slot
//! has two users, and that grants, connections, uploads and memory keep within their bounds; from time to time, that
//! something arrives as long as anybody has it; and at the end, that every grant has ended. What breaks one of these
//! promises ends the run with a [`Violation`], which names the seed.

mod cluster; // what machines and network can do
mod event; // what happens next
mod fabric; // cards, switches, memory: the links of the network
mod faults; // who is slow, late, dead, cut off, or lies
mod network; // streams, slices, and who reaches whom
mod node; // one node and its part of the engine
mod outcome; // what came of a run
mod progress; // how far the receivers were, over time
mod relay; // fixed trees, in the same network
mod route; // who passes a piece on to whom in them
mod scenario; // one run
pub mod statistics; // several runs
mod strategy; // who sends to whom
pub mod trial; // random clusters, and the simplest that fails
mod world; // the swarm

pub use cluster::Cluster;
pub use faults::{Faults, Partition};
pub use outcome::{Failure, Outcome, Rack, Receiver, Violation, percentile};
pub use progress::{Point, Progress};
pub use scenario::{CHUNKS_MAX, Flow, PIECES_MAX, Refused, Scenario};
pub use strategy::{Strategy, UnknownStrategy};

/// Runs a scenario until every survivor has all, or nothing happens any more.
pub fn simulate(scenario: &Scenario) -> Result<Outcome, Failure> {
    scenario.check()?;
    match scenario.strategy {
        Strategy::Swarm => Ok(world::run(scenario)?),
        _ => Ok(relay::run(scenario)),
    }
}
