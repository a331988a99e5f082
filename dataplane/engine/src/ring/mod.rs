//! Our own io_uring, for chunk bytes.
