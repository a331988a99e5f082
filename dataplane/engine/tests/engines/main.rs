//! Engines beside each other in one process: the control plane is played by the test, the rest is real.
#![allow(clippy::unwrap_used)]

mod cluster; // the control plane, played
mod moving; // chunks from engine to engine
mod room; // memory that runs short
mod storing; // chunks on one engine
