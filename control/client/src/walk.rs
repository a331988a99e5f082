//! What is in a source, before anything is read.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use plan::manifest::{FileEntry, FileKind, Shape};
use rustix::fs::{Mode, OFlags, SeekFrom};

use crate::ClientError;
use crate::layout::DEPTH_MAX;

/// Runs of data of one sparse file that are told apart; what follows counts as data.
const RUNS_MAX: usize = 1 << 16;

/// A source and all that is in it.
pub(crate) struct Tree {
    /// A file or a directory.
    pub(crate) shape: Shape,
    /// Its entries, each after the directory it is in.
    pub(crate) entries: Vec<Found>,
}

/// One entry of a source.
pub(crate) struct Found {
    /// Where it is.
    pub(crate) source: PathBuf,
    /// What the manifest will say; of a regular file all but digest and extents.
    pub(crate) entry: FileEntry,
    /// Which parts of a regular file hold data, when not all do.
    pub(crate) runs: Option<Vec<Run>>,
    stamp: Stamp,
}

/// A run of a file's bytes that are not a hole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Run {
    /// Where it begins, in bytes.
    pub(crate) offset: u64,
    /// Bytes; never 0.
    pub(crate) length: u64,
}

/// Tells whether a file is still the one that was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    mtime_ns: i64,
}

impl Tree {
    /// A file or a directory. A link to one counts as what it points to.
    pub(crate) fn of(path: &Path) -> Result<Self, ClientError> {
        let (source, metadata) = resolve(path)?;
        let mut entries = Vec::new();
        if metadata.is_dir() {
            entries.push(Found::new(source.clone(), Vec::new(), &metadata)?);
            walk(source, Vec::new(), &mut entries)?;
            return Ok(Self { shape: Shape::Tree, entries });
        }
        let name = path.file_name().or(source.file_name()).unwrap_or(path.as_os_str());
        entries.push(Found::new(source.clone(), name.as_bytes().to_vec(), &metadata)?);
        Ok(Self { shape: Shape::File, entries })
    }

    /// Several files and directories as one tree with each at its top.
    pub(crate) fn of_several(paths: &[PathBuf]) -> Result<Self, ClientError> {
        let mut entries = Vec::new();
        let mut names = HashSet::new();
        for path in paths {
            let (source, metadata) = resolve(path)?;
            let name = match path.file_name() {
                Some(name) => name.to_os_string(),
                None => canonical(path)?.file_name().unwrap_or_default().to_os_string(),
            };
            if name.is_empty() || !names.insert(name.clone()) {
                return Err(ClientError::SameName(name.to_string_lossy().into_owned()));
            }
            let name = name.into_vec();
            entries.push(Found::new(source.clone(), name.clone(), &metadata)?);
            if metadata.is_dir() {
                walk(source, name, &mut entries)?;
            }
        }
        Ok(Self { shape: Shape::Tree, entries })
    }
}

impl Found {
    fn new(source: PathBuf, path: Vec<u8>, metadata: &Metadata) -> Result<Self, ClientError> {
        let kind = metadata.file_type();
        let unsupported = |kind| Err(ClientError::Unsupported { path: source.clone(), kind });
        let mut runs = None;
        let kind = if kind.is_file() {
            runs = runs_of(&source, metadata)?;
            FileKind::Regular { size: metadata.len(), digest: [0; 32], extents: Vec::new() }
        } else if kind.is_dir() {
            FileKind::Directory
        } else if kind.is_symlink() {
            let target = fs::read_link(&source).map_err(|error| ClientError::file("read", &source, error))?;
            FileKind::Symlink { target: target.into_os_string().into_vec() }
        } else if kind.is_fifo() {
            return unsupported("a named pipe");
        } else if kind.is_socket() {
            return unsupported("a socket");
        } else {
            return unsupported("a device");
        };
        let stamp = Stamp::of(metadata);
        let mode = metadata.permissions().mode() & 0o7777;
        Ok(Self { source, entry: FileEntry { path, kind, mode, mtime_ns: stamp.mtime_ns }, runs, stamp })
    }

    /// Bytes of a regular file, holes included; 0 for anything else.
    pub(crate) fn size(&self) -> u64 {
        match self.entry.kind {
            FileKind::Regular { size, .. } => size,
            FileKind::Directory | FileKind::Symlink { .. } => 0,
        }
    }

    /// Whether it is a regular file.
    pub(crate) fn is_file(&self) -> bool {
        matches!(self.entry.kind, FileKind::Regular { .. })
    }

    /// The runs of data of a regular file, ascending.
    pub(crate) fn data(&self) -> Vec<Run> {
        match &self.runs {
            Some(runs) => runs.clone(),
            None if self.size() == 0 => Vec::new(),
            None => vec![Run { offset: 0, length: self.size() }],
        }
    }

    /// Opens a regular file to read it.
    pub(crate) fn open(&self) -> Result<File, ClientError> {
        open(&self.source)
    }

    /// Fails when the file is not the one that was found, as it was then.
    pub(crate) fn check_unchanged(&self, file: &File) -> Result<(), ClientError> {
        let metadata = file.metadata().map_err(|error| ClientError::file("read", &self.source, error))?;
        if Stamp::of(&metadata) == self.stamp {
            Ok(())
        } else {
            Err(ClientError::Changed(self.source.clone()))
        }
    }
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        let mtime_ns = metadata.mtime().saturating_mul(1_000_000_000).saturating_add(metadata.mtime_nsec());
        Self { device: metadata.dev(), inode: metadata.ino(), size: metadata.len(), mtime_ns }
    }
}

/// Adds all that is below a directory, in the order of the names' bytes, each directory before its content.
fn walk(directory: PathBuf, prefix: Vec<u8>, entries: &mut Vec<Found>) -> Result<(), ClientError> {
    let mut levels = vec![(prefix, children(&directory)?.into_iter(), directory)];
    while let Some((prefix, names, directory)) = levels.last_mut() {
        let Some((name, metadata)) = names.next() else {
            levels.pop();
            continue;
        };
        let source = directory.join(&name);
        let mut path = prefix.clone();
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name.as_bytes());
        if path.iter().filter(|&&byte| byte == b'/').count() > DEPTH_MAX {
            return Err(ClientError::TooDeep(source));
        }
        entries.push(Found::new(source.clone(), path.clone(), &metadata)?);
        if metadata.is_dir() {
            levels.push((path, children(&source)?.into_iter(), source));
        }
    }
    Ok(())
}

fn children(directory: &Path) -> Result<Vec<(OsString, Metadata)>, ClientError> {
    let read = |entry: io::Result<fs::DirEntry>| {
        let entry = entry.map_err(|error| ClientError::file("read", directory, error))?;
        let metadata = entry.metadata().map_err(|error| ClientError::file("read", &entry.path(), error))?;
        Ok((entry.file_name(), metadata))
    };
    let entries = fs::read_dir(directory).map_err(|error| ClientError::file("read", directory, error))?;
    let mut children = entries.map(read).collect::<Result<Vec<_>, ClientError>>()?;
    children.sort_unstable_by(|left, right| left.0.cmp(&right.0));
    Ok(children)
}

/// The path itself, or what it points to when it is a link.
fn resolve(path: &Path) -> Result<(PathBuf, Metadata), ClientError> {
    let read_error = |error| ClientError::file("read", path, error);
    let metadata = fs::symlink_metadata(path).map_err(read_error)?;
    if !metadata.is_symlink() {
        return Ok((path.to_path_buf(), metadata));
    }
    Ok((canonical(path)?, fs::metadata(path).map_err(read_error)?))
}

fn canonical(path: &Path) -> Result<PathBuf, ClientError> {
    path.canonicalize().map_err(|error| ClientError::file("read", path, error))
}

/// Opens without following a link and without waiting for the other end of a pipe that took the file's place.
fn open(path: &Path) -> Result<File, ClientError> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::empty());
    file.map(File::from).map_err(|error| ClientError::file("open", path, error))
}

/// The runs of data of a file that occupies fewer blocks than its size; `None` when it has no hole.
fn runs_of(path: &Path, metadata: &Metadata) -> Result<Option<Vec<Run>>, ClientError> {
    if metadata.blocks().saturating_mul(512) >= metadata.len() {
        return Ok(None);
    }
    let runs = seek_runs(&open(path)?, metadata.len());
    let whole = Run { offset: 0, length: metadata.len() };
    Ok(runs.ok().filter(|runs| *runs != [whole]))
}

fn seek_runs(file: impl AsFd, size: u64) -> rustix::io::Result<Vec<Run>> {
    let mut runs = Vec::new();
    let mut at = 0;
    while at < size {
        let offset = match rustix::fs::seek(&file, SeekFrom::Data(at)) {
            Err(rustix::io::Errno::NXIO) => break,
            found => found?.clamp(at, size),
        };
        let end = match runs.len() + 1 {
            RUNS_MAX => size,
            _ => rustix::fs::seek(&file, SeekFrom::Hole(offset))?.min(size),
        };
        if end <= offset {
            break;
        }
        runs.push(Run { offset, length: end - offset });
        at = end;
    }
    Ok(runs)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn entries_come_in_the_same_order_every_time() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["b", "a/z", "a/y", "a.txt"] {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, name).unwrap();
        }
        let tree = Tree::of(folder.path()).unwrap();
        let paths: Vec<_> = tree.entries.iter().map(|found| found.entry.path.as_slice()).collect();
        assert_eq!(paths, [&b""[..], b"a", b"a/y", b"a/z", b"a.txt", b"b"]);
    }

    #[test]
    fn holes_are_found() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sparse");
        let file = File::create(&path).unwrap();
        file.set_len(64 << 20).unwrap();
        file.write_all_at(&[1; 4096], 16 << 20).unwrap();
        let tree = Tree::of(&path).unwrap();
        let data = tree.entries[0].data();
        assert_eq!(data.len(), 1, "{data:?}");
        assert!(data[0].offset <= 16 << 20 && data[0].length <= 1 << 20, "{data:?}");
    }

    #[test]
    fn what_has_no_bytes_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let _listener = UnixListener::bind(folder.path().join("socket")).unwrap();
        let error = Tree::of(folder.path()).err().unwrap();
        assert!(error.to_string().ends_with("socket: it is a socket"), "{error}");
    }

    #[test]
    fn several_sources_stand_side_by_side() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("d")).unwrap();
        fs::write(folder.path().join("d/f"), "1").unwrap();
        fs::write(folder.path().join("f"), "2").unwrap();
        let tree = Tree::of_several(&[folder.path().join("f"), folder.path().join("d")]).unwrap();
        let paths: Vec<_> = tree.entries.iter().map(|found| found.entry.path.as_slice()).collect();
        assert_eq!(paths, [&b"f"[..], b"d", b"d/f"]);
        let same = Tree::of_several(&[folder.path().join("f"), folder.path().join("d/f")]);
        assert!(matches!(same, Err(ClientError::SameName(_))));
    }
}
