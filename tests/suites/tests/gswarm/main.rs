//! The dialect of gswarm's data API, as its document describes it, on real nodes.
#![allow(clippy::unwrap_used)]

mod cluster; // any node answers for any key
mod commands; // `shoal data`
mod crash; // what was acknowledged survives
mod described; // the OpenAPI document is true
mod examples; // the examples of the manual run
mod gpu; // GPUs
mod limits; // how much there may be, and what goes first
mod origin; // a server that gives bytes
mod pool; // chunks under numbers
mod sending; // values are sent elsewhere, where that is allowed
mod signature; // signatures of requests to AWS, checked
mod sources; // chunks are read from servers and from S3
mod values; // keys are written, read, released
