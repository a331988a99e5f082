//! Frames and pieces over a connection.
