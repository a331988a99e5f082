//! Why a request was not carried out, as its sender reads it.

use std::ops::Deref;

use axum::http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use catalog::CatalogError;
use serde::Serialize;
use utoipa::ToSchema;

use crate::failure::in_full;

/// Why a request was not carried out. It is boxed, since every step may fail and few do.
#[derive(Debug)]
pub(super) struct Problem(Box<Told>);

/// The body of every answer that is no success.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Problem)]
pub(super) struct Told {
    #[serde(skip)]
    pub(super) status: StatusCode,
    /// What kind of failure it is. A code never changes its meaning.
    pub(super) code: Code,
    /// What failed, and on what.
    pub(super) message: String,
    /// What to do about it; may be empty.
    pub(super) hint: String,
    /// The key that it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    /// The version that was expected; 0 for none.
    #[serde(skip_serializing_if = "Option::is_none")]
    expected_version: Option<u64>,
    /// The version that there is; 0 for none.
    #[serde(skip_serializing_if = "Option::is_none")]
    found_version: Option<u64>,
    /// How many there are of what is too many.
    #[serde(skip_serializing_if = "Option::is_none")]
    found: Option<usize>,
    /// How many there may be.
    #[serde(skip_serializing_if = "Option::is_none")]
    most: Option<usize>,
    /// The revision after which changes are kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    kept_revision: Option<u64>,
    /// When it makes sense to try again, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_ms: Option<u64>,
    /// Whether a write may have been carried out all the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    maybe_done: Option<bool>,
}

/// What kind of failure it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Code {
    /// A parameter, a header or a body that cannot be understood.
    BadRequest,
    /// A text that cannot be a key.
    BadKey,
    /// A write names a key twice.
    KeyTwice,
    /// A cursor that was not made here for this listing.
    BadCursor,
    /// The token is missing or wrong.
    Unauthorized,
    /// A web page of another origin asks.
    CrossOrigin,
    /// There is nothing at this path.
    NoRoute,
    /// The path does not take this method.
    NoMethod,
    /// There is no such key.
    NoKey,
    /// There is no such transaction.
    NoTransaction,
    /// The key holds files, whose bytes have another door.
    HoldsFiles,
    /// The request was not sent in time.
    TooSlow,
    /// A key has another version than was expected.
    Conflict,
    /// A key was changed after the revision that was read.
    Changed,
    /// The key does not expire, so that its time cannot be extended.
    NoExpiry,
    /// The service that shall own a key is not registered.
    NoService,
    /// Changes, a snapshot or a transaction that are not kept any more.
    Gone,
    /// More than is taken at once.
    TooLarge,
    /// A value that is too large to be kept inline.
    ValueTooLarge,
    /// A body of another kind than is taken.
    BadMediaType,
    /// The node has as much to do as it takes on.
    Busy,
    /// The node is stopping.
    Stopping,
    /// The catalog cannot be reached.
    Unreachable,
    /// Not every replica of what a key refers to has said that it is there.
    Unacknowledged,
    /// The node or its disk failed.
    Failed,
}

impl Problem {
    pub(super) fn new(
        status: StatusCode,
        code: Code,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        Self(Box::new(Told {
            status,
            code,
            message: message.into(),
            hint: hint.into(),
            key: None,
            expected_version: None,
            found_version: None,
            found: None,
            most: None,
            kept_revision: None,
            retry_ms: None,
            maybe_done: None,
        }))
    }

    /// Something in the request that cannot be understood.
    pub(super) fn bad(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, Code::BadRequest, message, hint)
    }

    /// More than is taken at once.
    pub(super) fn too_large(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, Code::TooLarge, message, hint)
    }

    /// The node has as much to do as it takes on.
    pub(super) fn busy(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, Code::Busy, message, "try again shortly").retry_in(1000)
    }

    pub(super) fn no_key(key: &str) -> Self {
        let text = format!("there is no key '{}'", shortened(key));
        Self::new(StatusCode::NOT_FOUND, Code::NoKey, text, "GET /v1/kv lists the keys").about(key)
    }

    /// Says when it makes sense to try again.
    pub(super) fn retry_in(self, retry_ms: u64) -> Self {
        self.with(|told| told.retry_ms = Some(retry_ms))
    }

    pub(super) fn about(self, key: &str) -> Self {
        self.with(|told| told.key = Some(shortened(key)))
    }

    /// The answer to a condition that came in a header rather than in a parameter.
    pub(super) fn of_precondition(self) -> Self {
        match self.code {
            Code::Conflict | Code::Changed => self.with(|told| told.status = StatusCode::PRECONDITION_FAILED),
            _ => self,
        }
    }

    fn with(mut self, change: impl FnOnce(&mut Told)) -> Self {
        change(&mut self.0);
        self
    }
}

impl Deref for Problem {
    type Target = Told;

    fn deref(&self) -> &Told {
        &self.0
    }
}

/// The beginning of a text that somebody else chose.
pub(super) fn shortened(text: &str) -> String {
    text.chars().take(200).collect()
}

impl From<CatalogError> for Problem {
    fn from(error: CatalogError) -> Self {
        use CatalogError as Error;
        let text = in_full(&error);
        let with = |status, code, hint: &str| Self::new(status, code, text.clone(), hint);
        match &error {
            Error::Key(_) => with(StatusCode::BAD_REQUEST, Code::BadKey, ""),
            Error::Manifest { .. } | Error::Invalid { .. } => Self::bad(text, ""),
            Error::Twice { key } => with(StatusCode::BAD_REQUEST, Code::KeyTwice, "").about(key),
            Error::ManifestSize { .. } => Self::too_large(text, ""),
            Error::TooLarge { found, most, .. } => {
                Self::too_large(text, "").with(|told| (told.found, told.most) = (Some(*found), Some(*most)))
            }
            Error::ValueSize { key, .. } => {
                let hint = "store it with `shoal put`";
                with(StatusCode::PAYLOAD_TOO_LARGE, Code::ValueTooLarge, hint).about(key)
            }
            Error::Conflict { key, expected, found } => {
                let problem = with(StatusCode::CONFLICT, Code::Conflict, "read the key again").about(key);
                problem.with(|told| {
                    (told.expected_version, told.found_version) = (Some(*expected), Some(*found));
                })
            }
            Error::Changed { .. } => with(StatusCode::CONFLICT, Code::Changed, "read again and decide anew"),
            Error::NoKey { key } => Self::no_key(key),
            Error::NoExpiry { key } => {
                with(StatusCode::CONFLICT, Code::NoExpiry, "set ttl_ms instead").about(key)
            }
            Error::NoService { .. } => {
                with(StatusCode::CONFLICT, Code::NoService, "PUT /v1/services/NAME registers one")
            }
            Error::ChangesGone { kept, .. } => {
                let hint = "read the keys anew and watch from the revision of that read";
                with(StatusCode::GONE, Code::Gone, hint).with(|told| told.kept_revision = Some(*kept))
            }
            Error::NoTransaction { .. } => with(StatusCode::NOT_FOUND, Code::NoTransaction, "begin again"),
            Error::SnapshotGone { .. } | Error::TransactionTimeout { .. } => {
                with(StatusCode::GONE, Code::Gone, "begin again")
            }
            Error::Unreachable { retry_ms, maybe_done, .. } => {
                let hint = "try again; consistency=one reads what this node remembers";
                let problem = with(StatusCode::SERVICE_UNAVAILABLE, Code::Unreachable, hint);
                problem.retry_in(*retry_ms).with(|told| told.maybe_done = Some(*maybe_done))
            }
            Error::Unacknowledged { key, .. } => {
                let hint = "GET /v1/status tells of this node; consistency=quorum asks no replicas";
                let problem = with(StatusCode::SERVICE_UNAVAILABLE, Code::Unacknowledged, hint);
                problem.retry_in(1000).about(key)
            }
            Error::Leases => Self::busy(text),
            _ => with(StatusCode::INTERNAL_SERVER_ERROR, Code::Failed, "the log of the node may tell more"),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = serde_json::to_vec(&*self).unwrap_or_default();
        let mut response = (self.status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(retry_ms) = self.retry_ms {
            headers.insert(RETRY_AFTER, retry_ms.div_ceil(1000).max(1).into());
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conflict_names_both_versions() {
        let error = CatalogError::Conflict { key: "a".into(), expected: 2, found: 3 };
        let problem = Problem::from(error);
        assert_eq!(problem.status, StatusCode::CONFLICT);
        let json = serde_json::to_value(&*problem).unwrap();
        assert_eq!((&json["code"], &json["key"]), (&"conflict".into(), &"a".into()));
        assert_eq!((&json["expected_version"], &json["found_version"]), (&2.into(), &3.into()));
        assert!(json.get("retry_ms").is_none());
        assert_eq!(problem.of_precondition().status, StatusCode::PRECONDITION_FAILED);
    }

    #[test]
    fn what_may_succeed_later_says_when() {
        let error =
            CatalogError::Unreachable { reason: "it sleeps".into(), retry_ms: 1200, maybe_done: true };
        let response = Problem::from(error).into_response();
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(response.headers()[RETRY_AFTER], "2");
    }
}
