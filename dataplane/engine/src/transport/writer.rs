//! Frames out.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use flow::chunk::ChunkId;
use flow::wire::Message;
use flow::wire::data::{Have, PieceData};
use futures_lite::future::or;
use memory::SharedLease;

use super::ConnectionError;
use crate::notify::Notify;
use crate::ring::{DataRing, Part};

/// Bytes gathered into one send.
const SEND_BYTES: usize = 4 << 20;
/// Parts gathered into one send.
const SEND_PARTS: usize = 32;
/// Shortest time between two frames that only tell of pieces that are here. A frame for each piece and peer would cost
/// more than a tenth of moving the piece; with anything else that is sent, news travel at once.
const NEWS_PAUSE: Duration = Duration::from_millis(2);
/// Frames that may wait. A peer that lets more pile up does not read, and is given up.
const QUEUE_FRAMES: usize = 16 << 10;

/// The queue of what goes out on one connection. Clones share it.
#[derive(Clone)]
pub(crate) struct Writer {
    shared: Rc<Shared>,
}

struct Shared {
    queue: RefCell<VecDeque<Queued>>,
    haves: RefCell<BTreeMap<ChunkId, Vec<u32>>>,
    closed: Cell<bool>,
    wake: Notify,
}

enum Queued {
    Message(Message),
    Piece { head: PieceData, lease: SharedLease },
}

/// A piece has left, or never will.
pub(crate) struct PieceSent {
    pub(crate) grant: u64,
    pub(crate) length: u32,
}

impl Writer {
    pub(crate) fn new() -> Self {
        let (queue, haves) = (RefCell::default(), RefCell::default());
        Self { shared: Rc::new(Shared { queue, haves, closed: Cell::new(false), wake: Notify::default() }) }
    }

    /// Queues a message.
    pub(crate) fn message(&self, message: impl Into<Message>) {
        self.push(Queued::Message(message.into()));
    }

    /// Queues a piece; `lease` begins with its `head.length` bytes.
    pub(crate) fn piece(&self, head: PieceData, lease: SharedLease) {
        self.push(Queued::Piece { head, lease });
    }

    /// Queues the news that a piece is here. News of the same chunk travel together.
    pub(crate) fn have(&self, chunk: ChunkId, piece: u32) {
        if !self.shared.closed.get() {
            self.shared.haves.borrow_mut().entry(chunk).or_default().push(piece);
            self.shared.wake.notify();
        }
    }

    /// Ends [`Writer::run`]; what is queued is dropped.
    pub(crate) fn close(&self) {
        self.shared.closed.set(true);
        self.shared.queue.borrow_mut().clear();
        self.shared.haves.borrow_mut().clear();
        self.shared.wake.notify();
    }

    fn push(&self, item: Queued) {
        let mut queue = self.shared.queue.borrow_mut();
        if self.shared.closed.get() {
            return;
        }
        if queue.len() >= QUEUE_FRAMES {
            drop(queue);
            tracing::warn!("a peer does not read what is sent to it; the connection is closed");
            return self.close();
        }
        queue.push_back(item);
        self.shared.wake.notify();
    }

    /// Sends what is queued, until the connection breaks or is closed. `sent` hears of every piece that left.
    pub(crate) async fn run(
        self,
        ring: DataRing,
        socket: Rc<OwnedFd>,
        mut sent: impl FnMut(PieceSent),
    ) -> Result<(), ConnectionError> {
        let mut last_news: Option<Instant> = None;
        while !self.shared.closed.get() {
            if self.shared.queue.borrow().is_empty() {
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
            let (parts, pieces) = self.gather();
            send_all(&ring, &socket, parts).await?;
            pieces.into_iter().for_each(&mut sent);
        }
        Ok(())
    }

    /// Takes what fits into one send: news first, since they are small and help others.
    fn gather(&self) -> (Vec<Part>, Vec<PieceSent>) {
        let (mut parts, mut pieces, mut frames, mut bytes) = (Vec::new(), Vec::new(), Vec::new(), 0);
        for (chunk, pieces) in std::mem::take(&mut *self.shared.haves.borrow_mut()) {
            frames.extend(Message::from(Have { chunk, pieces }).encode(0, 0));
        }
        let mut queue = self.shared.queue.borrow_mut();
        while bytes + frames.len() < SEND_BYTES && parts.len() < SEND_PARTS {
            match queue.pop_front() {
                Some(Queued::Message(message)) => frames.extend(message.encode(0, 0)),
                Some(Queued::Piece { head, lease }) => {
                    let (grant, length) = (head.grant, head.length);
                    frames.extend(Message::from(head).encode(0, 0));
                    parts.push(Part::Bytes(std::mem::take(&mut frames)));
                    parts.push(Part::Piece(lease, length));
                    bytes += length as usize;
                    pieces.push(PieceSent { grant, length });
                }
                None => break,
            }
        }
        if !frames.is_empty() {
            parts.push(Part::Bytes(frames));
        }
        (parts, pieces)
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
