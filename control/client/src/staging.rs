//! A temporary directory whose content appears in place at once.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use plan::manifest::{FileEntry, FileKind, Shape};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use crate::ClientError;
use crate::confined::{Confined, make_directory};
use crate::destination::Destination;
use crate::layout::root_of;
use crate::sink::{LONE_FILE, restore};

/// Longest part of a name that a temporary name repeats, in bytes.
const NAME_PART_MAX: usize = 64;

/// A private directory beside the destination, or in the one that is merged into. It is removed with all that is left
/// in it when the value is dropped.
pub(crate) struct Staging {
    path: PathBuf,
    content: File,
    /// The destination, when it is a directory to merge into.
    target: Option<File>,
    destination: Destination,
}

impl Staging {
    /// Makes an empty one, after the check that nothing at the destination is in the way.
    pub(crate) fn new(destination: Destination, files: &[FileEntry]) -> Result<Self, ClientError> {
        let directory = destination.directory();
        fs::create_dir_all(directory).map_err(|error| ClientError::file("create", directory, error))?;
        let name = match &destination {
            Destination::Named { name, .. } => name.as_bytes(),
            Destination::Merged(_) => b"",
        };
        let target = match &destination {
            Destination::Named { .. } => None,
            Destination::Merged(directory) => {
                let target = open_directory(directory)?;
                check_room(&target, directory, files)?;
                Some(target)
            }
        };
        let path = make(directory, name).map_err(|error| ClientError::file("write to", directory, error))?;
        let made = DirBuilder::new().create(path.join("content"));
        let content = made.map_err(|error| ClientError::file("create", &path, error));
        let content = content.and_then(|()| open_directory(&path.join("content")));
        match content {
            Ok(content) => Ok(Self { path, content, target, destination }),
            Err(error) => {
                remove(&path);
                Err(error)
            }
        }
    }

    /// The directory to make the files in.
    pub(crate) fn root(&self) -> BorrowedFd<'_> {
        self.content.as_fd()
    }

    /// Lets the files appear at the destination.
    pub(crate) fn publish(
        &self,
        shape: Shape,
        files: &[FileEntry],
        directories: &[usize],
    ) -> Result<(), ClientError> {
        let path = self.destination.path();
        match (&self.target, shape) {
            (Some(target), _) => self.merge(target, &path, files, directories),
            (None, Shape::Tree) => {
                restore_directories(self.root(), files, directories, &path)?;
                self.publish_tree(&path, root_of(files))
            }
            (None, Shape::File | Shape::Stream) => {
                let from = self.path.join("content").join(OsStr::from_bytes(LONE_FILE));
                fs::rename(from, &path).map_err(|error| in_the_way(&path, error))
            }
        }
    }

    /// Gives a tree its name. A directory that its owner may not write to cannot be moved, so the owner's permissions
    /// come last.
    fn publish_tree(&self, path: &Path, root: Option<&FileEntry>) -> Result<(), ClientError> {
        let restore_root = |mode_more| {
            let entry = root.map(|root| FileEntry { mode: root.mode | mode_more, ..root.clone() });
            let restored = entry.map_or(Ok(()), |entry| restore(self.root(), &entry));
            restored.map_err(|error| ClientError::file("set the permissions of", path, error))
        };
        restore_root(0o700)?;
        rename_to_nothing(&self.path.join("content"), path).map_err(|error| in_the_way(path, error))?;
        restore_root(0)
    }

    /// Moves each file to its place, and restores directories that were not there before.
    fn merge(
        &self,
        target: &File,
        path: &Path,
        files: &[FileEntry],
        directories: &[usize],
    ) -> Result<(), ClientError> {
        let mut to = Confined::making(target.as_fd());
        let mut made = Vec::new();
        for &number in directories {
            let entry = &files[number].path;
            match to.locate(entry).map(|(above, name)| make_directory(above, name)) {
                Ok(Ok(())) => made.push(number),
                Ok(Err(Errno::EXIST)) => {}
                Ok(Err(error)) => return Err(ClientError::file("create", &joined(path, entry), error)),
                Err(error) => return Err(in_the_way(&joined(path, entry), error)),
            }
        }
        let mut from = Confined::new(self.content.as_fd());
        for file in files.iter().filter(|file| !matches!(file.kind, FileKind::Directory)) {
            let moved = from.locate(&file.path).and_then(|(from, name)| {
                let (to, _) = to.locate(&file.path)?;
                Ok(rustix::fs::renameat(from, name, to, name)?)
            });
            moved.map_err(|error| in_the_way(&joined(path, &file.path), error))?;
        }
        restore_directories(target.as_fd(), files, &made, path)
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

/// Fails when a file would take a directory's place, or a directory that of something else, a link included.
fn check_room(target: &File, path: &Path, files: &[FileEntry]) -> Result<(), ClientError> {
    let mut confined = Confined::new(target.as_fd());
    for file in files.iter().filter(|file| !file.path.is_empty()) {
        let kind = confined.locate(&file.path).and_then(|(above, name)| {
            let stat = rustix::fs::statat(above, name, AtFlags::SYMLINK_NOFOLLOW)?;
            Ok(FileType::from_raw_mode(stat.st_mode))
        });
        let what = match (&file.kind, kind) {
            (FileKind::Directory, Ok(FileType::Directory)) => continue,
            (FileKind::Directory, Ok(FileType::Symlink)) => "a symbolic link, which is not followed,",
            (FileKind::Directory, Ok(_)) => "a file",
            (_, Ok(FileType::Directory)) => "a directory",
            (_, Ok(_)) => continue,
            (_, Err(error)) if error.kind() == io::ErrorKind::NotFound => continue,
            (_, Err(error)) => return Err(in_the_way(&joined(path, &file.path), error)),
        };
        return Err(ClientError::InTheWay { path: joined(path, &file.path), what });
    }
    Ok(())
}

/// Gives directories their permissions and times, the deepest first, because each change in one changes its time.
fn restore_directories(
    root: BorrowedFd<'_>,
    files: &[FileEntry],
    directories: &[usize],
    shown: &Path,
) -> Result<(), ClientError> {
    let mut confined = Confined::new(root);
    for &number in directories.iter().rev() {
        let entry = &files[number];
        let path = &entry.path;
        let restored = confined.locate(path).and_then(|(above, name)| {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            restore(rustix::fs::openat(above, name, flags, Mode::empty())?, entry)
        });
        restored.map_err(|error| ClientError::file("set the permissions of", &joined(shown, path), error))?;
    }
    Ok(())
}

/// Makes `.NAME.shoal-RANDOM` in a directory, for nobody else to enter.
fn make(directory: &Path, name: &[u8]) -> io::Result<PathBuf> {
    let mut random = [0; 8];
    getrandom::fill(&mut random)?;
    let name = OsStr::from_bytes(&name[..name.len().min(NAME_PART_MAX)]).to_owned();
    let dot = if name.is_empty() { "" } else { "." };
    let mut temporary = std::ffi::OsString::from(dot);
    temporary.push(name);
    temporary.push(format!(".shoal-{:016x}", u64::from_le_bytes(random)));
    let path = directory.join(temporary);
    DirBuilder::new().mode(0o700).create(&path)?;
    Ok(path)
}

fn remove(path: &Path) {
    // What cannot be removed is hidden and named so that its origin is plain.
    let _ = fs::remove_dir_all(path);
}

fn rename_to_nothing(from: &Path, to: &Path) -> io::Result<()> {
    let cwd = rustix::fs::CWD;
    match rustix::fs::renameat_with(cwd, from, cwd, to, RenameFlags::NOREPLACE) {
        // Some file systems cannot promise not to replace; they still do not replace a directory that is not empty.
        Err(Errno::INVAL | Errno::NOSYS) => fs::rename(from, to),
        done => Ok(done?),
    }
}

fn in_the_way(path: &Path, error: io::Error) -> ClientError {
    let what = match Errno::from_io_error(&error) {
        Some(Errno::ISDIR | Errno::NOTEMPTY) => "a directory",
        Some(Errno::EXIST) => "something that appeared meanwhile",
        Some(Errno::NOTDIR | Errno::LOOP) => "a file or a link",
        _ => return ClientError::file("write", path, error),
    };
    ClientError::InTheWay { path: path.to_path_buf(), what }
}

fn open_directory(path: &Path) -> Result<File, ClientError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = rustix::fs::open(path, flags, Mode::empty());
    opened.map(File::from).map_err(|error| ClientError::file("open", path, error))
}

fn joined(base: &Path, path: &[u8]) -> PathBuf {
    base.join(OsStr::from_bytes(path))
}
