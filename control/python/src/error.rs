//! Errors as exceptions. The classes are written in Python, where they can be read.

use client::ClientError;
use client::kv::Reason;
use pyo3::prelude::*;

/// The exception for an error of the client.
pub(crate) fn raise(error: &ClientError) -> PyErr {
    let code = match error {
        ClientError::Cancelled => "cancelled".to_owned(),
        ClientError::Handshake { .. } => "denied".to_owned(),
        ClientError::Connect { .. } => "connect".to_owned(),
        // The names are those that HTTP and the command line use.
        error => error.code().map_or("failed".to_owned(), |code| snake(&format!("{code:?}"))),
    };
    let maybe_done = match error {
        ClientError::Catalog(refused) => {
            matches!(&refused.reason, Reason::Unreachable(again) if again.maybe_done)
        }
        ClientError::Closed { .. } => true,
        _ => false,
    };
    build(&code, &error.to_string(), error.hint(), maybe_done)
}

/// The exception of a call that took too long.
pub(crate) fn late() -> PyErr {
    build("timeout", "the call took longer than its timeout", Some("allow it more time"), true)
}

/// The exception for input that makes no sense.
pub(crate) fn invalid(message: &str) -> PyErr {
    build("invalid", message, None, false)
}

fn build(code: &str, message: &str, hint: Option<&str>, maybe_done: bool) -> PyErr {
    Python::attach(|py| {
        let build = py.import("shoal.errors").and_then(|module| module.getattr("_build"));
        match build.and_then(|build| build.call1((code, message, hint, maybe_done))) {
            Ok(exception) => PyErr::from_value(exception),
            Err(broken) => broken,
        }
    })
}

/// `MemoryFull` → `memory_full`.
fn snake(name: &str) -> String {
    let mut snake = String::new();
    for letter in name.chars() {
        if letter.is_uppercase() && !snake.is_empty() {
            snake.push('_');
        }
        snake.extend(letter.to_lowercase());
    }
    snake
}
