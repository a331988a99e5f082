//! Refusals in words.

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
