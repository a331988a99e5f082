//! Sources on servers, which may send the reader on to others that it may read as well.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use flow::wire::session::Device;
use hyper::body::Bytes;
use rustix::fs::{Mode, OFlags};
use url::Url;

use super::file::FileBytes;
use super::{SourceError, write};
use crate::node::Node;
use crate::outgoing::{self, Answer, Download};
use crate::pool::PoolError;
use crate::values::{Input, Written};

/// How often servers may send the reader on.
const REDIRECTS_MAX: usize = 5;
/// Most bytes of a source whose size is not told before they come.
const UNTOLD_SIZE_MAX: u64 = 16 << 30;
/// How much of such a source is written to its file at once, in bytes.
const SPOOL_STEP: usize = 1 << 20;

/// Reads what a URL names, and what that names in turn, as far as all of it may be read.
pub(super) async fn read_url(
    node: &Arc<Node>,
    mut url: Url,
    shown: &str,
    device: Device,
) -> Result<Option<Written>, PoolError> {
    let sources = &node.reach.sources;
    for _ in 0..=REDIRECTS_MAX {
        if !sources.allows_url(&url) {
            return Err(SourceError::Forbidden(without_query(&url)).into());
        }
        match outgoing::get(&url, &sources.trust).await {
            Ok(Answer::Bytes(download)) => return take(node, download, shown, device).await,
            Ok(Answer::Elsewhere(next)) => url = next,
            Err(error) => return Err(SourceError::unreadable(shown, error).into()),
        }
    }
    let reason = format!("it was sent on more than {REDIRECTS_MAX} times");
    Err(SourceError::unreadable(shown, reason).into())
}

/// Reads an object of S3. Where its server sends on is not followed, since the signature is for this one alone.
pub(super) async fn read_object(
    node: &Arc<Node>,
    url: Url,
    shown: &str,
    device: Device,
) -> Result<Option<Written>, PoolError> {
    match outgoing::get(&url, &node.reach.sources.trust).await {
        Ok(Answer::Bytes(download)) => take(node, download, shown, device).await,
        Ok(Answer::Elsewhere(_)) => {
            let reason = "its bucket is in another region than AWS_REGION says";
            Err(SourceError::unreadable(shown, reason).into())
        }
        Err(error) => Err(SourceError::unreadable(shown, error).into()),
    }
}

/// What is told of a URL: what follows the `?` may be a secret.
fn without_query(url: &Url) -> String {
    url[..url::Position::AfterPath].chars().take(200).collect()
}

async fn take(
    node: &Arc<Node>,
    mut download: Download,
    shown: &str,
    device: Device,
) -> Result<Option<Written>, PoolError> {
    if let Some(length) = download.length {
        return write(node, length, device, &mut download, shown).await;
    }
    let (file, length) = spool(&node.identity.data_dir, download, shown).await?;
    write(node, length, device, &mut FileBytes::of(file), shown).await
}

#[async_trait]
impl Input for Download {
    async fn next(&mut self, _offset: u64, length: usize) -> Result<Bytes, String> {
        let mut bytes = Vec::with_capacity(length);
        while bytes.len() < length {
            let part = self.part(length - bytes.len()).await.map_err(|error| error.to_string())?;
            bytes.extend_from_slice(&part.ok_or("it ended too soon")?);
        }
        Ok(bytes.into())
    }
}

/// Brings what comes into a file without a name: a chunk begins with its size, which is known only at the end.
async fn spool(folder: &Path, mut download: Download, shown: &str) -> Result<(File, u64), PoolError> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let opened = rustix::fs::open(folder, flags, Mode::RUSR | Mode::WUSR);
    let mut file = File::from(opened.map_err(|error| {
        let reason = format!("its size is not told, and the data directory takes no file for it: {error}");
        SourceError::unreadable(shown, reason)
    })?);
    let (mut length, mut is_over) = (0, false);
    while !is_over {
        let mut bytes = Vec::with_capacity(SPOOL_STEP);
        while bytes.len() < SPOOL_STEP && !is_over {
            let part = download.part(SPOOL_STEP - bytes.len()).await;
            match part.map_err(|error| SourceError::unreadable(shown, error))? {
                Some(part) => bytes.extend_from_slice(&part),
                None => is_over = true,
            }
        }
        length += bytes.len() as u64;
        if length > UNTOLD_SIZE_MAX {
            let reason = format!("its size is not told, and it has more than {UNTOLD_SIZE_MAX} bytes");
            return Err(SourceError::unreadable(shown, reason).into());
        }
        let written = tokio::task::spawn_blocking(move || file.write_all(&bytes).map(|()| file)).await;
        file = match written {
            Ok(Ok(file)) => file,
            Ok(Err(error)) if error.kind() == std::io::ErrorKind::StorageFull => {
                return Err(SourceError::Full.into());
            }
            Ok(Err(error)) => return Err(SourceError::unreadable(shown, error).into()),
            Err(_) => return Err(SourceError::unreadable(shown, "keeping what came failed").into()),
        };
    }
    Ok((file, length))
}
