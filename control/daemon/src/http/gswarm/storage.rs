//! How much there is, how much there may be, and where it is.

use std::borrow::Cow;
use std::collections::BTreeMap;

use axum::Json;
use axum::extract::{Path, State};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::body::{Fields, whole_number};
use super::refusal::{Address, Refusal, Told, wrong};
use super::value::{KeyInPath, keep_of, location_of};
use crate::http::Api;
use crate::values::{self, About, ValueError};

/// How much there is.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = GswarmStats)]
pub(in crate::http) struct StatsShown {
    /// The figures.
    stats: Stats,
}

/// Figures of the node that is asked.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = GswarmFigures)]
struct Stats {
    /// Bytes that keys and values may have.
    max_size: u64,
    /// Bytes that they have.
    current_size: u64,
    /// The one as a share of the other.
    usage_percent: f64,
    /// Keys whose values are durable.
    persistent_keys: u64,
    /// Other keys.
    volatile_keys: u64,
    /// All keys.
    total_keys: u64,
    /// The machine's memory.
    memory_info: MemoryInfo,
}

/// The machine's memory.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = GswarmMemory)]
struct MemoryInfo {
    /// Bytes that could be used.
    available: u64,
    /// Bytes that there are.
    total: u64,
    /// What is not available, as a share of the whole.
    percent: f64,
}

/// A limit that was set.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = GswarmLimit)]
pub(in crate::http) struct LimitSet {
    /// Always `success`.
    status: &'static str,
    /// Bytes.
    max_memory: u64,
}

/// Where a value shall go.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = GswarmMove)]
#[allow(dead_code)]
pub(in crate::http) struct MoveGiven {
    /// The key.
    key: String,
    /// `dram`, `pinned_dram`, `disk`, or a GPU such as `device:0`.
    destination: String,
}

/// A value that was moved.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = GswarmMoved)]
pub(in crate::http) struct Moved {
    /// Always `success`.
    status: &'static str,
    /// The key.
    key: String,
    /// Where it was.
    #[schema(value_type = String)]
    source: Cow<'static, str>,
    /// Where it is.
    #[schema(value_type = String)]
    destination: Cow<'static, str>,
    /// Always null.
    read_pointer: Option<String>,
}

/// Where a value is.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = GswarmLocation)]
pub(in crate::http) struct LocationShown {
    /// The key.
    key: String,
    /// Where it is.
    #[schema(value_type = String)]
    location: Cow<'static, str>,
    /// What is known of it there.
    locations: Vec<Place>,
}

/// Where all values are.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = GswarmLocations)]
pub(in crate::http) struct LocationsShown {
    /// By key.
    locations: BTreeMap<String, Vec<Place>>,
}

/// One place of a value.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = GswarmPlace)]
struct Place {
    /// `dram`, `pinned_dram`, `disk`, or a GPU such as `device:0`.
    #[schema(value_type = String)]
    location: Cow<'static, str>,
    /// Bytes.
    size: u64,
    /// Seconds since 1970.
    last_accessed: f64,
    /// Always `complete`.
    copy_status: &'static str,
    /// Always 1.
    copy_progress: f64,
    /// Always null.
    read_pointer: Option<String>,
}

impl From<&About> for Place {
    fn from(about: &About) -> Self {
        Self {
            location: location_of(about.keep),
            size: about.size,
            last_accessed: about.used_ms as f64 / 1000.0,
            copy_status: "complete",
            copy_progress: 1.0,
            read_pointer: None,
        }
    }
}

/// Says how much there is on this node.
#[utoipa::path(
    get, path = "/stats", operation_id = "gswarmStats", tag = "gswarm",
    responses((status = 200, description = "The figures", body = StatsShown))
)]
pub(in crate::http) async fn stats(State(api): State<Api>) -> Result<Json<StatsShown>, Refusal> {
    let totals = api.node.engine.value_totals().await.map_err(ValueError::from)?;
    let share = |part: u64, whole: u64| if whole == 0 { 0.0 } else { part as f64 / whole as f64 * 100.0 };
    let (total, available) = machine_memory();
    let stats = Stats {
        max_size: totals.limit,
        current_size: totals.bytes,
        usage_percent: share(totals.bytes, totals.limit),
        persistent_keys: totals.catalog_keys,
        volatile_keys: totals.keys - totals.catalog_keys,
        total_keys: totals.keys,
        memory_info: MemoryInfo { available, total, percent: share(total.saturating_sub(available), total) },
    };
    Ok(Json(StatsShown { stats }))
}

/// Bytes of memory that the machine has, and that could be used; zeros where the kernel does not say.
fn machine_memory() -> (u64, u64) {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let figure = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    let figure = |name| figure(name).unwrap_or_default() << 10;
    (figure("MemTotal:"), figure("MemAvailable:"))
}

/// Sets how many bytes keys and values may have on this node. What is too much and not kept for good goes at once.
#[utoipa::path(
    post, path = "/set_max_memory/{max_size}", operation_id = "gswarmSetMaxMemory", tag = "gswarm",
    params(("max_size" = u64, Path, description = "Bytes")),
    responses(
        (status = 200, description = "It is set", body = LimitSet),
        (status = 422, description = "This is no number of bytes", body = Told),
    )
)]
pub(in crate::http) async fn set_max_memory(
    State(api): State<Api>,
    Address(Path(text)): Address<Path<String>>,
) -> Result<Json<LimitSet>, Refusal> {
    let Some(max_memory) = whole_number(text.as_bytes()) else {
        let text: String = text.chars().take(80).collect();
        let message = "Input should be a valid integer, 0 or more";
        return Err(Refusal::unprocessable(vec![wrong(
            "int_parsing",
            &["path", "max_size"],
            message,
            text.into(),
        )]));
    };
    api.node.engine.limit_values(max_memory).await.map_err(ValueError::from)?;
    Ok(Json(LimitSet { status: "success", max_memory }))
}

/// Moves a value to another location.
#[utoipa::path(
    post, path = "/move", operation_id = "gswarmMove", tag = "gswarm", request_body = MoveGiven,
    responses(
        (status = 200, description = "It is there", body = Moved),
        (status = 400, description = "There is no such location", body = Told),
        (status = 404, description = "There is no such key", body = Told),
        (status = 408, description = "The body did not come in time", body = Told),
        (status = 413, description = "The body is too large", body = Told),
        (status = 422, description = "Something does not fit its type", body = Told),
        (status = 507, description = "There is no room for it; it stays where it was", body = Told),
    )
)]
pub(in crate::http) async fn move_key(
    State(api): State<Api>,
    mut fields: Fields,
) -> Result<Json<Moved>, Refusal> {
    let (key, destination) = (fields.key(), fields.text("destination"));
    fields.check()?;
    let keep = keep_of(&api.node, &key, &destination).await?;
    let before = values::rekeep(&api.node, &key, keep).await?.ok_or_else(|| Refusal::no_key(&key))?;
    let (source, destination) = (location_of(before), location_of(keep));
    Ok(Json(Moved { status: "success", key, source, destination, read_pointer: None }))
}

/// Says where a value is.
#[utoipa::path(
    get, path = "/location/{key}", operation_id = "gswarmLocation", tag = "gswarm",
    params(("key" = String, Path, description = "The key, which may contain `/`")),
    responses(
        (status = 200, description = "Where it is", body = LocationShown),
        (status = 404, description = "There is no such key", body = Told),
        (status = 422, description = "This cannot be a key", body = Told),
    )
)]
pub(in crate::http) async fn location(
    State(api): State<Api>,
    KeyInPath(key): KeyInPath,
) -> Result<Json<LocationShown>, Refusal> {
    let about = values::about(&api.node, &key).await?.ok_or_else(|| Refusal::no_key(&key))?;
    let locations = vec![Place::from(&about)];
    Ok(Json(LocationShown { location: location_of(about.keep), key, locations }))
}

/// Says where all values are that this node keeps.
#[utoipa::path(
    get, path = "/locations", operation_id = "gswarmLocations", tag = "gswarm",
    responses((status = 200, description = "Where they are", body = LocationsShown))
)]
pub(in crate::http) async fn locations(State(api): State<Api>) -> Result<Json<LocationsShown>, Refusal> {
    let all = values::list(&api.node).await?;
    let locations = all.into_iter().map(|about| (about.key.clone(), vec![Place::from(&about)])).collect();
    Ok(Json(LocationsShown { locations }))
}
