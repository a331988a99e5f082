//! Benchmarks beside their peers.
//!
//! A [`scenario::Scenario`] puts what Shoal does beside other programs that do the same on the same machine: in every
//! round each runs once, one after another, so that whatever else the machine does falls on all of them alike, and
//! ratios are formed within a round. Nothing here asserts a time. The modules are listed from the outside in.
#![forbid(unsafe_code)]

pub mod command_line; // flags, and the way through one call

pub mod report; // medians, ratios, table and JSON
pub mod runner; // rounds
pub mod scenario; // what a comparison is

mod calibration; // the simulator beside real nodes
mod peers; // programs that do the same, and what it takes to run them
mod scenarios; // the comparisons

mod conditions; // what is the same for all: congestion control, folders, sizes
mod cost; // time on the wall and on the processors
mod descendants; // processes that come from another
mod failure; // what can go wrong, and what to do about it
mod interrupt; // Ctrl-C and its kin
mod machine; // what the numbers depend on
mod nodes; // real nodes, in processes of their own
mod payload; // bytes that are moved, and what they must be afterwards
