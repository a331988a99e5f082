//! The directory that a node owns.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use flow::wire::control::NodeId;
use rustix::fs::FlockOperation;
use rustix::io::Errno;

/// Longest path of a local socket, in bytes: what the kernel has room for, without the final NUL.
const SOCKET_PATH_MAX: usize = 107;

/// The data directory, held by this process alone.
#[derive(Debug)]
pub(crate) struct DataDir {
    path: PathBuf,
    _lock: File,
}

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// Creating, reading or writing failed.
    #[error("cannot {action} {}: {source}; choose another --data-dir or mend its permissions", .path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// Another daemon has it.
    #[error("{} is used by another running daemon; stop that one, or give this one a --data-dir of its own", .0.display())]
    Locked(PathBuf),
    /// A file of the node is damaged.
    #[error(
        "{} does not hold a number; restore it, or remove it to make this a new node", .0.display()
    )]
    Damaged(PathBuf),
    /// The kernel cannot bind a socket there.
    #[error(
        "the path of the local socket, {}, has {} bytes and the kernel takes at most {SOCKET_PATH_MAX}; \
         choose a shorter --data-dir", .0.display(), .0.as_os_str().len()
    )]
    SocketPath(PathBuf),
    /// Something else is where the socket belongs.
    #[error("{} is in the way of the local socket and is not a socket; remove it", .0.display())]
    NotASocket(PathBuf),
}

impl DataDir {
    /// Creates the directory where it is missing, for its owner alone, and locks it.
    pub(crate) fn open(path: &Path) -> Result<Self, DataDirError> {
        let failed = |action| move |source| DataDirError::Io { action, path: path.to_owned(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed("create"))?;
        let path = std::path::absolute(path).map_err(failed("find"))?;
        let lock_path = path.join("lock");
        let lock = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&lock_path);
        let lock =
            lock.map_err(|source| DataDirError::Io { action: "open", path: lock_path.clone(), source })?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { path, _lock: lock }),
            Err(Errno::WOULDBLOCK) => Err(DataDirError::Locked(path)),
            Err(error) => Err(DataDirError::Io { action: "lock", path: lock_path, source: error.into() }),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The node's id: random at the first start, the same ever after.
    pub(crate) fn node_id(&self) -> Result<NodeId, DataDirError> {
        match self.read_number("node-id", 16)? {
            Some(0) => Err(DataDirError::Damaged(self.path.join("node-id"))),
            Some(node) => Ok(node),
            None => {
                let node = crate::node::random_number().max(1);
                self.write("node-id", &format!("{node:016x}\n"))?;
                Ok(node)
            }
        }
    }

    /// Grows with each start even when the clock was set back: milliseconds since 1970, or one more than last time.
    pub(crate) fn next_incarnation(&self, now_ms: u64) -> Result<u64, DataDirError> {
        let last = self.read_number("incarnation", 10)?.unwrap_or(0);
        let incarnation = now_ms.max(last.saturating_add(1));
        self.write("incarnation", &format!("{incarnation}\n"))?;
        Ok(incarnation)
    }

    /// Tells programs on this machine where the node listens.
    pub(crate) fn write_address(&self, address: &str) -> Result<(), DataDirError> {
        self.write("address", &format!("{address}\n"))
    }

    /// Where the local socket is.
    pub(crate) fn socket_path(&self) -> PathBuf {
        self.path.join("shoal.sock")
    }

    /// Where the local socket goes. What a dead daemon left there is removed; that is safe while the lock is held.
    pub(crate) fn clear_socket_path(&self) -> Result<PathBuf, DataDirError> {
        let path = self.socket_path();
        if path.as_os_str().len() > SOCKET_PATH_MAX {
            return Err(DataDirError::SocketPath(path));
        }
        let failed = |source| DataDirError::Io { action: "remove", path: path.clone(), source };
        match std::fs::symlink_metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(path),
            Err(error) => Err(failed(error)),
            Ok(found) if found.file_type().is_socket() => {
                std::fs::remove_file(&path).map_err(failed)?;
                Ok(path)
            }
            Ok(_) => Err(DataDirError::NotASocket(path)),
        }
    }

    fn read_number(&self, name: &str, radix: u32) -> Result<Option<u64>, DataDirError> {
        let path = self.path.join(name);
        match std::fs::read_to_string(&path) {
            Ok(text) => {
                u64::from_str_radix(text.trim(), radix).map(Some).map_err(|_| DataDirError::Damaged(path))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(DataDirError::Io { action: "read", path, source }),
        }
    }

    /// Writes a small file whole or not at all.
    fn write(&self, name: &str, text: &str) -> Result<(), DataDirError> {
        let (path, draft) = (self.path.join(name), self.path.join(format!("{name}.draft")));
        let written = OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .open(&draft)
            .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()))
            .and_then(|()| std::fs::rename(&draft, &path))
            .and_then(|()| File::open(&self.path)?.sync_all());
        written.map_err(|source| DataDirError::Io { action: "write", path, source })
    }
}

impl Drop for DataDir {
    /// Takes away what tells programs on this machine that a node runs, before another one may have the directory.
    fn drop(&mut self) {
        for name in ["shoal.sock", "address"] {
            // The next start removes what stays; there is nobody to tell at this point.
            let _ = std::fs::remove_file(self.path.join(name));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn it_is_private_and_held_once() {
        let outer = tempfile::tempdir().unwrap();
        let path = outer.path().join("a/b");
        let held = DataDir::open(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        assert!(matches!(DataDir::open(&path), Err(DataDirError::Locked(_))));
        drop(held);
        assert!(DataDir::open(&path).is_ok());
    }

    #[test]
    fn a_node_keeps_its_id_and_grows_its_incarnation() {
        let outer = tempfile::tempdir().unwrap();
        let dir = DataDir::open(outer.path()).unwrap();
        let node = dir.node_id().unwrap();
        assert_ne!(node, 0);
        assert_eq!(dir.node_id().unwrap(), node);
        assert_eq!(dir.next_incarnation(1000).unwrap(), 1000);
        assert_eq!(dir.next_incarnation(5).unwrap(), 1001);
    }

    #[test]
    fn a_damaged_id_is_told() {
        let outer = tempfile::tempdir().unwrap();
        let dir = DataDir::open(outer.path()).unwrap();
        std::fs::write(outer.path().join("node-id"), "not a number").unwrap();
        assert!(matches!(dir.node_id(), Err(DataDirError::Damaged(_))));
    }

    #[test]
    fn only_a_stale_socket_is_removed() {
        let outer = tempfile::tempdir().unwrap();
        let dir = DataDir::open(outer.path()).unwrap();
        let path = dir.clear_socket_path().unwrap();
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        dir.clear_socket_path().unwrap();
        assert!(!path.exists());
        std::fs::write(&path, "precious").unwrap();
        assert!(matches!(dir.clear_socket_path(), Err(DataDirError::NotASocket(_))));
    }

    #[test]
    fn a_path_too_long_for_a_socket_is_told() {
        let outer = tempfile::tempdir().unwrap();
        let dir = DataDir::open(&outer.path().join("d".repeat(120))).unwrap();
        let error = dir.clear_socket_path().unwrap_err();
        assert!(error.to_string().contains("shorter --data-dir"), "{error}");
    }
}
