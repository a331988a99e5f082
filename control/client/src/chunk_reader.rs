//! One chunk: pieces viewed, released.

use std::collections::BTreeMap;
use std::ops::Deref;

use flow::bitmap::Bitmap;
use flow::chunk::{ChunkId, Geometry};
use flow::verify::checksum_of;
use flow::wire::Message;
use flow::wire::session::{
    ChunkClose, ChunkOpen, ChunkOpened, ChunkReference, PieceNext, PieceRelease, PieceViews,
};
use plan::manifest::{ChunkEntry, ManifestError};

use crate::ClientError;
use crate::connection::{Connection, Pending};

/// Bytes of pieces that are asked for at once.
const ASKED_AT_ONCE: u32 = 32 << 20;
/// Most pieces that are asked for at once.
const ASKED_PIECES_MAX: u32 = 16;

/// What a manifest's entry says of a chunk, as a node wants to hear it.
pub(crate) fn reference(entry: &ChunkEntry) -> Result<ChunkReference, ManifestError> {
    let geometry = Geometry::new(entry.size, entry.piece_size)
        .map_err(|_| ManifestError::Inconsistent("a chunk's size is outside the limits"))?;
    Ok(ChunkReference { id: ChunkId(entry.id), geometry, descriptor_digest: entry.descriptor_digest })
}

/// A chunk that is open for reading. Dropping it closes it, which must be after the last [`Piece`].
pub(crate) struct ChunkReader<'c> {
    connection: &'c Connection,
    handle: u64,
    geometry: Geometry,
    given: Bitmap,
}

/// The verified bytes of one piece.
pub(crate) struct Piece<'c> {
    /// Which piece.
    pub(crate) index: u32,
    bytes: Bytes<'c>,
}

enum Bytes<'c> {
    Arena(&'c [u8]),
    Received(Vec<u8>),
}

impl<'c> ChunkReader<'c> {
    /// Opens a chunk.
    pub(crate) fn open(connection: &'c Connection, chunk: ChunkReference) -> Result<Self, ClientError> {
        let ChunkOpened { handle, .. } =
            connection.call(ChunkOpen { chunk, priority: connection.priority() })?;
        let given = Bitmap::new(chunk.geometry.pieces());
        Ok(Self { connection, handle, geometry: chunk.geometry, given })
    }

    /// How the chunk is cut.
    pub(crate) fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// How many pieces are asked for at once.
    pub(crate) fn window(&self) -> u32 {
        (ASKED_AT_ONCE / self.geometry.piece_size()).clamp(1, ASKED_PIECES_MAX)
    }

    /// Whether a piece was given out.
    pub(crate) fn was_given(&self, piece: u32) -> bool {
        self.given.contains(piece)
    }

    /// Whether every piece was given out.
    pub(crate) fn is_exhausted(&self) -> bool {
        self.given.count() == self.given.len()
    }

    /// Asks for pieces of `first..first + count`.
    pub(crate) fn ask(&self, first: u32, count: u32) -> Result<Pending<'c>, ClientError> {
        let limit = self.window();
        let request = PieceNext { handle: self.handle, first, count, limit };
        self.connection.send_for_many(request, limit + 1)
    }

    /// Waits for the pieces that [`ChunkReader::ask`] asked for: at least one, unless all in its range were given out.
    pub(crate) fn receive(&mut self, asked: Pending<'c>) -> Result<Vec<Piece<'c>>, ClientError> {
        let mut pieces = Vec::new();
        loop {
            let reply = asked.next()?;
            match reply.message {
                Message::PieceBytes(sent) if !self.connection.shares_memory() => {
                    if checksum_of(&reply.payload) != sent.checksum {
                        return Err(self.connection.protocol("a piece was damaged on the way"));
                    }
                    pieces.push(self.piece(sent.piece, Bytes::Received(reply.payload))?);
                }
                Message::PieceViews(PieceViews { slots }) => {
                    for slot in slots {
                        let view = self.connection.views();
                        let view = view.and_then(|arena| arena.read(slot.offset, slot.length as usize));
                        let view = view
                            .ok_or_else(|| self.connection.protocol("it names a piece outside its arena"))?;
                        pieces.push(self.piece(slot.piece, Bytes::Arena(view))?);
                    }
                    return Ok(pieces);
                }
                other => return Err(self.connection.protocol(format!("it answers with {}", other.name()))),
            }
        }
    }

    fn piece(&mut self, index: u32, bytes: Bytes<'c>) -> Result<Piece<'c>, ClientError> {
        let piece = Piece { index, bytes };
        if index >= self.given.len() || piece.len() != self.geometry.length(index) as usize {
            return Err(self.connection.protocol("it gives a piece that the chunk does not have"));
        }
        if !self.given.insert(index) {
            return Err(self.connection.protocol("it gives a piece twice"));
        }
        Ok(piece)
    }

    /// Lets the node reuse the memory of pieces that are not looked at any more.
    pub(crate) fn release(&self, pieces: Vec<Piece<'c>>) -> Result<(), ClientError> {
        let pieces: Vec<u32> = pieces.into_iter().map(|piece| piece.index).collect();
        if pieces.is_empty() || !self.connection.shares_memory() {
            return Ok(());
        }
        self.connection.send(PieceRelease { handle: self.handle, pieces }).map(drop)
    }
}

impl Drop for ChunkReader<'_> {
    fn drop(&mut self) {
        // When the connection has ended, the node closes the chunk by itself.
        let _ = self.connection.send(ChunkClose { handle: self.handle });
    }
}

impl Deref for Piece<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Arena(view) => view,
            Bytes::Received(bytes) => bytes,
        }
    }
}

/// Reads a chunk's pieces in ascending order, while later ones are on their way. Pieces are asked for and released
/// many at a time: two messages for each of 1 MiB take 20 ms of processor time per GB.
pub(crate) struct OrderedReader<'c> {
    held: BTreeMap<u32, Piece<'c>>,
    asked: Option<Pending<'c>>,
    chunk: ChunkReader<'c>,
    /// Pieces from here on are not wanted.
    end: u32,
}

impl<'c> OrderedReader<'c> {
    /// Opens a chunk.
    pub(crate) fn open(connection: &'c Connection, chunk: ChunkReference) -> Result<Self, ClientError> {
        Self::open_until(connection, chunk, chunk.geometry.pieces())
    }

    /// Opens a chunk of which the pieces from `end` on are not wanted.
    pub(crate) fn open_until(
        connection: &'c Connection,
        chunk: ChunkReference,
        end: u32,
    ) -> Result<Self, ClientError> {
        let end = end.min(chunk.geometry.pieces());
        Ok(Self { held: BTreeMap::new(), asked: None, chunk: ChunkReader::open(connection, chunk)?, end })
    }

    /// How the chunk is cut.
    pub(crate) fn geometry(&self) -> Geometry {
        self.chunk.geometry()
    }

    /// Whether a piece can still be read: pieces before one that was read may be gone.
    pub(crate) fn has(&self, index: u32) -> bool {
        self.held.contains_key(&index) || !self.chunk.was_given(index)
    }

    /// Waits for a piece, which must be within the chunk, and may let go of those before it.
    pub(crate) fn piece(&mut self, index: u32) -> Result<&[u8], ClientError> {
        self.release_before(index, self.chunk.window().div_ceil(4))?;
        loop {
            self.ask_from(index)?;
            if self.held.contains_key(&index) {
                break;
            }
            let Some(asked) = self.asked.take() else { break };
            // The node may need their memory for what is awaited.
            self.release_before(index, 1)?;
            let pieces = self.chunk.receive(asked)?;
            if pieces.is_empty() && !self.chunk.was_given(index) {
                return Err(self.chunk.connection.protocol("it gives no piece where some are missing"));
            }
            self.held.extend(pieces.into_iter().map(|piece| (piece.index, piece)));
        }
        let piece = self.held.get(&index);
        piece
            .map(|piece| &**piece)
            .ok_or_else(|| self.chunk.connection.protocol("a piece was asked for twice"))
    }

    /// Lets go of the pieces before `index`, once there are so many.
    fn release_before(&mut self, index: u32, enough: u32) -> Result<(), ClientError> {
        if self.held.range(..index).count() < enough as usize {
            return Ok(());
        }
        let kept = self.held.split_off(&index);
        let done = std::mem::replace(&mut self.held, kept);
        self.chunk.release(done.into_values().collect())
    }

    /// Asks for pieces of the window that begins at `index`, unless most of them are here.
    fn ask_from(&mut self, index: u32) -> Result<(), ClientError> {
        let window = self.chunk.window();
        let end = index.saturating_add(window).min(self.end);
        let missing = (index..end).filter(|&piece| !self.chunk.was_given(piece)).count() as u32;
        let worth_it = missing >= window.div_ceil(2) || end == self.end || !self.chunk.was_given(index);
        if self.asked.is_none() && missing > 0 && worth_it {
            self.asked = Some(self.chunk.ask(index, end - index)?);
        }
        Ok(())
    }
}

/// The whole of a chunk, which must be of a size to hold in memory.
pub(crate) fn read_whole(connection: &Connection, chunk: ChunkReference) -> Result<Vec<u8>, ClientError> {
    let mut reader = OrderedReader::open(connection, chunk)?;
    let mut bytes = Vec::with_capacity(chunk.geometry.size() as usize);
    for index in 0..chunk.geometry.pieces() {
        bytes.extend_from_slice(reader.piece(index)?);
    }
    Ok(bytes)
}
