//! Tells whose changes are wanted.

use plan::key::{KEY_LENGTH_MAX, check_key};
use regex::{Regex, RegexBuilder};

use crate::change::Selector;
use crate::check::{self, invalid};
use crate::error::CatalogError;

/// Longest pattern, in bytes.
const PATTERN_LENGTH_MAX: usize = KEY_LENGTH_MAX;
/// Most memory of a pattern, in bytes.
const PATTERN_SIZE_MAX: usize = 1 << 20;

/// A selector that was checked and made ready.
#[derive(Debug)]
pub enum Selection {
    /// One key.
    Key(String),
    /// All that begin with it.
    Prefix(String),
    /// All that a pattern matches.
    Glob(Regex),
}

impl Selection {
    /// Refuses what is no key, no prefix or no pattern.
    pub fn new(selector: Selector) -> Result<Self, CatalogError> {
        match selector {
            Selector::Key(key) => {
                check_key(&key)?;
                Ok(Selection::Key(key))
            }
            Selector::Prefix(prefix) => {
                check::prefix(&prefix)?;
                Ok(Selection::Prefix(prefix))
            }
            Selector::Glob(pattern) => Ok(Selection::Glob(compile(&pattern)?)),
        }
    }

    /// Whether changes of the key are wanted.
    pub fn has(&self, key: &str) -> bool {
        match self {
            Selection::Key(wanted) => wanted == key,
            Selection::Prefix(prefix) => key.starts_with(prefix),
            Selection::Glob(pattern) => pattern.is_match(key),
        }
    }

    /// What all keys that are wanted begin with.
    pub fn prefix(&self) -> &str {
        match self {
            Selection::Key(prefix) | Selection::Prefix(prefix) => prefix,
            Selection::Glob(_) => "",
        }
    }
}

/// A glob as a regular expression. Libraries for globs are about paths in file systems: with them `?` is one byte, and
/// braces and double stars have a meaning.
fn compile(pattern: &str) -> Result<Regex, CatalogError> {
    const WHAT: &str = "a pattern";
    if pattern.len() > PATTERN_LENGTH_MAX {
        return Err(invalid(WHAT, pattern, "it is longer than a key can be"));
    }
    let mut expression = String::from("(?s)^");
    let mut rest = pattern.chars();
    while let Some(next) = rest.next() {
        match next {
            '*' => expression.push_str(".*"),
            '?' => expression.push('.'),
            '[' => {
                let (class, after) = rest
                    .as_str()
                    .split_once(']')
                    .ok_or_else(|| invalid(WHAT, pattern, "a '[' has no ']'"))?;
                let class = class_of(class).ok_or_else(|| {
                    invalid(WHAT, pattern, "what is between '[' and ']' is not a set like a-z_")
                })?;
                expression.push_str(&class);
                rest = after.chars();
            }
            other => expression.push_str(&regex::escape(other.encode_utf8(&mut [0; 4]))),
        }
    }
    expression.push('$');
    let compiled = RegexBuilder::new(&expression).size_limit(PATTERN_SIZE_MAX).build();
    compiled.map_err(|_| invalid(WHAT, pattern, "it takes too much memory; make it shorter"))
}

/// A set of characters and ranges, such as `a-z_`, or with `!` in front all others.
fn class_of(text: &str) -> Option<String> {
    let (negated, text) = text.strip_prefix('!').map_or((false, text), |text| (true, text));
    let mut class = String::from(if negated { "[^" } else { "[" });
    let mut rest = text.chars().peekable();
    rest.peek()?;
    while let Some(first) = rest.next() {
        let mut last = first;
        let mut ahead = rest.clone();
        if ahead.next() == Some('-')
            && let Some(end) = ahead.next()
        {
            (last, rest) = (end, ahead);
        }
        if first > last {
            return None;
        }
        class.push_str(&format!("\\x{{{:x}}}-\\x{{{:x}}}", u32::from(first), u32::from(last)));
    }
    class.push(']');
    Some(class)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn glob(pattern: &str) -> Result<Selection, CatalogError> {
        Selection::new(Selector::Glob(pattern.into()))
    }

    #[test]
    fn globs_match_whole_keys() {
        let has = |pattern: &str, key: &str| glob(pattern).unwrap().has(key);
        assert!(has("*", "a/b") && has("a/*", "a/b/c") && has("a/*/c", "a/b/b/c"));
        assert!(has("a?c", "aбc") && !has("a?c", "ac") && !has("a?c", "abbc"));
        assert!(has("step-[0-9]", "step-7") && !has("step-[0-9]", "step-77") && !has("step-[0-9]", "step-x"));
        assert!(has("[!a-c_]x", "dx") && !has("[!a-c_]x", "_x") && has("[a-]", "-") && has("[^]", "^"));
        assert!(has("a.c+{b,c}(\\", "a.c+{b,c}(\\") && !has("a.c", "abc") && !has("b", "abc"));
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        for pattern in ["[", "[]", "[!]", "[z-a]", &"a".repeat(PATTERN_LENGTH_MAX + 1)] {
            assert!(matches!(glob(pattern), Err(CatalogError::Invalid { .. })), "{pattern}");
        }
        assert!(
            glob(&"?".repeat(PATTERN_LENGTH_MAX)).is_ok() && glob(&"*".repeat(PATTERN_LENGTH_MAX)).is_ok()
        );
    }

    proptest! {
        #[test]
        fn no_pattern_panics_and_texts_without_signs_match_themselves(pattern: String, key: String) {
            if let Ok(selection) = glob(&pattern) {
                selection.has(&key);
            }
            let plain = pattern.replace(['*', '?', '['], "");
            prop_assert!(glob(&plain).unwrap().has(&plain));
        }
    }
}
