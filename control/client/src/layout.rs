//! A manifest checked, and which file bytes each piece holds.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use plan::manifest::{FileEntry, FileKind, Manifest};

/// The directories of a tree, each before what is in it, with the number of its entry where it has one.
pub(crate) type Directories = BTreeMap<Vec<u8>, Option<usize>>;

/// Checks that entries can stand beside each other: no path twice, and above each entry only directories, so that
/// nothing is ever written through a link that the same manifest brought along. The error says what is wrong.
pub(crate) fn directories_of(files: &[FileEntry]) -> Result<Directories, String> {
    let mut others = HashMap::new();
    let mut directories = Directories::new();
    for (number, file) in files.iter().enumerate() {
        let twice = match file.kind {
            FileKind::Directory => directories.insert(file.path.clone(), Some(number)).is_some(),
            FileKind::Regular { .. } | FileKind::Symlink { .. } => {
                others.insert(&file.path[..], ()).is_some()
            }
        };
        if twice {
            return Err(format!("it has two entries '{}'", shown(&file.path)));
        }
    }
    for file in files {
        let mut path = &file.path[..];
        while let Some(above) = parent(path) {
            if others.contains_key(above) {
                let (path, above) = (shown(&file.path), shown(above));
                return Err(format!("its entry '{path}' is below '{above}', which is no directory"));
            }
            if directories.contains_key(above) {
                break;
            }
            path = above;
        }
        add_missing(&file.path, &mut directories);
    }
    match files
        .iter()
        .find(|file| others.contains_key(&file.path[..]) && directories.contains_key(&file.path))
    {
        Some(file) => Err(format!("it has two entries '{}'", shown(&file.path))),
        None => Ok(directories),
    }
}

fn add_missing(path: &[u8], directories: &mut Directories) {
    let mut path = path;
    while let Some(above) = parent(path) {
        if directories.contains_key(above) {
            return;
        }
        directories.insert(above.to_vec(), None);
        path = above;
    }
}

/// The directory that a path is in; `None` at the top.
pub(crate) fn parent(path: &[u8]) -> Option<&[u8]> {
    path.iter().rposition(|&byte| byte == b'/').map(|at| &path[..at])
}

fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
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

    fn file(path: &str) -> FileEntry {
        entry(path, FileKind::Regular { size: 0, digest: [0; 32], extents: vec![] })
    }

    fn link(path: &str) -> FileEntry {
        entry(path, FileKind::Symlink { target: b"/etc".to_vec() })
    }

    #[test]
    fn nothing_may_be_below_a_link_or_a_file() {
        for above in [link("a"), file("a")] {
            let below = file("a/b/passwd");
            assert!(directories_of(&[above.clone(), below.clone()]).is_err());
            assert!(directories_of(&[below, above]).is_err());
        }
    }

    #[test]
    fn no_path_comes_twice() {
        assert!(directories_of(&[file("a"), link("a")]).is_err());
        assert!(directories_of(&[entry("a", FileKind::Directory), link("a")]).is_err());
        assert!(directories_of(&[link("a"), entry("a", FileKind::Directory)]).is_err());
        assert!(directories_of(&[entry("a", FileKind::Directory), entry("a", FileKind::Directory)]).is_err());
    }

    #[test]
    fn directories_without_an_entry_are_added() {
        let files = [file("a/b/c"), entry("a", FileKind::Directory)];
        let directories = directories_of(&files).unwrap();
        assert_eq!(
            directories.into_iter().collect::<Vec<_>>(),
            [(b"a".to_vec(), Some(1)), (b"a/b".to_vec(), None)]
        );
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
                prop_assert_eq!(&*bytes, (0..length).map(|at| (at, offset + at)).collect::<Vec<_>>().as_slice());
            }
        }
    }
}
