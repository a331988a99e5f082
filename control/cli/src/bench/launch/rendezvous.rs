//! Where tasks find the first one: a file in a folder that all of them see.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::rank::Rank;
use crate::bench::BenchError;

/// Tells this file from others, and from those of other versions.
const FORMAT: &str = "shoal-rendezvous 1";

/// What the first task tells the others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    format: String,
    /// Where the head listens: `HOST:PORT`.
    pub address: String,
    /// What proves that a node belongs to the run.
    pub token: String,
}

/// The file, on the side of the first task, which removes it when this is dropped.
#[derive(Debug)]
pub struct Rendezvous {
    path: PathBuf,
}

impl Rendezvous {
    /// Writes the file, for its owner alone, so that it is seen whole or not at all.
    pub fn tell(folder: &Path, rank: &Rank, address: &str, token: &str) -> Result<Self, BenchError> {
        let path = path(folder, rank);
        let failed = |source| BenchError::Rendezvous { path: path.clone(), source };
        fs::create_dir_all(folder).map_err(failed)?;
        let found = Found { format: FORMAT.into(), address: address.into(), token: token.into() };
        let text = serde_json::to_string(&found).map_err(|error| failed(error.into()))?;
        let draft = path.with_extension(format!("draft-{}", std::process::id()));
        let written = OpenOptions::new()
            .create_new(true)
            .write(true)
            .mode(0o600)
            .open(&draft)
            .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()))
            .and_then(|()| fs::rename(&draft, &path));
        if let Err(error) = written {
            let _ = fs::remove_file(&draft);
            return Err(failed(error));
        }
        Ok(Self { path })
    }
}

impl Drop for Rendezvous {
    fn drop(&mut self) {
        // Another run of the same name has replaced it, or the folder is gone.
        let _ = fs::remove_file(&self.path);
    }
}

/// What the first task has written, if it has.
pub fn find(folder: &Path, rank: &Rank) -> Result<Option<Found>, BenchError> {
    // File systems of clusters remember for a while that a file is not there; listing its folder corrects that.
    let _ = fs::read_dir(folder).map(Iterator::count);
    let path = path(folder, rank);
    match fs::read_to_string(&path) {
        Ok(text) => Ok(serde_json::from_str(&text).ok().filter(|found: &Found| found.format == FORMAT)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(BenchError::Rendezvous { path, source }),
    }
}

fn path(folder: &Path, rank: &Rank) -> PathBuf {
    let run = rank.run.as_deref().map(|run| format!("-{run}")).unwrap_or_default();
    folder.join(format!(".shoal-rendezvous{run}"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn tasks_find_what_was_told_until_the_run_is_over() {
        let folder = tempfile::tempdir().unwrap();
        let rank = Rank { run: Some("77.0".into()), ..Rank::alone() };
        assert_eq!(find(folder.path(), &rank).unwrap(), None);
        let told = Rendezvous::tell(folder.path(), &rank, "10.0.0.1:9", "secret").unwrap();
        let mode = fs::metadata(&told.path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let found = find(folder.path(), &rank).unwrap().unwrap();
        assert_eq!((&*found.address, &*found.token), ("10.0.0.1:9", "secret"));
        assert_eq!(find(folder.path(), &Rank::alone()).unwrap(), None);
        drop(told);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_file_of_something_else_is_not_taken() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(path(folder.path(), &Rank::alone()), "{\"format\": \"other\"}").unwrap();
        assert_eq!(find(folder.path(), &Rank::alone()).unwrap(), None);
    }
}
