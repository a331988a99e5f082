//! Engines beside each other in one process: the control plane is played by the test, the rest is real.
#![allow(clippy::unwrap_used)]

mod cluster; // the control plane, played
mod moving; // chunks from engine to engine
mod protocol; // a member that breaks the protocol
mod rdma; // engines that write into each other's memory
mod room; // memory that runs short
mod sharing; // engines that read each other's memory
mod storing; // chunks on one engine
