//! Moves of chunks, as tasks.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use super::pool::Message;
use super::refusal::{Address, Refusal, Told};
use crate::http::Api;
use crate::pool::{self, TaskError, TaskShown};

/// Tasks.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = GswarmTasks)]
pub(in crate::http) struct TasksShown {
    /// The latest first.
    tasks: Vec<TaskTold>,
}

/// A task.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = GswarmTask)]
pub(in crate::http) struct TaskTold {
    /// Its id.
    task_id: String,
    /// The chunk that is moved.
    chunk_id: String,
    /// Where it goes: a node and a device.
    target: String,
    /// Which comes first: `critical`, `high`, `normal` or `low`.
    priority: &'static str,
    /// `pending`, `running`, `completed`, `failed` or `cancelled`.
    status: &'static str,
    /// How much of it is there, from 0 to 1.
    progress: f64,
    /// When it was asked for, seconds since 1970.
    created_at: f64,
    /// When it began.
    started_at: Option<f64>,
    /// When it ended.
    completed_at: Option<f64>,
    /// Why it failed.
    error_message: Option<String>,
}

impl From<TaskError> for Refusal {
    fn from(error: TaskError) -> Self {
        let status = match &error {
            TaskError::NoTask(_) => StatusCode::NOT_FOUND,
            TaskError::Full => StatusCode::SERVICE_UNAVAILABLE,
            TaskError::Ended(_) | TaskError::Settled => StatusCode::BAD_REQUEST,
        };
        Self::new(status, error.to_string())
    }
}

/// Lists the moves that this node was asked for.
#[utoipa::path(
    get, path = "/api/v1/tasks", operation_id = "gswarmListTasks", tag = "gswarm",
    responses((status = 200, description = "The tasks", body = TasksShown))
)]
pub(in crate::http) async fn tasks(State(api): State<Api>) -> Json<TasksShown> {
    let progress = |task: &TaskShown| if task.state == pool::State::Completed { 1.0 } else { 0.0 };
    let told = |task: TaskShown| TaskTold::of(progress(&task), task);
    Json(TasksShown { tasks: api.node.tasks.list().into_iter().map(told).collect() })
}

/// Describes a move that this node was asked for.
#[utoipa::path(
    get, path = "/api/v1/tasks/{task_id}", operation_id = "gswarmGetTask", tag = "gswarm",
    params(("task_id" = String, Path, description = "Its id")),
    responses(
        (status = 200, description = "The task", body = TaskTold),
        (status = 404, description = "There is no such task", body = Told),
        (status = 422, description = "This cannot be an address", body = Told),
    )
)]
pub(in crate::http) async fn task(
    State(api): State<Api>,
    Address(Path(id)): Address<Path<String>>,
) -> Result<Json<TaskTold>, Refusal> {
    let task = api.node.tasks.get(&id)?;
    let progress = match task.state {
        pool::State::Pending => 0.0,
        pool::State::Completed => 1.0,
        _ => pool::progress(&api.node, &task.work).await,
    };
    Ok(Json(TaskTold::of(progress, task)))
}

/// Ends a move that has not ended. What it has brought goes again, unless others read it there.
#[utoipa::path(
    post, path = "/api/v1/tasks/{task_id}/cancel", operation_id = "gswarmCancelTask", tag = "gswarm",
    params(("task_id" = String, Path, description = "Its id")),
    responses(
        (status = 200, description = "It has ended", body = Message),
        (status = 400, description = "It has ended before", body = Told),
        (status = 404, description = "There is no such task", body = Told),
        (status = 422, description = "This cannot be an address", body = Told),
    )
)]
pub(in crate::http) async fn cancel(
    State(api): State<Api>,
    Address(Path(id)): Address<Path<String>>,
) -> Result<Json<Message>, Refusal> {
    api.node.tasks.cancel(&api.node, &id)?;
    Ok(Json(Message { status: "success", message: format!("Task '{id}' cancelled successfully") }))
}

impl TaskTold {
    fn of(progress: f64, task: TaskShown) -> Self {
        let seconds = |ms: u64| ms as f64 / 1000.0;
        let error_message = match &task.state {
            pool::State::Failed(message) => Some(message.clone()),
            _ => None,
        };
        Self {
            task_id: task.id,
            chunk_id: task.work.id,
            target: format!("{}:{}", task.work.node, task.work.device),
            priority: task.priority.name(),
            status: task.state.name(),
            progress,
            created_at: seconds(task.created_ms),
            started_at: task.started_ms.map(seconds),
            completed_at: task.ended_ms.map(seconds),
            error_message,
        }
    }
}
