//! The dialect of gswarm's data API: its paths, its bodies, its status codes, its errors.
//!
//! What a key is and how its value is kept is decided in [`crate::values`].

pub(super) mod body; // bodies of any size, and what stands in them
pub(super) mod refusal; // errors as FastAPI tells them
pub(super) mod pool; // chunks under numbers
pub(super) mod reference; // who needs a chunk
pub(super) mod task; // moves of chunks, as tasks
pub(super) mod send; // a value is sent to another server
pub(super) mod value; // keys are written, read, released
pub(super) mod storage; // how much there is, how much there may be, where it is

use std::borrow::Cow;

use axum::Router;
use axum::routing::{delete, get, post, put};
use serde::Serialize;
use utoipa::ToSchema;

use super::Api;

pub(super) fn routes() -> Router<Api> {
    Router::new()
        .route("/write", post(value::write))
        .route("/write_extended", post(value::write_extended))
        .route("/read/{*key}", get(value::read))
        .route("/read_extended/{*key}", get(value::read_extended))
        .route("/release/{*key}", delete(value::release))
        .route("/send", post(send::send))
        .route("/send_extended", post(send::send_extended))
        .route("/move", post(storage::move_key))
        .route("/location/{*key}", get(storage::location))
        .route("/locations", get(storage::locations))
        .route("/api/v1/data", get(pool::list).post(pool::create))
        .route("/api/v1/data/{chunk_id}", get(pool::get).delete(pool::delete))
        .route("/api/v1/data/{chunk_id}/move", post(pool::move_chunk))
        .route("/api/v1/data/{chunk_id}/transfer", post(pool::transfer))
        .route("/api/v1/data/{chunk_id}/references/{name}", put(reference::refer).delete(reference::unrefer))
        .route("/api/v1/tasks", get(task::tasks))
        .route("/api/v1/tasks/{task_id}", get(task::task))
        .route("/api/v1/tasks/{task_id}/cancel", post(task::cancel))
        .route("/stats", get(storage::stats))
        .route("/set_max_memory/{max_size}", post(storage::set_max_memory))
}

/// Something was done.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = GswarmDone)]
pub(super) struct Done {
    /// Always `success`.
    status: &'static str,
    /// The key.
    key: String,
    /// Where the value is kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    location: Option<Cow<'static, str>>,
}

impl Done {
    fn with(key: String, location: Option<Cow<'static, str>>) -> Self {
        Self { status: "success", key, location }
    }
}
