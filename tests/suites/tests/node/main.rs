//! One node: what comes back from it, what it keeps, where its limits are, and how it starts and stops.
#![allow(clippy::unwrap_used)]

mod corner; // a place to put from and get to
mod keys; // keys are listed, shown and removed
mod kv; // small values: put, read, watched, committed together
mod limits; // full disks, full memory, flipped bits
mod progress; // what a terminal shows while bytes move
mod refusals; // what cannot be put or got, and what must not be
mod serve; // start, stop, settings
mod sharing; // what of a put and a get passes through a socket
mod simulation; // what a simulated cluster would do
mod storage; // what is there after a crash
mod trees; // files and trees come back as they were
mod wire; // a client that says what no honest client says
