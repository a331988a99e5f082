//! Files read back and compared with their digests.

use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, PoisonError};

use plan::manifest::{FileEntry, FileKind};

use crate::ClientError;
use crate::connection::Connection;
use crate::digest::{HashedPiece, join};
use crate::parallel::in_parallel;
use crate::sink::Sink;

/// Bytes that are read and hashed at once; a power of two.
const BLOCK: u64 = 4 << 20;
/// Blocks that are read at once.
const BLOCKS_AT_ONCE: usize = 8;

/// A regular file whose blocks are hashed in any order.
struct Checked {
    number: usize,
    size: u64,
    digest: [u8; 32],
    hashed: Mutex<Vec<HashedPiece>>,
}

/// Compares every regular file with its digest.
pub(crate) fn verify(
    connection: &Connection,
    sink: &Sink<'_>,
    files: &[FileEntry],
) -> Result<(), ClientError> {
    let regular = files.iter().enumerate().filter_map(|(number, file)| match file.kind {
        FileKind::Regular { size, digest, .. } => {
            Some(Checked { number, size, digest, hashed: Mutex::default() })
        }
        FileKind::Directory | FileKind::Symlink { .. } => None,
    });
    let regular: Vec<Checked> = regular.collect();
    let blocks = regular.iter().flat_map(|file| (0..blocks_of(file.size)).map(move |block| (file, block)));
    let blocks: Vec<(&Checked, u64)> = blocks.collect();
    in_parallel(BLOCKS_AT_ONCE, blocks.len(), |number, _| {
        connection.ensure_open()?;
        let (file, block) = blocks[number];
        file.hash_block(sink, block * BLOCK)
    })
}

/// An empty file has one block, which is empty.
fn blocks_of(size: u64) -> u64 {
    size.div_ceil(BLOCK).max(1)
}

impl Checked {
    /// Hashes the block that begins at `offset`; the last of a file's blocks to be hashed decides.
    fn hash_block(&self, sink: &Sink<'_>, offset: u64) -> Result<(), ClientError> {
        let differs = || ClientError::Digest(sink.shown(self.number).display().to_string());
        let mut bytes = vec![0; (self.size - offset).min(BLOCK) as usize];
        let file = sink.reopen(self.number)?;
        file.read_exact_at(&mut bytes, offset).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => differs(),
            _ => ClientError::file("read back", &sink.shown(self.number), error),
        })?;
        let found = if bytes.is_empty() {
            Some(blake3::hash(&bytes).into())
        } else {
            let piece = HashedPiece::of(&bytes, offset);
            let mut hashed = self.hashed.lock().unwrap_or_else(PoisonError::into_inner);
            hashed.push(piece);
            if hashed.len() as u64 != blocks_of(self.size) {
                return Ok(());
            }
            join(std::mem::take(&mut hashed))
        };
        if found == Some(self.digest) { Ok(()) } else { Err(differs()) }
    }
}
