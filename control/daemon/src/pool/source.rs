//! Where the bytes of a chunk come from: files of the node's machine, and servers.
//!
//! The node reads what it is told to, with its own rights. So it reads nothing unless its operator has named what: folders,
//! which no path and no symbolic link leads out of, and beginnings of URLs.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use engine::EngineError;
use flow::chunk::Geometry;
use flow::wire::session::Device;
use hyper::Uri;
use hyper::body::Bytes;
use rustix::fs::{Mode, OFlags, ResolveFlags};

use super::PoolError;
use crate::node::Node;
use crate::outgoing::{self, Download, OutgoingError};
use crate::values::{Input, ValueError, WriteError, Written, write_chunk};

/// What may be read.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sources {
    folders: Vec<PathBuf>,
    urls: Vec<Uri>,
}

/// Why a source is not read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SourceError {
    #[error("'{source_name}' is no source: {reason}")]
    Malformed { source_name: String, reason: &'static str },
    #[error(
        "this node may not read '{0}'; its operator names what it may, with `--allow-source FOLDER` or `--allow-source http://…`"
    )]
    Forbidden(String),
    #[error("'{source_name}' cannot be read: {reason}")]
    Unreadable { source_name: String, reason: String },
    #[error("Insufficient storage space")]
    Full,
    #[error("Insufficient storage space: {0}")]
    GpuFull(String),
}

impl Sources {
    /// What an operator has named: folders, and beginnings of URLs.
    pub(crate) fn new(roots: &[String]) -> Result<Self, String> {
        let mut sources = Self::default();
        for root in roots {
            if !root.contains("://") {
                let folder = Path::new(root);
                if !folder.is_absolute() {
                    return Err(format!("'{root}' is no absolute path"));
                }
                sources.folders.push(folder.to_owned());
                continue;
            }
            let url: Option<Uri> = root.parse().ok().filter(|url: &Uri| url.scheme_str() == Some("http"));
            sources.urls.push(url.ok_or_else(|| format!("'{root}' is no URL that begins with http://"))?);
        }
        Ok(sources)
    }

    /// The folder that a path lies in, and the rest of the path.
    fn folder_of<'p>(&self, path: &'p Path) -> Option<(&PathBuf, &'p Path)> {
        let inside = self.folders.iter().filter_map(|folder| Some((folder, path.strip_prefix(folder).ok()?)));
        inside.max_by_key(|(folder, _)| folder.as_os_str().len())
    }

    fn allows_url(&self, url: &Uri) -> bool {
        // A server may take a path with `..` for another.
        let path =
            url.path().to_ascii_lowercase().replace("%2e", ".").replace("%2f", "/").replace("%5c", "\\");
        let goes_up = path.split(['/', '\\']).any(|part| part == "..");
        let is_below = |allowed: &Uri| {
            let rest = url.path().strip_prefix(allowed.path());
            let at_end = rest.is_some_and(|rest| {
                rest.is_empty() || rest.starts_with('/') || allowed.path().ends_with('/')
            });
            allowed.authority() == url.authority() && at_end
        };
        !goes_up && self.urls.iter().any(is_below)
    }
}

/// Reads a source into a chunk of this node, which stays until what is given is dropped.
pub(super) async fn read(node: &Arc<Node>, source: &str, device: Device) -> Result<Written, PoolError> {
    let shown: String = source.chars().take(200).collect();
    let malformed = |reason| SourceError::Malformed { source_name: shown.clone(), reason };
    let path = match source.split_once("://") {
        Some((scheme, _)) if scheme.eq_ignore_ascii_case("http") => {
            let url: Uri = source.parse().map_err(|_| malformed("it is no URL"))?;
            return read_url(node, &url, &shown, device).await;
        }
        Some((scheme, path)) if scheme.eq_ignore_ascii_case("file") => {
            let path = path.strip_prefix("localhost").unwrap_or(path);
            let decoded = percent_encoding::percent_decode_str(path).decode_utf8();
            decoded.map_err(|_| malformed("its path is not UTF-8"))?.into_owned()
        }
        Some(_) => return Err(malformed("paths, file:// and http:// are read; https and s3 are not").into()),
        None => source.to_owned(),
    };
    read_file(node, PathBuf::from(path), shown, device).await
}

async fn read_file(
    node: &Arc<Node>,
    path: PathBuf,
    shown: String,
    device: Device,
) -> Result<Written, PoolError> {
    if !path.is_absolute() {
        let reason = "a path begins with '/'";
        return Err(SourceError::Malformed { source_name: shown, reason }.into());
    }
    let Some((folder, rest)) = node.reach.sources.folder_of(&path) else {
        return Err(SourceError::Forbidden(shown).into());
    };
    let (folder, rest) = (folder.clone(), rest.to_owned());
    let opened = tokio::task::spawn_blocking(move || open(&folder, &rest)).await;
    let unreadable = |reason: String| SourceError::Unreadable { source_name: shown.clone(), reason };
    let (file, size) = match opened {
        Ok(Ok(opened)) => opened,
        Ok(Err(rustix::io::Errno::XDEV)) => return Err(SourceError::Forbidden(shown).into()),
        Ok(Err(error)) => return Err(unreadable(error.to_string()).into()),
        Err(_) => return Err(unreadable("opening it failed".into()).into()),
    };
    let geometry = Geometry::of(size).map_err(|error| unreadable(error.to_string()))?;
    let written = write_chunk(node, geometry, device, &mut FileBytes(Arc::new(file))).await;
    written.map_err(|error| failed(error, shown.clone()))
}

/// A file that is read in threads of its own.
struct FileBytes(Arc<File>);

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

#[async_trait]
impl Input for Download {
    async fn next(&mut self, _offset: u64, length: usize) -> Result<Bytes, String> {
        let mut bytes = Vec::with_capacity(length);
        while bytes.len() < length {
            let part = self.part(length - bytes.len()).await.map_err(|error| error.to_string())?;
            bytes.extend_from_slice(&part);
        }
        Ok(bytes.into())
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

async fn read_url(node: &Arc<Node>, url: &Uri, shown: &str, device: Device) -> Result<Written, PoolError> {
    if !node.reach.sources.allows_url(url) {
        return Err(SourceError::Forbidden(shown.to_owned()).into());
    }
    let unreadable = |reason: String| SourceError::Unreadable { source_name: shown.to_owned(), reason };
    let told = |error: OutgoingError| unreadable(error.to_string());
    let mut answer = outgoing::get(url).await.map_err(told)?;
    let geometry = Geometry::of(answer.length).map_err(|error| unreadable(error.to_string()))?;
    let written = write_chunk(node, geometry, device, &mut answer).await;
    written.map_err(|error| failed(error, shown.to_owned()))
}

fn failed(error: WriteError, source_name: String) -> PoolError {
    match error {
        WriteError::Source(reason) => SourceError::Unreadable { source_name, reason }.into(),
        WriteError::Engine(error @ EngineError::GpuFull { .. }) => {
            SourceError::GpuFull(error.to_string()).into()
        }
        WriteError::Engine(error) => match ValueError::from(error) {
            ValueError::Full => SourceError::Full.into(),
            ValueError::Failed(failure) => failure.into(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(roots: &[&str]) -> Sources {
        Sources::new(&roots.iter().map(|&root| root.to_owned()).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn urls_begin_as_they_must() {
        let sources = sources(&["http://data:8000/sets", "http://other:1/"]);
        let allows = |url: &str| sources.allows_url(&url.parse().unwrap());
        assert!(
            allows("http://data:8000/sets/a?b")
                && allows("http://data:8000/sets")
                && allows("http://other:1/x/y")
        );
        for url in [
            "http://data:8000/setsx",
            "http://data:8000/",
            "http://data/sets/a",
            "http://data:8000/sets/../a",
            "http://data:8000/sets/%2e%2E/a",
            "http://data:8000/sets/..%2fa",
            "http://elsewhere:1/",
            "http://data:8000@elsewhere/sets/a",
        ] {
            assert!(!allows(url), "{url}");
        }
        assert!(Sources::new(&["data".into()]).is_err() && Sources::new(&["https://a/".into()]).is_err());
    }

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
        let inside = inside.to_str().unwrap();
        let sources = sources(&[inside]);
        assert!(sources.folder_of(Path::new(&format!("{inside}/x"))).is_some());
        assert!(sources.folder_of(Path::new(&format!("{inside}x/y"))).is_none());
    }
}
