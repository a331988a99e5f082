//! One client.
//!
//! What a client opens belongs to its connection: nobody else can use it, and when the connection ends, for whatever
//! reason, all of it is given up.

mod chunks; // writing and reading chunks
mod files; // all of a file at once, in memory
mod holdings; // what the connection holds
mod transactions; // reads and writes that are committed together
mod pieces; // bytes of pieces, for clients without an arena

use std::sync::Arc;

use flow::limits::{CLIENT_OPERATIONS_AT_ONCE, FRAME_BODY_MAX};
use flow::wire::Message;
use flow::wire::session::Failure;
use tokio::io::{AsyncRead, BufReader};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::node::Node;
use crate::replies::Replies;
use crate::{failure, frames, keys, kv, operate};
use holdings::Holdings;

/// How the bytes of pieces come and go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bytes {
    /// The client has mapped the arena.
    InArena,
    /// They follow the frames.
    OnTheWire,
}

/// One client connection.
pub(crate) struct Session {
    node: Arc<Node>,
    replies: Replies,
    bytes: Bytes,
    holdings: Holdings,
}

/// Serves a client until its connection ends.
pub(crate) async fn serve(node: Arc<Node>, reader: impl AsyncRead + Unpin, replies: Replies, bytes: Bytes) {
    let session = Arc::new(Session { node, replies: replies.clone(), bytes, holdings: Holdings::default() });
    let mut tasks = JoinSet::new();
    let ended = tokio::select! {
        ended = serve_requests(&session, reader, &mut tasks) => ended,
        () = replies.lost() => Ok(()),
    };
    if let Err(error) = ended {
        tracing::warn!(%error, "a client's connection was closed");
    }
    // A task that still sends a piece must be gone before the piece is let go.
    tasks.shutdown().await;
    session.end().await;
}

async fn serve_requests(
    session: &Arc<Session>,
    reader: impl AsyncRead + Unpin,
    tasks: &mut JoinSet<()>,
) -> Result<(), frames::FrameError> {
    let mut reader = BufReader::new(reader);
    let permits = Arc::new(Semaphore::new(CLIENT_OPERATIONS_AT_ONCE));
    loop {
        let permit = permits.clone().acquire_owned().await;
        let Some(frame) = frames::read(&mut reader, FRAME_BODY_MAX).await? else { return Ok(()) };
        while tasks.try_join_next().is_some() {}
        let request = frame.header.request_id;
        let received = match frame.message {
            Ok(Message::PieceBytes(piece)) => {
                Request::Piece(piece.handle, pieces::receive(session, &mut reader, piece).await?)
            }
            Ok(message) => Request::Message(message),
            Err(error) => Request::Unreadable(failure::invalid(error.to_string(), "")),
        };
        let session = session.clone();
        // Who waits for changes would keep the node from stopping.
        let busy = !matches!(received, Request::Message(Message::CatalogChanges(_)));
        let busy = busy.then(|| session.node.activity.begin());
        tasks.spawn(async move {
            let (_permit, _busy) = (permit, busy);
            let answer = match received {
                Request::Message(message) => answer(&session, request, message).await,
                Request::Piece(handle, Ok(piece)) => session.fill(handle, vec![piece]).await,
                Request::Piece(_, Err(failure)) | Request::Unreadable(failure) => Err(failure),
            };
            session.replies.send(request, answer).await;
        });
    }
}

enum Request {
    Message(Message),
    /// A piece whose bytes were read off the wire into its slot.
    Piece(u64, Result<flow::wire::session::FilledPiece, Failure>),
    Unreadable(Failure),
}

async fn answer(session: &Arc<Session>, request: u64, message: Message) -> Result<Message, Failure> {
    let node = &session.node;
    match message {
        Message::ChunkCreate(create) => session.create(create).await,
        Message::SlotLease(lease) => session.lease_slots(lease).await,
        Message::PieceFill(fill) => session.fill_in_arena(fill).await,
        Message::ChunkSeal(seal) => session.seal(seal).await,
        Message::ChunkBegin(begin) => session.begin_chunk(begin).await,
        Message::ChunkPrepare(prepare) => session.prepare_chunk(prepare).await,
        Message::ChunkCommit(commit) => session.commit_chunk(commit).await,
        Message::ChunkAbort(abort) => session.abort(abort.handle).await,
        Message::ChunkOpen(open) => session.open(open).await,
        Message::PieceNext(next) => match session.bytes {
            Bytes::InArena => session.next_views(next).await,
            Bytes::OnTheWire => pieces::send(session, request, next).await,
        },
        Message::PieceRelease(release) => session.release_pieces(release).await,
        Message::ChunkClose(close) => session.close(close.handle).await,

        Message::KeyOpen(open) => session.open_key(open).await,
        Message::FileOpen(open) => session.open_file(open).await,
        Message::LeaseRelease(release) => session.release_lease(release.lease).await,
        Message::CatalogWrite(write) => session.write(write).await,
        Message::KeyList(_) | Message::KeyRemove(_) | Message::ChunkReferences(_) => {
            keys::answer(node, message).await
        }

        Message::CatalogGet(_)
        | Message::CatalogScan(_)
        | Message::CatalogCount(_)
        | Message::CatalogChanges(_)
        | Message::CatalogServices(_)
        | Message::ServiceKeep(_)
        | Message::ServiceEnd(_) => kv::answer(node, message).await,
        Message::TransactionBegin(_)
        | Message::TransactionGet(_)
        | Message::TransactionScan(_)
        | Message::TransactionWrite(_)
        | Message::TransactionCommit(_)
        | Message::TransactionRollback(_) => session.transact(message).await,
        Message::SnapshotOpen(_) => session.open_snapshot().await,
        Message::SnapshotClose(close) => session.close_snapshot(close.snapshot),

        Message::ChunkFetch(fetch) => operate::here::fetch(node, fetch).await,
        Message::ChunkVerify(verify) => operate::here::verify(node, verify).await,
        Message::ChunkList(list) => operate::chunk_list(node, list).await,
        Message::ChunkPin(pin) => operate::pin(node, pin).await,
        Message::ChunkRemove(remove) => operate::remove(node, remove).await,
        Message::ChunkPlace(place) => operate::place(node, place).await,
        Message::NodeList(_) => operate::node_list(node).await,
        Message::NodeDrain(drain) => operate::drain(node, drain).await,
        Message::StatusQuery(_) => operate::here::status(node).await,
        other => {
            let text = format!("{} is not a request that a client makes", other.name());
            Err(failure::invalid(text, ""))
        }
    }
}

#[cfg(test)]
mod tests;
