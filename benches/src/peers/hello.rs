//! What the HTTP library costs by itself.

use std::io;
use std::net::TcpListener;
use std::thread::{self, JoinHandle};

use axum::Router;
use axum::body::Bytes;
use axum::routing::{get, post};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::runtime;
use tokio::sync::oneshot;

use super::wrk::Request;
use crate::failure::Failure;

/// What a read by gswarm's interface is answered with around the value, and a write: as long as a node's answers.
const READ: [&str; 2] = [r#"{"key":"bench/0","value":""#, r#"","found":true}"#];
const WRITTEN: &str = r#"{"status":"success","key":"bench/1234"}"#;
/// What a put is answered with: as long as a node's answer.
const PUT: &str = r#"{"key":"bench/1234","version":12345,"revision":123456}"#;

/// A server of the same library as the node's door, on one thread of this process as there. It reads what it is sent, keeps
/// nothing and answers as many bytes. It ends when it is dropped.
pub struct Hello {
    address: String,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Hello {
    /// Starts it.
    pub fn start() -> Result<Self, Failure> {
        let failed = || Failure::system("start a server for HTTP");
        let listener = TcpListener::bind("127.0.0.1:0").map_err(failed())?;
        listener.set_nonblocking(true).map_err(failed())?;
        let address = listener.local_addr().map_err(failed())?.to_string();
        let runtime = runtime::Builder::new_current_thread().enable_all().build().map_err(failed())?;
        let (stop, stopped) = oneshot::channel();
        let thread = thread::Builder::new().name("hello".into()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    // Without connections wrk tells that nobody answers.
                    _ = serve(listener) => {}
                    _ = stopped => {}
                }
            });
        });
        Ok(Self { address, stop: Some(stop), thread: Some(thread.map_err(failed())?) })
    }

    /// Where it listens.
    pub fn address(&self) -> &str {
        &self.address
    }
}

async fn serve(listener: TcpListener) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let greet = get(async || [b'v'; Request::VALUE]).put(async |_: Bytes| PUT);
    let [before, behind] = READ;
    let read = format!("{before}{}{behind}", "v".repeat(Request::VALUE));
    let router = Router::new()
        .route("/v1/kv/{*key}", greet)
        .route("/read/{*key}", get(async move || read.clone()))
        .route("/write", post(async |_: Bytes| WRITTEN));
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let service = TowerToHyperService::new(router.clone());
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new());
        // Whoever goes away in the middle has seen enough.
        tokio::spawn(async move { http.serve_connection(TokioIo::new(stream), service).await.ok() });
    }
}

impl Drop for Hello {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // One that panicked has said so.
            let _ = thread.join();
        }
    }
}
