//! Who fetches which piece from whom, and what a source sends next.
