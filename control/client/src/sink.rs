//! Files that receive their bytes in any order.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use plan::manifest::{FileEntry, FileKind, Shape};
use rustix::fs::{AtFlags, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT};
use rustix::io::Errno;

use crate::ClientError;
use crate::confined::{Confined, make_directory};
use crate::layout::Segment;

/// Files that one thread keeps open because more bytes will come.
const OPEN_AT_ONCE: usize = 16;
/// The permissions that are restored. Bits that would let a file act as its owner are not.
const MODE_BITS: u32 = 0o777;
/// The name of the only file of a key that is no tree.
pub(crate) const LONE_FILE: &[u8] = b"file";

/// The files of a key, below one directory.
pub(crate) struct Sink<'s> {
    root: BorrowedFd<'s>,
    shape: Shape,
    files: &'s [FileEntry],
    /// Bytes that each file still lacks.
    missing: Vec<AtomicU64>,
    /// Where the files will be in the end, for messages.
    shown: &'s Path,
}

/// One thread's access to a [`Sink`].
pub(crate) struct SinkWriter<'s> {
    sink: &'s Sink<'s>,
    directories: Confined<'s>,
    open: HashMap<usize, File>,
}

impl<'s> Sink<'s> {
    /// The files below `root`, an empty directory.
    pub(crate) fn new(root: BorrowedFd<'s>, shape: Shape, files: &'s [FileEntry], shown: &'s Path) -> Self {
        let missing = files.iter().map(|file| match &file.kind {
            FileKind::Regular { extents, .. } => {
                AtomicU64::new(extents.iter().map(|extent| extent.length).sum())
            }
            FileKind::Directory | FileKind::Symlink { .. } => AtomicU64::new(0),
        });
        Self { root, shape, files, missing: missing.collect(), shown }
    }

    /// Access for one thread.
    pub(crate) fn writer(&'s self) -> SinkWriter<'s> {
        SinkWriter { sink: self, directories: Confined::making(self.root), open: HashMap::new() }
    }

    /// Makes the directories, and the files that have no data.
    pub(crate) fn prepare(&'s self, directories: &[usize]) -> Result<(), ClientError> {
        let mut writer = self.writer();
        for &number in directories {
            let path = &self.files[number].path;
            let made = writer.directories.locate(path).map(|(above, name)| make_directory(above, name));
            match made {
                Ok(Ok(()) | Err(Errno::EXIST)) => {}
                Ok(Err(error)) => return Err(self.error("create", path, error.into())),
                Err(error) => return Err(self.error("create", path, error)),
            }
        }
        for (number, entry) in self.files.iter().enumerate() {
            if let FileKind::Regular { .. } = entry.kind
                && self.missing[number].load(Ordering::Relaxed) == 0
            {
                let file = writer.create(number)?;
                self.complete(number, &file)?;
            }
        }
        Ok(())
    }

    /// Makes the links, after which nothing is written any more.
    pub(crate) fn link(&self) -> Result<(), ClientError> {
        let mut directories = Confined::making(self.root);
        for entry in self.files {
            let FileKind::Symlink { target } = &entry.kind else { continue };
            let made = directories.locate(&entry.path).and_then(|(above, name)| {
                rustix::fs::symlinkat(&target[..], above, name)?;
                rustix::fs::utimensat(above, name, &times(entry.mtime_ns), AtFlags::SYMLINK_NOFOLLOW)?;
                Ok(())
            });
            made.map_err(|error| self.error("create", &entry.path, error))?;
        }
        Ok(())
    }

    /// Opens a file that is complete, to read it.
    pub(crate) fn reopen(&self, number: usize) -> Result<File, ClientError> {
        self.open(&mut Confined::new(self.root), number, OFlags::RDONLY)
    }

    /// Where a file will be in the end.
    pub(crate) fn shown(&self, number: usize) -> PathBuf {
        match self.shape {
            Shape::Tree => self.shown.join(std::ffi::OsStr::from_bytes(&self.files[number].path)),
            Shape::File | Shape::Stream => self.shown.to_path_buf(),
        }
    }

    fn path(&self, number: usize) -> &[u8] {
        match self.shape {
            Shape::Tree => &self.files[number].path,
            Shape::File | Shape::Stream => LONE_FILE,
        }
    }

    fn open(
        &self,
        directories: &mut Confined<'_>,
        number: usize,
        flags: OFlags,
    ) -> Result<File, ClientError> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = directories.locate(self.path(number)).and_then(|(above, name)| {
            Ok(File::from(rustix::fs::openat(above, name, flags, Mode::RUSR | Mode::WUSR)?))
        });
        opened.map_err(|error| ClientError::file("create", &self.shown(number), error))
    }

    /// Gives a file that lacks nothing its size, permissions and time.
    fn complete(&self, number: usize, file: &File) -> Result<(), ClientError> {
        let entry = &self.files[number];
        let FileKind::Regular { size, extents, .. } = &entry.kind else { return Ok(()) };
        let end = extents.last().map_or(0, |extent| extent.file_offset + extent.length);
        let completed =
            if end < *size { file.set_len(*size) } else { Ok(()) }.and_then(|()| match self.shape {
                Shape::Stream => Ok(()),
                Shape::File | Shape::Tree => restore(file, entry),
            });
        completed.map_err(|error| ClientError::file("write", &self.shown(number), error))
    }

    fn error(&self, action: &'static str, path: &[u8], error: io::Error) -> ClientError {
        ClientError::file(action, &self.shown.join(std::ffi::OsStr::from_bytes(path)), error)
    }
}

impl SinkWriter<'_> {
    /// Writes the bytes of a segment.
    pub(crate) fn write(&mut self, segment: &Segment, bytes: &[u8]) -> Result<(), ClientError> {
        let number = segment.file;
        let file = match self.open.remove(&number) {
            Some(file) => file,
            None => self.create(number)?,
        };
        file.write_all_at(bytes, segment.file_offset)
            .map_err(|error| ClientError::file("write", &self.sink.shown(number), error))?;
        let length = bytes.len() as u64;
        if self.sink.missing[number].fetch_sub(length, Ordering::AcqRel) == length {
            return self.sink.complete(number, &file);
        }
        if self.open.len() >= OPEN_AT_ONCE {
            self.open.clear();
        }
        self.open.insert(number, file);
        Ok(())
    }

    /// Opens a file to write it; whoever comes first makes it.
    fn create(&mut self, number: usize) -> Result<File, ClientError> {
        self.sink.open(&mut self.directories, number, OFlags::WRONLY | OFlags::CREATE)
    }
}

/// Gives a file or directory the permissions and the time of its entry.
pub(crate) fn restore(file: impl AsFd, entry: &FileEntry) -> io::Result<()> {
    rustix::fs::fchmod(&file, Mode::from_raw_mode(entry.mode & MODE_BITS))?;
    Ok(rustix::fs::futimens(&file, &times(entry.mtime_ns))?)
}

fn times(mtime_ns: i64) -> Timestamps {
    const NS: i64 = 1_000_000_000;
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: mtime_ns.div_euclid(NS), tv_nsec: mtime_ns.rem_euclid(NS) },
    }
}
