//! One node: what it keeps, what it refuses, and how it starts and stops.
#![allow(clippy::unwrap_used)]

mod serve; // start, stop, settings
