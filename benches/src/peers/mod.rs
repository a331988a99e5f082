//! Programs that do the same, and what it takes to run them.
//!
//! Nothing else of Shoal knows them. Each is used the way that suits it best for the comparison at hand.

pub mod append; // records in a file, each synced
pub mod copies; // plain TCP from one process to others
pub mod fio; // writing a file as fast as the disk takes it
pub mod hello; // a server that does nothing but HTTP
pub mod library; // gloo, Ray, libtorrent and Mooncake Store
pub mod memcpy; // copying memory within a process
pub mod map; // a map in memory, behind a lock
pub mod mpi; // MPI_Bcast
pub mod redis; // values in the memory of a server
pub mod sqlite; // rows in a database, each committed
pub mod wrk; // a load of HTTP requests

mod program; // other people's programs, run to their end
mod standing; // programs that stay up, and are told what to do
