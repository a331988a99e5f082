//! The HTTP door: what HTTP says is put to the catalog, and its answers are said in HTTP.
//!
//! It decides nothing about keys by itself. What is its own is how much it takes on: connections, requests, streams, and
//! the bytes and the time of each have bounds, and whoever is beyond them is told so.

mod connection; // one connection, from its first byte to its end
mod guard; // who may ask

mod input; // what a request says
mod problem; // why it was not carried out
mod unread; // bodies that a request is answered without
mod entry; // keys and what they have

mod key; // one key
mod read; // several keys
mod write; // operations that belong together
mod transaction; // reads and writes that are committed together
mod watch; // changes as they come
mod service; // services that own keys
mod about; // the node itself

mod gswarm; // the dialect of gswarm's data API

mod document; // what all of it is, for programs

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post, put};
use catalog::Catalog;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use self::problem::{Code, Problem};
use self::unread::Reading;
use crate::node::Node;

pub(crate) use connection::Http;
pub use write::parse_write;

/// Requests that are carried out at once, without streams.
const REQUESTS_MAX: usize = 256;
/// Streams and watches that are open at once.
const STREAMS_MAX: usize = 512;
/// Memory for bodies that arrive, in KiB.
const BODIES_MAX_KIB: usize = 64 << 10;
/// Memory for bodies that may be large, in KiB. One of the largest size and some of usual size fit.
const LARGE_BODIES_MAX_KIB: usize = (gswarm::body::BODY_SIZE_MAX >> 10) + BODIES_MAX_KIB;

/// What requests are carried out with.
#[derive(Clone)]
struct Api {
    node: Arc<Node>,
    catalog: Arc<dyn Catalog>,
    guard: Arc<guard::Guard>,
    requests: Arc<Semaphore>,
    streams: Arc<Semaphore>,
    /// In KiB.
    bodies: Arc<Semaphore>,
    /// In KiB.
    large_bodies: Arc<Semaphore>,
}

impl Api {
    fn new(node: Arc<Node>) -> Self {
        Self {
            guard: Arc::new(guard::Guard::of(&node.identity)),
            catalog: node.catalog.clone(),
            node,
            requests: Arc::new(Semaphore::new(REQUESTS_MAX)),
            streams: Arc::new(Semaphore::new(STREAMS_MAX)),
            bodies: Arc::new(Semaphore::new(BODIES_MAX_KIB)),
            large_bodies: Arc::new(Semaphore::new(LARGE_BODIES_MAX_KIB)),
        }
    }

    /// The right to a stream, for as long as it is held.
    fn hold_stream(&self) -> Result<OwnedSemaphorePermit, Problem> {
        let full = |_| Problem::busy(format!("{STREAMS_MAX} streams are open already"));
        self.streams.clone().try_acquire_owned().map_err(full)
    }
}

fn router(api: Api) -> Router {
    Router::new()
        .route("/v1/kv", get(read::list))
        .route("/v1/kv/{*key}", get(key::get).put(key::put).patch(key::patch).delete(key::delete))
        .route("/v1/count", get(read::count))
        .route("/v1/mget", post(read::many))
        .route("/v1/stream", get(read::all))
        .route("/v1/write", post(write::write))
        .route("/v1/transactions", post(transaction::begin))
        .route("/v1/transactions/{id}", delete(transaction::roll_back))
        .route("/v1/transactions/{id}/kv", get(transaction::list))
        .route("/v1/transactions/{id}/kv/{*key}", get(transaction::get))
        .route("/v1/transactions/{id}/write", post(transaction::write))
        .route("/v1/transactions/{id}/commit", post(transaction::commit))
        .route("/v1/watch", get(watch::watch))
        .route("/v1/services", get(service::list))
        .route("/v1/services/{name}", put(service::keep).delete(service::end))
        .route("/v1/health", get(about::health))
        .route("/v1/status", get(about::status))
        .route("/openapi.json", get(document::get))
        .merge(gswarm::routes())
        .method_not_allowed_fallback(no_method)
        .fallback(no_route)
        .layer(middleware::from_fn_with_state(api.clone(), admit))
        .with_state(api)
}

/// Lets a request in, or says why not.
async fn admit(State(api): State<Api>, request: Request, next: Next) -> Response {
    let (reading, request) = Reading::of(request);
    reading.answer(admitted(&api, request, next).await)
}

async fn admitted(api: &Api, request: Request, next: Next) -> Response {
    if let Err(problem) = api.guard.check(&request) {
        return problem.into_response();
    }
    let Ok(_request) = api.requests.clone().try_acquire_owned() else {
        return Problem::busy(format!("{REQUESTS_MAX} requests are being carried out")).into_response();
    };
    if api.node.activity.check_running().is_err() {
        let text = "the node is shutting down";
        let stopping =
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, Code::Stopping, text, "ask another node");
        return stopping.retry_in(1000).into_response();
    }
    let _busy = api.node.activity.begin();
    next.run(request).await
}

async fn no_route() -> Problem {
    let text = "there is nothing at this path";
    Problem::new(StatusCode::NOT_FOUND, Code::NoRoute, text, "GET /openapi.json lists what there is")
}

async fn no_method() -> Problem {
    let text = "the path does not take this method";
    Problem::new(
        StatusCode::METHOD_NOT_ALLOWED,
        Code::NoMethod,
        text,
        "the header Allow names those it takes",
    )
}
