//! Bytes in memory → chunks.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use flow::chunk::{ChunkId, Geometry};
use flow::wire::catalog::{CatalogFound, CatalogWrite, CatalogWritten};
use plan::manifest::ChunkEntry;

use crate::chunk_writer::ChunkWriter;
use crate::connection::{Connection, Pending};
use crate::digest::{HashedPiece, join};
use crate::packing::cut_sizes;
use crate::parallel::in_parallel;
use crate::put::Naming;
use crate::stage::{Stage, Staged};
use crate::upload::{Full, Upload, UploadedStream, workers_for};
use crate::{ClientError, Progress};

/// Largest memory that is copied as fast as the node is asked a few questions.
const BRIEF_SIZE_MAX: u64 = 16 << 20;

/// Bytes that can be copied from any place, by several threads at once.
pub trait Memory: Send + Sync {
    /// How many there are.
    fn size(&self) -> u64;

    /// Copies those from `offset` on, as many as `output` has room for. There are as many.
    fn copy_to(&self, offset: u64, output: &mut [u8]);

    /// Those from `offset` on as they lie, if they lie one behind the other; others may write to them meanwhile.
    fn shared(&self, _offset: u64, _length: usize) -> Option<&[AtomicU8]> {
        None
    }
}

impl Memory for Vec<u8> {
    fn size(&self) -> u64 {
        self.len() as u64
    }

    fn copy_to(&self, offset: u64, output: &mut [u8]) {
        let offset = offset as usize;
        output.copy_from_slice(&self[offset..offset + output.len()]);
    }
}

/// Uploads memory. Each byte is read once, and hashed on its way to the slot that it is to lie in: what another thread of
/// the caller writes meanwhile may or may not be part of what is put, but digests and checksums are those of what was. No
/// byte is copied before `allowed` is answered.
pub(crate) fn upload_memory(
    connection: &Connection,
    durable: bool,
    naming: Naming,
    bytes: &dyn Memory,
    allowed: Pending<'_>,
    progress: &dyn Progress,
) -> Result<UploadedStream, ClientError> {
    let upload = Upload::new(connection, durable, &[], progress);
    let size = bytes.size();
    let hashes = naming == Naming::Content;
    let pieces = Mutex::new(Vec::new());
    let (mut offset, mut allowed) = (0, Some(allowed));
    for (number, length) in (0..).zip(cut_sizes(size)) {
        let geometry = Geometry::of(length).expect("bytes are cut into chunks within the limits");
        let writer = Arc::new(ChunkWriter::create(connection, geometry, durable)?);
        // It is answered while the node makes the chunk.
        allowed.take().map_or(Ok(()), |allowed| allowed.wait::<CatalogFound>().map(drop))?;
        let name = (!hashes).then(unique_name);
        let hashed = Mutex::default();
        let chunk = Chunk { start: offset, writer, name, hashed, filled: AtomicU32::new(0) };
        let is_part = length != size;
        upload.run(workers_for(length), |worker| {
            let all = (hashes && is_part).then_some(&pieces);
            if chunk.fill(bytes, all, progress, || worker.stopped())? {
                let (id, writer) = (chunk.id(), chunk.writer.clone());
                worker.finish(Full { number, writer, id, size: geometry.size() });
            }
            Ok(HashMap::new())
        })?;
        offset += length;
    }
    allowed.take().map_or(Ok(()), |allowed| allowed.wait::<CatalogFound>().map(drop))?;
    let chunks = upload.into_chunks();
    let digest = match &chunks[..] {
        [] => Some(blake3::hash(b"").into()),
        [chunk] => Some(chunk.id),
        _ if !hashes => Some(unique_name().0),
        _ => join(pieces.into_inner().unwrap_or_else(PoisonError::into_inner)),
    };
    let digest = digest.ok_or_else(|| connection.protocol("it took pieces that were not all of them"))?;
    Ok(UploadedStream { chunks, digest, size })
}

/// Whether memory of this size is one chunk that the calling thread fills and commits, with the help of threads that wait for
/// nothing.
pub(crate) fn is_brief(connection: &Connection, size: u64) -> bool {
    connection.shares_memory() && (1..=BRIEF_SIZE_MAX).contains(&size)
}

/// Memory that was copied to the node, to be sealed with the key that refers to it.
pub(crate) struct Filled<'u> {
    writer: Arc<ChunkWriter<'u>>,
    /// The chunk that it will be.
    pub(crate) entry: ChunkEntry,
}

/// Fills one chunk with memory that [`is_brief`], as [`upload_memory`] does. The node is asked once.
pub(crate) fn fill_chunk<'u>(
    connection: &'u Connection,
    durable: bool,
    naming: Naming,
    bytes: &dyn Memory,
    progress: &dyn Progress,
) -> Result<Filled<'u>, ClientError> {
    let size = bytes.size();
    let geometry = Geometry::of(size).expect("what is brief is within the limits of a chunk");
    let writer = Arc::new(ChunkWriter::begin(connection, geometry, durable)?);
    let name = (naming == Naming::Unique).then(unique_name);
    let (hashed, filled) = (Mutex::default(), AtomicU32::new(0));
    let chunk = Chunk { start: 0, writer, name, hashed, filled };
    // A thread that has to wait for slots would not look whether it still should.
    let threads = if chunk.writer.has_all_slots() { workers_for(size) } else { 1 };
    in_parallel(threads, threads, |_, stopped| {
        chunk.fill(bytes, None, progress, || stopped.load(Ordering::Acquire)).map(drop)
    })?;
    let id = chunk.id();
    let descriptor_digest = chunk.writer.descriptor_digest(id);
    let entry = ChunkEntry { id: id.0, size, piece_size: geometry.piece_size(), descriptor_digest };
    Ok(Filled { writer: chunk.writer, entry })
}

impl Filled<'_> {
    /// How the chunk is cut.
    pub(crate) fn geometry(&self) -> Geometry {
        self.writer.geometry()
    }

    /// Seals the chunk and commits the write that refers to it.
    pub(crate) fn commit(&self, write: CatalogWrite) -> Result<CatalogWritten, ClientError> {
        self.writer.commit(ChunkId(self.entry.id), write)
    }
}

/// A chunk whose pieces any worker may take.
struct Chunk<'u> {
    /// Where it begins in the memory.
    start: u64,
    writer: Arc<ChunkWriter<'u>>,
    /// What it is called, unless by its digest.
    name: Option<ChunkId>,
    hashed: Mutex<Vec<HashedPiece>>,
    filled: AtomicU32,
}

impl<'u> Chunk<'u> {
    /// Fills pieces until all are taken, and notes those of the whole memory in `all`. Gives whether it filled the last one.
    fn fill(
        &self,
        bytes: &dyn Memory,
        all: Option<&Mutex<Vec<HashedPiece>>>,
        progress: &dyn Progress,
        stopped: impl Fn() -> bool,
    ) -> Result<bool, ClientError> {
        let geometry = self.writer.geometry();
        let mut stage = Stage::new();
        let mut is_last = false;
        while !stopped() {
            let Some(mut slot) = self.writer.next_slot()? else { break };
            let offset = slot.offset(geometry);
            let offsets = [offset, self.start + offset];
            let offsets = match (self.name, all) {
                (Some(_), _) => &[],
                (None, None) => &offsets[..1],
                (None, Some(_)) => &offsets[..],
            };
            let start = self.start + offset;
            let read = |at: usize, part: &mut [u8]| bytes.copy_to(start + at as u64, part);
            let shared = bytes.shared(start, slot.len());
            let Staged { pieces, checksum } = stage.fill(&mut slot, offsets, shared, read);
            let mut pieces = pieces.into_iter();
            lock(&self.hashed).extend(pieces.next());
            all.into_iter().for_each(|all| lock(all).extend(pieces.next()));
            let length = slot.len();
            self.writer.fill_checked(slot, length, checksum)?;
            progress.advance(length as u64);
            is_last = self.filled.fetch_add(1, Ordering::AcqRel) + 1 == geometry.pieces();
        }
        Ok(is_last)
    }

    /// What it is called, all pieces being filled.
    fn id(&self) -> ChunkId {
        self.name.unwrap_or_else(|| {
            let digest = join(std::mem::take(&mut *lock(&self.hashed)));
            ChunkId(digest.expect("the pieces of a chunk are all of it"))
        })
    }
}

/// A name that nothing else has.
fn unique_name() -> ChunkId {
    let mut random = [0; 16];
    getrandom::fill(&mut random).expect("Linux gives random bytes to every process once it has booted");
    ChunkId::unique(random)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
