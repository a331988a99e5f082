//! The HTTP door of real nodes: what it answers, what it refuses, and what it survives.
#![allow(clippy::unwrap_used)]

mod answers; // keys are written, read, listed, watched
mod bounds; // more than is taken, slower than is borne
mod document; // the OpenAPI document is true
mod examples; // the examples of the manual run
mod doors; // one port, two protocols, and who may come in
mod refusals; // what cannot be understood changes nothing
