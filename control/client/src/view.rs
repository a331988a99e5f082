//! Chunks seen where they lie in the memory of the node.

use std::ops::{Deref, Range};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use flow::chunk::Geometry;
use flow::limits::PIECES_PER_CHUNK;
use flow::wire::session::{
    ChunkClose, ChunkInMemory, ChunkOpen, ChunkOpened, ChunkReference, FailureCode, PieceNext, PieceViews,
    SlotRef,
};
use memory::{Access, Stitched};

use crate::{Client, ClientError};

/// Mappings that all views of a process may have together: a quarter of what Linux lets a process have where nobody changed
/// `vm.max_map_count`.
const MAPS_MAX: u64 = 16_384;

/// Bytes and mappings of all views of this process.
static BYTES: AtomicU64 = AtomicU64::new(0);
static MAPS: AtomicU64 = AtomicU64::new(0);

/// The bytes of chunks, one behind the other, in the memory of the node. Its slots are neither freed nor written to before
/// the view is dropped, as long as the connection lives, which the view keeps open; see [`View::is_held`].
pub struct View {
    // The bytes go before the node is told that it may have their slots back.
    bytes: Stitched,
    held: Arc<Held>,
    _maps: Counted,
}

/// Chunks that the node holds in memory for this process, one behind the other.
pub(crate) struct Held {
    client: Arc<Client>,
    handles: Vec<u64>,
    /// Where the pieces lie, in their order.
    parts: Vec<Range<u64>>,
    _bytes: Counted,
}

/// An amount that is taken from a counter and given back.
struct Counted {
    counter: &'static AtomicU64,
    amount: u64,
}

impl View {
    /// Views what is held; `None` when it cannot be seen as one slice, or not with the mappings that views may take.
    pub(crate) fn of(held: &Arc<Held>, access: Access) -> Option<Self> {
        let maps_left = MAPS_MAX.saturating_sub(MAPS.load(Ordering::Relaxed));
        let stitched = held.client.connection().stitch(&held.parts, access, maps_left as usize);
        // A kernel that refuses, for whatever reason, has the bytes copied.
        let bytes = stitched.and_then(Result::ok)?;
        let _maps = Counted::add(&MAPS, bytes.maps() as u64);
        Some(Self { bytes, held: held.clone(), _maps })
    }

    /// Whether the connection lives on which the node holds the bytes. After the node has died they stay as they are for
    /// as long as the view lives; but a node that lives and has ended the connection may put others in their place.
    pub fn is_held(&self) -> bool {
        self.held.client.connection().is_held()
    }

    /// Bytes of all views of this process.
    pub fn total_bytes() -> u64 {
        BYTES.load(Ordering::Relaxed)
    }
}

impl Held {
    /// Most bytes that another view may have; 0 when nothing can be seen in place. The node must have room for what else it does.
    pub(crate) fn room(client: &Client) -> u64 {
        let arena_size = client.connection().views().map_or(0, memory::Mapping::size);
        (arena_size / 2).saturating_sub(BYTES.load(Ordering::Relaxed))
    }

    /// Opens whole chunks and waits until all of them are in memory. `None` when they cannot be, or not in the memory that views
    /// may take.
    pub(crate) fn open(client: &Arc<Client>, chunks: &[ChunkReference]) -> Result<Option<Self>, ClientError> {
        let size = chunks.iter().map(|chunk| chunk.geometry.size()).sum();
        if size > Self::room(client) {
            return Ok(None);
        }
        let mut held = Self::nothing_yet(client, size);
        for &chunk in chunks {
            match held.bring(chunk) {
                Ok(()) => {}
                Err(error) if error.code() == Some(FailureCode::MemoryFull) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        Ok(Some(held))
    }

    /// Chunks that the node has opened and given out; [`Held::place`] says what they are of.
    pub(crate) fn given(client: &Arc<Client>, given: &[ChunkInMemory]) -> Self {
        let handles = given.iter().map(|given| given.handle).collect();
        let mut held = Self::nothing_yet(client, 0);
        held.handles = handles;
        held
    }

    /// Makes sure that what was given are these chunks, each of them whole.
    pub(crate) fn place(
        mut self,
        chunks: &[ChunkReference],
        given: &[ChunkInMemory],
    ) -> Result<Self, ClientError> {
        let client = self.client.clone();
        let protocol = |what| client.connection().protocol(what);
        if chunks.len() != given.len() {
            return Err(protocol("it opens other chunks than the file has"));
        }
        for (chunk, given) in chunks.iter().zip(given) {
            let mut places = Places::of(chunk.geometry);
            places.take(&given.slots).map_err(protocol)?;
            if places.missing > 0 {
                return Err(protocol("it does not give every piece of a chunk"));
            }
            self.parts.extend(places.pieces.into_iter().flatten());
        }
        self._bytes = Counted::add(&BYTES, chunks.iter().map(|chunk| chunk.geometry.size()).sum());
        Ok(self)
    }

    fn nothing_yet(client: &Arc<Client>, size: u64) -> Self {
        let _bytes = Counted::add(&BYTES, size);
        Self { client: client.clone(), handles: Vec::new(), parts: Vec::new(), _bytes }
    }

    /// Opens a chunk and waits until all of it is in memory.
    fn bring(&mut self, chunk: ChunkReference) -> Result<(), ClientError> {
        let connection = self.client.connection();
        let ChunkOpened { handle, local_pieces } =
            connection.call(ChunkOpen { chunk, priority: connection.priority() })?;
        self.handles.push(handle);
        let (geometry, limit) = (chunk.geometry, PIECES_PER_CHUNK as u32);
        let is_coming = local_pieces < geometry.pieces();
        let (mut places, mut waits) = (Places::of(geometry), false);
        while places.missing > 0 {
            // Pieces that come from other nodes are not asked for one by one, which would keep a core from receiving them: the
            // last that is missing has come when many others have.
            let last = places.pieces.iter().rposition(Option::is_none).filter(|_| waits);
            let (first, count) = last.map_or((0, geometry.pieces()), |last| (last as u32, 1));
            waits = is_coming && !waits;
            let request = PieceNext { handle, first, count, limit };
            let PieceViews { slots } = connection.call(request)?;
            places.take(&slots).map_err(|what| connection.protocol(what))?;
            if slots.is_empty() {
                return Err(connection.protocol("it gives no piece where some are missing"));
            }
        }
        self.parts.extend(places.pieces.into_iter().flatten());
        Ok(())
    }

    /// Copies the bytes from `offset` on, of which there must be as many; false where the node named a place outside its arena.
    pub(crate) fn copy(&self, mut offset: u64, mut output: &mut [u8]) -> bool {
        let Some(arena) = self.client.connection().views() else { return false };
        for part in &self.parts {
            let length = part.end - part.start;
            if offset >= length {
                offset -= length;
                continue;
            }
            let count = output.len().min((length - offset) as usize);
            let Some(bytes) = arena.read(part.start + offset, count) else { return false };
            let (target, rest) = std::mem::take(&mut output).split_at_mut(count);
            memory::copy_past_cache(target, bytes);
            (offset, output) = (0, rest);
            if output.is_empty() {
                break;
            }
        }
        output.is_empty()
    }
}

/// Where the pieces of a chunk lie, as far as the node has said.
struct Places {
    geometry: Geometry,
    pieces: Vec<Option<Range<u64>>>,
    missing: usize,
}

impl Places {
    fn of(geometry: Geometry) -> Self {
        let pieces = vec![None; geometry.pieces() as usize];
        Self { geometry, missing: pieces.len(), pieces }
    }

    /// Takes note of pieces, each of which must be one of the chunk and new; else says what is wrong.
    fn take(&mut self, slots: &[SlotRef]) -> Result<(), &'static str> {
        for slot in slots {
            let place = self.pieces.get_mut(slot.piece as usize).filter(|place| place.is_none());
            let place = place.filter(|_| slot.length == self.geometry.length(slot.piece));
            let end = slot.offset.checked_add(slot.length.into());
            let (Some(place), Some(end)) = (place, end) else {
                return Err("it gives a piece twice, or one that the chunk does not have");
            };
            *place = Some(slot.offset..end);
        }
        self.missing -= slots.len();
        Ok(())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        for &handle in &self.handles {
            // When the connection has ended, the node closes the chunk by itself.
            drop(self.client.connection().send(ChunkClose { handle }));
        }
    }
}

impl Counted {
    fn add(counter: &'static AtomicU64, amount: u64) -> Self {
        counter.fetch_add(amount, Ordering::Relaxed);
        Self { counter, amount }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.counter.fetch_sub(self.amount, Ordering::Relaxed);
    }
}

impl Deref for View {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}
