//! Where a listing goes on.

use std::fmt;
use std::str::FromStr;

use crate::verify::frame_checksum_of;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;

/// The version that is written.
const VERSION: u8 = 1;
/// Bytes before the key.
const HEAD: usize = 5;

/// Where the next page of a listing begins, as a text that means nothing to others: base64url of one byte of version, the
/// CRC-32C of prefix and key, and the key after which the page begins. So it needs no memory on any node and outlives restarts;
/// one that was made up or belongs to another listing is noticed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    checksum: u32,
    after: String,
}

/// The text is no cursor, or belongs to another listing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the cursor is damaged, or of another listing; begin again without one")]
pub struct CursorError;

impl Cursor {
    /// The cursor of the page after the key `after` in a listing of `prefix`.
    pub fn new(prefix: &str, after: impl Into<String>) -> Self {
        let after = after.into();
        Self { checksum: checksum(prefix, &after), after }
    }

    /// The key after which the page begins.
    pub fn after(self, prefix: &str) -> Result<String, CursorError> {
        if self.checksum == checksum(prefix, &self.after) { Ok(self.after) } else { Err(CursorError) }
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = Vec::with_capacity(HEAD + self.after.len());
        bytes.push(VERSION);
        bytes.extend(self.checksum.to_le_bytes());
        bytes.extend(self.after.as_bytes());
        f.write_str(&BASE64_URL_SAFE_NO_PAD.encode(bytes))
    }
}

impl FromStr for Cursor {
    type Err = CursorError;

    fn from_str(text: &str) -> Result<Self, CursorError> {
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(text).map_err(|_| CursorError)?;
        let (head, after) = bytes.split_at_checked(HEAD).ok_or(CursorError)?;
        let &[VERSION, a, b, c, d] = head else { return Err(CursorError) };
        let after = std::str::from_utf8(after).map_err(|_| CursorError)?;
        Ok(Self { checksum: u32::from_le_bytes([a, b, c, d]), after: after.into() })
    }
}

fn checksum(prefix: &str, after: &str) -> u32 {
    // No key holds a NUL, so that no other prefix and key come to the same bytes.
    frame_checksum_of(format!("{prefix}\0{after}").as_bytes())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_cursor_stays_what_it_was() {
        // Who holds one when a node is upgraded goes on with it.
        assert_eq!(Cursor::new("a/", "a/b").to_string(), "Aa4JPN5hL2I");
    }

    proptest! {
        #[test]
        fn a_cursor_leads_back_to_its_key(prefix in "[a-c/é]{0,8}", after in "[a-c/é]{1,20}") {
            let cursor: Cursor = Cursor::new(&prefix, after.clone()).to_string().parse().unwrap();
            prop_assert_eq!(cursor.clone().after(&prefix), Ok(after));
            prop_assert_eq!(cursor.after(&format!("{prefix}x")), Err(CursorError));
        }

        #[test]
        fn a_changed_cursor_is_noticed(at: prop::sample::Index, bit in 0..6_u32) {
            let text = Cursor::new("models/", "models/llama").to_string();
            let at = at.index(text.len());
            let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
            let digit = alphabet.find(&text[at..=at]).unwrap() ^ (1 << bit);
            let changed = format!("{}{}{}", &text[..at], &alphabet[digit..=digit], &text[at + 1..]);
            let read = changed.parse::<Cursor>().and_then(|cursor| cursor.after("models/"));
            prop_assert_eq!(read, Err(CursorError));
        }

        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,60}") {
            let _ = text.parse::<Cursor>();
        }
    }
}
