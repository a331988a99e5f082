//! Bodies that a request is answered without.
//!
//! A connection on which the rest of a body is still to come ends with the answer. Who is not told of it sends the next
//! request to nobody, so the answer says `Connection: close` (RFC 9112, 9.6).

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::HeaderValue;
use axum::http::header::CONNECTION;
use axum::response::Response;
use hyper::body::{Body as Frames, Frame, SizeHint};

/// Whether the body of one request was read to its end.
pub(super) struct Reading(Option<Arc<AtomicBool>>);

/// A body that notes its end.
struct Noting {
    body: Body,
    read: Arc<AtomicBool>,
}

impl Reading {
    /// Watches over the body of a request.
    pub(super) fn of(request: Request) -> (Self, Request) {
        if request.body().is_end_stream() {
            return (Self(None), request);
        }
        let read = Arc::new(AtomicBool::new(false));
        let request = request.map(|body| Body::new(Noting { body, read: read.clone() }));
        (Self(Some(read)), request)
    }

    /// Has the answer say that the connection ends, if it does.
    pub(super) fn answer(self, mut response: Response) -> Response {
        if self.0.is_some_and(|read| !read.load(Ordering::Acquire)) {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

impl Frames for Noting {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        if matches!(polled, Poll::Ready(None)) || self.body.is_end_stream() {
            self.read.store(true, Ordering::Release);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
