//! Chunks of the pool: created, listed, described, moved, transferred, deleted.

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::{IntoParams, ToSchema};

use super::body::Fields;
use super::refusal::{Address, Refusal, Told, wrong};
use crate::http::Api;
use crate::pool::{self, Chunk, Given, PoolError, SourceError, Work};
use crate::values::ValueError;
use flow::swarm::{NoPriority, Priority};

/// Longest type, format, and name of a reference, in bytes.
const WORD_LENGTH_MAX: usize = 200;
/// What the node says itself about a chunk.
const METADATA_NAMES: [&str; 5] = ["created_by", "created_at", "last_accessed", "access_count", "checksum"];
/// Largest metadata of a chunk, in bytes.
const METADATA_SIZE_MAX: usize = 16 << 10;

/// What a chunk is made of.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = GswarmChunkCreate)]
#[allow(dead_code)]
pub(in crate::http) struct CreateGiven {
    /// A path, `file://…`, `http://…`, `https://…` or `s3://BUCKET/KEY`, which the node's operator must have allowed.
    source: String,
    /// `dram`, `nvme`, `gpu` or `gpu:N`; `dram` when it is absent.
    device: Option<String>,
    /// What it is for; `input` when it is absent.
    r#type: Option<String>,
    /// What its bytes are; `tensor` when it is absent.
    format: Option<String>,
    /// Anything that is to be told of it, which is shown among its metadata; up to 16 KiB.
    metadata: Option<Map<String, Value>>,
}

/// A chunk that was created.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = GswarmChunkCreated)]
pub(in crate::http) struct Created {
    /// Always `success`.
    status: &'static str,
    /// Its id, such as `chunk-00000001`.
    chunk_id: String,
    /// Bytes.
    size: u64,
}

/// Which chunks are listed.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(in crate::http) struct ListGiven {
    /// Only those with bytes there.
    device: Option<String>,
    /// Only those of this type.
    r#type: Option<String>,
}

/// Chunks.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = GswarmChunks)]
pub(in crate::http) struct ChunksShown {
    /// In the order of their numbers.
    chunks: Vec<ChunkShown>,
}

/// A chunk.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = GswarmChunk)]
pub(in crate::http) struct ChunkShown {
    /// Its id.
    chunk_id: String,
    /// What it is for.
    chunk_type: String,
    /// Bytes.
    size: u64,
    /// What its bytes are.
    format: String,
    /// Where they are.
    locations: Vec<LocationShown>,
    /// What is known of it.
    metadata: MetadataShown,
    /// Who needs it.
    references: Vec<String>,
}

/// Where bytes of a chunk are.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = GswarmChunkLocation)]
struct LocationShown {
    /// `dram` or `nvme`, on another node than the one that is asked `NODE:dram` or `NODE:nvme`.
    device: String,
    /// `available`, or `partial` where only some of them are.
    status: &'static str,
}

/// What is known of a chunk.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = GswarmChunkMetadata)]
struct MetadataShown {
    /// The node that has read it.
    created_by: String,
    /// When, as RFC 3339 has it.
    created_at: String,
    /// When it was looked at last; `never` before that.
    last_accessed: String,
    /// How often.
    access_count: u64,
    /// The BLAKE3 digest of its bytes, after `blake3:`.
    checksum: String,
    /// What was said about it when it was created; a field with one of the names above is not shown.
    #[serde(flatten)]
    given: Map<String, Value>,
}

/// Where a chunk shall go on its node.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = GswarmChunkMove)]
#[allow(dead_code)]
pub(in crate::http) struct MoveGiven {
    /// `dram` or `nvme`.
    target_device: String,
    /// `critical`, `high`, `normal` or `low`; `normal` when it is absent.
    priority: Option<String>,
}

/// Where a chunk shall go.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = GswarmChunkTransfer)]
#[allow(dead_code)]
pub(in crate::http) struct TransferGiven {
    /// The name of a node.
    target_node: String,
    /// `dram` or `nvme`.
    target_device: String,
    /// Whether it goes from where it was.
    delete_source: Option<bool>,
    /// `critical`, `high`, `normal` or `low`; `normal` when it is absent.
    priority: Option<String>,
}

/// A move that was begun.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = GswarmMoveBegun)]
pub(in crate::http) struct Begun {
    /// Always `success`: the move has begun. `/api/v1/tasks/{id}` tells how it goes on.
    status: &'static str,
    /// The chunk.
    chunk_id: String,
    /// The device, of a move.
    #[serde(skip_serializing_if = "Option::is_none")]
    target_device: Option<String>,
    /// The node and the device, of a transfer.
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<String>,
    /// The task.
    task_id: String,
}

/// Something was done.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = GswarmMessage)]
pub(in crate::http) struct Message {
    /// Always `success`.
    pub(super) status: &'static str,
    /// What.
    pub(super) message: String,
}

/// How a chunk is deleted.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(in crate::http) struct DeleteGiven {
    /// Also when it is needed: true or false.
    force: Option<String>,
}

impl From<Chunk> for ChunkShown {
    fn from(Chunk { record, places }: Chunk) -> Self {
        let status = |whole| if whole { "available" } else { "partial" };
        let place = |(device, whole): (String, bool)| LocationShown { device, status: status(whole) };
        Self {
            chunk_id: record.id,
            chunk_type: record.kind,
            size: record.body.size(),
            format: record.format,
            locations: places.into_iter().map(place).collect(),
            metadata: MetadataShown {
                created_by: record.created_by,
                created_at: moment(record.created_ms),
                last_accessed: record.accessed_ms.map_or_else(|| "never".into(), moment),
                access_count: record.accesses,
                checksum: format!("blake3:{}", record.body.digest()),
                given: serde_json::from_str(&record.metadata).unwrap_or_default(),
            },
            references: record.references,
        }
    }
}

/// A time as RFC 3339 has it, in UTC.
fn moment(ms: u64) -> String {
    let (days, second) = (ms / 86_400_000, ms / 1000 % 86_400);
    // The calendar repeats itself every 400 years, which begin on the 1st of March for this (Hinnant, "chrono-Compatible
    // Low-Level Date Algorithms").
    let day = days + 719_468;
    let (era, day) = (day / 146_097, day % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let (day, month) = (day - (153 * month + 2) / 5 + 1, if month < 10 { month + 3 } else { month - 9 });
    let year = era * 400 + year + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", ms % 1000)
}

impl From<PoolError> for Refusal {
    fn from(error: PoolError) -> Self {
        let status = match &error {
            PoolError::NoChunk(_) => StatusCode::NOT_FOUND,
            PoolError::NoDevice { .. } | PoolError::Referenced { .. } => StatusCode::BAD_REQUEST,
            PoolError::Source(SourceError::Forbidden(_)) => StatusCode::FORBIDDEN,
            PoolError::Source(SourceError::Full | SourceError::GpuFull(_)) => {
                StatusCode::INSUFFICIENT_STORAGE
            }
            PoolError::Source(_) => StatusCode::BAD_REQUEST,
            PoolError::Failed(failure) => return ValueError::from(failure.clone()).into(),
        };
        Self::new(status, error.to_string())
    }
}

/// Reads a source into a device of this node.
#[utoipa::path(
    post, path = "/api/v1/data", operation_id = "gswarmCreateChunk", tag = "gswarm", request_body = CreateGiven,
    responses(
        (status = 200, description = "Its bytes are there", body = Created),
        (status = 400, description = "There is no such device, or the source cannot be read", body = Told),
        (status = 403, description = "The node may not read this source", body = Told),
        (status = 408, description = "The body did not come in time", body = Told),
        (status = 413, description = "The body is too large", body = Told),
        (status = 422, description = "Something does not fit its type", body = Told),
        (status = 507, description = "There is no room for it", body = Told),
    )
)]
pub(in crate::http) async fn create(
    State(api): State<Api>,
    mut fields: Fields,
) -> Result<Json<Created>, Refusal> {
    let source = fields.text("source");
    let mut word = |name, default: &str| fields.optional_text(name).unwrap_or_else(|| default.to_owned());
    let (device, kind, format) = (word("device", "dram"), word("type", "input"), word("format", "tensor"));
    let metadata = fields.optional_object("metadata");
    fields.check()?;
    check_words(&[("type", &kind), ("format", &format)])?;
    let metadata = metadata_of(metadata.unwrap_or_default())?;
    let given = Given { source, device, kind, format, metadata };
    let node = api.node.clone();
    // Its entry comes after its bytes, also when whoever asked is gone.
    let created = tokio::spawn(async move { pool::create(&node, given).await });
    let created = created.await.map_err(|_| Refusal::bad("creating the chunk failed"))?;
    let record = created?;
    Ok(Json(Created { status: "success", chunk_id: record.id, size: record.body.size() }))
}

/// What is kept of metadata: what the node does not say itself.
fn metadata_of(mut given: Map<String, Value>) -> Result<String, Refusal> {
    given.retain(|name, _| !METADATA_NAMES.contains(&name.as_str()));
    if given.is_empty() {
        return Ok(String::new());
    }
    let text = Value::Object(given).to_string();
    if text.len() <= METADATA_SIZE_MAX {
        return Ok(text);
    }
    let told = format!("Input should have at most {METADATA_SIZE_MAX} bytes as JSON");
    Err(Refusal::unprocessable(vec![wrong("too_long", &["body", "metadata"], &told, Value::Null)]))
}

pub(super) fn check_words(words: &[(&str, &str)]) -> Result<(), Refusal> {
    let is_wrong =
        |word: &str| word.is_empty() || word.len() > WORD_LENGTH_MAX || word.contains(char::is_control);
    let text = "Input should be a text of 1 to 200 bytes without control characters";
    let found: Vec<_> = words
        .iter()
        .filter(|(_, word)| is_wrong(word))
        .map(|(name, _)| wrong("string_pattern_mismatch", &["body", name], text, Value::Null))
        .collect();
    if found.is_empty() { Ok(()) } else { Err(Refusal::unprocessable(found)) }
}

/// Lists chunks.
#[utoipa::path(
    get, path = "/api/v1/data", operation_id = "gswarmListChunks", tag = "gswarm", params(ListGiven),
    responses(
        (status = 200, description = "The chunks", body = ChunksShown),
        (status = 422, description = "This cannot be an address", body = Told),
    )
)]
pub(in crate::http) async fn list(
    State(api): State<Api>,
    Address(Query(given)): Address<Query<ListGiven>>,
) -> Result<Json<ChunksShown>, Refusal> {
    let ListGiven { device, r#type } = given;
    let wanted = |name: &String| !name.is_empty();
    let (device, kind) = (device.filter(wanted), r#type.filter(wanted));
    let has = |places: &[(String, bool)], device: &str| {
        pool::device_of(device)
            .is_some_and(|device| places.iter().any(|(place, _)| pool::is_on(place, device)))
    };
    let mut chunks = pool::list(&api.node).await?;
    chunks.retain(|chunk| {
        device.as_ref().is_none_or(|device| has(&chunk.places, device))
            && kind.as_ref().is_none_or(|kind| *kind == chunk.record.kind)
    });
    Ok(Json(ChunksShown { chunks: chunks.into_iter().map(ChunkShown::from).collect() }))
}

/// Describes a chunk, which counts as an access.
#[utoipa::path(
    get, path = "/api/v1/data/{chunk_id}", operation_id = "gswarmGetChunk", tag = "gswarm",
    params(("chunk_id" = String, Path, description = "Its id")),
    responses(
        (status = 200, description = "The chunk", body = ChunkShown),
        (status = 404, description = "There is no such chunk", body = Told),
        (status = 422, description = "This cannot be an address", body = Told),
    )
)]
pub(in crate::http) async fn get(
    State(api): State<Api>,
    Address(Path(id)): Address<Path<String>>,
) -> Result<Json<ChunkShown>, Refusal> {
    Ok(Json(pool::look_at(&api.node, &id).await?.into()))
}

/// Moves a chunk to another device of the node that it is on.
#[utoipa::path(
    post, path = "/api/v1/data/{chunk_id}/move", operation_id = "gswarmMoveChunk", tag = "gswarm",
    request_body = MoveGiven, params(("chunk_id" = String, Path, description = "Its id")),
    responses(
        (status = 200, description = "The move has begun", body = Begun),
        (status = 400, description = "There is no such device", body = Told),
        (status = 404, description = "There is no such chunk", body = Told),
        (status = 408, description = "The body did not come in time", body = Told),
        (status = 413, description = "The body is too large", body = Told),
        (status = 422, description = "Something does not fit its type", body = Told),
        (status = 507, description = "The body is larger than any that is taken", body = Told),
    )
)]
pub(in crate::http) async fn move_chunk(
    State(api): State<Api>,
    Address(Path(id)): Address<Path<String>>,
    mut fields: Fields,
) -> Result<Json<Begun>, Refusal> {
    let (target_device, priority) = (fields.text("target_device"), fields.optional_text("priority"));
    fields.check()?;
    let priority = priority_of(priority)?;
    let record = pool::record(&api.node, &id).await?;
    let holder = pool::holder(&api.node, &record).await?;
    let device = pool::device_on(&api.node, &holder, &target_device).await?;
    let work = Work {
        id: record.id,
        body: record.body,
        node: holder.clone(),
        device,
        from: holder,
        removes_source: true,
    };
    let task_id = api.node.tasks.begin(&api.node, "move", priority, work)?;
    let target_device = Some(target_device);
    Ok(Json(Begun { status: "success", chunk_id: id, target_device, target: None, task_id }))
}

/// Brings a chunk to another node.
#[utoipa::path(
    post, path = "/api/v1/data/{chunk_id}/transfer", operation_id = "gswarmTransferChunk", tag = "gswarm",
    request_body = TransferGiven, params(("chunk_id" = String, Path, description = "Its id")),
    responses(
        (status = 200, description = "The transfer has begun", body = Begun),
        (status = 400, description = "There is no such node or device", body = Told),
        (status = 404, description = "There is no such chunk", body = Told),
        (status = 408, description = "The body did not come in time", body = Told),
        (status = 413, description = "The body is too large", body = Told),
        (status = 422, description = "Something does not fit its type", body = Told),
        (status = 507, description = "The body is larger than any that is taken", body = Told),
    )
)]
pub(in crate::http) async fn transfer(
    State(api): State<Api>,
    Address(Path(id)): Address<Path<String>>,
    mut fields: Fields,
) -> Result<Json<Begun>, Refusal> {
    let (node, target_device) = (fields.text("target_node"), fields.text("target_device"));
    let removes_source = fields.optional_switch("delete_source").unwrap_or(false);
    let priority = fields.optional_text("priority");
    fields.check()?;
    let priority = priority_of(priority)?;
    let record = pool::record(&api.node, &id).await?;
    let view = api.node.members.view();
    if view.named(&node).is_err() {
        let node: String = node.chars().take(80).collect();
        let mut names: Vec<&str> = view.live().map(|record| record.name.as_str()).collect();
        names.sort_unstable();
        let text = format!("no node is called '{node}'; those that there are: {}", names.join(", "));
        return Err(Refusal::bad(text));
    }
    let device = pool::device_on(&api.node, &node, &target_device).await?;
    let target = format!("{node}:{target_device}");
    let from = String::new();
    let work = Work { id: record.id, body: record.body, node, device, from, removes_source };
    let task_id = api.node.tasks.begin(&api.node, "transfer", priority, work)?;
    let target = Some(target);
    Ok(Json(Begun { status: "success", chunk_id: id, target_device: None, target, task_id }))
}

fn priority_of(given: Option<String>) -> Result<Priority, Refusal> {
    given.map_or(Ok(Priority::Normal), |text| {
        text.parse().map_err(|wrong: NoPriority| Refusal::bad(wrong.to_string()))
    })
}

/// Takes a chunk out of the pool.
#[utoipa::path(
    delete, path = "/api/v1/data/{chunk_id}", operation_id = "gswarmDeleteChunk", tag = "gswarm",
    params(("chunk_id" = String, Path, description = "Its id"), DeleteGiven),
    responses(
        (status = 200, description = "It is gone", body = Message),
        (status = 400, description = "It is needed", body = Told),
        (status = 404, description = "There is no such chunk", body = Told),
        (status = 422, description = "`force` is neither true nor false", body = Told),
    )
)]
pub(in crate::http) async fn delete(
    State(api): State<Api>,
    Address(Path(id)): Address<Path<String>>,
    Address(Query(given)): Address<Query<DeleteGiven>>,
) -> Result<Json<Message>, Refusal> {
    let force = match given.force.unwrap_or_default().to_ascii_lowercase().as_str() {
        "" | "false" | "0" | "no" | "off" => false,
        "true" | "1" | "yes" | "on" => true,
        _ => {
            let text = "Input should be a valid boolean, unable to interpret input";
            let found = vec![wrong("bool_parsing", &["query", "force"], text, Value::Null)];
            return Err(Refusal::unprocessable(found));
        }
    };
    pool::delete(&api.node, &id, force).await?;
    let message = format!("Data chunk '{id}' deleted successfully");
    Ok(Json(Message { status: "success", message }))
}

#[cfg(test)]
mod tests {
    use super::moment;

    #[test]
    fn moments_are_days_and_times() {
        assert_eq!(moment(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(moment(951_782_400_001), "2000-02-29T00:00:00.001Z");
        assert_eq!(moment(1_795_271_045_678), "2026-11-21T14:24:05.678Z");
        assert_eq!(moment(4_107_542_399_000), "2100-02-28T23:59:59.000Z");
        assert_eq!(moment(4_107_542_400_000), "2100-03-01T00:00:00.000Z");
    }
}
