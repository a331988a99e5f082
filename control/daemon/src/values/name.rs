//! Under which names the catalog keeps values.
//!
//! Keys of values are any texts, and keys of the catalog are paths. So each has a name below [`PREFIX`] in which what no
//! path can have is escaped: `%` and control characters as `%XX`, `.` and `..` as `%2E` and `%2E%2E`, and an empty part
//! as `%`.

use plan::key::KEY_LENGTH_MAX;

/// What all names begin with.
pub(crate) const PREFIX: &str = "gswarm/";

/// A text that cannot be a key of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NameError {
    #[error("a key has at least one character")]
    Empty,
    #[error("a key has at most {} bytes once it is escaped", KEY_LENGTH_MAX - PREFIX.len())]
    Long,
}

/// Refuses what cannot be a key.
pub(crate) fn check(key: &str) -> Result<(), NameError> {
    match key {
        "" => Err(NameError::Empty),
        _ if key.len() > KEY_LENGTH_MAX || name_of(key).len() > KEY_LENGTH_MAX => Err(NameError::Long),
        _ => Ok(()),
    }
}

/// The name of a key.
pub(crate) fn name_of(key: &str) -> String {
    let mut name = String::with_capacity(PREFIX.len() + key.len());
    name.push_str(PREFIX);
    for (at, part) in key.split('/').enumerate() {
        if at > 0 {
            name.push('/');
        }
        match part {
            "" => name.push('%'),
            "." => name.push_str("%2E"),
            ".." => name.push_str("%2E%2E"),
            part => part.chars().for_each(|character| push_escaped(&mut name, character)),
        }
    }
    name
}

/// The key that has this name; `None` for what is no name.
pub(crate) fn key_of(name: &str) -> Option<String> {
    let parts = name.strip_prefix(PREFIX)?.split('/').map(|part| match part {
        "%" => Some(String::new()),
        part => percent_encoding::percent_decode_str(part).decode_utf8().ok().map(Into::into),
    });
    let key = parts.collect::<Option<Vec<String>>>()?.join("/");
    (name_of(&key) == name).then_some(key)
}

fn push_escaped(name: &mut String, character: char) {
    if character == '%' || character.is_ascii_control() {
        name.push_str(&format!("%{:02X}", u32::from(character)));
    } else {
        name.push(character);
    }
}

#[cfg(test)]
mod tests {
    use plan::key::check_key;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn usual_keys_stay_as_they_are() {
        assert_eq!(name_of("user:123"), "gswarm/user:123");
        assert_eq!(name_of("model/weights.0"), "gswarm/model/weights.0");
        assert_eq!(name_of("/a//./../b%/"), "gswarm/%/a/%/%2E/%2E%2E/b%25/%");
        assert_eq!(key_of("models/llama"), None);
        assert_eq!(key_of("gswarm/a%41"), None);
        assert_eq!((check(""), check(&"k".repeat(1018))), (Err(NameError::Empty), Err(NameError::Long)));
        assert_eq!(check(&"k".repeat(1017)), Ok(()));
    }

    proptest! {
        #[test]
        fn any_key_has_a_name_of_its_own(key in "[a./%\0\u{1f}é2E]{1,12}|\\PC{1,30}") {
            let name = name_of(&key);
            prop_assert_eq!(check_key(&name), Ok(()));
            prop_assert_eq!(key_of(&name), Some(key));
        }

        #[test]
        fn what_is_no_name_is_no_key(name in "(gswarm/)?[a./%2EG]{0,8}") {
            if let Some(key) = key_of(&name) {
                prop_assert_eq!(name_of(&key), name);
            }
        }
    }
}
