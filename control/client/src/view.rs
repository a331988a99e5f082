//! Chunks seen where they lie in the memory of the node.

use std::ops::{Deref, Range};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use flow::limits::PIECES_PER_CHUNK;
use flow::wire::session::{
    ChunkClose, ChunkOpen, ChunkOpened, ChunkReference, FailureCode, PieceNext, PieceViews,
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
    held: Held,
}

/// What the node holds for a view, and what is counted of it.
struct Held {
    client: Arc<Client>,
    handles: Vec<u64>,
    bytes: Counted,
    maps: Counted,
}

/// An amount that is taken from a counter and given back.
struct Counted {
    counter: &'static AtomicU64,
    amount: u64,
}

impl View {
    /// Views whole chunks. `None` when they cannot be seen, or not in the memory that views may take.
    pub(crate) fn of(
        client: &Arc<Client>,
        chunks: &[ChunkReference],
        access: Access,
    ) -> Result<Option<Self>, ClientError> {
        let Some(arena_size) = client.connection().views().map(memory::Mapping::size) else {
            return Ok(None);
        };
        let size = chunks.iter().map(|chunk| chunk.geometry.size()).sum();
        // The node must have room for what else it does.
        let Some(bytes) = Counted::take(&BYTES, size, arena_size / 2) else { return Ok(None) };
        let maps = Counted { counter: &MAPS, amount: 0 };
        let mut held = Held { client: client.clone(), handles: Vec::new(), bytes, maps };
        let mut parts = Vec::new();
        for &chunk in chunks {
            match held.open(chunk) {
                Ok(ranges) => parts.extend(ranges),
                Err(error) if error.code() == Some(FailureCode::MemoryFull) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        let maps_left = MAPS_MAX.saturating_sub(MAPS.load(Ordering::Relaxed));
        let stitched = client.connection().stitch(&parts, access, maps_left as usize);
        // A kernel that refuses, for whatever reason, has the bytes copied.
        let Some(bytes) = stitched.and_then(Result::ok) else { return Ok(None) };
        held.maps.add(bytes.maps() as u64);
        Ok(Some(Self { bytes, held }))
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
    /// Opens a chunk and waits until all of it is in memory; gives where its pieces lie.
    fn open(&mut self, chunk: ChunkReference) -> Result<Vec<Range<u64>>, ClientError> {
        let connection = self.client.connection();
        let ChunkOpened { handle, local_pieces } =
            connection.call(ChunkOpen { chunk, priority: connection.priority() })?;
        self.handles.push(handle);
        let (geometry, limit) = (chunk.geometry, PIECES_PER_CHUNK as u32);
        let is_coming = local_pieces < geometry.pieces();
        let mut pieces: Vec<Option<Range<u64>>> = vec![None; geometry.pieces() as usize];
        let (mut missing, mut waits) = (pieces.len(), false);
        while missing > 0 {
            // Pieces that come from other nodes are not asked for one by one, which would keep a core from receiving them: the
            // last that is missing has come when many others have.
            let last = pieces.iter().rposition(Option::is_none).filter(|_| waits);
            let (first, count) = last.map_or((0, geometry.pieces()), |last| (last as u32, 1));
            waits = is_coming && !waits;
            let request = PieceNext { handle, first, count, limit };
            let PieceViews { slots } = connection.call(request)?;
            for slot in &slots {
                let place = pieces.get_mut(slot.piece as usize).filter(|place| place.is_none());
                let place = place.filter(|_| slot.length == geometry.length(slot.piece));
                let end = slot.offset.checked_add(slot.length.into());
                let (Some(place), Some(end)) = (place, end) else {
                    return Err(
                        connection.protocol("it gives a piece twice, or one that the chunk does not have")
                    );
                };
                *place = Some(slot.offset..end);
            }
            missing -= slots.len();
            if slots.is_empty() {
                return Err(connection.protocol("it gives no piece where some are missing"));
            }
        }
        Ok(pieces.into_iter().flatten().collect())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        for &handle in &self.handles {
            // When the connection has ended, the node closes the chunk by itself.
            drop(self.client.connection().send(ChunkClose { handle }));
        }
        debug_assert!(self.bytes.amount > 0);
    }
}

impl Counted {
    /// Takes an amount, unless there were more than `limit` then.
    fn take(counter: &'static AtomicU64, amount: u64, limit: u64) -> Option<Self> {
        let counted = Self { counter, amount };
        // Given back at once when it is too much.
        let before = counter.fetch_add(amount, Ordering::Relaxed);
        (before.saturating_add(amount) <= limit).then_some(counted)
    }

    fn add(&mut self, amount: u64) {
        self.counter.fetch_add(amount, Ordering::Relaxed);
        self.amount += amount;
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
