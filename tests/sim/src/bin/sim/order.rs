//! Flags.

use std::fmt::Display;
use std::str::FromStr;

/// The value that follows a flag.
pub fn value<T: FromStr>(flag: &str, arguments: &mut impl Iterator<Item = String>) -> Result<T, String> {
    parse(flag, &arguments.next().ok_or_else(|| format!("{flag} wants a value\n\n{}", crate::USAGE))?)
}

/// Reads what somebody wrote.
pub fn parse<T: FromStr>(what: impl Display, text: &str) -> Result<T, String> {
    text.parse().map_err(|_| unknown(what, text))
}

/// What to say of a word that means nothing here.
pub fn unknown(what: impl Display, text: &str) -> String {
    format!("'{text}' is no value of {what}\n\n{}", crate::USAGE)
}
