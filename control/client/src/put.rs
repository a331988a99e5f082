//! Files → chunks → a key.

use std::collections::HashMap;
use std::io::Read;
use std::path::PathBuf;
use std::time::Duration;

use flow::chunk::ChunkId;
use flow::limits::MANIFEST_ROOT_MAX;
use flow::wire::catalog::{CatalogFound, CatalogGet};
use flow::wire::session::{ChunkReferenced, ChunkReferences};
use plan::manifest::{ChunkEntry, Extent, FileEntry, FileKind, Files, Manifest, Shape, encode_files};

use crate::connection::{Connection, Pending};
use crate::kv::{Consistency, Content, Operation, Put, Write, Written, milliseconds, when};
use crate::packing::Packing;
use crate::upload::{Uploaded, UploadedStream, upload_bytes, upload_files, upload_stream};
use crate::upload_memory::{Memory, fill_chunk, is_brief, upload_memory};
use crate::walk::{Found, Tree};
use crate::{ClientError, Progress};

/// Largest list of files that stays in a manifest's root, in bytes.
const INLINE_LIST_MAX: usize = MANIFEST_ROOT_MAX / 16;
/// Most bytes that an entry of a chunk takes in a manifest's root.
const CHUNK_ENTRY_MAX: usize = 80;
/// Largest list of files, in bytes.
pub(crate) const LIST_MAX: u64 = 1 << 30;
/// Chunks asked about at once.
const REFERENCES_AT_ONCE: usize = 4096;

/// What is put.
pub enum Source {
    /// A file, or a directory with all that is in it.
    Path(PathBuf),
    /// Several files and directories: a tree with each at its top.
    Paths(Vec<PathBuf>),
    /// Bytes without a name, to the end.
    Reader(Box<dyn Read + Send>),
    /// Bytes without a name that lie in memory.
    Memory(Box<dyn Memory>),
}

/// How a key is put.
#[derive(Debug, Clone, Default)]
pub struct PutOptions {
    /// Keep the chunks in memory only: they are gone when their last node stops. Otherwise they are on disk before
    /// the put returns.
    pub volatile: bool,
    /// What is said about it: up to 32 names and texts of up to 256 bytes.
    pub labels: Vec<(String, String)>,
    /// How long the key lives, in whole milliseconds; for ever when absent.
    pub ttl: Option<Duration>,
    /// Put it only if the key has this version; 0 when it must be absent.
    pub if_version: Option<u64>,
    /// What the chunks of memory are called. Those of files and streams are named by their content.
    pub naming: Naming,
}

/// What chunks are called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Naming {
    /// The BLAKE3 digest of their bytes: equal bytes are one chunk, which is stored and moved once, and
    /// [`crate::GetOptions::verify`] compares it.
    #[default]
    Content,
    /// A name that no other chunk has, as computing a digest takes longer than copying the bytes. The pieces have checksums
    /// all the same.
    Unique,
}

/// What was put.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PutReport {
    /// The version that the key has, counted from 1.
    pub version: u64,
    /// Bytes of all files, holes included.
    pub size: u64,
    /// How many regular files.
    pub files: u64,
    /// How many chunks.
    pub chunks: u64,
    /// Bytes of those chunks that no key referred to before.
    pub new_bytes: u64,
}

/// Puts `source` as the next version of `key`. When it fails, the key is as it was.
pub(crate) fn put(
    connection: &Connection,
    key: &str,
    source: Source,
    options: &PutOptions,
    progress: &dyn Progress,
) -> Result<PutReport, ClientError> {
    let durable = !options.volatile;
    if let Source::Memory(bytes) = &source
        && is_brief(connection, bytes.size())
    {
        return put_brief(connection, key, &**bytes, options, progress);
    }
    let check = check_key(connection, key)?;
    let (mut manifest, files) = match source {
        Source::Path(path) => {
            check.wait::<CatalogFound>()?;
            put_tree(connection, durable, Tree::of(&path)?, progress)?
        }
        Source::Paths(paths) => {
            check.wait::<CatalogFound>()?;
            put_tree(connection, durable, Tree::of_several(&paths)?, progress)?
        }
        Source::Reader(stream) => {
            check.wait::<CatalogFound>()?;
            progress.start(None);
            stream_of(upload_stream(connection, durable, stream, progress)?)
        }
        Source::Memory(bytes) => {
            progress.start(Some(bytes.size()));
            stream_of(upload_memory(connection, durable, options.naming, &*bytes, check, progress)?)
        }
    };
    let new_bytes = new_bytes(connection, &manifest.chunks)?;
    manifest.files = place_list(connection, durable, files)?;
    let report = PutReport {
        version: 0,
        size: manifest.size,
        files: manifest.file_count,
        chunks: manifest.all_chunks().count() as u64,
        new_bytes,
    };
    let version = commit(connection, key, &manifest, options)?;
    progress.finish();
    Ok(PutReport { version, ..report })
}

/// As [`put`], of memory that one chunk has room for. It takes as long to copy as to ask the node a few questions: so it is asked
/// for slots, and then to take what is in them, and refuses a key only then.
fn put_brief(
    connection: &Connection,
    key: &str,
    bytes: &dyn Memory,
    options: &PutOptions,
    progress: &dyn Progress,
) -> Result<PutReport, ClientError> {
    let size = bytes.size();
    progress.start(Some(size));
    let filled = fill_chunk(connection, !options.volatile, options.naming, bytes, progress)?;
    let digest = filled.entry.id;
    let chunks = vec![filled.entry.clone()];
    let (mut manifest, files) = stream_of(UploadedStream { chunks, digest, size });
    let new_bytes = new_bytes(connection, &manifest.chunks)?;
    manifest.files = Files::Inline(files);
    let Written { versions, .. } = filled.commit(write_of(key, &manifest, options))?;
    if options.volatile {
        // Who puts something is likely to put something as large again, and need not wait for slots then.
        connection.prepare(filled.geometry());
    }
    progress.finish();
    Ok(PutReport { version: version_of(connection, &versions)?, size, files: 1, chunks: 1, new_bytes })
}

/// Makes the manifest the next version of the key.
fn commit(
    connection: &Connection,
    key: &str,
    manifest: &Manifest,
    options: &PutOptions,
) -> Result<u64, ClientError> {
    let Written { versions, .. } = connection.call(write_of(key, manifest, options))?;
    version_of(connection, &versions)
}

fn version_of(connection: &Connection, versions: &[u64]) -> Result<u64, ClientError> {
    versions.first().copied().ok_or_else(|| connection.protocol("it gives no version"))
}

fn write_of(key: &str, manifest: &Manifest, options: &PutOptions) -> Write {
    let put = Operation::Put(Put {
        key: key.into(),
        content: Content::Manifest(manifest.encode()),
        ttl_ms: options.ttl.map(milliseconds),
        owner: None,
        labels: options.labels.clone(),
    });
    Write { conditions: when(key, options.if_version), operations: vec![put] }
}

/// Asks for the key, so that one that the node would refuse fails before anything is uploaded.
fn check_key<'c>(connection: &'c Connection, key: &str) -> Result<Pending<'c>, ClientError> {
    connection.send(CatalogGet { keys: vec![key.into()], consistency: Consistency::Quorum, snapshot: 0 })
}

/// Uploads the files of a tree; the manifest's list of files is still empty.
fn put_tree(
    connection: &Connection,
    durable: bool,
    tree: Tree,
    progress: &dyn Progress,
) -> Result<(Manifest, Vec<FileEntry>), ClientError> {
    let regular: Vec<&Found> = tree.entries.iter().filter(|found| found.is_file()).collect();
    let mut packing = Packing::of(regular.iter().map(|found| (found.data(), found.size())));
    if packing.chunks as usize * CHUNK_ENTRY_MAX > MANIFEST_ROOT_MAX {
        return Err(ClientError::TooManyFiles { entries: tree.entries.len() });
    }
    let size = regular.iter().map(|found| found.size()).sum();
    let file_count = regular.len() as u64;
    progress.start(Some(packing.bytes));
    let mut extents = std::mem::take(&mut packing.extents).into_iter();
    let Uploaded { chunks, mut digests } = upload_files(connection, durable, &regular, packing, progress)?;

    let (chunks, places) = merge(chunks);
    let mut number = 0..;
    let mut files = Vec::with_capacity(tree.entries.len());
    for Found { mut entry, .. } in tree.entries {
        if let FileKind::Regular { digest, extents: places_in_file, .. } = &mut entry.kind {
            let file = number.next().unwrap_or_default();
            *digest = digests.remove(&file).unwrap_or_else(|| blake3::hash(b"").into());
            let planned = extents.next().unwrap_or_default().into_iter();
            *places_in_file =
                planned.map(|extent| Extent { chunk: places[extent.chunk as usize], ..extent }).collect();
        }
        files.push(entry);
    }
    Ok((Manifest { shape: tree.shape, size, file_count, chunks, files: Files::Inline(Vec::new()) }, files))
}

/// Bytes without a name, as the only file of a manifest.
fn stream_of(uploaded: UploadedStream) -> (Manifest, Vec<FileEntry>) {
    let UploadedStream { chunks, digest, size } = uploaded;
    let mut file_offset = 0;
    let mut extents = Vec::with_capacity(chunks.len());
    let lengths: Vec<u64> = chunks.iter().map(|chunk| chunk.size).collect();
    let (chunks, places) = merge(chunks);
    for (length, chunk) in lengths.into_iter().zip(places) {
        extents.push(Extent { file_offset, chunk, chunk_offset: 0, length });
        file_offset += length;
    }
    let kind = FileKind::Regular { size, digest, extents };
    let file = FileEntry { path: Vec::new(), kind, mode: 0o644, mtime_ns: 0 };
    let files = Files::Inline(Vec::new());
    (Manifest { shape: Shape::Stream, size, file_count: 1, chunks, files }, vec![file])
}

/// Each chunk once, and for each planned chunk where it is among them.
fn merge(planned: Vec<ChunkEntry>) -> (Vec<ChunkEntry>, Vec<u32>) {
    let mut chunks: Vec<ChunkEntry> = Vec::with_capacity(planned.len());
    let mut known = HashMap::new();
    let places = planned.into_iter().map(|entry| {
        *known.entry(entry.id).or_insert_with(|| {
            chunks.push(entry);
            (chunks.len() - 1) as u32
        })
    });
    let places = places.collect();
    (chunks, places)
}

/// The list itself, or a chunk that holds it when it would make the root large.
fn place_list(connection: &Connection, durable: bool, files: Vec<FileEntry>) -> Result<Files, ClientError> {
    let list = encode_files(&files);
    if list.len() <= INLINE_LIST_MAX {
        return Ok(Files::Inline(files));
    }
    if list.len() as u64 > LIST_MAX {
        return Err(ClientError::TooManyFiles { entries: files.len() });
    }
    Ok(Files::Chunk(upload_bytes(connection, durable, &list)?))
}

/// Bytes of the chunks that no key refers to.
fn new_bytes(connection: &Connection, chunks: &[ChunkEntry]) -> Result<u64, ClientError> {
    let mut bytes = 0;
    for part in chunks.chunks(REFERENCES_AT_ONCE) {
        // A name that was just made up is one that no key refers to.
        let (named, unique): (Vec<_>, Vec<_>) = part.iter().partition(|chunk| ChunkId(chunk.id).is_digest());
        bytes += unique.iter().map(|chunk| chunk.size).sum::<u64>();
        if named.is_empty() {
            continue;
        }
        let request = ChunkReferences { chunks: named.iter().map(|chunk| ChunkId(chunk.id)).collect() };
        let ChunkReferenced { referenced } = connection.call(request)?;
        if referenced.len() != named.len() {
            return Err(connection.protocol("it does not answer for every chunk"));
        }
        let new = named.iter().zip(referenced).filter(|(_, referenced)| !referenced);
        bytes += new.map(|(chunk, _)| chunk.size).sum::<u64>();
    }
    Ok(bytes)
}
