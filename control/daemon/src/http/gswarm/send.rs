//! A value is sent to another server: gswarm's own, or a node of another cluster.

use std::borrow::Cow;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use http_body_util::StreamBody;
use hyper::body::Frame;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::body::Fields;
use super::refusal::{Refusal, Told};
use super::value::{location_of, parts};
use crate::http::Api;
use crate::outgoing::{self, OutgoingError, Place};
use crate::values::{self, Keep, Kind, Value};
use futures_lite::StreamExt;

/// What is sent where.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = GswarmSend)]
#[allow(dead_code)]
pub(in crate::http) struct SendGiven {
    /// The key.
    key: String,
    /// The other server, such as `localhost:9016`.
    url: String,
}

/// What is sent where.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = GswarmSendExtended)]
#[allow(dead_code)]
pub(in crate::http) struct SendExtendedGiven {
    /// The key.
    key: String,
    /// The other server, such as `localhost:9016`.
    target: String,
    /// Where the value is; it is sent from wherever it is.
    source_location: Option<String>,
}

/// A value that was sent.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = GswarmSent)]
pub(in crate::http) struct Sent {
    /// Always `success`.
    status: &'static str,
    /// The key.
    key: String,
    /// The other server, as it was named.
    target: String,
    /// Where the value is.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    source: Option<Cow<'static, str>>,
    /// Always `standard`.
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<&'static str>,
}

/// Sends a value to another server, which keeps it as it is kept here.
#[utoipa::path(
    post, path = "/send", operation_id = "gswarmSend", tag = "gswarm", request_body = SendGiven,
    responses(
        (status = 200, description = "The other server has it", body = Sent),
        (status = 400, description = "The target cannot be understood", body = Told),
        (status = 403, description = "The node may not send to this target", body = Told),
        (status = 404, description = "There is no such key", body = Told),
        (status = 408, description = "The body did not come in time", body = Told),
        (status = 413, description = "The body is too large", body = Told),
        (status = 422, description = "Something does not fit its type", body = Told),
        (status = 500, description = "The other server did not take it", body = Told),
        (status = 507, description = "The body is larger than any that is taken", body = Told),
    )
)]
pub(in crate::http) async fn send(State(api): State<Api>, mut fields: Fields) -> Result<Json<Sent>, Refusal> {
    let (key, target) = (fields.key(), fields.text("url"));
    fields.check()?;
    carry(&api, &key, &target).await?;
    Ok(Json(Sent { status: "success", key, target, source: None, method: None }))
}

/// Sends a value to another server, and says where it was.
#[utoipa::path(
    post, path = "/send_extended", operation_id = "gswarmSendExtended", tag = "gswarm",
    request_body = SendExtendedGiven,
    responses(
        (status = 200, description = "The other server has it", body = Sent),
        (status = 400, description = "The target cannot be understood", body = Told),
        (status = 403, description = "The node may not send to this target", body = Told),
        (status = 404, description = "There is no such key", body = Told),
        (status = 408, description = "The body did not come in time", body = Told),
        (status = 413, description = "The body is too large", body = Told),
        (status = 422, description = "Something does not fit its type", body = Told),
        (status = 500, description = "The other server did not take it", body = Told),
        (status = 507, description = "The body is larger than any that is taken", body = Told),
    )
)]
pub(in crate::http) async fn send_extended(
    State(api): State<Api>,
    mut fields: Fields,
) -> Result<Json<Sent>, Refusal> {
    let (key, target, _) = (fields.key(), fields.text("target"), fields.optional_text("source_location"));
    fields.check()?;
    if target.contains(":device:") {
        return Err(Refusal::bad(
            "values are not sent to a GPU of another server; name the server as HOST:PORT",
        ));
    }
    let keep = carry(&api, &key, &target).await?;
    let (source, method) = (Some(location_of(keep)), Some("standard"));
    Ok(Json(Sent { status: "success", key, target, source, method }))
}

async fn carry(api: &Api, key: &str, target: &str) -> Result<Keep, Refusal> {
    let view = api.node.members.view();
    let place = api.node.reach.targets.check(target, &view).await.map_err(refused)?;
    let value = values::read(&api.node, key).await?.ok_or_else(|| Refusal::no_key(key))?;
    let keep = value.keep;
    let first = post(api, &place, "/write_extended", key, value).await;
    let Err(first) = first else { return Ok(keep) };
    // A server that does not know the extended call takes what JSON can say.
    let value = values::read(&api.node, key).await?.ok_or_else(|| Refusal::no_key(key))?;
    if value.kind == Kind::Json && post(api, &place, "/write", key, value).await.is_ok() {
        return Ok(keep);
    }
    Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, format!("Failed to send data: {first}")))
}

/// Sends a value by one of the calls that write; why it was not taken.
async fn post(api: &Api, place: &Place, path: &str, key: &str, value: Value) -> Result<(), String> {
    let is_durable = value.keep == Keep::Durable;
    let key = serde_json::to_string(key).unwrap_or_default();
    let kind = if value.kind == Kind::Pickle { "pickle" } else { "json" };
    let (before, after) = match path {
        "/write" => (r#""value":"#.to_owned(), "}"),
        _ => (format!(r#""serialized_value":{{"type":"{kind}","data":"#), "}}"),
    };
    // Servers of gswarm know either 'persist' or 'location', and read from 'dram' alone.
    let before = format!(r#"{{"key":{key},"persist":{is_durable},"location":"dram",{before}"#);
    let told = |error: &dyn std::fmt::Display| error.to_string();
    let (length, parts) =
        parts(&api.node, before, value.content, after).await.map_err(|error| told(&error))?;
    let body = StreamBody::new(parts.map(|part| part.map(Frame::data)));
    let (status, answer) = outgoing::post(place, path, body, length).await.map_err(|error| told(&error))?;
    if status.is_success() {
        return Ok(());
    }
    let answer: String = String::from_utf8_lossy(&answer).chars().take(200).collect();
    Err(format!("{path} was answered with {status}: {answer}"))
}

fn refused(error: OutgoingError) -> Refusal {
    let status = match &error {
        OutgoingError::Malformed(_) => StatusCode::BAD_REQUEST,
        OutgoingError::Forbidden(_) => StatusCode::FORBIDDEN,
        OutgoingError::Unreachable { .. } => {
            return Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, format!("Failed to send data: {error}"));
        }
    };
    Refusal::new(status, error.to_string())
}
