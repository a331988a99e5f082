//! Notices writes that were lost.
//!
//! The engine takes damage in the middle of its journal for the torn end of an interrupted write and drops what
//! follows. A file beside it names a revision that was on disk for certain; a catalog that ends before it has
//! lost writes and is not opened.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::record;
use crate::error::CatalogError;

const NAME: &str = "fence";

/// The last revision that is on disk for certain.
pub(crate) struct Fence {
    directory: PathBuf,
    revision: u64,
}

impl Fence {
    /// Reads the fence, and refuses a catalog that ends at revision `found` when it was further.
    pub(crate) fn check(directory: &Path, found: u64) -> Result<Self, CatalogError> {
        let path = directory.join(NAME);
        let fenced = match fs::read(&path) {
            Ok(bytes) => {
                record::open::<u64>(NAME, b"", &bytes).map(|(revision, _)| revision).map_err(|_| {
                    CatalogError::Damaged {
                        subject: format!("its last revision, the file {},", path.display()),
                    }
                })?
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(error) => return Err(CatalogError::file("reading", &path)(error)),
        };
        if found < fenced {
            return Err(CatalogError::LostWrites { directory: directory.into(), found, fenced });
        }
        Ok(Self { directory: directory.into(), revision: fenced })
    }

    /// Moves the fence to `revision`, which must be on disk.
    pub(crate) fn advance(&mut self, revision: u64) -> Result<(), CatalogError> {
        if revision <= self.revision {
            return Ok(());
        }
        let path = self.directory.join(NAME);
        let written = self.directory.join("fence.part");
        let replace = || {
            let mut file = File::create(&written)?;
            file.write_all(&record::seal(NAME, b"", &revision, b""))?;
            file.sync_data()?;
            fs::rename(&written, &path)
        };
        replace().map_err(CatalogError::file("writing", &path))?;
        self.revision = revision;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_catalog_that_ends_too_early_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        Fence::check(directory.path(), 0).unwrap().advance(7).unwrap();
        let mut fence = Fence::check(directory.path(), 7).unwrap();
        fence.advance(3).unwrap();
        assert!(matches!(
            Fence::check(directory.path(), 6),
            Err(CatalogError::LostWrites { found: 6, fenced: 7, .. })
        ));
        fs::write(directory.path().join(NAME), b"rubbish").unwrap();
        assert!(matches!(Fence::check(directory.path(), 9), Err(CatalogError::Damaged { .. })));
    }
}
