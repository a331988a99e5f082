//! Protection domains, and memory that devices may reach.

mod domain; // what belongs together
mod mapping; // memory to register
mod region; // registered memory

pub use domain::ProtectionDomain;
pub use mapping::{HostMemory, Mapping};
pub use region::{Access, MemoryRegion, RemoteRange, Segment};
