//! The workers that carry a plan out.
//!
//! Every worker reads bytes straight into slots, checks them and hashes them while they are in its cache. Packed,
//! sparse and streamed bytes are one worker's job each; the pieces of a large file are shared by all idle workers.
//! The calling thread seals chunks as they become full, so that no worker waits for the node's disk.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use blake3::Hasher;
use flow::chunk::{ChunkId, Geometry};
use flow::limits::PIECE_SIZE_MIN;
use plan::manifest::ChunkEntry;

use crate::chunk_writer::ChunkWriter;
use crate::connection::{Connection, Pending};
use crate::digest::{HashedPiece, join};
use crate::ordered::OrderedWriter;
use crate::packing::{Job, Packing, cut_sizes};
use crate::parallel::processors;
use crate::walk::{Found, Run};
use crate::{ClientError, Progress, Silent};

/// Most workers of one put.
const WORKERS_MAX: usize = 8;
/// Bytes for which another worker is worth its while.
const BYTES_PER_WORKER: u64 = 4 << 20;
/// Full chunks that wait to be sealed.
const FULL_AT_ONCE: usize = 16;
/// Chunks that the node seals at once.
const SEALS_AT_ONCE: usize = 64;

/// What was uploaded.
#[derive(Default)]
pub(crate) struct Uploaded {
    /// The chunks by their numbers in the plan.
    pub(crate) chunks: Vec<ChunkEntry>,
    /// The digests of files, by their numbers in the plan; of empty files none.
    pub(crate) digests: HashMap<usize, [u8; 32]>,
}

/// Uploads what `packing` says of `files`.
pub(crate) fn upload_files(
    connection: &Connection,
    durable: bool,
    files: &[&Found],
    packing: Packing,
    progress: &dyn Progress,
) -> Result<Uploaded, ClientError> {
    let workers = workers_for(packing.bytes);
    let queue = Mutex::new(Queue { jobs: packing.jobs, shared: Vec::new() });
    let upload = Upload::new(connection, durable, files, progress);
    let mut digests = upload.run(workers, |worker| worker.work(&queue))?;
    for (file, pieces) in std::mem::take(&mut *lock(&upload.file_pieces)) {
        let digest = join(pieces).ok_or_else(|| ClientError::Changed(files[file].source.clone()))?;
        digests.insert(file, digest);
    }
    Ok(Uploaded { chunks: upload.into_chunks(), digests })
}

/// How many workers are worth their while for so many bytes.
pub(crate) fn workers_for(bytes: u64) -> usize {
    let threads = processors().min(WORKERS_MAX);
    let useful = bytes.div_ceil(BYTES_PER_WORKER).max(1);
    threads.min(usize::try_from(useful).unwrap_or(threads))
}

/// A stream that was uploaded.
pub(crate) struct UploadedStream {
    /// Its chunks, in order.
    pub(crate) chunks: Vec<ChunkEntry>,
    /// BLAKE3 of all of it.
    pub(crate) digest: [u8; 32],
    /// Bytes of all of it.
    pub(crate) size: u64,
}

/// Uploads a stream to its end.
pub(crate) fn upload_stream(
    connection: &Connection,
    durable: bool,
    mut stream: Box<dyn Read + Send>,
    progress: &dyn Progress,
) -> Result<UploadedStream, ClientError> {
    // A chunk is begun with the most it may have; a short stream need not claim much.
    let mut head = Vec::new();
    (&mut stream).take(PIECE_SIZE_MIN.into()).read_to_end(&mut head).map_err(ClientError::Input)?;
    let known = (head.len() < PIECE_SIZE_MIN as usize).then_some(head.len() as u64);
    let stream: Mutex<Box<dyn Read + Send>> = Mutex::new(Box::new(io::Cursor::new(head).chain(stream)));
    let upload = Upload::new(connection, durable, &[], progress);
    let written = Mutex::new(([0; 32], 0));
    upload.run(1, |worker| {
        *lock(&written) = worker.write_stream(&mut *lock(&stream), known)?;
        Ok(HashMap::new())
    })?;
    let (digest, size) = *lock(&written);
    Ok(UploadedStream { chunks: upload.into_chunks(), digest, size })
}

/// Uploads bytes, of which there must be some, as one chunk.
pub(crate) fn upload_bytes(
    connection: &Connection,
    durable: bool,
    bytes: &[u8],
) -> Result<ChunkEntry, ClientError> {
    let upload = Upload::new(connection, durable, &[], &Silent);
    upload.run(1, |worker| {
        worker.write_stream(&mut &*bytes, Some(bytes.len() as u64))?;
        Ok(HashMap::new())
    })?;
    upload.into_chunks().pop().ok_or_else(|| connection.protocol("it seals no chunk"))
}

/// One upload, seen by all its workers.
pub(crate) struct Upload<'u> {
    pub(crate) connection: &'u Connection,
    pub(crate) durable: bool,
    files: &'u [&'u Found],
    pub(crate) progress: &'u dyn Progress,
    stopped: AtomicBool,
    failure: Mutex<Option<ClientError>>,
    file_pieces: Mutex<HashMap<usize, Vec<HashedPiece>>>,
    sealed: Mutex<HashMap<u32, ChunkEntry>>,
}

/// One thread of an upload.
pub(crate) struct Worker<'w, 'u> {
    upload: &'w Upload<'u>,
    full: SyncSender<Full<'u>>,
}

/// A chunk whose pieces are all filled.
pub(crate) struct Full<'u> {
    pub(crate) number: u32,
    pub(crate) writer: Arc<ChunkWriter<'u>>,
    pub(crate) id: ChunkId,
    pub(crate) size: u64,
}

/// Work that is not done yet.
struct Queue<'u> {
    jobs: VecDeque<Job>,
    shared: Vec<Arc<SharedChunk<'u>>>,
}

/// A chunk of a large file, whose pieces any worker may take.
struct SharedChunk<'u> {
    number: u32,
    file: usize,
    run: Run,
    whole: bool,
    begun: Mutex<Option<Begun<'u>>>,
    hashed: Mutex<Vec<HashedPiece>>,
    filled: AtomicU32,
}

#[derive(Clone)]
struct Begun<'u> {
    writer: Arc<ChunkWriter<'u>>,
    file: Arc<File>,
}

impl<'u> Upload<'u> {
    pub(crate) fn new(
        connection: &'u Connection,
        durable: bool,
        files: &'u [&'u Found],
        progress: &'u dyn Progress,
    ) -> Self {
        Self {
            connection,
            durable,
            files,
            progress,
            stopped: AtomicBool::new(false),
            failure: Mutex::default(),
            file_pieces: Mutex::default(),
            sealed: Mutex::default(),
        }
    }

    /// Runs workers until all have ended, and seals what they fill. Returns the files' digests.
    pub(crate) fn run<F>(&self, workers: usize, work: F) -> Result<HashMap<usize, [u8; 32]>, ClientError>
    where
        F: Fn(&Worker<'_, 'u>) -> Result<HashMap<usize, [u8; 32]>, ClientError> + Sync,
    {
        let (full, filled) = sync_channel(FULL_AT_ONCE);
        let mut digests = HashMap::new();
        thread::scope(|scope| {
            let work = &work;
            let start = |_| {
                let worker = Worker { upload: self, full: full.clone() };
                scope.spawn(move || work(&worker).map_err(|error| self.fail(error)))
            };
            let running: Vec<_> = (0..workers).map(start).collect();
            drop(full);
            if let Err(error) = self.seal_all(filled) {
                self.fail(error);
            }
            for worker in running {
                match worker.join() {
                    Ok(part) => digests.extend(part.unwrap_or_default()),
                    Err(panic) => resume_unwind(panic),
                }
            }
        });
        lock(&self.failure).take().map_or(Ok(digests), Err)
    }

    /// Seals chunks as they become full; several at once, so that the node syncs its disk once for many.
    fn seal_all(&self, filled: Receiver<Full<'u>>) -> Result<(), ClientError> {
        let mut sealing: VecDeque<(Full<'u>, Pending<'u>)> = VecDeque::new();
        for full in filled {
            let pending = full.writer.seal(full.id, full.size)?;
            sealing.push_back((full, pending));
            if sealing.len() > SEALS_AT_ONCE
                && let Some((full, pending)) = sealing.pop_front()
            {
                self.sealed(full, pending)?;
            }
        }
        sealing.into_iter().try_for_each(|(full, pending)| self.sealed(full, pending))
    }

    fn sealed(&self, full: Full<'u>, pending: Pending<'u>) -> Result<(), ClientError> {
        let sealed = full.writer.sealed(pending, full.size)?;
        let entry = ChunkEntry {
            id: full.id.0,
            size: full.size,
            piece_size: sealed.geometry.piece_size(),
            descriptor_digest: sealed.descriptor_digest,
        };
        lock(&self.sealed).insert(full.number, entry);
        Ok(())
    }

    pub(crate) fn into_chunks(self) -> Vec<ChunkEntry> {
        let sealed = self.sealed.into_inner().unwrap_or_else(PoisonError::into_inner);
        let mut chunks: Vec<_> = sealed.into_iter().collect();
        chunks.sort_unstable_by_key(|(number, _)| *number);
        chunks.into_iter().map(|(_, entry)| entry).collect()
    }

    /// Stops every worker; the first error is the one that is reported.
    fn fail(&self, error: ClientError) {
        self.stopped.store(true, Ordering::Release);
        lock(&self.failure).get_or_insert(error);
    }
}

impl<'u> Worker<'_, 'u> {
    /// Hands a chunk over to be sealed.
    pub(crate) fn finish(&self, full: Full<'u>) {
        // Nobody seals any more only after a failure, which stops this worker too.
        let _ = self.full.send(full);
    }

    /// The upload that this worker works for.
    pub(crate) fn upload(&self) -> &Upload<'u> {
        self.upload
    }

    pub(crate) fn stopped(&self) -> bool {
        self.upload.stopped.load(Ordering::Acquire)
    }

    /// Does jobs, and helps with shared chunks, until nothing is left. Returns the digests of the files it read.
    fn work(&self, queue: &Mutex<Queue<'u>>) -> Result<HashMap<usize, [u8; 32]>, ClientError> {
        let mut digests = HashMap::new();
        while !self.stopped() {
            let mut waiting = lock(queue);
            let chunk = match waiting.shared.last() {
                Some(chunk) => chunk.clone(),
                None => match waiting.jobs.pop_front() {
                    None => break,
                    Some(Job::Ordered { files, first_chunk, sizes }) => {
                        drop(waiting);
                        self.write_ordered(&files, first_chunk, sizes, &mut digests)?;
                        continue;
                    }
                    Some(Job::Range { file, run, chunk, whole }) => {
                        let chunk = Arc::new(SharedChunk::new(file, run, chunk, whole));
                        waiting.shared.push(chunk.clone());
                        chunk
                    }
                },
            };
            drop(waiting);
            let digest = self.fill_shared(&chunk);
            lock(queue).shared.retain(|other| !Arc::ptr_eq(other, &chunk));
            if let Some(digest) = digest? {
                digests.insert(chunk.file, digest);
            }
        }
        Ok(digests)
    }

    /// Fills pieces of a shared chunk until all are taken. Returns the file's digest when the chunk is the whole file
    /// and this worker filled its last piece.
    fn fill_shared(&self, chunk: &SharedChunk<'u>) -> Result<Option<[u8; 32]>, ClientError> {
        let found = self.upload.files[chunk.file];
        let Begun { writer, file } = chunk.begin(self.upload)?;
        let geometry = writer.geometry();
        while !self.stopped() {
            let Some(mut slot) = writer.next_slot()? else { break };
            let offset = slot.offset(geometry);
            file.read_exact_at(&mut slot, chunk.run.offset + offset)
                .map_err(|error| read_error(found, error))?;
            let piece = HashedPiece::of(&slot, offset);
            if !chunk.whole {
                let piece = match chunk.run.offset {
                    0 => piece.clone(),
                    start => HashedPiece::of(&slot, start + offset),
                };
                lock(&self.upload.file_pieces).entry(chunk.file).or_default().push(piece);
            }
            lock(&chunk.hashed).push(piece);
            let length = slot.len();
            writer.fill(slot, length)?;
            self.upload.progress.advance(length as u64);
            if chunk.filled.fetch_add(1, Ordering::AcqRel) + 1 == geometry.pieces() {
                found.check_unchanged(&file)?;
                let id = join(std::mem::take(&mut *lock(&chunk.hashed)));
                let id = id.ok_or_else(|| ClientError::Changed(found.source.clone()))?;
                self.finish(Full { number: chunk.number, writer, id: ChunkId(id), size: chunk.run.length });
                return Ok(chunk.whole.then_some(id));
            }
        }
        Ok(None)
    }

    /// Writes the data of files one after another into chunks.
    fn write_ordered(
        &self,
        files: &[usize],
        first_chunk: u32,
        sizes: Vec<u64>,
        digests: &mut HashMap<usize, [u8; 32]>,
    ) -> Result<(), ClientError> {
        let alone = files.len() == 1 && self.upload.files[files[0]].runs.is_none();
        let mut writer = OrderedWriter::sized(self, first_chunk, sizes);
        for &file in files {
            if self.stopped() {
                return Ok(());
            }
            let hasher = (!alone).then(Hasher::new);
            if let Some(digest) = self.write_file(self.upload.files[file], hasher, &mut writer)? {
                digests.insert(file, digest);
            }
        }
        let all = writer.finish()?;
        if alone {
            digests.insert(files[0], all);
        }
        Ok(())
    }

    /// Writes the data of one file. Returns its digest when it was given a hasher.
    fn write_file(
        &self,
        found: &Found,
        mut hasher: Option<Hasher>,
        writer: &mut OrderedWriter<'_, '_, 'u>,
    ) -> Result<Option<[u8; 32]>, ClientError> {
        let file = found.open()?;
        let mut position = 0;
        for run in found.data() {
            hash_zeros(hasher.as_mut(), run.offset - position);
            position = run.offset;
            while position < run.offset + run.length && !self.stopped() {
                let space = writer.space()?;
                let wanted = usize::try_from(run.offset + run.length - position).unwrap_or(usize::MAX);
                let part = space.len().min(wanted);
                let part = &mut space[..part];
                file.read_exact_at(part, position).map_err(|error| read_error(found, error))?;
                if let Some(hasher) = &mut hasher {
                    hasher.update(part);
                }
                let length = part.len();
                writer.advance(length)?;
                self.upload.progress.advance(length as u64);
                position += length as u64;
            }
        }
        hash_zeros(hasher.as_mut(), found.size().saturating_sub(position));
        found.check_unchanged(&file)?;
        Ok(hasher.map(|hasher| hasher.finalize().into()))
    }

    /// Writes a stream of known or unknown length into chunks; returns its digest and size in bytes.
    fn write_stream(
        &self,
        stream: &mut dyn Read,
        known: Option<u64>,
    ) -> Result<([u8; 32], u64), ClientError> {
        let mut writer = match known {
            Some(length) => OrderedWriter::sized(self, 0, cut_sizes(length)),
            None => OrderedWriter::unlimited(self),
        };
        let mut size = 0;
        while known.is_none_or(|length| size < length) && !self.stopped() {
            let length = match stream.read(writer.space()?) {
                Ok(0) => break,
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(ClientError::Input(error)),
            };
            writer.advance(length)?;
            self.upload.progress.advance(length as u64);
            size += length as u64;
        }
        Ok((writer.finish()?, size))
    }
}

impl<'u> SharedChunk<'u> {
    fn new(file: usize, run: Run, number: u32, whole: bool) -> Self {
        let (begun, hashed, filled) = (Mutex::default(), Mutex::default(), AtomicU32::new(0));
        Self { number, file, run, whole, begun, hashed, filled }
    }

    /// Opens file and chunk, unless another worker has.
    fn begin(&self, upload: &Upload<'u>) -> Result<Begun<'u>, ClientError> {
        let mut begun = lock(&self.begun);
        if let Some(begun) = &*begun {
            return Ok(begun.clone());
        }
        let file = Arc::new(upload.files[self.file].open()?);
        let geometry = Geometry::of(self.run.length).expect("a file is cut into chunks within the limits");
        let writer = Arc::new(ChunkWriter::create(upload.connection, geometry, upload.durable)?);
        Ok(begun.insert(Begun { writer, file }).clone())
    }
}

fn read_error(found: &Found, error: io::Error) -> ClientError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => ClientError::Changed(found.source.clone()),
        _ => ClientError::file("read", &found.source, error),
    }
}

fn hash_zeros(hasher: Option<&mut Hasher>, mut length: u64) {
    static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
    let Some(hasher) = hasher else { return };
    while length > 0 {
        let part = length.min(ZEROS.len() as u64);
        hasher.update(&ZEROS[..part as usize]);
        length -= part;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
