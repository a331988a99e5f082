//! Chunk files on NVMe.
//!
//! A chunk is one file, `chunks/ab/abcd….chunk`: its pieces one after another, then a [`Footer`] that describes it. It
//! is written under a temporary name, synced, and renamed, so that a name always stands for a whole chunk. Everything
//! here that takes time blocks; the shards call it on a thread of its own, and move pieces through their rings.

mod footer; // what describes the chunk at the end of its file

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use flow::chunk::{ChunkId, Descriptor};
use rustix::fs::{FallocateFlags, OFlags};

use crate::ring::ALIGNMENT;

pub use footer::{Footer, FooterError};

const SUFFIX: &str = ".chunk";

/// The chunk files of one data directory.
#[derive(Clone, Debug)]
pub(crate) struct ChunkStore {
    root: Arc<Path>,
    direct: Result<(), Arc<str>>,
    next_temporary: Arc<AtomicU64>,
}

/// A chunk file that may be read.
#[derive(Clone, Debug)]
pub(crate) struct ChunkFile {
    pub(crate) file: Arc<File>,
}

/// A chunk file that is being written. Dropped without [`ChunkStore::publish`], it is gone.
#[derive(Debug)]
pub(crate) struct TemporaryFile {
    pub(crate) file: Arc<File>,
    path: PathBuf,
    published: bool,
}

/// A chunk that was there when the node started.
#[derive(Debug)]
pub(crate) struct FoundChunk {
    pub(crate) descriptor: Descriptor,
    pub(crate) file: ChunkFile,
}

impl ChunkStore {
    /// Opens the store below `data_dir`, removes what a crash left half written, and finds what is whole.
    pub(crate) fn open(data_dir: &Path) -> io::Result<(Self, Vec<FoundChunk>)> {
        let root = data_dir.join("chunks");
        let temporary = root.join("tmp");
        if temporary.exists() {
            fs::remove_dir_all(&temporary)?;
        }
        fs::create_dir_all(&temporary)?;
        let direct = probe_direct(&temporary).map_err(|error| error.to_string().into());
        let store = Self { root: root.into(), direct, next_temporary: Arc::default() };
        let found = store.scan()?;
        Ok((store, found))
    }

    /// Whether files are read and written past the page cache, or why not.
    pub(crate) fn direct(&self) -> Result<(), &str> {
        self.direct.as_ref().map(|_| ()).map_err(|reason| &**reason)
    }

    /// A file for a chunk of up to `size` bytes, with room for it and its footer set aside.
    pub(crate) fn create(&self, size: u64, footer_length: u64) -> io::Result<TemporaryFile> {
        let number = self.next_temporary.fetch_add(1, Ordering::Relaxed);
        let path = self.root.join("tmp").join(number.to_string());
        let file = self.options().write(true).create_new(true).open(&path)?;
        let temporary = TemporaryFile { file: Arc::new(file), path, published: false };
        let room = size.next_multiple_of(ALIGNMENT.into()) + footer_length;
        match rustix::fs::fallocate(&*temporary.file, FallocateFlags::empty(), 0, room) {
            Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => Ok(temporary),
            Err(error) => Err(error.into()),
        }
    }

    /// Makes a synced file that ends at `length` the chunk `id`, durably.
    pub(crate) fn publish(
        &self,
        mut temporary: TemporaryFile,
        id: &ChunkId,
        length: u64,
    ) -> io::Result<ChunkFile> {
        if temporary.file.metadata()?.len() != length {
            temporary.file.set_len(length)?;
            temporary.file.sync_all()?;
        }
        let path = self.path(id);
        let directory = path.parent().unwrap_or(&self.root);
        if !directory.exists() {
            fs::create_dir_all(directory)?;
            File::open(&*self.root)?.sync_all()?;
        }
        fs::rename(&temporary.path, &path)?;
        temporary.published = true;
        File::open(directory)?.sync_all()?;
        Ok(ChunkFile { file: temporary.file.clone() })
    }

    /// Removes the chunk's file. Operations on it that are under way still end well.
    pub(crate) fn remove(&self, id: &ChunkId) -> io::Result<()> {
        match fs::remove_file(self.path(id)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn path(&self, id: &ChunkId) -> PathBuf {
        let name = id.to_string();
        self.root.join(&name[..2]).join(name + SUFFIX)
    }

    fn options(&self) -> OpenOptions {
        let mut options = OpenOptions::new();
        options.read(true);
        if self.direct.is_ok() {
            options.custom_flags(OFlags::DIRECT.bits() as i32);
        }
        options
    }

    fn scan(&self) -> io::Result<Vec<FoundChunk>> {
        let mut found = Vec::new();
        for directory in fs::read_dir(&*self.root)? {
            let directory = directory?;
            if !directory.file_type()?.is_dir() || directory.file_name() == "tmp" {
                continue;
            }
            for entry in fs::read_dir(directory.path())? {
                let path = entry?.path();
                match self.recognise(&path) {
                    Ok(chunk) => found.push(chunk),
                    Err(reason) => {
                        tracing::warn!(path = %path.display(), reason, "a file is left alone: not a whole chunk")
                    }
                }
            }
        }
        Ok(found)
    }

    fn recognise(&self, path: &Path) -> Result<FoundChunk, String> {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let id: ChunkId = name
            .strip_suffix(SUFFIX)
            .unwrap_or_default()
            .parse()
            .map_err(|_| "its name is not a chunk id")?;
        let descriptor = read_footer(path)?;
        if descriptor.id != id {
            return Err("its footer belongs to another chunk".into());
        }
        let file = self.options().write(true).open(path).map_err(|error| error.to_string())?;
        Ok(FoundChunk { descriptor, file: ChunkFile { file: Arc::new(file) } })
    }
}

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        if !self.published {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Reads the footer of a chunk file through the page cache.
fn read_footer(path: &Path) -> Result<Descriptor, String> {
    let file = File::open(path).map_err(|error| error.to_string())?;
    let length = file.metadata().map_err(|error| error.to_string())?.size();
    let read = |from: u64| {
        let mut bytes = vec![0; (length - from) as usize];
        file.read_exact_at(&mut bytes, from).map(|()| bytes).map_err(|error| error.to_string())
    };
    let tail = read(length.saturating_sub(ALIGNMENT.into()))?;
    let footer_length = Footer::length_from_tail(&tail, length).map_err(|error| error.to_string())?;
    let footer = read(length - footer_length)?;
    Footer::decode(&footer, length).map(|footer| footer.descriptor).map_err(|error| error.to_string())
}

/// Tries O_DIRECT in a directory with one aligned write.
fn probe_direct(directory: &Path) -> io::Result<()> {
    let flags = OFlags::DIRECT | OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    let refused = |error: rustix::io::Errno| {
        let text = format!("the file system refuses O_DIRECT: {}", io::Error::from(error));
        io::Error::new(io::ErrorKind::Unsupported, text)
    };
    let file = rustix::fs::open(directory, flags, mode).map_err(refused)?;
    #[repr(align(4096))]
    struct Page([u8; ALIGNMENT as usize]);
    let page = Box::new(Page([0; ALIGNMENT as usize]));
    rustix::io::pwrite(file.as_fd(), &page.0, 0).map(|_| ()).map_err(refused)
}

#[cfg(test)]
mod tests {
    use flow::chunk::Geometry;

    use super::*;

    fn descriptor(seed: u8) -> Descriptor {
        Descriptor { id: ChunkId([seed; 32]), geometry: Geometry::of(5000).unwrap(), checksums: vec![9] }
    }

    fn write(store: &ChunkStore, descriptor: &Descriptor) {
        let footer = Footer::encode(descriptor);
        let temporary = store.create(5000, footer.len() as u64).unwrap();
        let buffered = OpenOptions::new().write(true).open(&temporary.path).unwrap();
        buffered.write_all_at(&footer, 8192).unwrap();
        buffered.sync_all().unwrap();
        store.publish(temporary, &descriptor.id, 8192 + footer.len() as u64).unwrap();
    }

    #[test]
    fn what_was_published_is_found_again_and_the_rest_is_gone() {
        let directory = tempfile::tempdir().unwrap();
        let (store, found) = ChunkStore::open(directory.path()).unwrap();
        assert!(found.is_empty());
        write(&store, &descriptor(7));
        std::mem::forget(store.create(1 << 20, 4096).unwrap());
        let (store, found) = ChunkStore::open(directory.path()).unwrap();
        assert_eq!(found.iter().map(|chunk| &chunk.descriptor).collect::<Vec<_>>(), [&descriptor(7)]);
        assert_eq!(fs::read_dir(directory.path().join("chunks/tmp")).unwrap().count(), 0);
        store.remove(&ChunkId([7; 32])).unwrap();
        assert!(ChunkStore::open(directory.path()).unwrap().1.is_empty());
    }

    #[test]
    fn a_truncated_file_is_not_a_chunk() {
        let directory = tempfile::tempdir().unwrap();
        let (store, _) = ChunkStore::open(directory.path()).unwrap();
        write(&store, &descriptor(7));
        let path = store.path(&ChunkId([7; 32]));
        let length = fs::metadata(&path).unwrap().len();
        OpenOptions::new().write(true).open(&path).unwrap().set_len(length - 1).unwrap();
        assert!(ChunkStore::open(directory.path()).unwrap().1.is_empty());
    }
}
