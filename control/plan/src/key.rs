//! What a key may look like.

/// Longest key, in bytes.
pub const KEY_LENGTH_MAX: usize = 1024;

/// Refuses what is not a key: a path-like name of 1 to [`KEY_LENGTH_MAX`] bytes whose components are separated
/// by `/`.
pub fn check_key(key: &str) -> Result<(), KeyError> {
    let reason = match key {
        "" => "it is empty",
        _ if key.len() > KEY_LENGTH_MAX => "it is longer than 1024 bytes",
        _ if key.contains('\0') => "it holds a NUL",
        _ if key.starts_with('/') => "it begins with '/'",
        _ if key.ends_with('/') => "it ends with '/'",
        _ if key.contains("//") => "it holds an empty component",
        _ if key.split('/').any(|part| part == "." || part == "..") => "it holds a component '.' or '..'",
        _ => return Ok(()),
    };
    Err(KeyError { key: key.chars().take(80).collect(), reason })
}

/// A text that cannot be a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key:?} cannot be a key because {reason}; a key is a name like models/llama/step-100")]
pub struct KeyError {
    /// The beginning of the text.
    pub key: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn path_like_names_are_keys() {
        for key in ["a", "models/llama/step-100", "...", "a/.b/c..", "ключ/鍵", "a b", &"k".repeat(1024)]
        {
            assert_eq!(check_key(key), Ok(()), "{key}");
        }
    }

    #[test]
    fn what_would_confuse_paths_is_refused() {
        for key in
            ["", "/", "/a", "a/", "a//b", ".", "..", "a/./b", "a/..", "../a", "a\0b", &"k".repeat(1025)]
        {
            assert!(check_key(key).is_err(), "{key}");
        }
    }

    proptest! {
        #[test]
        fn a_key_joined_to_a_directory_stays_inside(key in "[a./\0]{0,12}") {
            let clean = !key.contains('\0')
                && key.split('/').all(|part| !part.is_empty() && part != "." && part != "..");
            prop_assert_eq!(check_key(&key).is_ok(), clean);
        }
    }
}
