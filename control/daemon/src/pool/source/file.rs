//! Sources that are files of the node's machine.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use flow::wire::session::Device;
use hyper::body::Bytes;
use rustix::fs::{Mode, OFlags, ResolveFlags};

use super::{SourceError, write};
use crate::node::Node;
use crate::pool::PoolError;
use crate::values::{Input, Written};

pub(super) async fn read(
    node: &Arc<Node>,
    path: PathBuf,
    shown: &str,
    device: Device,
) -> Result<Option<Written>, PoolError> {
    if !path.is_absolute() {
        return Err(SourceError::malformed(shown, "a path begins with '/'").into());
    }
    let Some((folder, rest)) = node.reach.sources.folder_of(&path) else {
        return Err(SourceError::Forbidden(shown.to_owned()).into());
    };
    let (folder, rest) = (folder.clone(), rest.to_owned());
    let opened = tokio::task::spawn_blocking(move || open(&folder, &rest)).await;
    let (file, size) = match opened {
        Ok(Ok(opened)) => opened,
        Ok(Err(rustix::io::Errno::XDEV)) => return Err(SourceError::Forbidden(shown.to_owned()).into()),
        Ok(Err(error)) => return Err(SourceError::unreadable(shown, error).into()),
        Err(_) => return Err(SourceError::unreadable(shown, "opening it failed").into()),
    };
    write(node, size, device, &mut FileBytes::of(file), shown).await
}

/// A file that is read in threads of its own.
pub(super) struct FileBytes(Arc<File>);

impl FileBytes {
    pub(super) fn of(file: File) -> Self {
        Self(Arc::new(file))
    }
}

#[async_trait]
impl Input for FileBytes {
    async fn next(&mut self, offset: u64, length: usize) -> Result<Bytes, String> {
        let file = self.0.clone();
        let read = tokio::task::spawn_blocking(move || {
            let mut bytes = vec![0; length];
            file.read_exact_at(&mut bytes, offset).map(|()| Bytes::from(bytes))
        });
        match read.await {
            Ok(read) => read.map_err(|error| error.to_string()),
            Err(_) => Err("reading it failed".to_owned()),
        }
    }
}

/// Opens a regular file below a folder; nothing leads out of it, not even a link that is made meanwhile.
fn open(folder: &Path, rest: &Path) -> Result<(File, u64), rustix::io::Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = rustix::fs::open(folder, flags, Mode::empty())?;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    // What is no file, such as a pipe, must not keep this waiting.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = rustix::fs::openat2(&folder, rest, flags, Mode::empty(), resolve)?;
    let about = rustix::fs::fstat(&file)?;
    if !rustix::fs::FileType::from_raw_mode(about.st_mode).is_file() {
        return Err(rustix::io::Errno::INVAL);
    }
    Ok((File::from(file), about.st_size as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_path_leads_out_of_its_folder() {
        let folder = tempfile::tempdir().unwrap();
        let (inside, outside) = (folder.path().join("in"), folder.path().join("out"));
        std::fs::create_dir_all(inside.join("sub")).unwrap();
        std::fs::write(inside.join("sub/a"), b"abc").unwrap();
        std::fs::write(&outside, b"secret").unwrap();
        std::os::unix::fs::symlink(&outside, inside.join("link")).unwrap();
        std::os::unix::fs::symlink("sub/a", inside.join("fine")).unwrap();
        let opened = |rest: &str| open(&inside, Path::new(rest)).map(|(_, size)| size).ok();
        assert_eq!((opened("sub/a"), opened("fine")), (Some(3), Some(3)));
        for rest in ["link", "../out", "sub/../../out", "sub", "none", "/etc/passwd"] {
            assert_eq!(opened(rest), None, "{rest}");
        }
    }
}
