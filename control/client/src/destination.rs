//! Where the files of a key go.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use plan::manifest::{FileEntry, Shape};

use crate::ClientError;

/// Where the files of a key go.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Destination {
    /// One file or directory appears under this name, in place of a file that may be there.
    Named {
        /// The directory.
        parent: PathBuf,
        /// The name in it.
        name: OsString,
    },
    /// The files of a tree join those of this directory.
    Merged(PathBuf),
}

impl Destination {
    /// Chooses as `cp -r` does: into `path` when it is a directory, else as `path`. A tree joins a directory file by
    /// file.
    pub(crate) fn of(path: &Path, key: &str, shape: Shape, files: &[FileEntry]) -> Result<Self, ClientError> {
        let is_directory = match fs::metadata(path) {
            Ok(metadata) => Some(metadata.is_dir()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(ClientError::file("look at", path, error)),
        };
        let wants_directory = path.as_os_str().as_bytes().ends_with(b"/");
        let destination = match (shape, is_directory) {
            (Shape::Tree, Some(true)) => return Ok(Destination::Merged(path.to_path_buf())),
            (Shape::Tree, Some(false)) => {
                return Err(ClientError::InTheWay { path: path.to_path_buf(), what: "a file" });
            }
            (Shape::File | Shape::Stream, directory) if directory == Some(true) || wants_directory => {
                let name = match (shape, files) {
                    (Shape::File, [file]) => OsStr::from_bytes(&file.path),
                    _ => OsStr::new(key.rsplit('/').next().unwrap_or(key)),
                };
                Destination::Named { parent: path.to_path_buf(), name: name.to_os_string() }
            }
            _ => {
                let name = path
                    .file_name()
                    .ok_or_else(|| ClientError::InTheWay { path: path.to_path_buf(), what: "a directory" })?;
                let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
                Destination::Named {
                    parent: parent.unwrap_or(Path::new(".")).into(),
                    name: name.to_os_string(),
                }
            }
        };
        destination.check()?;
        Ok(destination)
    }

    /// The directory in which the files are made ready.
    pub(crate) fn directory(&self) -> &Path {
        match self {
            Destination::Named { parent, .. } => parent,
            Destination::Merged(directory) => directory,
        }
    }

    /// Where the files will be.
    pub(crate) fn path(&self) -> PathBuf {
        match self {
            Destination::Named { parent, name } => parent.join(name),
            Destination::Merged(directory) => directory.clone(),
        }
    }

    fn check(&self) -> Result<(), ClientError> {
        let path = self.path();
        match fs::symlink_metadata(&path) {
            Ok(metadata) if metadata.is_dir() => Err(ClientError::InTheWay { path, what: "a directory" }),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use plan::manifest::FileKind;

    use super::*;

    fn named(parent: &Path, name: &str) -> Destination {
        Destination::Named { parent: parent.into(), name: name.into() }
    }

    #[test]
    fn directories_take_files_in() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path();
        fs::create_dir_all(at.join("d/taken")).unwrap();
        fs::write(at.join("f"), "").unwrap();
        let file = [FileEntry {
            path: b"base".to_vec(),
            kind: FileKind::Regular { size: 0, digest: [0; 32], extents: vec![] },
            mode: 0,
            mtime_ns: 0,
        }];
        let of = |path: &str, shape| Destination::of(&at.join(path), "k/last", shape, &file).ok();
        assert_eq!(of("d", Shape::File), Some(named(&at.join("d"), "base")));
        assert_eq!(of("d", Shape::Stream), Some(named(&at.join("d"), "last")));
        assert_eq!(of("d", Shape::Tree), Some(Destination::Merged(at.join("d"))));
        assert_eq!(of("new", Shape::File), Some(named(at, "new")));
        assert_eq!(of("new/", Shape::File), Some(named(&at.join("new/"), "base")));
        assert_eq!(of("new/", Shape::Tree), Some(named(at, "new")));
        assert_eq!(of("f", Shape::File), Some(named(at, "f")));
        assert_eq!(of("f", Shape::Tree), None);
        assert_eq!(Destination::of(&at.join("d"), "k/taken", Shape::Stream, &[]).ok(), None);
    }
}
