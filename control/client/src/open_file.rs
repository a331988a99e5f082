//! One file of a key, held open: read anywhere, or seen where it lies in the node's memory.

use std::sync::Arc;

use flow::wire::catalog::{CatalogContent, CatalogEntry, CatalogFound, CatalogGet};
use flow::wire::session::{ChunkReference, FileOpen, FileOpened, KeyEntry};
use plan::manifest::{ChunkEntry, Extent, FileKind, Shape, chunks_in_order};

use crate::chunk_reader::{OrderedReader, reference};
use crate::key::OpenKey;
use crate::kv::Consistency;
use crate::view::{Held, View};
use crate::{Client, ClientError};
use memory::Access;

/// The bytes of one version of a key that is one file or a stream. The node keeps them until the value is dropped.
pub struct OpenFile {
    client: Arc<Client>,
    key: String,
    version: u64,
    lease: u64,
    labels: Vec<(String, String)>,
    size: u64,
    extents: Vec<Extent>,
    chunks: Vec<ChunkEntry>,
    /// All of it in the memory of the node, if it was opened so.
    held: Option<Arc<Held>>,
}

impl OpenFile {
    /// As [`OpenFile::open`], with all bytes in the memory of the node if [`OpenFile::view`] is to give them: they are on their way
    /// from other nodes as soon as the catalog has named them, and all is one question to the node.
    pub(crate) fn open_whole(
        client: &Arc<Client>,
        key: &str,
        consistency: Consistency,
    ) -> Result<Self, ClientError> {
        // Of what is not read from the catalog, or not from it alone, the node is asked step by step.
        if matches!(consistency, Consistency::One | Consistency::All) {
            return Self::open(client, key, consistency);
        }
        let connection = client.connection();
        let (priority, view_max) = (connection.priority(), Held::room(client));
        let open = FileOpen { key: key.into(), priority, view_max };
        let FileOpened { entry, lease, chunks: given } = connection.call(open)?;
        // Whatever turns out to be wrong, what was opened is closed again.
        let held = Held::given(client, &given);
        let Some(CatalogContent::Manifest(manifest)) = entry.content else {
            return Err(connection.protocol("it opens a key that holds no files"));
        };
        let CatalogEntry { key, version, revision, updated_ms: created_ms, labels, .. } = entry;
        let entry = KeyEntry { key, version, revision, created_ms, manifest, lease };
        let mut file = Self::of(client, OpenKey::of(connection, entry, false)?, labels)?;
        if !given.is_empty() {
            let chunks = file.chunks_in_order()?.unwrap_or_default();
            file.held = Some(Arc::new(held.place(&chunks, &given)?));
        }
        Ok(file)
    }

    /// Opens the current version of a key; fails when it is a directory.
    pub(crate) fn open(
        client: &Arc<Client>,
        key: &str,
        consistency: Consistency,
    ) -> Result<Self, ClientError> {
        loop {
            // Both questions are on their way at once.
            let get = CatalogGet { keys: vec![key.into()], consistency, snapshot: 0 };
            let asked = client.connection().send(get)?;
            let open = OpenKey::open(client.connection(), key, consistency)?;
            let CatalogFound { entries, .. } = asked.wait()?;
            let entry = entries.into_iter().next().flatten();
            let Some(entry) = entry.filter(|entry| entry.version == open.entry.version) else {
                // It was written in between.
                continue;
            };
            return Self::of(client, open, entry.labels);
        }
    }

    fn of(
        client: &Arc<Client>,
        mut open: OpenKey<'_>,
        labels: Vec<(String, String)>,
    ) -> Result<Self, ClientError> {
        let key = &open.entry.key;
        let (Shape::File | Shape::Stream, [file]) = (open.manifest.shape, &mut open.files[..]) else {
            return Err(ClientError::NotOneFile(key.clone()));
        };
        let FileKind::Regular { size, extents, .. } = &mut file.kind else {
            return Err(ClientError::NotOneFile(key.clone()));
        };
        Ok(Self {
            client: client.clone(),
            key: key.clone(),
            version: open.entry.version,
            labels,
            size: *size,
            extents: std::mem::take(extents),
            chunks: std::mem::take(&mut open.manifest.chunks),
            lease: open.keep_lease(),
            held: None,
        })
    }

    /// The version of the key.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// What its writer said of it.
    pub fn labels(&self) -> &[(String, String)] {
        &self.labels
    }

    /// Bytes, holes included.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Fills `output` with the bytes from `offset` on, of which there must be as many.
    pub fn read(&self, offset: u64, output: &mut [u8]) -> Result<(), ClientError> {
        self.read_many(&mut [(offset, output)])
    }

    /// Fills several buffers, each with the bytes from its offset on, of which there must be as many. The file is gone through
    /// once, in order, which many small parts need; the buffers may be in any order.
    pub fn read_many(&self, parts: &mut [(u64, &mut [u8])]) -> Result<(), ClientError> {
        parts.sort_unstable_by_key(|(offset, _)| *offset);
        let mut until = 0;
        for (offset, output) in &*parts {
            let end = offset.checked_add(output.len() as u64).filter(|&end| end <= self.size);
            let end =
                end.ok_or_else(|| ClientError::OutOfRange { key: self.key.clone(), size: self.size })?;
            until = until.max(end);
        }
        if let Some(held) = &self.held {
            let outside = || self.client.connection().protocol("it names a piece outside its arena");
            return parts.iter_mut().try_for_each(|(offset, output)| {
                held.copy(*offset, output).then_some(()).ok_or_else(outside)
            });
        }
        let mut pass = Pass { file: self, until, reader: None };
        parts.iter_mut().try_for_each(|(offset, output)| pass.read(*offset, output))
    }

    /// All bytes as they lie in the memory of the node, when the client is on its host and they can be seen as one slice:
    /// without holes, in pieces of whole pages, and in no more memory and mappings than the views of one process may take.
    /// Bytes that the node does not have in memory yet are brought there first. `None` when they have to be read.
    pub fn view(&self, access: Access) -> Result<Option<View>, ClientError> {
        if self.held.is_some() {
            return Ok(self.view_held(access));
        }
        let Some(chunks) = self.chunks_in_order()? else { return Ok(None) };
        let held = Held::open(&self.client, &chunks)?;
        Ok(held.and_then(|held| View::of(&Arc::new(held), access)))
    }

    /// As [`OpenFile::view`] of a file that was opened with all of its bytes: nobody is asked. `None` for any other.
    pub fn view_held(&self, access: Access) -> Option<View> {
        self.held.as_ref().and_then(|held| View::of(held, access))
    }

    /// The chunks whose bytes, one behind the other, are those of the file; `None` when it is something else.
    fn chunks_in_order(&self) -> Result<Option<Vec<ChunkReference>>, ClientError> {
        let Some(chunks) = chunks_in_order(&self.chunks, &self.extents, self.size) else { return Ok(None) };
        let chunks = chunks.into_iter().map(reference).collect::<Result<_, _>>();
        chunks.map(Some).map_err(|source| ClientError::Manifest { key: self.key.clone(), source })
    }
}

/// One way through a file, which keeps the chunk open that it is in.
struct Pass<'f> {
    file: &'f OpenFile,
    /// Bytes from here on are not wanted.
    until: u64,
    reader: Option<(u32, OrderedReader<'f>)>,
}

impl<'f> Pass<'f> {
    /// Fills `output` with the bytes from `offset` on, which is not before any that was read.
    fn read(&mut self, offset: u64, output: &mut [u8]) -> Result<(), ClientError> {
        let end = offset + output.len() as u64;
        let mut at = offset;
        for extent in &self.file.extents {
            let (from, to) = (extent.file_offset.max(at), (extent.file_offset + extent.length).min(end));
            if from >= to {
                continue;
            }
            output[(at - offset) as usize..(from - offset) as usize].fill(0);
            let part = &mut output[(from - offset) as usize..(to - offset) as usize];
            self.read_chunk(extent, from - extent.file_offset, part)?;
            at = to;
        }
        output[(at - offset) as usize..].fill(0);
        Ok(())
    }

    /// Reads within one extent, from `skipped` bytes after its beginning on.
    fn read_chunk(
        &mut self,
        extent: &Extent,
        skipped: u64,
        mut output: &mut [u8],
    ) -> Result<(), ClientError> {
        let mut at = extent.chunk_offset + skipped;
        let mut reader = match self.reader.take() {
            Some((chunk, reader)) if chunk == extent.chunk && reader.has(piece_of(&reader, at)) => reader,
            _ => self.open(extent)?,
        };
        while !output.is_empty() {
            let geometry = reader.geometry();
            let index = piece_of(&reader, at);
            let piece = &reader.piece(index)?[(at - geometry.offset(index)) as usize..];
            let length = piece.len().min(output.len());
            let (part, rest) = std::mem::take(&mut output).split_at_mut(length);
            memory::copy_past_cache(part, &piece[..length]);
            (at, output) = (at + length as u64, rest);
        }
        self.reader = Some((extent.chunk, reader));
        Ok(())
    }

    /// Opens the chunk of an extent, of which nothing is wanted that is behind the last byte of this way.
    fn open(&self, extent: &Extent) -> Result<OrderedReader<'f>, ClientError> {
        let chunk = reference(&self.file.chunks[extent.chunk as usize]);
        let chunk = chunk.map_err(|source| ClientError::Manifest { key: self.file.key.clone(), source })?;
        let wanted = extent.length.min(self.until.saturating_sub(extent.file_offset));
        let last = (extent.chunk_offset + wanted).saturating_sub(1) / u64::from(chunk.geometry.piece_size());
        OrderedReader::open_until(self.file.client.connection(), chunk, last as u32 + 1)
    }
}

/// The piece that the byte at `at` of a chunk is in.
fn piece_of(reader: &OrderedReader<'_>, at: u64) -> u32 {
    (at / u64::from(reader.geometry().piece_size())) as u32
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        OpenKey::release(self.client.connection(), self.lease);
    }
}
