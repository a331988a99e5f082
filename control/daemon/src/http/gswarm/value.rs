//! Keys are written, read, released.

use std::borrow::Cow;
use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::extract::{FromRequestParts, Path};
use axum::http::HeaderValue;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use engine::EngineError;
use flow::wire::session::Device;
use futures_lite::{Stream, stream};
use hyper::body::Bytes;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Done;
use super::body::Fields;
use super::refusal::{Address, Refusal, Told, wrong};
use crate::http::Api;
use crate::node::Node;
use crate::pool;
use crate::values::{self, Content, Keep, Kind, Value, ValueError};

/// A value that JSON can say.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = GswarmWrite)]
#[allow(dead_code)]
pub(in crate::http) struct WriteGiven {
    /// The key: any text.
    #[schema(min_length = 1)]
    key: String,
    /// The value: anything.
    #[schema(value_type = serde_json::Value)]
    value: serde_json::Value,
    /// Whether it is durable. True unless `location` says otherwise.
    persist: Option<bool>,
    /// `dram`, `pinned_dram`, `disk`, or a GPU such as `device:0`.
    location: Option<String>,
    /// How long it lives, in milliseconds.
    #[schema(minimum = 1)]
    ttl_ms: Option<u64>,
}

/// A value that the client has serialised.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = GswarmWriteExtended)]
#[allow(dead_code)]
pub(in crate::http) struct WriteExtendedGiven {
    /// The key: any text.
    #[schema(min_length = 1)]
    key: String,
    /// The value.
    serialized_value: Serialized,
    /// Whether it is durable. True unless `location` says otherwise.
    persist: Option<bool>,
    /// `dram`, `pinned_dram`, `disk`, or a GPU such as `device:0`.
    location: Option<String>,
    /// How long it lives, in milliseconds.
    #[schema(minimum = 1)]
    ttl_ms: Option<u64>,
}

/// A serialised value, which the node keeps as it is.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = GswarmSerialized)]
#[allow(dead_code)]
pub(in crate::http) struct Serialized {
    /// `json` or `pickle`.
    #[schema(pattern = "^(json|pickle)$")]
    r#type: String,
    /// Anything, or for `pickle` base64 of the pickled bytes.
    #[schema(value_type = serde_json::Value)]
    data: serde_json::Value,
}

/// What is under a key.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = GswarmRead)]
#[allow(dead_code)]
pub(in crate::http) struct ReadShown {
    /// The key.
    key: String,
    /// The value; null when there is none.
    #[schema(value_type = serde_json::Value)]
    value: serde_json::Value,
    /// Whether there is one, which may be null.
    found: bool,
}

/// What is under a key, as it was serialised.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = GswarmReadExtended)]
#[allow(dead_code)]
pub(in crate::http) struct ReadExtendedShown {
    /// The key.
    key: String,
    /// The value; null when there is none.
    serialized_value: Option<Serialized>,
    /// Whether there is one.
    found: bool,
}

/// The key at the end of a path.
pub(in crate::http) struct KeyInPath(pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for KeyInPath {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let Address(Path(key)) = Address::<Path<String>>::from_request_parts(parts, state).await?;
        values::check_name(&key).map_err(Refusal::of_key)?;
        Ok(Self(key))
    }
}

/// Writes a value.
#[utoipa::path(
    post, path = "/write", operation_id = "gswarmWrite", tag = "gswarm", request_body = WriteGiven,
    responses(
        (status = 200, description = "It is written; with `persist` it is durable", body = Done),
        (status = 400, description = "There is no such location", body = Told),
        (status = 408, description = "The body did not come in time", body = Told),
        (status = 413, description = "The body is too large", body = Told),
        (status = 422, description = "Something does not fit its type", body = Told),
        (status = 507, description = "There is no room for it; what was there before stays", body = Told),
    )
)]
pub(in crate::http) async fn write(
    State(api): State<Api>,
    mut fields: Fields,
) -> Result<Json<Done>, Refusal> {
    let (key, text) = (fields.key(), fields.raw("value"));
    put(&api, fields, key, Kind::Json, text).await
}

/// Writes a value that the client has serialised.
#[utoipa::path(
    post, path = "/write_extended", operation_id = "gswarmWriteExtended", tag = "gswarm",
    request_body = WriteExtendedGiven,
    responses(
        (status = 200, description = "It is written; with `persist` it is durable", body = Done),
        (status = 400, description = "There is no such type, or no such location", body = Told),
        (status = 408, description = "The body did not come in time", body = Told),
        (status = 413, description = "The body is too large", body = Told),
        (status = 422, description = "Something does not fit its type", body = Told),
        (status = 507, description = "There is no room for it; what was there before stays", body = Told),
    )
)]
pub(in crate::http) async fn write_extended(
    State(api): State<Api>,
    mut fields: Fields,
) -> Result<Json<Done>, Refusal> {
    let (key, mut inner) = (fields.key(), fields.inner("serialized_value"));
    fields.check()?;
    let kind = match inner.get("type").map(|text| text.as_ref()) {
        Some(br#""json""#) => Kind::Json,
        Some(br#""pickle""#) => Kind::Pickle,
        Some(other) => {
            let other: String = String::from_utf8_lossy(other).chars().take(80).collect();
            return Err(Refusal::bad(format!(
                "Deserialization error: Unknown serialization type: {other}; known are json and pickle"
            )));
        }
        None => return Err(Refusal::bad("Deserialization error: serialized_value has no type")),
    };
    let data = inner.remove("data");
    let data = data.ok_or_else(|| Refusal::bad("Deserialization error: serialized_value has no data"))?;
    if kind == Kind::Pickle && data.first() != Some(&b'"') {
        let text =
            "Deserialization error: data of type pickle must be a text, the base64 of what was pickled";
        return Err(Refusal::bad(text));
    }
    put(&api, fields, key, kind, data).await
}

async fn put(
    api: &Api,
    mut fields: Fields,
    key: String,
    kind: Kind,
    text: Bytes,
) -> Result<Json<Done>, Refusal> {
    let (persist, location) = (fields.optional_switch("persist"), fields.optional_text("location"));
    let ttl_ms = fields.optional_number("ttl_ms");
    if ttl_ms.is_some_and(|ttl_ms| ttl_ms > catalog::TTL_MAX_MS) {
        let text = "Input should be at most a century";
        let found = vec![wrong("less_than_equal", &["body", "ttl_ms"], text, serde_json::Value::Null)];
        return Err(Refusal::unprocessable(found));
    }
    fields.check()?;
    let location = match location {
        Some(location) => Some(keep_of(&api.node, &key, &location).await?),
        None => None,
    };
    let keep = match (persist, location) {
        (Some(true), _) | (None, None) => Keep::Durable,
        (_, Some(keep)) => keep,
        (Some(false), None) => Keep::Memory,
    };
    values::write(&api.node, &key, kind, text, keep, ttl_ms).await?;
    Ok(Json(Done::with(key, Some(location_of(keep)))))
}

/// How a location keeps the value of a key.
pub(super) async fn keep_of(node: &Arc<Node>, key: &str, location: &str) -> Result<Keep, Refusal> {
    match location {
        "dram" => return Ok(Keep::Memory),
        "pinned_dram" => return Ok(Keep::Pinned),
        "disk" => return Ok(Keep::Durable),
        _ => {}
    }
    let gpus = values::gpus(node, key).await?;
    let found = pool::device_of(location).and_then(|device| match device {
        Device::Gpu(index) => gpus.iter().find(|gpu| gpu.index == index),
        Device::AnyGpu => gpus.iter().max_by_key(|gpu| gpu.free_bytes()),
        Device::Dram | Device::Nvme => None,
    });
    found.map(|gpu| Keep::Gpu(gpu.index)).ok_or_else(|| {
        let location: String = location.chars().take(80).collect();
        let gpus = gpus.iter().map(|gpu| format!(", device:{}", gpu.index)).collect::<String>();
        Refusal::bad(format!(
            "there is no location '{location}' on this node; those that there are: dram, pinned_dram, disk{gpus}"
        ))
    })
}

/// Where what is kept so lies.
pub(super) fn location_of(keep: Keep) -> Cow<'static, str> {
    match keep {
        Keep::Memory => "dram".into(),
        Keep::Pinned => "pinned_dram".into(),
        Keep::Durable => "disk".into(),
        Keep::Gpu(index) => format!("device:{index}").into(),
    }
}

/// Reads a value. One that was pickled comes as `{"type": "pickle", "data": …}`.
#[utoipa::path(
    get, path = "/read/{key}", operation_id = "gswarmRead", tag = "gswarm",
    params(("key" = String, Path, description = "The key, which may contain `/`")),
    responses(
        (status = 200, description = "What there is, also when there is nothing", body = ReadShown),
        (status = 422, description = "This cannot be a key", body = Told),
    )
)]
pub(in crate::http) async fn read(
    State(api): State<Api>,
    KeyInPath(key): KeyInPath,
) -> Result<Response, Refusal> {
    let value = values::read(&api.node, &key).await?;
    let (before, after) = match value.as_ref().map(|value| value.kind) {
        Some(Kind::Pickle) => (r#""value":{"type":"pickle","data":"#, r#"},"found":true}"#),
        Some(Kind::Json) => (r#""value":"#, r#","found":true}"#),
        None => (r#""value":"#, r#"null,"found":false}"#),
    };
    show(&api, &key, before, value, after).await
}

/// Reads a value as it was serialised.
#[utoipa::path(
    get, path = "/read_extended/{key}", operation_id = "gswarmReadExtended", tag = "gswarm",
    params(("key" = String, Path, description = "The key, which may contain `/`")),
    responses(
        (status = 200, description = "What there is, also when there is nothing", body = ReadExtendedShown),
        (status = 422, description = "This cannot be a key", body = Told),
    )
)]
pub(in crate::http) async fn read_extended(
    State(api): State<Api>,
    KeyInPath(key): KeyInPath,
) -> Result<Response, Refusal> {
    let value = values::read(&api.node, &key).await?;
    let (before, after) = match value.as_ref().map(|value| value.kind) {
        Some(Kind::Pickle) => (r#""serialized_value":{"type":"pickle","data":"#, r#"},"found":true}"#),
        Some(Kind::Json) => (r#""serialized_value":{"type":"json","data":"#, r#"},"found":true}"#),
        None => (r#""serialized_value":"#, r#"null,"found":false}"#),
    };
    show(&api, &key, before, value, after).await
}

/// The answer to a read: the value between what stands before and after it. A large one is sent as it lies in memory.
async fn show(
    api: &Api,
    key: &str,
    before: &str,
    value: Option<Value>,
    after: &'static str,
) -> Result<Response, Refusal> {
    let shown = serde_json::to_string(key).unwrap_or_default();
    let before = format!("{{\"key\":{shown},{before}");
    let json = (CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let Some(value) = value else { return Ok(([json], before + after).into_response()) };
    let (length, parts) = parts(&api.node, before, value.content, after).await?;
    Ok(([json, (CONTENT_LENGTH, length.into())], Body::from_stream(parts)).into_response())
}

/// The parts of a text: what stands before a value, the value, and what stands after it; and how long it is.
pub(super) async fn parts(
    node: &Arc<Node>,
    before: String,
    content: Content,
    after: &'static str,
) -> Result<(u64, impl Stream<Item = Result<Bytes, EngineError>> + Send + use<>), ValueError> {
    let length = before.len() as u64 + content.length() + after.len() as u64;
    let (mut first, opened) = match content {
        Content::Inline(bytes) => {
            let mut text = before.into_bytes();
            text.extend_from_slice(&bytes);
            text.extend_from_slice(after.as_bytes());
            (Some(Bytes::from(text)), None)
        }
        Content::Chunk(chunk) => (Some(Bytes::from(before)), Some(values::open(node, chunk).await?)),
    };
    let pieces = opened.as_ref().map_or(0, |opened| opened.pieces());
    let parts = stream::unfold(0, move |part: u32| {
        let (opened, first) = (opened.clone(), first.take());
        async move {
            let bytes = match (part, opened) {
                (0, _) => Ok(first?),
                (part, Some(opened)) if part <= pieces => opened.piece(part - 1).await,
                (part, Some(_)) if part == pieces + 1 => Ok(Bytes::from_static(after.as_bytes())),
                _ => return None,
            };
            Some((bytes, part + 1))
        }
    });
    Ok((length, parts))
}

/// Removes a key.
#[utoipa::path(
    delete, path = "/release/{key}", operation_id = "gswarmRelease", tag = "gswarm",
    params(("key" = String, Path, description = "The key, which may contain `/`")),
    responses(
        (status = 200, description = "It is gone", body = Done),
        (status = 404, description = "There is no such key", body = Told),
        (status = 422, description = "This cannot be a key", body = Told),
    )
)]
pub(in crate::http) async fn release(
    State(api): State<Api>,
    KeyInPath(key): KeyInPath,
) -> Result<Json<Done>, Refusal> {
    if values::release(&api.node, &key).await? {
        Ok(Json(Done::with(key, None)))
    } else {
        Err(Refusal::no_key(&key))
    }
}
