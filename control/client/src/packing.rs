//! Which bytes of which file go into which chunk.
//!
//! Files up to [`PACKED_FILE_SIZE_MAX`] bytes of data lie one after another in chunks of about [`PACK_SIZE`]. A larger
//! file has chunks of its own. Holes are in no chunk.

use std::collections::VecDeque;

use flow::limits::{FILE_CHUNK_SIZE, PACK_SIZE, PACKED_FILE_SIZE_MAX};
use plan::manifest::Extent;

use crate::walk::Run;

/// What there is to do, and where each file's bytes will be.
#[derive(Debug, Default)]
pub(crate) struct Packing {
    /// What there is to do.
    pub(crate) jobs: VecDeque<Job>,
    /// The extents of each file, in chunks numbered from 0.
    pub(crate) extents: Vec<Vec<Extent>>,
    /// How many chunks there are.
    pub(crate) chunks: u32,
    /// Bytes in all chunks.
    pub(crate) bytes: u64,
}

/// Work that one thread takes on, alone or as the first.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Job {
    /// Files whose data fills chunks in this order. Files may be all hole, and then there may be no chunk.
    Ordered {
        /// The files.
        files: Vec<usize>,
        /// Number of the first chunk.
        first_chunk: u32,
        /// Bytes of each chunk.
        sizes: Vec<u64>,
    },
    /// A run of a file without holes that is one chunk.
    Range {
        /// The file.
        file: usize,
        /// The run.
        run: Run,
        /// Number of the chunk.
        chunk: u32,
        /// Whether the run is all of the file.
        whole: bool,
    },
}

/// Files that are to lie one after another.
#[derive(Default)]
struct Pack {
    files: Vec<(usize, Vec<Run>)>,
    size: u64,
}

impl Packing {
    /// Plans files, given by their runs of data and their size in bytes. Empty files need nothing.
    pub(crate) fn of(files: impl Iterator<Item = (Vec<Run>, u64)>) -> Self {
        let mut packing = Self::default();
        let mut pack = Pack::default();
        for (file, (runs, size)) in files.enumerate() {
            packing.extents.push(Vec::new());
            let data = runs.iter().map(|run| run.length).sum::<u64>();
            packing.bytes += data;
            if size == 0 {
                continue;
            }
            if data > PACKED_FILE_SIZE_MAX && data == size {
                packing.cut(file, size);
            } else if data > PACKED_FILE_SIZE_MAX {
                packing.order(Pack { files: vec![(file, runs)], size: data });
            } else {
                if pack.size > 0 && pack.size + data > PACK_SIZE {
                    packing.order(std::mem::take(&mut pack));
                }
                pack.files.push((file, runs));
                pack.size += data;
            }
        }
        if !pack.files.is_empty() {
            packing.order(pack);
        }
        packing
    }

    /// A chunk, or several, for a large file without holes.
    fn cut(&mut self, file: usize, size: u64) {
        let mut offset = 0;
        for length in cut_sizes(size) {
            let chunk = self.chunks;
            self.extents[file].push(Extent { file_offset: offset, chunk, chunk_offset: 0, length });
            self.jobs.push_back(Job::Range {
                file,
                run: Run { offset, length },
                chunk,
                whole: length == size,
            });
            self.chunks += 1;
            offset += length;
        }
    }

    /// A chunk, or several, or none, for the data of files one after another.
    fn order(&mut self, pack: Pack) {
        let first_chunk = self.chunks;
        let sizes = cut_sizes(pack.size);
        self.chunks += sizes.len() as u32;
        let mut position = 0;
        for (file, runs) in &pack.files {
            for run in runs {
                let mut done = 0;
                while done < run.length {
                    let (chunk, chunk_offset) = (position / FILE_CHUNK_SIZE, position % FILE_CHUNK_SIZE);
                    let length = (run.length - done).min(FILE_CHUNK_SIZE - chunk_offset);
                    let chunk = first_chunk + chunk as u32;
                    let extent = Extent { file_offset: run.offset + done, chunk, chunk_offset, length };
                    self.extents[*file].push(extent);
                    done += length;
                    position += length;
                }
            }
        }
        let files = pack.files.into_iter().map(|(file, _)| file).collect();
        self.jobs.push_back(Job::Ordered { files, first_chunk, sizes });
    }
}

/// The sizes of the chunks for so many bytes.
pub(crate) fn cut_sizes(bytes: u64) -> Vec<u64> {
    let whole = (bytes / FILE_CHUNK_SIZE) as usize;
    let rest = bytes % FILE_CHUNK_SIZE;
    std::iter::repeat_n(FILE_CHUNK_SIZE, whole).chain((rest > 0).then_some(rest)).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn dense(size: u64) -> (Vec<Run>, u64) {
        let runs = if size == 0 { Vec::new() } else { vec![Run { offset: 0, length: size }] };
        (runs, size)
    }

    #[test]
    fn small_files_share_a_chunk_and_large_ones_do_not() {
        let sizes = [10, 0, PACKED_FILE_SIZE_MAX + 1, 20, FILE_CHUNK_SIZE + 5];
        let packing = Packing::of(sizes.into_iter().map(dense));
        let places: Vec<Vec<_>> = packing
            .extents
            .iter()
            .map(|file| file.iter().map(|e| (e.chunk, e.chunk_offset, e.length)).collect())
            .collect();
        assert_eq!(
            places,
            [
                vec![(3, 0, 10)],
                vec![],
                vec![(0, 0, PACKED_FILE_SIZE_MAX + 1)],
                vec![(3, 10, 20)],
                vec![(1, 0, FILE_CHUNK_SIZE), (2, 0, 5)],
            ]
        );
        assert_eq!((packing.chunks, packing.jobs.len()), (4, 4));
    }

    #[test]
    fn a_file_that_is_all_hole_is_read_but_has_no_chunk() {
        let packing = Packing::of([(Vec::new(), 1 << 40)].into_iter());
        assert_eq!(packing.jobs, [Job::Ordered { files: vec![0], first_chunk: 0, sizes: vec![] }]);
    }

    fn files() -> impl Strategy<Value = Vec<(Vec<Run>, u64)>> {
        let size =
            prop_oneof![0..10u64, 0..PACKED_FILE_SIZE_MAX * 2, FILE_CHUNK_SIZE - 9..FILE_CHUNK_SIZE * 3];
        let run = (1..5u64, size).prop_filter("a run is not empty", |(_, length)| *length > 0);
        proptest::collection::vec((proptest::collection::vec(run, 0..4), 0..3u64), 0..60).prop_map(|files| {
            files
                .into_iter()
                .map(|(gaps, tail)| {
                    let mut end = 0;
                    let runs = gaps.into_iter().map(|(gap, length)| {
                        let run = Run { offset: if end == 0 { gap - 1 } else { end + gap }, length };
                        end = run.offset + length;
                        run
                    });
                    let runs: Vec<_> = runs.collect();
                    (runs, end + tail)
                })
                .collect()
        })
    }

    proptest! {
        /// Every byte of data is in exactly one place, and every byte of a chunk belongs to a file.
        #[test]
        fn chunks_are_covered_exactly(files in files()) {
            let packing = Packing::of(files.clone().into_iter());
            let mut chunks = vec![Vec::new(); packing.chunks as usize];
            for ((runs, _), extents) in files.iter().zip(&packing.extents) {
                let data: u64 = runs.iter().map(|run| run.length).sum();
                prop_assert_eq!(extents.iter().map(|extent| extent.length).sum::<u64>(), data);
                for extent in extents {
                    prop_assert!(runs.iter().any(|run| run.offset <= extent.file_offset
                        && extent.file_offset + extent.length <= run.offset + run.length));
                    chunks[extent.chunk as usize].push((extent.chunk_offset, extent.length));
                }
            }
            let mut sizes = vec![0; chunks.len()];
            for job in &packing.jobs {
                match job {
                    Job::Ordered { first_chunk, sizes: parts, .. } => {
                        let first = *first_chunk as usize;
                        sizes[first..first + parts.len()].copy_from_slice(parts);
                    }
                    Job::Range { chunk, run, .. } => sizes[*chunk as usize] = run.length,
                }
            }
            for (mut parts, size) in chunks.into_iter().zip(sizes) {
                parts.sort_unstable();
                let mut reached = 0;
                for (offset, length) in parts {
                    prop_assert_eq!(offset, reached);
                    reached += length;
                }
                prop_assert!(reached == size && size <= FILE_CHUNK_SIZE && size > 0);
            }
        }
    }
}
