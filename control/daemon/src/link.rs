//! One control connection to another node, with many requests on it at once.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use flow::limits::FRAME_BODY_MAX;
use flow::wire::Message;
use flow::wire::control::NodeId;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot};

use crate::frames;

/// Requests that wait for an answer on one connection; more are refused.
const REQUESTS_AT_ONCE: usize = 4096;
/// Requests that wait to be written.
const OUTGOING_AT_ONCE: usize = 64;
/// A connection that was not used for so long is closed.
const IDLE: Duration = Duration::from_secs(300);
/// And after so long when more than [`LINKS_KEPT`] are open: a node that has asked many for something once does not stay
/// connected to all of them.
const IDLE_AMONG_MANY: Duration = Duration::from_secs(5);
const LINKS_KEPT: usize = 32;

/// The asking end of a control connection. It closes when it is dropped or idle.
pub(crate) struct Link {
    node: NodeId,
    outgoing: mpsc::Sender<Vec<u8>>,
    waiting: Arc<Waiting>,
    next_request: AtomicU64,
}

/// Why a request got no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LinkError {
    #[error("the connection was closed before the request was sent")]
    Closed,
    #[error(
        "the connection was lost before the answer came; whether the request was carried out is not known"
    )]
    Lost,
    #[error("{REQUESTS_AT_ONCE} requests wait for this node already")]
    Full,
    #[error("the request is larger than a frame may be")]
    TooLarge,
    #[error("no answer came within {0:?}")]
    Timeout(Duration),
}

impl Link {
    /// Takes over a stream whose handshake with `node` is done. `open` is shared by all connections of this node, and only
    /// counted.
    pub(crate) fn over<S>(stream: S, node: NodeId, open: &Arc<()>) -> Self
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (outgoing, frames) = mpsc::channel(OUTGOING_AT_ONCE);
        let waiting = Arc::new(Waiting::default());
        let (reader, writer) = tokio::io::split(stream);
        let (routes, open) = (waiting.clone(), open.clone());
        tokio::spawn(async move {
            let ended = tokio::select! {
                ended = route_answers(reader, &routes) => ended,
                ended = write_requests(writer, frames, &routes, &open) => ended,
            };
            if let Err(error) = ended {
                tracing::debug!(peer = format_args!("{node:016x}"), %error, "a control connection ended");
            }
            routes.close();
        });
        Self { node, outgoing, waiting, next_request: AtomicU64::new(1) }
    }

    /// Who answers.
    pub(crate) fn node(&self) -> NodeId {
        self.node
    }

    pub(crate) fn is_open(&self) -> bool {
        self.waiting.lock().is_some()
    }

    /// Asks and waits for the answer, at most `limit`; without one until the connection ends.
    pub(crate) async fn ask(&self, message: &Message, limit: Option<Duration>) -> Result<Message, LinkError> {
        let request = self.next_request.fetch_add(1, Ordering::Relaxed);
        let frame = message.encode(0, request);
        if !frames::fits(&frame) {
            return Err(LinkError::TooLarge);
        }
        let (_registered, answer) = self.waiting.register(request)?;
        let asked = async {
            self.outgoing.send(frame).await.map_err(|_| LinkError::Closed)?;
            answer.await.map_err(|_| LinkError::Lost)
        };
        match limit {
            Some(limit) => tokio::time::timeout(limit, asked).await.unwrap_or(Err(LinkError::Timeout(limit))),
            None => asked.await,
        }
    }
}

/// Who waits for which answer; `None` once the connection has ended.
#[derive(Debug)]
struct Waiting(Mutex<Option<BTreeMap<u64, oneshot::Sender<Message>>>>);

impl Default for Waiting {
    fn default() -> Self {
        Self(Mutex::new(Some(BTreeMap::new())))
    }
}

impl Waiting {
    fn lock(&self) -> std::sync::MutexGuard<'_, Option<BTreeMap<u64, oneshot::Sender<Message>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn register(&self, request: u64) -> Result<(Registered<'_>, oneshot::Receiver<Message>), LinkError> {
        let (sender, receiver) = oneshot::channel();
        match &mut *self.lock() {
            None => return Err(LinkError::Closed),
            Some(waiting) if waiting.len() >= REQUESTS_AT_ONCE => return Err(LinkError::Full),
            Some(waiting) => waiting.insert(request, sender),
        };
        Ok((Registered { waiting: self, request }, receiver))
    }

    fn answer(&self, request: u64, message: Message) {
        let asker = self.lock().as_mut().and_then(|waiting| waiting.remove(&request));
        if let Some(asker) = asker {
            let _ = asker.send(message);
        }
    }

    fn is_idle(&self) -> bool {
        self.lock().as_ref().is_none_or(BTreeMap::is_empty)
    }

    fn close(&self) {
        *self.lock() = None;
    }
}

/// Frees its place when the asker has its answer or gives up.
struct Registered<'a> {
    waiting: &'a Waiting,
    request: u64,
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        if let Some(waiting) = self.waiting.lock().as_mut() {
            waiting.remove(&self.request);
        }
    }
}

async fn route_answers(reader: impl AsyncRead + Unpin, waiting: &Waiting) -> Result<(), frames::FrameError> {
    let mut reader = tokio::io::BufReader::new(reader);
    while let Some(frame) = frames::read(&mut reader, FRAME_BODY_MAX).await? {
        let request = frame.header.request_id;
        match frame.message {
            Ok(message) => waiting.answer(request, message),
            Err(error) => {
                let text = format!("the answer cannot be read: {error}");
                waiting.answer(request, crate::failure::internal(text).into());
            }
        }
    }
    Ok(())
}

async fn write_requests(
    mut writer: impl AsyncWrite + Unpin,
    mut frames: mpsc::Receiver<Vec<u8>>,
    waiting: &Waiting,
    open: &Arc<()>,
) -> Result<(), frames::FrameError> {
    let mut unused = Duration::ZERO;
    loop {
        match tokio::time::timeout(IDLE_AMONG_MANY, frames.recv()).await {
            Ok(Some(frame)) => {
                writer.write_all(&frame).await?;
                unused = Duration::ZERO;
            }
            Ok(None) => return Ok(()),
            Err(_) if !waiting.is_idle() => unused = Duration::ZERO,
            Err(_) => {
                unused += IDLE_AMONG_MANY;
                // `Peers` holds one of these itself.
                if unused >= IDLE || Arc::strong_count(open) > LINKS_KEPT + 1 {
                    return Ok(());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use flow::wire::frame::FLAG_REPLY;
    use flow::wire::session::{Done, LeaseRelease};

    use super::*;

    fn run<T>(test: impl Future<Output = T>) -> T {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().start_paused(true).build().unwrap().block_on(test)
    }

    fn question(lease: u64) -> Message {
        LeaseRelease { lease }.into()
    }

    #[test]
    fn answers_find_their_askers_in_any_order() {
        run(async {
            let (ours, mut theirs) = tokio::io::duplex(4096);
            let link = Link::over(ours, 7, &Arc::default());
            let answering = tokio::spawn(async move {
                let mut requests = Vec::new();
                for _ in 0..3 {
                    let frame = frames::read(&mut theirs, FRAME_BODY_MAX).await.unwrap().unwrap();
                    requests.push((frame.header.request_id, frame.message.unwrap()));
                }
                for (request, message) in requests.into_iter().rev() {
                    frames::write(&mut theirs, &message, FLAG_REPLY, request).await.unwrap();
                }
                theirs
            });
            let (first, second, third) = (question(1), question(2), question(3));
            let (a, b, c) =
                tokio::join!(link.ask(&first, None), link.ask(&second, None), link.ask(&third, None));
            assert_eq!((a, b, c), (Ok(first), Ok(second), Ok(third)));
            drop(answering.await.unwrap());
        });
    }

    #[test]
    fn nobody_waits_on_a_lost_connection() {
        run(async {
            let (ours, mut theirs) = tokio::io::duplex(4096);
            let link = Link::over(ours, 7, &Arc::default());
            let losing =
                tokio::spawn(async move { frames::read(&mut theirs, FRAME_BODY_MAX).await.map(|_| ()) });
            assert_eq!(link.ask(&question(1), None).await, Err(LinkError::Lost));
            losing.await.unwrap().unwrap();
            assert!(!link.is_open());
            assert_eq!(link.ask(&question(1), None).await, Err(LinkError::Closed));
        });
    }

    #[test]
    fn a_silent_peer_costs_its_time_and_no_place() {
        run(async {
            let (ours, _theirs) = tokio::io::duplex(4096);
            let link = Link::over(ours, 7, &Arc::default());
            let limit = Duration::from_secs(2);
            assert_eq!(link.ask(&question(1), Some(limit)).await, Err(LinkError::Timeout(limit)));
            assert!(link.waiting.is_idle());
        });
    }

    #[test]
    fn of_many_connections_idle_ones_close_sooner() {
        run(async {
            let open = Arc::default();
            let ends: Vec<_> = (0..=LINKS_KEPT as u64).map(|_| tokio::io::duplex(64)).collect();
            let (ours, _theirs): (Vec<_>, Vec<_>) = ends.into_iter().unzip();
            let links: Vec<Link> = ours.into_iter().map(|ours| Link::over(ours, 7, &open)).collect();
            let left = || links.iter().filter(|link| link.is_open()).count();
            tokio::time::sleep(IDLE_AMONG_MANY - Duration::from_millis(1)).await;
            assert_eq!(left(), LINKS_KEPT + 1);
            tokio::time::sleep(IDLE_AMONG_MANY).await;
            assert_eq!(left(), LINKS_KEPT);
            tokio::time::sleep(IDLE).await;
            assert_eq!(left(), 0);
        });
    }

    #[test]
    fn an_idle_connection_closes() {
        run(async {
            let (ours, mut theirs) = tokio::io::duplex(4096);
            let link = Link::over(ours, 7, &Arc::default());
            let mut answer = tokio::spawn(async move {
                let frame = frames::read(&mut theirs, FRAME_BODY_MAX).await.unwrap().unwrap();
                let done = Done {}.into();
                frames::write(&mut theirs, &done, FLAG_REPLY, frame.header.request_id).await.unwrap();
                assert!(frames::read(&mut theirs, FRAME_BODY_MAX).await.unwrap().is_none());
            });
            assert_eq!(link.ask(&question(1), None).await, Ok(Done {}.into()));
            (&mut answer).await.unwrap();
            tokio::task::yield_now().await;
            assert!(!link.is_open());
        });
    }
}
