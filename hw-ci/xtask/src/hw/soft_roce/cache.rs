//! What is made once and found again: a folder outside the checkout.

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

use super::Error;

/// The folder, locked while this lives: a second run waits for what the first one makes.
pub(super) struct Cache {
    folder: PathBuf,
    _lock: File,
}

impl Cache {
    pub(super) fn open() -> Result<Self, Error> {
        let folder = location(std::env::var_os("SHOAL_SOFT_ROCE_DIR"), std::env::var_os("HOME"))?;
        let failed = |action| {
            let path = folder.clone();
            move |source| Error::File { action, path, source }
        };
        fs::create_dir_all(&folder).map_err(failed("make"))?;
        let folder = fs::canonicalize(&folder).map_err(failed("find"))?;
        if folder.as_os_str().as_encoded_bytes().iter().any(u8::is_ascii_whitespace) {
            return Err(Error::Space { path: folder, variable: "SHOAL_SOFT_ROCE_DIR" });
        }
        let lock = File::create(folder.join("lock")).map_err(failed("lock"))?;
        lock.lock().map_err(failed("lock"))?;
        Ok(Self { folder, _lock: lock })
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The folder `name-KEY`, where the key stands for all of `ingredients`. When it is not there yet, `make` fills an
    /// empty one, which takes the name when it is whole.
    pub(super) fn entry(
        &self,
        name: &str,
        ingredients: &[&str],
        make: impl FnOnce(&Path) -> Result<(), Error>,
    ) -> Result<PathBuf, Error> {
        let whole = self.folder.join(format!("{name}-{}", key(ingredients)));
        if whole.exists() {
            return Ok(whole);
        }
        let part = whole.with_extension("part");
        empty(&part)?;
        make(&part)?;
        fs::rename(&part, &whole).map_err(|source| Error::File { action: "rename", path: part, source })?;
        Ok(whole)
    }
}

/// Makes a folder that has nothing in it.
pub(super) fn empty(folder: &Path) -> Result<(), Error> {
    remove(folder)?;
    let failed = |source| Error::File { action: "make", path: folder.to_owned(), source };
    fs::create_dir_all(folder).map_err(failed)
}

/// Removes a folder, if it is there.
pub(super) fn remove(folder: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(folder) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::File { action: "remove", path: folder.to_owned(), source })
        }
        _ => Ok(()),
    }
}

fn location(chosen: Option<std::ffi::OsString>, home: Option<std::ffi::OsString>) -> Result<PathBuf, Error> {
    match (chosen, home) {
        (Some(chosen), _) if !chosen.is_empty() => Ok(chosen.into()),
        (_, Some(home)) => Ok(PathBuf::from(home).join(".cache/shoal/soft-roce")),
        _ => Err(Error::Missing {
            what: "there is no HOME to keep packages and kernel in".into(),
            remedy: "set SHOAL_SOFT_ROCE_DIR to a folder",
        }),
    }
}

/// The same for the same ingredients in the same order. The standard library may change its hash between releases of
/// Rust, which costs making an entry again.
fn key(ingredients: &[&str]) -> String {
    let mut hasher = DefaultHasher::new();
    ingredients.hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_differ_when_anything_does() {
        assert_eq!(key(&["a", "bc"]), key(&["a", "bc"]));
        assert_ne!(key(&["a", "bc"]), key(&["ab", "c"]));
        assert_ne!(key(&["a"]), key(&["a", ""]));
    }

    #[test]
    fn the_folder_is_the_chosen_one_or_in_the_home() {
        assert_eq!(location(Some("/x".into()), Some("/h".into())).unwrap(), Path::new("/x"));
        let usual = Path::new("/h/.cache/shoal/soft-roce");
        assert_eq!(location(None, Some("/h".into())).unwrap(), usual);
        assert_eq!(location(Some("".into()), Some("/h".into())).unwrap(), usual);
        assert!(location(None, None).is_err());
    }

    #[test]
    fn an_entry_is_made_once_and_only_when_it_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let lock = File::create(folder.path().join("lock")).unwrap();
        let cache = Cache { folder: folder.path().to_owned(), _lock: lock };
        let fails = |_: &Path| Err(Error::Configuration("x".into()));
        assert!(cache.entry("a", &["1"], fails).is_err());
        let made = cache.entry("a", &["1"], |part| {
            fs::write(part.join("f"), "").unwrap();
            Ok(())
        });
        assert!(made.unwrap().join("f").exists());
        assert!(cache.entry("a", &["1"], fails).is_ok() && cache.entry("a", &["2"], fails).is_err());
    }
}
