//! Standard output. A reader that goes away is an error that ends the command quietly.

use std::io::{self, Write};

use serde::Serialize;

use crate::failure::Failure;

/// Writes one line.
pub fn line(text: impl std::fmt::Display) -> Result<(), Failure> {
    Ok(writeln!(io::stdout().lock(), "{text}")?)
}

/// Writes text as it is.
pub fn text(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    Ok(stdout.flush()?)
}

/// Writes a value as JSON on a line of its own.
pub fn json_line(value: &impl Serialize) -> Result<(), Failure> {
    line(serde_json::to_string(value).map_err(io::Error::from)?)
}

/// Writes a value as JSON.
pub fn json(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).map_err(io::Error::from)?;
    line(text)
}
