//! CUDA's driver, loaded at run time.
//!
//! [`devices`] finds the library and the GPUs, or says what is missing; that takes no memory of a GPU. From a device come, and
//! from each other:
//!
//! ```text
//! Device ─► Context ─► Buffer          (Rc: of one thread)
//!              └─────► HostMapping
//! ```
//!
//! Everything holds what it depends on, so nothing can be given back too early. *Posting a copy consumes what keeps the host's
//! memory; [`Context::settle`] returns it*: the memory cannot be reused while the GPU may still touch it.
//!
//! The functions and their rules are those of NVIDIA's "CUDA Driver API" reference; the declarations are `cudarc`'s. It has been
//! built and loaded without a GPU, and has not run on one.
//!
//! It is one of the few rooms where `unsafe` is allowed; every block says why it is sound.
#![allow(unsafe_code)]

mod load; // finding the library
mod error; // what fails, and what to do
mod device; // GPUs and what they are
mod context; // what one thread does with one GPU
mod host; // the host's memory, as a GPU reaches it

pub use context::{Buffer, Context};
pub use device::{Device, devices};
pub use error::Error;
pub use host::HostMapping;
pub use load::LoadError;
