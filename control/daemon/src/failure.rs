//! Refusals in words.

use catalog::CatalogError;
use flow::wire::session::{Failure, FailureCode};

const HEAD_HINT: &str = "check that the head runs and can be reached; its address is what --join says";

fn failure(code: FailureCode, message: impl Into<String>, hint: impl Into<String>) -> Failure {
    Failure { code, message: message.into(), hint: hint.into() }
}

pub(crate) fn invalid(message: impl Into<String>, hint: impl Into<String>) -> Failure {
    failure(FailureCode::Invalid, message, hint)
}

pub(crate) fn not_found(message: impl Into<String>, hint: impl Into<String>) -> Failure {
    failure(FailureCode::NotFound, message, hint)
}

pub(crate) fn conflict(message: impl Into<String>, hint: impl Into<String>) -> Failure {
    failure(FailureCode::Conflict, message, hint)
}

pub(crate) fn unavailable(message: impl Into<String>, hint: impl Into<String>) -> Failure {
    failure(FailureCode::Unavailable, message, hint)
}

pub(crate) fn internal(message: impl Into<String>) -> Failure {
    failure(FailureCode::Internal, message, "the node's log says more")
}

pub(crate) fn head_away(why: impl std::fmt::Display) -> Failure {
    unavailable(format!("the head does not answer: {why}"), HEAD_HINT)
}

/// What the catalog refused, in words.
pub(crate) fn of_catalog(error: &CatalogError) -> Failure {
    failure(code_of_catalog(error), in_full(error), hint_of_catalog(error))
}

fn code_of_catalog(error: &CatalogError) -> FailureCode {
    use CatalogError::*;
    match error {
        Key(_)
        | Manifest { .. }
        | ManifestSize { .. }
        | NoExpiry { .. }
        | TooLarge { .. }
        | ValueSize { .. }
        | Twice { .. }
        | Invalid { .. } => FailureCode::Invalid,
        Conflict { .. } | Changed { .. } => FailureCode::Conflict,
        NoKey { .. } | NoService { .. } => FailureCode::NotFound,
        ChangesGone { .. } | SnapshotGone { .. } | TransactionTimeout { .. } | NoTransaction { .. } => {
            FailureCode::Gone
        }
        Unreachable { .. } | Unacknowledged { .. } | Leases => FailureCode::Unavailable,
        Engine { .. } | File { .. } => FailureCode::Io,
        Damaged { .. } | Format { .. } | LostWrites { .. } => FailureCode::Corrupt,
        _ => FailureCode::Internal,
    }
}

fn hint_of_catalog(error: &CatalogError) -> &'static str {
    match error {
        CatalogError::Unreachable { maybe_done: true, .. } => {
            "the write may have been carried out: read the key before it is written again"
        }
        CatalogError::Unreachable { .. } => {
            "check that the head runs and can be reached, whose address is what --join says, or the etcd of --catalog; \
             `shoal status` tells which, and whether it is reached"
        }
        CatalogError::Unacknowledged { .. } => {
            "`shoal node ls` shows which nodes are alive; --consistency quorum asks none"
        }
        CatalogError::NoKey { .. } => "`shoal ls` lists the keys",
        CatalogError::NoService { .. } => "`shoal service ls` lists the services",
        CatalogError::ValueSize { .. } => "`shoal put KEY --src FILE` stores bytes of any size",
        _ => "",
    }
}

/// An error and what it came from.
pub(crate) fn in_full(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

pub(crate) fn full() -> Failure {
    let hint = "release keys that must stay, or raise the limit of values";
    failure(FailureCode::MemoryFull, "there is no room for the value", hint)
}

pub(crate) fn stopping() -> Failure {
    failure(FailureCode::Draining, "the node is shutting down", "ask another node")
}

pub(crate) fn draining(name: &str) -> Failure {
    failure(
        FailureCode::Draining,
        format!("node '{name}' is draining and takes nothing in"),
        "choose another node",
    )
}

pub(crate) fn unexpected(question: &str, answer: &str) -> Failure {
    internal(format!("{question} was answered with {answer}"))
}
