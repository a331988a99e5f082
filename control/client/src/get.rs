//! A key → files.

use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use blake3::Hasher;
use flow::chunk::ChunkId;
use flow::wire::session::ChunkReference;
use plan::manifest::{Extent, FileEntry, FileKind, Shape};

use crate::chunk_reader::{ChunkReader, OrderedReader, reference};
use crate::connection::Connection;
use crate::destination::Destination;
use crate::key::OpenKey;
use crate::kv::Consistency;
use crate::layout::{ChunkMap, directories_of};
use crate::parallel::in_parallel;
use crate::sink::Sink;
use crate::staging::Staging;
use crate::verify::verify;
use crate::{ClientError, Progress};

/// Chunks that are read at once.
const CHUNKS_AT_ONCE: usize = 4;

/// Bytes of a stream that are written at once. Copies that are smaller than a core's cache run at the speed of memory;
/// those of 1 MiB and more took 15 % longer where it was measured.
const WRITTEN_AT_ONCE: usize = 256 << 10;

/// How a key is got.
#[derive(Debug, Clone, Default)]
pub struct GetOptions {
    /// Read the files back and compare their BLAKE3 digests with those of the files that were put, before they appear
    /// at the destination. The checksums of all pieces are checked in any case.
    pub verify: bool,
    /// How fresh the version must be. With [`Consistency::One`] it may be one that the node has read before, when the catalog is
    /// out of reach; with [`Consistency::All`] every live node that has its chunks must say so first.
    pub consistency: Consistency,
}

/// What was got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GetReport {
    /// The version of the key.
    pub version: u64,
    /// Bytes of all files, holes included.
    pub size: u64,
    /// How many regular files.
    pub files: u64,
    /// Whether the version is one that the node had read before: there may be a newer one.
    pub stale: bool,
}

/// Writes the current version of a key to `path`.
pub(crate) fn get(
    connection: &Connection,
    key: &str,
    path: &Path,
    options: &GetOptions,
    progress: &dyn Progress,
) -> Result<GetReport, ClientError> {
    let open = OpenKey::open(connection, key, options.consistency)?;
    check_verifiable(&open, key, options)?;
    let shape = open.manifest.shape;
    let directories = directories_of(&open.files);
    let chunks = open.manifest.chunks.iter().map(reference).collect::<Result<Vec<_>, _>>();
    let chunks = chunks.map_err(|source| ClientError::Manifest { key: key.into(), source })?;
    let maps = ChunkMap::of(&open.manifest, &open.files);

    let destination = Destination::of(path, key, shape, &open.files)?;
    let shown = destination.path();
    let staging = Staging::new(destination, &open.files)?;
    let sink = Sink::new(staging.root(), shape, &open.files, &shown);
    progress.start(Some(open.files.iter().map(data_of).sum()));
    sink.prepare(&directories)?;
    let wanted: Vec<_> = chunks.into_iter().zip(&maps).filter(|(_, map)| !map.is_empty()).collect();
    in_parallel(wanted.len().min(CHUNKS_AT_ONCE), wanted.len(), |number, stopped| {
        let (chunk, map) = &wanted[number];
        copy_chunk(connection, *chunk, map, &sink, progress, stopped)
    })?;
    if options.verify {
        verify(connection, &sink, &open.files)?;
    }
    sink.link()?;
    connection.ensure_open()?;
    staging.publish(shape, &open.files, &directories)?;
    progress.finish();
    Ok(report(&open))
}

/// Writes the bytes of a key that is one file or a stream to `output`.
pub(crate) fn get_to_writer(
    connection: &Connection,
    key: &str,
    output: &mut dyn Write,
    options: &GetOptions,
    progress: &dyn Progress,
) -> Result<GetReport, ClientError> {
    let open = OpenKey::open(connection, key, options.consistency)?;
    let (Shape::File | Shape::Stream, [file]) = (open.manifest.shape, &open.files[..]) else {
        return Err(ClientError::NotOneFile(key.into()));
    };
    let FileKind::Regular { size, digest, extents } = &file.kind else {
        return Err(ClientError::NotOneFile(key.into()));
    };
    check_verifiable(&open, key, options)?;
    progress.start(Some(data_of(file)));
    let mut output = Output { output, hasher: options.verify.then(Hasher::new), position: 0 };
    let mut reader: Option<(u32, OrderedReader<'_>)> = None;
    for extent in extents {
        output.write_zeros(extent.file_offset - output.position)?;
        let chunk = reference(&open.manifest.chunks[extent.chunk as usize]);
        let chunk = chunk.map_err(|source| ClientError::Manifest { key: key.into(), source })?;
        write_extent(connection, chunk, extent, &mut reader, &mut output, progress)?;
    }
    output.write_zeros(size.saturating_sub(output.position))?;
    output.output.flush().map_err(ClientError::Output)?;
    if output.hasher.is_some_and(|hasher| hasher.finalize() != *digest) {
        return Err(ClientError::Digest(format!("the key '{key}'")));
    }
    progress.finish();
    Ok(report(&open))
}

/// Lets a get that is to compare digests fail at once where there are none.
fn check_verifiable(open: &OpenKey<'_>, key: &str, options: &GetOptions) -> Result<(), ClientError> {
    let lacks_digest = |file: &FileEntry| match &file.kind {
        FileKind::Regular { digest, .. } => !ChunkId(*digest).is_digest(),
        FileKind::Directory | FileKind::Symlink { .. } => false,
    };
    if options.verify && open.files.iter().any(lacks_digest) {
        return Err(ClientError::NoDigest(format!("the key '{key}'")));
    }
    Ok(())
}

fn report(open: &OpenKey<'_>) -> GetReport {
    GetReport {
        version: open.entry.version,
        size: open.manifest.size,
        files: open.manifest.file_count,
        stale: open.stale,
    }
}

/// Bytes of a file that are not holes.
fn data_of(file: &FileEntry) -> u64 {
    match &file.kind {
        FileKind::Regular { extents, .. } => extents.iter().map(|extent| extent.length).sum(),
        FileKind::Directory | FileKind::Symlink { .. } => 0,
    }
}

/// Copies what a chunk holds into files, piece by piece as they arrive.
fn copy_chunk(
    connection: &Connection,
    chunk: ChunkReference,
    map: &ChunkMap,
    sink: &Sink<'_>,
    progress: &dyn Progress,
    stopped: &AtomicBool,
) -> Result<(), ClientError> {
    let geometry = chunk.geometry;
    let mut reader = ChunkReader::open(connection, chunk)?;
    let mut writer = sink.writer();
    let mut asked = Some(reader.ask(0, geometry.pieces())?);
    while let Some(waiting) = asked.take() {
        let pieces = reader.receive(waiting)?;
        if pieces.is_empty() {
            return Err(connection.protocol("it gives no piece where some are missing"));
        }
        if !reader.is_exhausted() {
            asked = Some(reader.ask(0, geometry.pieces())?);
        }
        for piece in &pieces {
            let start = geometry.offset(piece.index);
            for segment in map.within(start..start + piece.len() as u64) {
                let at = (segment.chunk_offset - start) as usize;
                writer.write(&segment, &piece[at..at + segment.length as usize])?;
                progress.advance(segment.length);
            }
        }
        reader.release(pieces)?;
        if stopped.load(Ordering::Acquire) {
            break;
        }
    }
    Ok(())
}

/// Writes one extent of a file, from the chunk that is open when that will do.
fn write_extent<'c>(
    connection: &'c Connection,
    chunk: ChunkReference,
    extent: &Extent,
    reader: &mut Option<(u32, OrderedReader<'c>)>,
    output: &mut Output<'_>,
    progress: &dyn Progress,
) -> Result<(), ClientError> {
    let piece_size = u64::from(chunk.geometry.piece_size());
    let mut at = extent.chunk_offset;
    let end = extent.chunk_offset + extent.length;
    while at < end {
        let index = (at / piece_size) as u32;
        let open = match reader.take() {
            Some((number, open)) if number == extent.chunk && open.has(index) => open,
            _ => OrderedReader::open(connection, chunk)?,
        };
        let (_, open) = reader.insert((extent.chunk, open));
        let piece = open.piece(index)?;
        let from = (at % piece_size) as usize;
        let to = piece.len().min(from + usize::try_from(end - at).unwrap_or(usize::MAX - from));
        output.write(&piece[from..to])?;
        progress.advance((to - from) as u64);
        at += (to - from) as u64;
    }
    Ok(())
}

/// A stream that is written, and hashed if so wanted.
struct Output<'o> {
    output: &'o mut dyn Write,
    hasher: Option<Hasher>,
    position: u64,
}

impl Output<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<(), ClientError> {
        for part in bytes.chunks(WRITTEN_AT_ONCE) {
            self.output.write_all(part).map_err(ClientError::Output)?;
            if let Some(hasher) = &mut self.hasher {
                hasher.update(part);
            }
        }
        self.position += bytes.len() as u64;
        Ok(())
    }

    fn write_zeros(&mut self, mut length: u64) -> Result<(), ClientError> {
        static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
        while length > 0 {
            let part = length.min(ZEROS.len() as u64);
            self.write(&ZEROS[..part as usize])?;
            length -= part;
        }
        Ok(())
    }
}
