//! Errors as FastAPI tells them: `{"detail": …}`, a text, or for what does not fit its type a list with the place and
//! the reason of each.

use axum::Json;
use axum::extract::{FromRequestParts, Path, Query};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use utoipa::ToSchema;

use crate::values::{NameError, ValueError};
use flow::wire::session::FailureCode;

/// Why a request was not carried out.
#[derive(Debug)]
pub(in crate::http) struct Refusal(Box<Told>, StatusCode);

/// The body of every answer of this dialect that is no success.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = GswarmError)]
pub(in crate::http) struct Told {
    /// What failed, or for status 422 a list of what does not fit.
    #[schema(value_type = Value)]
    detail: Value,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, text: impl Into<String>) -> Self {
        Self(Box::new(Told { detail: Value::String(text.into()) }), status)
    }

    pub(super) fn bad(text: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, text)
    }

    pub(super) fn no_key(key: &str) -> Self {
        let key: String = key.chars().take(200).collect();
        Self::new(StatusCode::NOT_FOUND, format!("Key '{key}' not found"))
    }

    /// What does not fit its type.
    pub(super) fn unprocessable(wrong: Vec<Value>) -> Self {
        Self(Box::new(Told { detail: Value::Array(wrong) }), StatusCode::UNPROCESSABLE_ENTITY)
    }

    /// A key of a path that cannot be one.
    pub(super) fn of_key(error: NameError) -> Self {
        Self::unprocessable(vec![wrong_key(error, &["path", "key"])])
    }
}

/// One thing that does not fit, as pydantic says it.
pub(super) fn wrong(kind: &str, place: &[&str], text: &str, input: Value) -> Value {
    json!({"type": kind, "loc": place, "msg": text, "input": input})
}

pub(super) fn wrong_key(error: NameError, place: &[&str]) -> Value {
    let kind = if error == NameError::Empty { "string_too_short" } else { "string_too_long" };
    wrong(kind, place, &error.to_string(), Value::Null)
}

/// What a part of the address says, read by `E`; refused in this dialect where it does not fit.
pub(in crate::http) struct Address<E>(pub(super) E);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Address<Path<T>> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let path = Path::from_request_parts(parts, state).await;
        path.map(Self).map_err(|error| misfit("path", error.body_text()))
    }
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Address<Query<T>> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let query = Query::from_request_parts(parts, state).await;
        query.map(Self).map_err(|error| misfit("query", error.body_text()))
    }
}

fn misfit(place: &str, text: String) -> Refusal {
    Refusal::unprocessable(vec![wrong("value_error", &[place], &text, Value::Null)])
}

impl From<ValueError> for Refusal {
    fn from(error: ValueError) -> Self {
        let status = match &error {
            ValueError::Full => StatusCode::INSUFFICIENT_STORAGE,
            ValueError::Failed(failure) => match failure.code {
                FailureCode::Invalid => StatusCode::BAD_REQUEST,
                FailureCode::Unavailable | FailureCode::Draining => StatusCode::SERVICE_UNAVAILABLE,
                _ => StatusCode::INTERNAL_SERVER_ERROR,
            },
        };
        Self::new(status, error.to_string())
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.1, Json(&*self.0)).into_response()
    }
}
