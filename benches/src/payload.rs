//! Bytes that are moved, and what they must be afterwards.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use flow::verify::checksum_of;
use tempfile::TempDir;

use crate::conditions::Conditions;
use crate::failure::Failure;
use crate::interrupt;

/// Bytes that are written at once.
const STEP: usize = 1 << 20;

/// Bytes that do not compress. Cloning it shares them.
#[derive(Clone)]
pub struct Payload {
    bytes: Arc<Vec<u8>>,
    checksum: u64,
}

impl Payload {
    /// So many bytes, in memory that is there already.
    pub fn new(length: u64) -> Result<Self, Failure> {
        let mut bytes = touched(length)?;
        fastrand::Rng::with_seed(length).fill(&mut bytes);
        let checksum = checksum_of(&bytes);
        Ok(Self { bytes: Arc::new(bytes), checksum })
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// How many.
    pub fn length(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// CRC-64/NVME of the bytes.
    pub fn checksum(&self) -> u64 {
        self.checksum
    }

    /// A file of the bytes.
    pub fn file(&self, conditions: &Conditions) -> Result<PayloadFile, Failure> {
        PayloadFile::create(self, conditions).map_err(Failure::system("write a file to put"))
    }
}

/// A file to put: one file is one chunk. It is gone when it is dropped.
pub struct PayloadFile {
    path: PathBuf,
    file: File,
    length: u64,
    _folder: TempDir,
}

impl PayloadFile {
    fn create(payload: &Payload, conditions: &Conditions) -> io::Result<Self> {
        let folder = tempfile::Builder::new().prefix("shoal-bench-").tempdir_in(&conditions.folder)?;
        let path = folder.path().join("payload");
        let mut file = File::create_new(&path)?;
        for step in payload.bytes().chunks(STEP) {
            if interrupt::signal().is_some() {
                return Err(io::Error::other("interrupted"));
            }
            file.write_all(step)?;
        }
        // The disk shall not be busy with it while something is measured.
        file.sync_all()?;
        Ok(Self { path, file, length: payload.length(), _folder: folder })
    }

    /// How many bytes it has.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes its first bytes those of a round, so that its chunk is one that no node has seen before.
    pub fn stamp(&self, round: u32) -> Result<(), Failure> {
        let stamped = self.file.write_all_at(&u64::from(round).to_le_bytes(), 0);
        stamped.map_err(Failure::system("write into the file to put"))
    }
}

/// Memory whose pages are there already, so that no run pays for them.
pub fn touched(length: u64) -> Result<Vec<u8>, Failure> {
    let length = length as usize;
    let mut memory = Vec::new();
    memory.try_reserve_exact(length).map_err(|error| {
        Failure::system(format!("take {length} bytes of memory"))(io::Error::other(error))
    })?;
    // Not zero: pages of zeros could be left to the kernel to make later.
    memory.resize(length, 1);
    Ok(memory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_differ_in_the_stamp_alone() {
        let folder = tempfile::tempdir().unwrap();
        let conditions = Conditions { folder: folder.path().into(), ..Conditions::plain() };
        let payload = Payload::new(4096).unwrap();
        let file = payload.file(&conditions).unwrap();
        assert_eq!(std::fs::read(file.path()).unwrap(), payload.bytes());
        file.stamp(1).unwrap();
        let one = std::fs::read(file.path()).unwrap();
        file.stamp(2).unwrap();
        let two = std::fs::read(file.path()).unwrap();
        assert!(one != two && one[8..] == two[8..] && two[8..] == payload.bytes()[8..]);
        assert_eq!(payload.checksum(), checksum_of(payload.bytes()));
        drop(file);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
