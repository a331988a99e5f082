//! Bytes in memory → chunks.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use flow::chunk::{ChunkId, Geometry};
use flow::wire::catalog::CatalogFound;

use crate::chunk_writer::ChunkWriter;
use crate::connection::{Connection, Pending};
use crate::digest::{HashedPiece, join};
use crate::packing::cut_sizes;
use crate::put::Naming;
use crate::stage::{Stage, Staged};
use crate::upload::{Full, Upload, UploadedStream, Worker, workers_for};
use crate::{ClientError, Progress};

/// Bytes that can be copied from any place, by several threads at once.
pub trait Memory: Send + Sync {
    /// How many there are.
    fn size(&self) -> u64;

    /// Copies those from `offset` on, as many as `output` has room for. There are as many.
    fn copy_to(&self, offset: u64, output: &mut [u8]);
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
        let chunk = Chunk { number, start: offset, writer, name, hashed, filled: AtomicU32::new(0) };
        let is_part = length != size;
        upload.run(workers_for(length), |worker| {
            chunk.fill(worker, bytes, (hashes && is_part).then_some(&pieces))?;
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

/// A chunk whose pieces any worker may take.
struct Chunk<'u> {
    number: u32,
    /// Where it begins in the memory.
    start: u64,
    writer: Arc<ChunkWriter<'u>>,
    /// What it is called, unless by its digest.
    name: Option<ChunkId>,
    hashed: Mutex<Vec<HashedPiece>>,
    filled: AtomicU32,
}

impl<'u> Chunk<'u> {
    /// Fills pieces until all are taken, and notes those of the whole memory in `all`.
    fn fill(
        &self,
        worker: &Worker<'_, 'u>,
        bytes: &dyn Memory,
        all: Option<&Mutex<Vec<HashedPiece>>>,
    ) -> Result<(), ClientError> {
        let geometry = self.writer.geometry();
        let mut stage = Stage::new();
        while !worker.stopped() {
            let Some(mut slot) = self.writer.next_slot()? else { break };
            let offset = slot.offset(geometry);
            let offsets = [offset, self.start + offset];
            let offsets = match (self.name, all) {
                (Some(_), _) => &[],
                (None, None) => &offsets[..1],
                (None, Some(_)) => &offsets[..],
            };
            let read = |at: usize, part: &mut [u8]| bytes.copy_to(self.start + offset + at as u64, part);
            let Staged { pieces, checksum } = stage.fill(&mut slot, offsets, read);
            let mut pieces = pieces.into_iter();
            lock(&self.hashed).extend(pieces.next());
            all.into_iter().for_each(|all| lock(all).extend(pieces.next()));
            let length = slot.len();
            self.writer.fill_checked(slot, length, checksum)?;
            worker.upload().progress.advance(length as u64);
            if self.filled.fetch_add(1, Ordering::AcqRel) + 1 == geometry.pieces() {
                let id = self.name.unwrap_or_else(|| self.digest());
                let writer = self.writer.clone();
                worker.finish(Full { number: self.number, writer, id, size: geometry.size() });
            }
        }
        Ok(())
    }

    /// The digest of all pieces.
    fn digest(&self) -> ChunkId {
        let digest = join(std::mem::take(&mut *lock(&self.hashed)));
        ChunkId(digest.expect("the pieces of a chunk are all of it"))
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
