//! Frames out.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use flow::chunk::ChunkId;
use flow::limits::GRANTS_PER_CHUNK;
use flow::part_length::PartLength;
use flow::wire::Message;
use flow::wire::data::{Have, PieceAt, PieceData, PiecePart};
use futures_lite::future::or;
use memory::SharedLease;

use super::ConnectionError;
use crate::notify::Notify;
use crate::ring::{DataRing, Part};

/// Bytes of frames gathered into one send.
const FRAMES_BYTES: usize = 1 << 20;
/// Shortest time between two frames that only tell of pieces that are here. A frame for each piece and peer would cost
/// more than a tenth of moving the piece; with anything else that is sent, news travel at once.
const NEWS_PAUSE: Duration = Duration::from_millis(2);
/// Pieces that a peer is told the place of at once: as many as it may have asked for.
const LENT_AT_ONCE: usize = GRANTS_PER_CHUNK;
/// Frames that may wait. A peer that lets more pile up does not read, and is given up.
const QUEUE_FRAMES: usize = 16 << 10;

/// The queue of what goes out on one connection. Clones share it.
#[derive(Clone)]
pub(crate) struct Writer {
    shared: Rc<Shared>,
}

#[derive(Default)]
struct Shared {
    messages: RefCell<VecDeque<Message>>,
    pieces: RefCell<VecDeque<Outgoing>>,
    haves: RefCell<BTreeMap<ChunkId, Vec<u32>>>,
    /// Whether the peer reads this node's memory.
    is_mapped: Cell<bool>,
    /// Pieces that the peer was told the place of, by grant.
    lent: RefCell<HashMap<u64, SharedLease>>,
    closed: Cell<bool>,
    wake: Notify,
}

/// A piece, and how much of it has been sent.
struct Outgoing {
    head: PieceData,
    lease: SharedLease,
    sent: u32,
}

/// A piece has left, or never will.
pub(crate) struct PieceSent {
    pub(crate) grant: u64,
    pub(crate) length: u32,
}

impl Writer {
    pub(crate) fn new() -> Self {
        Self { shared: Rc::default() }
    }

    /// Queues a message. It overtakes pieces.
    pub(crate) fn message(&self, message: impl Into<Message>) {
        self.push(&self.shared.messages, message.into());
    }

    /// Queues a piece, or tells a peer that reads this node's memory where it lies; `lease` begins with its
    /// `head.length` bytes. Whether that is all that this node has to do for it: then others need not wait for their turn.
    pub(crate) fn piece(&self, head: PieceData, lease: SharedLease) -> bool {
        // A peer that never says that it is done gets its pieces like any other.
        let is_lent = self.shared.is_mapped.get() && self.shared.lent.borrow().len() < LENT_AT_ONCE;
        if !is_lent {
            self.push(&self.shared.pieces, Outgoing { head, lease, sent: 0 });
        } else if !self.shared.closed.get() {
            let PieceData { chunk, grant, piece, length, checksum, .. } = head;
            self.message(PieceAt { chunk, grant, piece, length, checksum, offset: lease.offset() });
            self.shared.lent.borrow_mut().insert(grant, lease);
        }
        is_lent
    }

    /// The peer reads this node's memory from here on.
    pub(crate) fn lend(&self) {
        self.shared.is_mapped.set(true);
    }

    /// The peer does not look at a piece any more that it was told the place of.
    pub(crate) fn take_back(&self, grant: u64) -> Result<PieceSent, ConnectionError> {
        let lease = self.shared.lent.borrow_mut().remove(&grant);
        let lease = lease.ok_or(ConnectionError::Protocol("a piece was taken that was not offered"))?;
        Ok(PieceSent { grant, length: lease.length() })
    }

    /// Queues the news that a piece is here. News of the same chunk travel together.
    pub(crate) fn have(&self, chunk: ChunkId, piece: u32) {
        if self.shared.closed.get() {
            return;
        }
        let mut haves = self.shared.haves.borrow_mut();
        let is_first = haves.is_empty();
        haves.entry(chunk).or_default().push(piece);
        drop(haves);
        if is_first {
            // Those that come later go when the first ones do.
            self.shared.wake.notify();
        }
    }

    /// Whether nothing is queued, and the peer looks at nothing of what it was told the place of.
    pub(crate) fn is_idle(&self) -> bool {
        let Shared { messages, pieces, haves, lent, .. } = &*self.shared;
        messages.borrow().is_empty()
            && pieces.borrow().is_empty()
            && haves.borrow().is_empty()
            && lent.borrow().is_empty()
    }

    /// Ends [`Writer::run`]; what is queued is dropped.
    pub(crate) fn close(&self) {
        self.shared.closed.set(true);
        self.shared.messages.borrow_mut().clear();
        self.shared.pieces.borrow_mut().clear();
        self.shared.haves.borrow_mut().clear();
        self.shared.lent.borrow_mut().clear();
        self.shared.wake.notify();
    }

    fn push<T>(&self, queue: &RefCell<VecDeque<T>>, item: T) {
        if self.shared.closed.get() {
            return;
        }
        if queue.borrow().len() >= QUEUE_FRAMES {
            tracing::warn!("a peer does not read what is sent to it; the connection is closed");
            return self.close();
        }
        queue.borrow_mut().push_back(item);
        self.shared.wake.notify();
    }

    /// Sends what is queued, until the connection breaks or is closed. `sent` hears of every piece that left.
    pub(crate) async fn run(
        self,
        ring: DataRing,
        socket: Rc<OwnedFd>,
        mut sent: impl FnMut(PieceSent),
    ) -> Result<(), ConnectionError> {
        let mut part_length = PartLength::default();
        let mut last_news: Option<Instant> = None;
        while !self.shared.closed.get() {
            if self.shared.messages.borrow().is_empty() && self.shared.pieces.borrow().is_empty() {
                let has_news = !self.shared.haves.borrow().is_empty();
                let rest = last_news.and_then(|last| NEWS_PAUSE.checked_sub(last.elapsed()));
                match (has_news, rest) {
                    (false, _) => {
                        self.shared.wake.wait().await;
                        continue;
                    }
                    (true, Some(rest)) => {
                        or(self.shared.wake.wait(), glommio::timer::sleep(rest)).await;
                        continue;
                    }
                    (true, None) => last_news = Some(Instant::now()),
                }
            }
            let frames = self.gather_frames();
            let (parts, bytes, left) = self.with_part_of_piece(frames, &part_length);
            let began = Instant::now();
            send_all(&ring, &socket, parts).await?;
            if bytes > 0 {
                part_length.sent(bytes, began.elapsed());
            }
            left.into_iter().for_each(&mut sent);
        }
        Ok(())
    }

    /// Takes the frames that are queued, as far as they fit into one send: news first, since they are small and help
    /// others.
    fn gather_frames(&self) -> Vec<u8> {
        let mut frames = Vec::new();
        for (chunk, pieces) in std::mem::take(&mut *self.shared.haves.borrow_mut()) {
            frames.extend(Message::from(Have { chunk, pieces }).encode(0, 0));
        }
        let mut messages = self.shared.messages.borrow_mut();
        while frames.len() < FRAMES_BYTES
            && let Some(message) = messages.pop_front()
        {
            frames.extend(message.encode(0, 0));
        }
        frames
    }

    /// Adds the next part of the first piece. Gives how many bytes that is, and the piece if it is its last.
    fn with_part_of_piece(
        &self,
        mut frames: Vec<u8>,
        part_length: &PartLength,
    ) -> (Vec<Part>, u32, Option<PieceSent>) {
        let mut pieces = self.shared.pieces.borrow_mut();
        let Some(Outgoing { head, lease, sent }) = pieces.front_mut() else {
            return (vec![Part::Bytes(frames)], 0, None);
        };
        let (from, part) = (*sent, part_length.next(head.length - *sent));
        let message: Message = match from {
            0 => PieceData { part, ..head.clone() }.into(),
            _ => PiecePart { grant: head.grant, part }.into(),
        };
        frames.extend(message.encode(0, 0));
        let parts = vec![Part::Bytes(frames), Part::Piece(lease.clone(), from, part)];
        *sent += part;
        let left = (*sent == head.length).then_some(PieceSent { grant: head.grant, length: head.length });
        if left.is_some() {
            pieces.pop_front();
        }
        (parts, part, left)
    }
}

async fn send_all(
    ring: &DataRing,
    socket: &Rc<OwnedFd>,
    mut parts: Vec<Part>,
) -> Result<(), ConnectionError> {
    let mut skip = 0;
    while !parts.is_empty() {
        let (result, sending) = ring.send(socket, parts, skip).await;
        parts = sending.parts;
        skip += result? as usize;
        let mut done = 0;
        while done < parts.len() && skip >= parts[done].len() {
            skip -= parts[done].len();
            done += 1;
        }
        parts.drain(..done);
    }
    Ok(())
}
