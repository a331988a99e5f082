//! Engines beside each other in one process: the control plane is played by the test, the rest is real.
#![allow(clippy::unwrap_used)]

mod cluster; // the control plane, played
mod conformance; // what holds for every way that pieces travel
mod crowds; // more peers than there are connections for
mod gpu; // chunks on GPUs
mod moving; // chunks from engine to engine
mod protocol; // a member that breaks the protocol
mod rdma; // a link that is cut
mod room; // memory that runs short
mod stopping; // engines that stop
mod storing; // chunks on one engine
mod values; // small values on one engine
