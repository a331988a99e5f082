//! What may not stand in any file.

use std::path::Path;

use super::Finding;

// Spelled in halves, so that this file passes its own check.
const UNFINISHED: [&str; 3] = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X")];
const MACHINE_PATHS: [&str; 3] = [concat!("/wo", "rk/"), concat!("/tmp", "/t/"), concat!("/ro", "ot/")];

pub(super) fn check(place: &Path, text: &str, findings: &mut Vec<Finding>) {
    // Cargo writes the lock file, and its checksums are no words.
    if place == Path::new("Cargo.lock") {
        return;
    }
    for (at, line) in text.lines().enumerate() {
        let place = format!("{}:{}", place.display(), at + 1);
        for word in UNFINISHED.into_iter().filter(|word| stands_alone(line, word)) {
            findings.push(Finding::error(
                &place,
                format!("{word}: finish it, or open an issue and leave no mark here"),
            ));
        }
        for path in MACHINE_PATHS.into_iter().filter(|path| begins_with_path(line, path)) {
            let text = format!("{path}… is a folder of one machine: write a path relative to the repository");
            findings.push(Finding::error(&place, text));
        }
    }
}

/// Whether `word` is in the line with no letter, digit or underscore beside it.
fn stands_alone(line: &str, word: &str) -> bool {
    let part = |near: Option<char>| near.is_some_and(|near| near.is_alphanumeric() || near == '_');
    line.match_indices(word)
        .any(|(at, _)| !part(line[..at].chars().next_back()) && !part(line[at + word.len()..].chars().next()))
}

/// Whether an absolute path in the line begins with `path`.
fn begins_with_path(line: &str, path: &str) -> bool {
    let inside = |near: char| near.is_alphanumeric() || "._-~}$*".contains(near);
    line.match_indices(path).any(|(at, _)| !line[..at].chars().next_back().is_some_and(inside))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(text: &str) -> usize {
        let mut findings = Vec::new();
        check(Path::new("a.md"), text, &mut findings);
        findings.len()
    }

    #[test]
    fn marks_of_unfinished_code_are_found_as_words_only() {
        assert_eq!(count(concat!("// TO", "DO: later\n// FIX", "ME")), 2);
        assert_eq!(count(concat!("AUTO", "DO MASTO", "DON shoal-XX", "XX")), 0);
    }

    #[test]
    fn folders_of_a_machine_are_found_and_relative_paths_are_not() {
        assert_eq!(count(concat!("see /wo", "rk/main and `/wo", "rk/x`")), 1);
        assert_eq!(count(concat!("net/wo", "rk/a and ./wo", "rk/b")), 0);
    }
}
