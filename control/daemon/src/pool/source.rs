//! Where the bytes of a chunk come from: files of the node's machine, servers, and S3.
//!
//! The node reads what it is told to, with its own rights. So it reads nothing unless its operator has named what: folders,
//! which no path and no symbolic link leads out of, and beginnings of URLs.

mod file; // files
mod object; // S3: names, places, signatures
mod web; // servers

use std::path::{Path, PathBuf};
use std::sync::Arc;

use engine::EngineError;
use flow::chunk::Geometry;
use flow::wire::session::Device;
use url::Url;

use super::PoolError;
use crate::node::Node;
use crate::outgoing::Trust;
use crate::values::{Input, ValueError, WriteError, Written, write_chunk};
use object::{ObjectName, Store};

/// What may be read.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sources {
    folders: Vec<PathBuf>,
    urls: Vec<Url>,
    objects: Vec<ObjectName>,
    /// Where objects are asked for; only where some may be read.
    store: Option<Store>,
    trust: Trust,
}

/// Why a source is not read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SourceError {
    #[error("'{source_name}' is no source: {reason}")]
    Malformed { source_name: String, reason: String },
    #[error(
        "this node may not read '{0}'; its operator names what it may, with `--allow-source FOLDER` or the beginning of a URL: http://…, https://…, s3://…"
    )]
    Forbidden(String),
    #[error("'{source_name}' cannot be read: {reason}")]
    Unreadable { source_name: String, reason: String },
    #[error("Insufficient storage space")]
    Full,
    #[error("Insufficient storage space: {0}")]
    GpuFull(String),
}

impl SourceError {
    fn malformed(shown: &str, reason: impl ToString) -> Self {
        Self::Malformed { source_name: shown.to_owned(), reason: reason.to_string() }
    }

    fn unreadable(shown: &str, reason: impl ToString) -> Self {
        Self::Unreadable { source_name: shown.to_owned(), reason: reason.to_string() }
    }
}

impl Sources {
    /// What an operator has named: folders, and beginnings of URLs. The environment says where S3 is.
    pub(crate) fn new(
        roots: &[String],
        trust: Trust,
        environment: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, String> {
        let mut sources = Self { trust, ..Self::default() };
        for root in roots {
            match root.split_once("://") {
                None if Path::new(root).is_absolute() => sources.folders.push(root.into()),
                None => return Err(format!("'{root}' is no absolute path")),
                Some((scheme, rest)) if scheme.eq_ignore_ascii_case("s3") => {
                    let name = ObjectName::parse(rest).map_err(|reason| format!("'{root}': {reason}"))?;
                    sources.objects.push(name);
                }
                Some(_) => sources.urls.push(web_url(root).map_err(|reason| format!("'{root}': {reason}"))?),
            }
        }
        if !sources.objects.is_empty() {
            sources.store = Some(Store::of(environment)?);
        }
        Ok(sources)
    }

    /// The folder that a path lies in, and the rest of the path.
    fn folder_of<'p>(&self, path: &'p Path) -> Option<(&PathBuf, &'p Path)> {
        let inside = self.folders.iter().filter_map(|folder| Some((folder, path.strip_prefix(folder).ok()?)));
        inside.max_by_key(|(folder, _)| folder.as_os_str().len())
    }

    fn allows_url(&self, url: &Url) -> bool {
        // A server may take what is escaped for a step up, which is not one of the URL itself.
        let path =
            url.path().to_ascii_lowercase().replace("%2f", "/").replace("%5c", "\\").replace("%2e", ".");
        let goes_up = path.split(['/', '\\']).any(|part| part == "..");
        let is_below = |allowed: &Url| {
            let rest = url.path().strip_prefix(allowed.path());
            let at_end = rest.is_some_and(|rest| {
                rest.is_empty() || rest.starts_with('/') || allowed.path().ends_with('/')
            });
            // Two of these schemes with one host and one port are one origin.
            allowed.origin() == url.origin() && at_end
        };
        !goes_up && !has_user(url) && self.urls.iter().any(is_below)
    }

    /// Where an object is asked for, if it may be.
    fn url_of(&self, object: &ObjectName, shown: &str) -> Result<Url, SourceError> {
        let store = self.store.as_ref().filter(|_| self.objects.iter().any(|name| name.holds(object)));
        let store = store.ok_or_else(|| SourceError::Forbidden(shown.to_owned()))?;
        store.url_of(object).map_err(|reason| SourceError::malformed(shown, reason))
    }
}

/// A URL of a server that can be asked.
fn web_url(text: &str) -> Result<Url, &'static str> {
    let url = Url::parse(text).map_err(|_| "it is no URL")?;
    match url.scheme() {
        "http" | "https" if has_user(&url) => Err("names and passwords in URLs are not sent"),
        "http" | "https" => Ok(url),
        _ => Err("paths, file://, http://, https:// and s3:// are read"),
    }
}

fn has_user(url: &Url) -> bool {
    !url.username().is_empty() || url.password().is_some()
}

/// Reads a source into a chunk of this node, which stays until what is given is dropped; `None` is a source without bytes.
pub(super) async fn read(
    node: &Arc<Node>,
    source: &str,
    device: Device,
) -> Result<Option<Written>, PoolError> {
    let shown: String = source.chars().take(200).collect();
    let malformed = |reason| SourceError::malformed(&shown, reason);
    let path = match source.split_once("://") {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("s3") => {
            let object = ObjectName::parse(rest).map_err(malformed)?;
            let url = node.reach.sources.url_of(&object, &shown)?;
            return web::read_object(node, url, &shown, device).await;
        }
        Some((scheme, path)) if scheme.eq_ignore_ascii_case("file") => {
            let path = path.strip_prefix("localhost").unwrap_or(path);
            let decoded = percent_encoding::percent_decode_str(path).decode_utf8();
            decoded.map_err(|_| malformed("its path is not UTF-8"))?.into_owned()
        }
        Some(_) => {
            let url = web_url(source).map_err(malformed)?;
            return web::read_url(node, url, &shown, device).await;
        }
        None => source.to_owned(),
    };
    file::read(node, PathBuf::from(path), &shown, device).await
}

/// Writes what comes as a chunk; there is none without bytes.
async fn write(
    node: &Arc<Node>,
    size: u64,
    device: Device,
    input: &mut dyn Input,
    shown: &str,
) -> Result<Option<Written>, PoolError> {
    if size == 0 {
        return Ok(None);
    }
    let geometry = Geometry::of(size).map_err(|error| SourceError::unreadable(shown, error))?;
    write_chunk(node, geometry, device, input).await.map(Some).map_err(|error| match error {
        WriteError::Source(reason) => SourceError::unreadable(shown, reason).into(),
        WriteError::Engine(error @ EngineError::GpuFull { .. }) => {
            SourceError::GpuFull(error.to_string()).into()
        }
        WriteError::Engine(error) => match ValueError::from(error) {
            ValueError::Full => SourceError::Full.into(),
            ValueError::Failed(failure) => failure.into(),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn try_sources(roots: &[&str]) -> Result<Sources, String> {
        let roots: Vec<String> = roots.iter().map(|&root| root.to_owned()).collect();
        Sources::new(&roots, Trust::default(), &|_| None)
    }

    #[test]
    fn urls_begin_as_they_must() {
        let roots = ["http://data:8000/sets", "http://other:1/", "https://safe/a/"];
        let sources = try_sources(&roots).unwrap();
        let allows = |url: &str| sources.allows_url(&url.parse().unwrap());
        for url in [
            "http://data:8000/sets/a?b",
            "http://data:8000/sets",
            "http://data:8000/x/../sets/a",
            "http://other:1/x/y",
            "https://safe:443/a/b",
        ] {
            assert!(allows(url), "{url}");
        }
        for url in [
            "http://data:8000/setsx",
            "http://data:8000/",
            "http://data/sets/a",
            "http://data:8000/sets/../a",
            "http://data:8000/sets/%2e%2E/a",
            "http://data:8000/sets/..%2fa",
            "http://data:8000/sets/.%2e%5Ca",
            "http://elsewhere:1/",
            "http://data:8000@elsewhere/sets/a",
            "http://me@data:8000/sets/a",
            "http://safe/a/b",
            "https://safe/b",
            "https://data:8000/sets/a",
        ] {
            assert!(!allows(url), "{url}");
        }
    }

    #[test]
    fn roots_are_folders_and_beginnings_of_urls() {
        for root in
            ["data", "ftp://a/", "http://", "https://u:p@a/", "s3://", "s3://b/../c", "http://é\u{2}/"]
        {
            assert!(try_sources(&[root]).is_err(), "{root}");
        }
        let sources = try_sources(&["/in", "s3://bucket/sets"]).unwrap();
        assert!(sources.folder_of(Path::new("/in/x")).is_some());
        assert!(sources.folder_of(Path::new("/inx/y")).is_none());
        let url = |text: &str| sources.url_of(&ObjectName::parse(text).unwrap(), text).is_ok();
        assert!(url("bucket/sets/a") && !url("bucket/other") && !url("elsewhere/sets/a"));
    }
}
