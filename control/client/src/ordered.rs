//! Bytes in order → chunks.

use std::collections::VecDeque;
use std::sync::Arc;

use blake3::Hasher;
use flow::chunk::{ChunkId, Geometry, GeometryError};
use flow::limits::PIECE_SIZE_MIN;
use flow::wire::session::FailureCode;

use crate::ClientError;
use crate::chunk_writer::{ChunkWriter, Slot};
use crate::upload::{Full, Worker};

/// Size of the first chunk of a stream whose length is not known, in bytes. Each chunk may be twice as large as the one
/// before, since a node sets room aside for all that a chunk may have, and a short stream must not claim much.
const STREAM_CHUNK_SIZE_MIN: u64 = 16 << 20;
/// Most bytes of such a chunk.
const STREAM_CHUNK_SIZE_MAX: u64 = 1 << 30;

/// Writes bytes in order into one chunk after another.
pub(crate) struct OrderedWriter<'o, 'w, 'u> {
    worker: &'o Worker<'w, 'u>,
    next_number: u32,
    /// Sizes of the chunks to come; `None` when nobody knows how many bytes there will be.
    sizes: Option<VecDeque<u64>>,
    open: Option<OpenChunk<'u>>,
    /// Of all chunks before the open one.
    hasher: Option<Hasher>,
}

struct OpenChunk<'u> {
    writer: Arc<ChunkWriter<'u>>,
    hasher: Hasher,
    written: u64,
    slot: Option<Slot<'u>>,
    used: usize,
}

impl<'o, 'w, 'u> OrderedWriter<'o, 'w, 'u> {
    /// Writes chunks of these sizes, numbered from `first` on.
    pub(crate) fn sized(worker: &'o Worker<'w, 'u>, first: u32, sizes: Vec<u64>) -> Self {
        Self { worker, next_number: first, sizes: Some(sizes.into()), open: None, hasher: None }
    }

    /// Writes as many chunks as are needed.
    pub(crate) fn unlimited(worker: &'o Worker<'w, 'u>) -> Self {
        Self { worker, next_number: 0, sizes: None, open: None, hasher: None }
    }

    /// Where the next bytes go, at least one.
    pub(crate) fn space(&mut self) -> Result<&mut [u8], ClientError> {
        let open = match self.open.take() {
            Some(open) => open,
            None => self.begin()?,
        };
        let open = self.open.insert(open);
        let slot = match open.slot.take() {
            Some(slot) => slot,
            None => open.writer.next_slot()?.expect("a chunk is closed as soon as its last piece is full"),
        };
        Ok(&mut open.slot.insert(slot)[open.used..])
    }

    /// The first `length` bytes of the space are written.
    pub(crate) fn advance(&mut self, length: usize) -> Result<(), ClientError> {
        let Some(open) = &mut self.open else { return Ok(()) };
        open.used += length;
        if open.slot.as_ref().is_some_and(|slot| open.used == slot.len()) {
            open.fill(self.hasher.as_mut())?;
            if open.written == open.writer.geometry().size() {
                self.close();
            }
        }
        Ok(())
    }

    /// Closes the last chunk and returns the digest of all that was written.
    pub(crate) fn finish(mut self) -> Result<[u8; 32], ClientError> {
        if let Some(open) = &mut self.open {
            open.fill(self.hasher.as_mut())?;
            if open.written > 0 {
                self.close();
            }
        }
        Ok(self.hasher.unwrap_or_default().finalize().into())
    }

    fn begin(&mut self) -> Result<OpenChunk<'u>, ClientError> {
        let size = self.sizes.as_mut().map(|sizes| sizes.pop_front().unwrap_or_default());
        let writer = match size {
            Some(size) => self.create(Geometry::of(size)),
            None => self.create_of_any_size(),
        };
        Ok(OpenChunk { writer: Arc::new(writer?), hasher: Hasher::new(), written: 0, slot: None, used: 0 })
    }

    /// Begins a chunk of a stream whose length is not known, as small a one as the disk still has room for.
    fn create_of_any_size(&self) -> Result<ChunkWriter<'u>, ClientError> {
        let mut size = stream_chunk_size(self.next_number);
        loop {
            match self.create(Geometry::new(size, PIECE_SIZE_MIN)) {
                Err(ClientError::Failure(failure))
                    if failure.code == FailureCode::DiskFull && size > PIECE_SIZE_MIN.into() =>
                {
                    size /= 2;
                }
                created => return created,
            }
        }
    }

    fn create(&self, geometry: Result<Geometry, GeometryError>) -> Result<ChunkWriter<'u>, ClientError> {
        let geometry = geometry.expect("bytes are cut into chunks within the limits");
        let upload = self.worker.upload();
        ChunkWriter::create(upload.connection, geometry, upload.durable)
    }

    fn close(&mut self) {
        let Some(open) = self.open.take() else { return };
        let id = ChunkId(open.hasher.finalize().into());
        self.worker.finish(Full { number: self.next_number, writer: open.writer, id, size: open.written });
        self.next_number += 1;
        self.hasher.get_or_insert(open.hasher);
    }
}

/// Most bytes of chunk `number` of a stream whose length is not known.
fn stream_chunk_size(number: u32) -> u64 {
    (STREAM_CHUNK_SIZE_MIN << number.min(32)).min(STREAM_CHUNK_SIZE_MAX)
}

impl OpenChunk<'_> {
    /// Hands the used part of the slot to the node.
    fn fill(&mut self, all: Option<&mut Hasher>) -> Result<(), ClientError> {
        let (Some(slot), used) = (self.slot.take(), std::mem::take(&mut self.used)) else { return Ok(()) };
        if used == 0 {
            return Ok(());
        }
        self.hasher.update(&slot[..used]);
        if let Some(all) = all {
            all.update(&slot[..used]);
        }
        self.written += used as u64;
        self.writer.fill(slot, used)
    }
}
