//! Conformance, cluster and crash suites over real processes.
//!
//! What the suites in `tests/` share: nodes and clusters of the `shoal` binary, its command line, and trees of files to
//! put and to compare. A failed expectation panics, since the callers are tests; whatever was started or written is
//! gone when its value is dropped, after a panic too.

pub mod catalog; // what every engine of the catalog must do
pub mod linearizability; // whether what concurrent callers saw can have happened one by one
pub mod network; // networks of our own: hosts, each with a link to one switch that can be cut
mod binary; // the program under test
mod cluster; // a head and its members
mod command; // one call of the command line
mod etcd; // members of etcd
mod http; // requests over HTTP
mod node; // one `shoal serve`
mod noise; // bytes that look random and are the same each time
mod ordinary; // an ordinary user, for tests that are run by root
mod portrait; // what a tree is, for comparison
mod processes; // which processes there are
mod relay; // a local socket in front of a node's that counts what passes
mod wait; // conditions that come true after a while

pub use binary::path as program;
pub use cluster::Cluster;
pub use command::{Outcome, Running, Shoal, shoal};
pub use etcd::{Etcds, has_etcd};
pub use http::{Answer, Event, Events, Http};
pub use node::{Node, Setup, Signal, Way};
pub use noise::{Noise, noise, write_noise};
pub use ordinary::Ordinary;
pub use portrait::{Portrait, assert_same_tree};
pub use processes::processes_below;
pub use relay::Relay;
pub use wait::{holds, until};
