//! One node that asks another.

use std::sync::Arc;

use flow::limits::FRAME_BODY_MAX;
use flow::wire::Message;
use flow::wire::control::NodeId;
use flow::wire::session::Failure;
use tokio::io::{AsyncRead, BufReader};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::node::Node;
use crate::replies::Replies;
use crate::{cluster, failure, frames, keys, kv, operate, trackers, values};

/// Requests of one node that run at once; more wait in the socket.
const REQUESTS_AT_ONCE: usize = 1024;

/// Serves a control connection until it ends. What still runs for it then is given up.
pub(crate) async fn serve(node: Arc<Node>, from: NodeId, reader: impl AsyncRead + Unpin, replies: Replies) {
    let ended = tokio::select! {
        ended = serve_requests(&node, from, reader, &replies) => ended,
        () = replies.lost() => Ok(()),
    };
    if let Err(error) = ended {
        tracing::warn!(peer = format_args!("{from:016x}"), %error, "a control connection was closed");
    }
}

async fn serve_requests(
    node: &Arc<Node>,
    from: NodeId,
    reader: impl AsyncRead + Unpin,
    replies: &Replies,
) -> Result<(), frames::FrameError> {
    let mut reader = BufReader::new(reader);
    let permits = Arc::new(Semaphore::new(REQUESTS_AT_ONCE));
    let mut tasks = JoinSet::new();
    loop {
        let permit = permits.clone().acquire_owned().await;
        let Some(frame) = frames::read(&mut reader, FRAME_BODY_MAX).await? else { return Ok(()) };
        while tasks.try_join_next().is_some() {}
        let (node, replies) = (node.clone(), replies.clone());
        tasks.spawn(async move {
            let _permit = permit;
            let answer = match frame.message {
                Ok(message) => answer(&node, from, message).await,
                Err(error) => Err(failure::invalid(error.to_string(), "")),
            };
            replies.send(frame.header.request_id, answer).await;
        });
    }
}

async fn answer(node: &Arc<Node>, from: NodeId, message: Message) -> Result<Message, Failure> {
    match message {
        Message::Join(join) if join.record.node == from => cluster::join(node, join).map(Message::from),
        Message::Beat(beat) if beat.node == from => cluster::heartbeat(node, beat).await,
        Message::TrackerAnnounce(announce) => trackers::on_announce(node, from, announce),
        Message::TrackerJoin(join) => trackers::on_join(node, from, join),
        Message::ReplicaQuery(query) => operate::report(node, query).await.map(Message::from),
        Message::LeaseRelease(_) | Message::KeyRemove(_) | Message::ChunkReferences(_) => {
            keys::answer(node, message).await
        }
        Message::CatalogGet(_)
        | Message::CatalogScan(_)
        | Message::CatalogCount(_)
        | Message::CatalogWrite(_)
        | Message::CatalogChanges(_)
        | Message::CatalogServices(_)
        | Message::ServiceKeep(_)
        | Message::ServiceEnd(_)
        | Message::SnapshotOpen(_)
        | Message::SnapshotClose(_)
        | Message::CatalogLease(_)
        | Message::CatalogRenew(_) => kv::answer(node, message).await,
        Message::ValueRead(_) | Message::ValueWrite(_) | Message::ValueRelease(_) | Message::ValueMove(_) => {
            values::answer(node, message).await
        }
        Message::ChunkPin(pin) => operate::here::pin(node, pin).await,
        Message::ChunkRemove(remove) => operate::here::remove(node, remove).await,
        Message::ChunkFetch(fetch) => operate::here::fetch(node, fetch).await,
        Message::ChunkVerify(verify) => operate::here::verify(node, verify).await,
        Message::StatusQuery(_) => operate::here::status(node).await,
        Message::NodeList(_) => operate::node_list(node).await,
        Message::NodeDrain(drain) => operate::drain(node, drain).await,
        other => {
            let text = format!("{} of node {from:016x} is not answered between nodes", other.name());
            Err(failure::invalid(text, ""))
        }
    }
}
