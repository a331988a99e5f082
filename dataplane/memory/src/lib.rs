//! The node's arena: shared memory that pieces live in.
