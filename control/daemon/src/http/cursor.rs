//! Where the next page of a listing begins, as a text that means nothing to others.
//!
//! It is base64url of one byte of version, the CRC-32C of prefix and key, and the key after which the page begins. So it
//! needs no memory on any node, outlives restarts, and one that was made up or belongs to another prefix is noticed.

use axum::http::StatusCode;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use flow::verify::frame_checksum_of;
use plan::key::check_key;

use super::problem::{Code, Problem};

/// The version that [`encode`] writes.
const VERSION: u8 = 1;
/// Bytes before the key.
const HEAD: usize = 5;

/// The cursor of the page after the key `after` in a listing of `prefix`.
pub(super) fn encode(prefix: &str, after: &str) -> String {
    let mut bytes = Vec::with_capacity(HEAD + after.len());
    bytes.push(VERSION);
    bytes.extend(checksum(prefix, after).to_le_bytes());
    bytes.extend(after.as_bytes());
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

/// The key after which the page begins.
pub(super) fn decode(prefix: &str, cursor: &str) -> Result<String, Problem> {
    let refused = || {
        let text = "the cursor is damaged, or of another listing";
        Problem::new(StatusCode::BAD_REQUEST, Code::BadCursor, text, "begin again without a cursor")
    };
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(cursor).map_err(|_| refused())?;
    let (head, after) = bytes.split_at_checked(HEAD).ok_or_else(refused)?;
    let after = std::str::from_utf8(after).map_err(|_| refused())?;
    let sound = head[0] == VERSION && head[1..] == checksum(prefix, after).to_le_bytes();
    if !sound || check_key(after).is_err() {
        return Err(refused());
    }
    Ok(after.to_owned())
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
        assert_eq!(encode("a/", "a/b"), "Aa4JPN5hL2I");
    }

    proptest! {
        #[test]
        fn a_cursor_leads_back_to_its_key(prefix in "[a-c/é]{0,8}", after in "[a-cé][a-c/é]{0,20}[a-c]") {
            prop_assume!(check_key(&after).is_ok());
            let cursor = encode(&prefix, &after);
            prop_assert_eq!(decode(&prefix, &cursor).unwrap(), after);
            let other = decode(&format!("{prefix}x"), &cursor);
            prop_assert!(other.is_err());
        }

        #[test]
        fn a_changed_cursor_is_noticed(at: prop::sample::Index, bit in 0..6u32) {
            let cursor = encode("models/", "models/llama");
            let at = at.index(cursor.len());
            let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
            let digit = alphabet.find(&cursor[at..=at]).unwrap() ^ (1 << bit);
            let changed = format!("{}{}{}", &cursor[..at], &alphabet[digit..=digit], &cursor[at + 1..]);
            prop_assert_eq!(decode("models/", &changed).unwrap_err().code, Code::BadCursor);
        }

        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,60}") {
            let _ = decode("", &text);
        }
    }
}
