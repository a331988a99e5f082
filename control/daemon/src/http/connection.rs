//! One connection, from its first byte to its end.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use super::{Api, router};
use crate::node::Node;

/// Connections at once.
const CONNECTIONS_MAX: usize = 1024;
/// How long the head of a request may take to arrive, from the end of the one before it.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest head of a request, in bytes.
const HEAD_SIZE_MAX: usize = 16 << 10;
/// Bytes that a connection reads ahead, at most.
const BUFFER_MAX: usize = 64 << 10;
/// A peer that takes nothing for so long is let go, in milliseconds.
const STALLED_MS: u32 = 60_000;
/// How long a peer may take to read the last answer while it still sends.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(1);
/// Bytes of such a peer that are read and dropped.
const FAREWELL_BYTES_MAX: u64 = 16 << 20;
/// What is said to one connection too many.
const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 1\r\n\
    Connection: close\r\nContent-Length: 93\r\n\r\n\
    {\"code\":\"busy\",\"message\":\"there are too many connections\",\"hint\":\"try again\",\"retry_ms\":1000}";

/// The door itself.
#[derive(Clone)]
pub(crate) struct Http {
    router: Router,
    connections: Arc<Semaphore>,
}

impl Http {
    pub(crate) fn new(node: Arc<Node>) -> Self {
        Self { router: router(Api::new(node)), connections: Arc::new(Semaphore::new(CONNECTIONS_MAX)) }
    }

    /// Serves a connection to its end.
    pub(crate) async fn serve(self, mut stream: TcpStream) {
        let Ok(_connection) = self.connections.try_acquire_owned() else {
            let _ = tokio::time::timeout(FAREWELL_TIMEOUT, stream.write_all(FULL)).await;
            return part(stream).await;
        };
        if let Err(error) = rustix::net::sockopt::set_tcp_user_timeout(&stream, STALLED_MS) {
            tracing::debug!(%error, "a connection keeps the timeout of the system");
        }
        let service = TowerToHyperService::new(self.router);
        let mut connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .max_header_size(HEAD_SIZE_MAX)
            .max_buf_size(BUFFER_MAX)
            .serve_connection(TokioIo::new(stream), service);
        let ended = poll_fn(|context| connection.poll_without_shutdown(context)).await;
        if let Err(error) = ended {
            tracing::debug!(%error, "an HTTP connection has ended early");
        }
        part(connection.into_parts().io.into_inner()).await;
    }
}

/// Ends a connection so that the last answer is read: a socket that is closed over unread bytes is reset, which may take the
/// answer with it.
async fn part(mut stream: TcpStream) {
    let parting = async {
        stream.shutdown().await?;
        tokio::io::copy(&mut stream.take(FAREWELL_BYTES_MAX), &mut tokio::io::sink()).await
    };
    let _ = tokio::time::timeout(FAREWELL_TIMEOUT, parting).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_to_one_too_many_is_whole() {
        let text = std::str::from_utf8(FULL).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("Content-Length: {}", body.len())), "{}", body.len());
        assert!(serde_json::from_str::<serde_json::Value>(body).is_ok());
    }
}
