//! Answers on one connection.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use flow::wire::Message;
use flow::wire::frame::{FLAG_MORE, FLAG_REPLY};
use flow::wire::session::Failure;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::{Mutex, Notify};

use crate::{failure, frames};

/// A peer that takes nothing for so long is let go, and with it the memory it holds.
const STALLED: Duration = Duration::from_secs(60);

/// The writing half of a connection, shared by all requests that run on it.
#[derive(Clone)]
pub(crate) struct Replies {
    writer: Arc<Mutex<Box<dyn AsyncWrite + Send + Unpin>>>,
    lost: Arc<Notify>,
}

impl Replies {
    pub(crate) fn over(writer: impl AsyncWrite + Send + Unpin + 'static) -> Self {
        Self { writer: Arc::new(Mutex::new(Box::new(writer))), lost: Arc::default() }
    }

    /// Returns when the peer takes no answers any more.
    pub(crate) async fn lost(&self) {
        self.lost.notified().await;
    }

    /// Sends the last or only answer to a request.
    pub(crate) async fn send(&self, request: u64, answer: Result<Message, Failure>) {
        let answer = answer.unwrap_or_else(Message::from);
        let mut frame = answer.encode(FLAG_REPLY, request);
        if !frames::fits(&frame) {
            let text = format!(
                "the {} has {} bytes, which is more than a frame may have",
                answer.name(),
                frame.len()
            );
            frame = Message::from(failure::invalid(text, "ask for less, such as for one chunk"))
                .encode(FLAG_REPLY, request);
        }
        let _ = self.write(&[&frame]).await;
    }

    /// Sends an answer with a payload, to be followed by more answers. False when the connection is lost.
    pub(crate) async fn send_payload(&self, request: u64, message: &Message, payload: &[u8]) -> bool {
        let frame = message.encode(FLAG_REPLY | FLAG_MORE, request);
        self.write(&[&frame, payload]).await.is_ok()
    }

    async fn write(&self, parts: &[&[u8]]) -> io::Result<()> {
        let mut writer = self.writer.lock().await;
        let written = write_parts(&mut **writer, parts).await;
        if written.is_err() {
            self.lost.notify_one();
        }
        written
    }
}

async fn write_parts(writer: &mut (dyn AsyncWrite + Send + Unpin), parts: &[&[u8]]) -> io::Result<()> {
    for part in parts {
        let mut rest = *part;
        while !rest.is_empty() {
            let step = tokio::time::timeout(STALLED, writer.write(rest)).await;
            match step.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                written => rest = &rest[written..],
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use flow::limits::FRAME_BODY_MAX;
    use flow::wire::session::{KeyListing, KeySummary};

    use super::*;

    fn run<T>(test: impl Future<Output = T>) -> T {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().start_paused(true).build().unwrap().block_on(test)
    }

    #[test]
    fn an_answer_too_large_becomes_a_failure() {
        run(async {
            let (ours, mut theirs) = tokio::io::duplex(1 << 16);
            let line = KeySummary { key: "k".repeat(1024), version: 1, created_ms: 0, size: 0, files: 0 };
            let keys = vec![line; FRAME_BODY_MAX as usize / 1024];
            Replies::over(ours).send(3, Ok(KeyListing { keys, more: false }.into())).await;
            let frame = frames::read(&mut theirs, FRAME_BODY_MAX).await.unwrap().unwrap();
            assert!(matches!(frame.message, Ok(Message::Failure(_))) && frame.header.request_id == 3);
        });
    }

    #[test]
    fn a_peer_that_reads_nothing_is_let_go() {
        run(async {
            let (ours, _theirs) = tokio::io::duplex(16);
            let replies = Replies::over(ours);
            replies.send(1, Err(failure::stopping())).await;
            replies.lost().await;
        });
    }
}
