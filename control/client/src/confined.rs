//! Directories entered without following a link.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::layout::parent;

/// Enters directories below a root, component by component, and never through a link: whatever a manifest says and
/// whatever stands at the destination, nothing outside the root is reached.
pub(crate) struct Confined<'r> {
    root: BorrowedFd<'r>,
    makes_missing: bool,
    last: Option<(Vec<u8>, OwnedFd)>,
}

impl<'r> Confined<'r> {
    /// Enters directories below `root` that are there.
    pub(crate) fn new(root: BorrowedFd<'r>) -> Self {
        Self { root, makes_missing: false, last: None }
    }

    /// Enters directories below `root`, and makes those that are missing.
    pub(crate) fn making(root: BorrowedFd<'r>) -> Self {
        Self { root, makes_missing: true, last: None }
    }

    /// The directory that `path` is in, and the name that it has there.
    pub(crate) fn locate<'p>(&mut self, path: &'p [u8]) -> io::Result<(BorrowedFd<'_>, &'p [u8])> {
        match parent(path) {
            None => Ok((self.root, path)),
            Some(above) => Ok((self.enter(above)?, &path[above.len() + 1..])),
        }
    }

    fn enter(&mut self, path: &[u8]) -> io::Result<BorrowedFd<'_>> {
        let (mut reached, mut directory) = match self.last.take() {
            Some((last, directory)) if is_at_or_above(&last, path) => (last, Some(directory)),
            _ => (Vec::new(), None),
        };
        let below = path[reached.len()..].split(|&byte| byte == b'/').filter(|name| !name.is_empty());
        for name in below {
            let from = directory.as_ref().map_or(self.root, |directory| directory.as_fd());
            directory = Some(self.step(from, name)?);
        }
        reached.clear();
        reached.extend_from_slice(path);
        match directory {
            None => Ok(self.root),
            Some(directory) => Ok(self.last.insert((reached, directory)).1.as_fd()),
        }
    }

    fn step(&self, from: BorrowedFd<'_>, name: &[u8]) -> io::Result<OwnedFd> {
        match open_directory(from, name) {
            Err(Errno::NOENT) if self.makes_missing => match make_directory(from, name) {
                Ok(()) | Err(Errno::EXIST) => Ok(open_directory(from, name)?),
                Err(error) => Err(error.into()),
            },
            opened => Ok(opened?),
        }
    }
}

/// Makes a directory with the permissions that are usual for the process.
pub(crate) fn make_directory(above: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<()> {
    rustix::fs::mkdirat(above, name, Mode::RWXU | Mode::RWXG | Mode::RWXO)
}

/// Whether `directory` is `path` or above it.
fn is_at_or_above(directory: &[u8], path: &[u8]) -> bool {
    path.strip_prefix(directory).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
}

/// Opens a directory to reach what is in it; fails on a link, also one to a directory.
fn open_directory(from: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(from, name, flags, Mode::empty())
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn directories_are_entered_and_links_are_not() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("a/b/c")).unwrap();
        fs::create_dir_all(folder.path().join("a/bc")).unwrap();
        symlink("b", folder.path().join("a/link")).unwrap();
        symlink("/", folder.path().join("out")).unwrap();
        let root = File::open(folder.path()).unwrap();
        let mut confined = Confined::new(root.as_fd());
        for path in ["f", "a/f", "a/b/c/f", "a/b/f", "a/bc/f", "a/b/c/g", "h"] {
            let (_, name) = confined.locate(path.as_bytes()).unwrap();
            assert_eq!(Some(name), path.rsplit('/').next().map(str::as_bytes), "{path}");
        }
        for path in ["a/link/f", "out/etc", "missing/f"] {
            assert!(confined.locate(path.as_bytes()).is_err(), "{path}");
        }
    }

    #[test]
    fn missing_directories_are_made_when_wanted_and_links_are_still_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        symlink("/", folder.path().join("out")).unwrap();
        let root = File::open(folder.path()).unwrap();
        let mut confined = Confined::making(root.as_fd());
        confined.locate(b"a/b/f").unwrap();
        assert!(folder.path().join("a/b").is_dir());
        assert!(confined.locate(b"out/a/f").is_err());
    }

    #[test]
    fn a_directory_that_was_entered_before_is_the_right_one() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("a/b")).unwrap();
        fs::create_dir_all(folder.path().join("a/bc")).unwrap();
        let root = File::open(folder.path()).unwrap();
        let mut confined = Confined::new(root.as_fd());
        for path in ["a/b", "a/bc", "a"] {
            let at = format!("{path}/f");
            let (directory, name) = confined.locate(at.as_bytes()).unwrap();
            rustix::fs::mkdirat(directory, name, Mode::RWXU).unwrap();
            assert!(folder.path().join(at).is_dir());
        }
    }
}
