//! What of a tree comes first, and which file bytes each piece holds.

use std::ops::Range;

use plan::manifest::{FileEntry, FileKind, Manifest};

/// Directories that an entry may be below each other.
pub(crate) const DEPTH_MAX: usize = 512;

/// The numbers of the entries that are directories below the root, each before those in it.
pub(crate) fn directories_of(files: &[FileEntry]) -> Vec<usize> {
    let is_directory =
        |number: &usize| files[*number].kind == FileKind::Directory && !files[*number].path.is_empty();
    let mut directories: Vec<usize> = (0..files.len()).filter(is_directory).collect();
    // What is above a path is a prefix of it, and a prefix comes first.
    directories.sort_unstable_by_key(|&number| &files[number].path);
    directories
}

/// The entry of the root itself.
pub(crate) fn root_of(files: &[FileEntry]) -> Option<&FileEntry> {
    files.iter().find(|file| file.kind == FileKind::Directory && file.path.is_empty())
}

/// The first entry that is deeper than can be handled.
pub(crate) fn too_deep(files: &[FileEntry]) -> Option<&FileEntry> {
    files.iter().find(|file| file.path.iter().filter(|&&byte| byte == b'/').count() > DEPTH_MAX)
}

/// The directory that a path is in; `None` at the top.
pub(crate) fn parent(path: &[u8]) -> Option<&[u8]> {
    path.iter().rposition(|&byte| byte == b'/').map(|at| &path[..at])
}

/// Which file bytes a chunk holds.
#[derive(Debug, Default)]
pub(crate) struct ChunkMap {
    /// Ascending by where they begin in the chunk.
    segments: Vec<Segment>,
    /// The farthest end of a segment and all before it.
    reach: Vec<u64>,
}

/// Bytes of a chunk that are bytes of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Segment {
    /// Where they begin in the chunk.
    pub(crate) chunk_offset: u64,
    /// Bytes.
    pub(crate) length: u64,
    /// Number of the file's entry.
    pub(crate) file: usize,
    /// Where they begin in the file.
    pub(crate) file_offset: u64,
}

impl ChunkMap {
    /// One map for each chunk of a manifest, whose list of files must have been checked.
    pub(crate) fn of(manifest: &Manifest, files: &[FileEntry]) -> Vec<Self> {
        let mut maps: Vec<Self> = manifest.chunks.iter().map(|_| Self::default()).collect();
        for (file, entry) in files.iter().enumerate() {
            let FileKind::Regular { extents, .. } = &entry.kind else { continue };
            for extent in extents.iter().filter(|extent| extent.length > 0) {
                if let Some(map) = maps.get_mut(extent.chunk as usize) {
                    map.segments.push(Segment {
                        chunk_offset: extent.chunk_offset,
                        length: extent.length,
                        file,
                        file_offset: extent.file_offset,
                    });
                }
            }
        }
        for map in &mut maps {
            map.segments.sort_by_key(|segment| segment.chunk_offset);
            let mut reach = 0;
            let ends = map.segments.iter().map(|segment| {
                reach = reach.max(segment.chunk_offset + segment.length);
                reach
            });
            map.reach = ends.collect();
        }
        maps
    }

    /// Whether the chunk holds nothing of any file.
    pub(crate) fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// The parts of segments that lie within a range of the chunk.
    pub(crate) fn within(&self, range: Range<u64>) -> impl Iterator<Item = Segment> + '_ {
        let first = self.reach.partition_point(|&end| end <= range.start);
        let rest = self.segments[first..].iter();
        let end = range.end;
        rest.take_while(move |segment| segment.chunk_offset < end).filter_map(move |segment| {
            let from = segment.chunk_offset.max(range.start);
            let to = (segment.chunk_offset + segment.length).min(range.end);
            (from < to).then(|| Segment {
                chunk_offset: from,
                length: to - from,
                file: segment.file,
                file_offset: segment.file_offset + (from - segment.chunk_offset),
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use plan::manifest::{ChunkEntry, Extent, Files, Shape};
    use proptest::prelude::*;

    use super::*;

    fn entry(path: &str, kind: FileKind) -> FileEntry {
        FileEntry { path: path.into(), kind, mode: 0o644, mtime_ns: 0 }
    }

    #[test]
    fn directories_come_before_what_is_in_them() {
        let paths = ["b/a", "b", "a", "b/a/c"];
        let files: Vec<_> = paths.iter().map(|path| entry(path, FileKind::Directory)).collect();
        assert_eq!(directories_of(&files), [2, 1, 0, 3]);
    }

    #[test]
    fn depth_has_a_limit() {
        let deep = |levels: usize| [entry(&vec!["d"; levels + 1].join("/"), FileKind::Directory)];
        assert!(too_deep(&deep(DEPTH_MAX)).is_none());
        assert!(too_deep(&deep(DEPTH_MAX + 1)).is_some());
    }

    proptest! {
        #[test]
        fn pieces_hold_what_segments_say(
            extents in proptest::collection::vec((0u64..200, 1u64..60), 0..20),
            piece in 1u64..50,
        ) {
            let chunk = ChunkEntry { id: [0; 32], size: 300, piece_size: 1, descriptor_digest: [0; 32] };
            let files: Vec<_> = extents.iter().enumerate().map(|(at, &(chunk_offset, length))| {
                let extents = vec![Extent { file_offset: 7, chunk: 0, chunk_offset, length }];
                entry(&at.to_string(), FileKind::Regular { size: 1000, digest: [0; 32], extents })
            }).collect();
            let manifest = Manifest {
                shape: Shape::Tree, size: 0, file_count: 0, chunks: vec![chunk], files: Files::Inline(vec![]),
            };
            let map = &ChunkMap::of(&manifest, &files)[0];
            let mut bytes = vec![vec![]; files.len()];
            for start in (0..300).step_by(piece as usize) {
                for part in map.within(start..start + piece) {
                    prop_assert!(part.chunk_offset >= start && part.chunk_offset + part.length <= start + piece);
                    for at in 0..part.length {
                        bytes[part.file].push((part.file_offset + at - 7, part.chunk_offset + at));
                    }
                }
            }
            for (&(offset, length), bytes) in extents.iter().zip(&mut bytes) {
                bytes.sort_unstable();
                let wanted: Vec<_> = (0..length).map(|at| (at, offset + at)).collect();
                prop_assert_eq!(&*bytes, &wanted);
            }
        }
    }
}
