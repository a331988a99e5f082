//! What a key's version consists of.
//!
//! A manifest names chunks and, for each file, which bytes of which chunk it is. It is kept as postcard behind
//! one byte of format version. A list of files that would make the root too large is itself stored as a chunk
//! ([`Files::Chunk`]), so that the catalog keeps roots only.

use serde::{Deserialize, Serialize};

/// The format that [`Manifest::encode`] writes.
const FORMAT: u8 = 1;

/// The root of a manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Whether the key is one file, a tree, or a stream that was given on standard input.
    pub shape: Shape,
    /// Bytes of all files together, holes included.
    pub size: u64,
    /// How many regular files.
    pub file_count: u64,
    /// Every chunk that the files are made of, each once.
    pub chunks: Vec<ChunkEntry>,
    /// The files.
    pub files: Files,
}

/// What was put.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Shape {
    /// One regular file; its entry's path is its base name.
    File,
    /// A directory; paths are relative to it. Its own entry, if it has one, has the empty path.
    Tree,
    /// Bytes without a name or mode; the only entry's path is empty.
    Stream,
}

/// A chunk that a manifest refers to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkEntry {
    /// BLAKE3 of its bytes, or the name that it has instead (`flow::chunk::ChunkId::is_digest` tells them apart).
    pub id: [u8; 32],
    /// Bytes.
    pub size: u64,
    /// Bytes of a piece.
    pub piece_size: u32,
    /// BLAKE3 of geometry and piece checksums.
    pub descriptor_digest: [u8; 32],
}

/// Where the list of files is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Files {
    /// Here.
    Inline(Vec<FileEntry>),
    /// In a chunk of its own, as [`encode_files`] writes it. It is not among [`Manifest::chunks`].
    Chunk(ChunkEntry),
}

/// One entry of a tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Path relative to the root, as bytes: names need not be UTF-8. Components are separated by `/`; none is
    /// empty, `.` or `..`. The path of the root itself is empty.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: FileKind,
    /// Permission bits.
    pub mode: u32,
    /// Modification time, nanoseconds since 1970.
    pub mtime_ns: i64,
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FileKind {
    /// A regular file.
    Regular {
        /// Bytes, holes included.
        size: u64,
        /// BLAKE3 of its bytes, holes read as zeros; a name that is no digest when they were put without one.
        digest: [u8; 32],
        /// Its bytes, ascending; what no extent covers is a hole.
        extents: Vec<Extent>,
    },
    /// A directory.
    Directory,
    /// A symbolic link and what it points to.
    Symlink {
        /// The target, as bytes.
        target: Vec<u8>,
    },
}

/// A run of a file's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extent {
    /// Where it begins in the file.
    pub file_offset: u64,
    /// Index into [`Manifest::chunks`].
    pub chunk: u32,
    /// Where it begins in the chunk.
    pub chunk_offset: u64,
    /// Bytes.
    pub length: u64,
}

/// Bytes that are not a manifest that this build may trust.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// Written by a newer build.
    #[error("the manifest has format {0}, this build reads format {FORMAT}; upgrade this side")]
    Format(u8),
    /// Not an encoding of a manifest.
    #[error("the manifest is malformed")]
    Malformed,
    /// The parts contradict each other.
    #[error("the manifest is inconsistent: {0}")]
    Inconsistent(&'static str),
    /// A path would leave the destination.
    #[error("the manifest holds the path {0:?}, which would leave its destination")]
    Path(String),
}

impl Manifest {
    /// The bytes that the catalog keeps.
    pub fn encode(&self) -> Vec<u8> {
        encode(self)
    }

    /// Reads a root and checks it as [`Manifest::check_files`] does, when the list is here.
    pub fn decode(bytes: &[u8]) -> Result<Self, ManifestError> {
        let manifest: Manifest = decode(bytes)?;
        if let Files::Inline(files) = &manifest.files {
            manifest.check_files(files)?;
        }
        Ok(manifest)
    }

    /// Checks a list of files against this root: paths stay inside, none is given twice or lies below something
    /// that is not a directory, extents lie within their chunks and files, and the totals are right.
    pub fn check_files(&self, files: &[FileEntry]) -> Result<(), ManifestError> {
        let (mut size, mut file_count) = (0_u64, 0);
        for file in files {
            check_path(file, self.shape)?;
            match &file.kind {
                FileKind::Regular { size: file_size, extents, .. } => {
                    self.check_extents(*file_size, extents)?;
                    size = size.checked_add(*file_size).ok_or(TOTALS)?;
                    file_count += 1;
                }
                FileKind::Directory => {}
                FileKind::Symlink { target } if target.is_empty() || target.contains(&0) => {
                    return Err(ManifestError::Inconsistent(
                        "a symbolic link has a target that no link can have",
                    ));
                }
                FileKind::Symlink { .. } => {}
            }
        }
        if (size, file_count) != (self.size, self.file_count) {
            return Err(TOTALS);
        }
        if self.shape != Shape::Tree && (files.len(), file_count) != (1, 1) {
            return Err(ManifestError::Inconsistent("a file or stream has other than one regular file"));
        }
        check_tree(files)
    }

    fn check_extents(&self, file_size: u64, extents: &[Extent]) -> Result<(), ManifestError> {
        let mut reached = 0;
        for extent in extents {
            let chunk = self.chunks.get(extent.chunk as usize);
            let chunk =
                chunk.ok_or(ManifestError::Inconsistent("an extent names a chunk that is not listed"))?;
            let end_of = |at: u64| at.checked_add(extent.length);
            if end_of(extent.chunk_offset).is_none_or(|end| end > chunk.size) {
                return Err(ManifestError::Inconsistent("an extent reaches past its chunk"));
            }
            let end =
                end_of(extent.file_offset).filter(|&end| end <= file_size && extent.file_offset >= reached);
            reached = end
                .ok_or(ManifestError::Inconsistent("an extent overlaps another or reaches past its file"))?;
        }
        Ok(())
    }

    /// The chunks whose bytes, one chunk behind the other, are those of the only file; `None` when there are several files, holes,
    /// or chunks of which the file is a part. The list of files must be here and checked.
    pub fn chunks_in_order(&self) -> Option<Vec<&ChunkEntry>> {
        let Files::Inline(files) = &self.files else { return None };
        match files.as_slice() {
            [FileEntry { kind: FileKind::Regular { size, extents, .. }, .. }]
                if self.shape != Shape::Tree =>
            {
                chunks_in_order(&self.chunks, extents, *size)
            }
            _ => None,
        }
    }

    /// Every chunk that must be kept for this version, the list of files included.
    pub fn all_chunks(&self) -> impl Iterator<Item = &ChunkEntry> {
        let list = match &self.files {
            Files::Chunk(chunk) => Some(chunk),
            Files::Inline(_) => None,
        };
        self.chunks.iter().chain(list)
    }
}

/// The chunks that a file of `size` bytes with these extents consists of, if it is all of each of them, in their order.
pub fn chunks_in_order<'c>(
    chunks: &'c [ChunkEntry],
    extents: &[Extent],
    size: u64,
) -> Option<Vec<&'c ChunkEntry>> {
    let mut end = 0;
    let mut in_order = Vec::with_capacity(extents.len());
    for extent in extents {
        let chunk = chunks.get(extent.chunk as usize)?;
        if (extent.file_offset, extent.chunk_offset, extent.length) != (end, 0, chunk.size) {
            return None;
        }
        end += extent.length;
        in_order.push(chunk);
    }
    (end == size && size > 0).then_some(in_order)
}

/// A list of files as the bytes of a chunk.
pub fn encode_files(files: &[FileEntry]) -> Vec<u8> {
    encode(&files)
}

/// Reads what [`encode_files`] wrote. Check it with [`Manifest::check_files`].
pub fn decode_files(bytes: &[u8]) -> Result<Vec<FileEntry>, ManifestError> {
    decode(bytes)
}

fn encode<T: Serialize + ?Sized>(value: &T) -> Vec<u8> {
    postcard::to_extend(value, vec![FORMAT])
        .expect("a manifest holds only vectors and numbers, which always serialise")
}

fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, ManifestError> {
    match bytes.split_first() {
        Some((&FORMAT, rest)) => match postcard::take_from_bytes(rest) {
            Ok((value, [])) => Ok(value),
            _ => Err(ManifestError::Malformed),
        },
        Some((&format, _)) => Err(ManifestError::Format(format)),
        None => Err(ManifestError::Malformed),
    }
}

const TOTALS: ManifestError =
    ManifestError::Inconsistent("size or number of files is not that of the files listed");

/// A path below a symbolic link of the same tree would be written wherever the link points.
fn check_tree(files: &[FileEntry]) -> Result<(), ManifestError> {
    // With the separator before all other bytes, what lies below an entry follows it at once. Looking each
    // parent up instead would let one long path cost time in the square of its length.
    let separator_first = |&byte: &u8| if byte == b'/' { 0 } else { byte };
    let mut sorted: Vec<&FileEntry> = files.iter().collect();
    sorted.sort_unstable_by(|left, right| {
        left.path.iter().map(separator_first).cmp(right.path.iter().map(separator_first))
    });
    let mut not_directory = None;
    for (at, file) in sorted.iter().enumerate() {
        if at > 0 && sorted[at - 1].path == file.path {
            return Err(ManifestError::Inconsistent("a path is given twice"));
        }
        let below = |parent: &Vec<u8>| {
            file.path.strip_prefix(parent.as_slice()).is_some_and(|rest| rest.first() == Some(&b'/'))
        };
        if not_directory.is_some_and(below) {
            return Err(ManifestError::Inconsistent("a path lies below something that is not a directory"));
        }
        if file.kind != FileKind::Directory {
            not_directory = Some(&file.path);
        }
    }
    Ok(())
}

fn check_path(file: &FileEntry, shape: Shape) -> Result<(), ManifestError> {
    let path = file.path.as_slice();
    let fine = match shape {
        Shape::Stream => path.is_empty(),
        Shape::File => is_name(path),
        Shape::Tree if path.is_empty() => file.kind == FileKind::Directory,
        Shape::Tree => path.split(|&byte| byte == b'/').all(is_name),
    };
    if fine { Ok(()) } else { Err(ManifestError::Path(String::from_utf8_lossy(path).into_owned())) }
}

fn is_name(name: &[u8]) -> bool {
    !name.is_empty() && name != b"." && name != b".." && !name.contains(&0) && !name.contains(&b'/')
}

#[cfg(test)]
mod tests;
