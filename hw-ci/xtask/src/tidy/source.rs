//! What the tokens of a Rust file show. Tokens, not text: comments and strings may speak of anything.

use std::path::Path;

use proc_macro2::{TokenStream, TokenTree};

use super::Finding;

/// Where `unsafe` may stand. Each begins a path.
const UNSAFE_ROOMS: [&str; 3] = ["dataplane/memory/", "dataplane/engine/src/ring/", "ffi/"];
/// Names that say nothing about what is inside.
const EMPTY_NAMES: [&str; 4] = ["util", "common", "helpers", "manager"];
/// Macros that stand for code that is not there.
const ABSENT_CODE: [&str; 2] = ["todo", "unimplemented"];
/// Lines outside tests above which a file is named.
const LINES_LONG: usize = 500;
/// Lines outside tests above which a file is refused.
const LINES_MAX: usize = 750;

pub(super) fn check(place: &Path, text: &str, findings: &mut Vec<Finding>) {
    let path = place.to_string_lossy().replace('\\', "/");
    check_path(&path, findings);
    let Ok(tokens) = text.parse::<TokenStream>() else {
        findings.push(Finding::error(path, "is not Rust that can be read; the compiler says more"));
        return;
    };
    let mut reader = Reader {
        unsafe_room: UNSAFE_ROOMS.iter().any(|room| path.starts_with(room)),
        path,
        findings,
        test_lines: 0,
    };
    reader.read(tokens);
    let (path, test_lines) = (reader.path, reader.test_lines);
    check_length(path, text.lines().count() - test_lines, findings);
}

fn check_path(path: &str, findings: &mut Vec<Finding>) {
    for part in path.split('/') {
        let name = part.strip_suffix(".rs").unwrap_or(part);
        if EMPTY_NAMES.contains(&name) {
            findings.push(Finding::error(
                path,
                format!("'{name}' says nothing: name it after the noun it holds"),
            ));
        }
    }
}

fn check_length(path: String, lines: usize, findings: &mut Vec<Finding>) {
    let is_test = path.split('/').any(|part| part == "tests" || part == "tests.rs");
    let advice = format!(
        "{lines} lines outside tests, {LINES_LONG} are enough for one noun: split it by what it does"
    );
    if is_test || lines <= LINES_LONG {
        return;
    }
    let fails = lines > LINES_MAX;
    findings.push(Finding { fails, place: path, text: advice });
}

struct Reader<'a> {
    path: String,
    unsafe_room: bool,
    findings: &'a mut Vec<Finding>,
    test_lines: usize,
}

impl Reader<'_> {
    fn read(&mut self, tokens: TokenStream) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        for (at, token) in tokens.iter().enumerate() {
            let rest = &tokens[at + 1..];
            match token {
                TokenTree::Ident(ident) => {
                    self.read_word(&ident.to_string(), ident.span().start().line, rest)
                }
                TokenTree::Group(group) => {
                    if is_test_attribute(&tokens[..at], group) {
                        self.test_lines += lines_of_item(token, rest);
                    }
                    self.read(group.stream());
                }
                _ => {}
            }
        }
    }

    fn read_word(&mut self, word: &str, line: usize, rest: &[TokenTree]) {
        let found = match word {
            "unsafe" if !self.unsafe_room => {
                "unsafe: it may stand only in dataplane/memory, dataplane/engine/src/ring and ffi; call a safe \
                 function of those, or use rustix"
                    .to_owned()
            }
            "allow" | "expect" | "warn" if !self.unsafe_room && names_unsafe_code(rest) => {
                format!("{word}(unsafe_code): the lint is denied outside the rooms for unsafe code")
            }
            "mod" => match rest.first() {
                Some(TokenTree::Ident(name)) if EMPTY_NAMES.contains(&name.to_string().as_str()) => {
                    format!("mod {name}: the name says nothing, name it after the noun it holds")
                }
                _ => return,
            },
            _ if ABSENT_CODE.contains(&word) && is_punct(rest.first(), '!') => {
                format!("{word}!: write the code, or return an error that says what is missing")
            }
            _ => return,
        };
        self.findings.push(Finding::error(format!("{}:{line}", self.path), found));
    }
}

fn names_unsafe_code(rest: &[TokenTree]) -> bool {
    let Some(TokenTree::Group(group)) = rest.first() else {
        return false;
    };
    group.stream().into_iter().any(|token| matches!(token, TokenTree::Ident(lint) if lint == "unsafe_code"))
}

/// Whether `group` is the bracket of `#[cfg(test)]`.
fn is_test_attribute(before: &[TokenTree], group: &proc_macro2::Group) -> bool {
    is_punct(before.last(), '#') && group.stream().to_string().replace(' ', "") == "cfg(test)"
}

/// Lines from an attribute to the end of the item that it is for.
fn lines_of_item(attribute: &TokenTree, rest: &[TokenTree]) -> usize {
    let ends = |token: &&TokenTree| match token {
        TokenTree::Group(group) => group.delimiter() == proc_macro2::Delimiter::Brace,
        token => is_punct(Some(token), ';'),
    };
    let last = rest.iter().find(ends).unwrap_or(attribute);
    last.span().end().line + 1 - attribute.span().start().line
}

fn is_punct(token: Option<&TokenTree>, wanted: char) -> bool {
    matches!(token, Some(TokenTree::Punct(punct)) if punct.as_char() == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(path: &str, text: &str) -> Vec<String> {
        let mut findings = Vec::new();
        check(Path::new(path), text, &mut findings);
        findings.iter().map(|finding| finding.place.clone()).collect()
    }

    #[test]
    fn unsafe_is_found_outside_its_rooms_and_not_in_words() {
        let code = "// unsafe\nfn a() { let b = \"unsafe\"; unsafe { c() } }\n#![allow(unsafe_code)]";
        assert_eq!(
            findings("control/plan/src/key.rs", code),
            ["control/plan/src/key.rs:2", "control/plan/src/key.rs:3"]
        );
        assert!(findings("dataplane/memory/src/arena.rs", code).is_empty());
    }

    #[test]
    fn empty_names_are_refused_as_files_and_as_modules() {
        assert_eq!(findings("a/util.rs", "fn a() {}"), ["a/util.rs"]);
        assert_eq!(findings("a/b.rs", "\nmod helpers { }"), ["a/b.rs:2"]);
        assert!(findings("a/b.rs", "fn common() {}").is_empty());
    }

    #[test]
    fn tests_do_not_count_as_length() {
        let code =
            "fn a() {}\n".repeat(490) + "#[cfg(test)]\nmod tests {\n" + &"fn b() {}\n".repeat(900) + "}\n";
        assert!(findings("a/b.rs", &code).is_empty());
        assert_eq!(findings("a/b.rs", &"fn a() {}\n".repeat(501)), ["a/b.rs"]);
        assert!(findings("a/tests/b.rs", &"fn a() {}\n".repeat(900)).is_empty());
    }

    #[test]
    fn code_that_is_not_there_is_refused() {
        assert_eq!(findings("a/b.rs", &format!("fn a() {{ {}!() }}", "todo")), ["a/b.rs:1"]);
    }
}
