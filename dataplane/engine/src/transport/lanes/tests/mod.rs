//! The model and libibverbs by one measure, and lanes whose peers die at every step.

mod device; // libibverbs, where there is a device
mod iwarp; // what only lanes by address can show, where there is a device
mod faults; // lanes in a world where everything goes wrong
mod model; // the model, and what only it can show
mod ucx; // libucp, where there is one
