//! What is called what in etcd. Everything lies below one prefix:
//!
//! | name | holds |
//! |---|---|
//! | `PREFIX/id` | the cluster's number |
//! | `PREFIX/floor` | the revision up to which tombstones may be gone for good |
//! | `PREFIX/beat` | nothing; written so that the mirrors see a revision |
//! | `PREFIX/sweeper` | who sweeps, under a lease |
//! | `PREFIX/k/KEY` | the record of a key |
//! | `PREFIX/s/NAME` | a service, under its lease |
//! | `PREFIX/l/NODE/REVISION` | that a node reads the version which REVISION wrote, under the node's lease |
//! | `PREFIX/t/MILLISECONDS` | which revision there was at that time |
//! | `PREFIX/n/NODE` | what a node says of itself, under the lease that says that it lives |
//! | `PREFIX/n/NODE/drain` | that it gives its chunks away, under the same lease |
//! | `PREFIX/name/NAME` | which node has this name, under the same lease |

use super::proto::RangeRequest;

/// The names below one prefix.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    prefix: String,
}

/// What a name stands for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Place<'a> {
    Key(&'a str),
    Service(&'a str),
    Lease { node: u64, revision: u64 },
    Mark(u64),
    Sweeper,
    Floor,
    Node(u64),
    Draining(u64),
    Other,
}

impl Layout {
    pub(super) fn new(prefix: &str) -> Self {
        Self { prefix: prefix.into() }
    }

    fn name(&self, rest: &str) -> Vec<u8> {
        format!("{}/{rest}", self.prefix).into_bytes()
    }

    pub(super) fn id(&self) -> Vec<u8> {
        self.name("id")
    }

    pub(super) fn floor(&self) -> Vec<u8> {
        self.name("floor")
    }

    pub(super) fn beat(&self) -> Vec<u8> {
        self.name("beat")
    }

    pub(super) fn sweeper(&self) -> Vec<u8> {
        self.name("sweeper")
    }

    /// The name of a key; of the first keys with a prefix as well.
    pub(super) fn key(&self, key: &str) -> Vec<u8> {
        self.name(&format!("k/{key}"))
    }

    pub(super) fn service(&self, name: &str) -> Vec<u8> {
        self.name(&format!("s/{name}"))
    }

    pub(super) fn lease(&self, node: u64, revision: u64) -> Vec<u8> {
        self.name(&format!("l/{node:016x}/{revision:016x}"))
    }

    pub(super) fn mark(&self, at_ms: u64) -> Vec<u8> {
        self.name(&format!("t/{at_ms:016}"))
    }

    pub(super) fn node(&self, node: u64) -> Vec<u8> {
        self.name(&format!("n/{node:016x}"))
    }

    pub(super) fn draining(&self, node: u64) -> Vec<u8> {
        self.name(&format!("n/{node:016x}/drain"))
    }

    pub(super) fn node_name(&self, name: &str) -> Vec<u8> {
        self.name(&format!("name/{name}"))
    }

    /// All nodes, and which of them are draining.
    pub(super) fn nodes(&self) -> RangeRequest {
        range(self.name("n/"))
    }

    /// All names.
    pub(super) fn everything(&self) -> RangeRequest {
        range(self.name(""))
    }

    /// All keys that begin with `prefix`.
    pub(super) fn keys(&self, prefix: &str) -> RangeRequest {
        range(self.key(prefix))
    }

    /// All services.
    pub(super) fn services(&self) -> RangeRequest {
        range(self.name("s/"))
    }

    /// What `name` stands for.
    pub(super) fn place<'a>(&self, name: &'a [u8]) -> Place<'a> {
        let name = std::str::from_utf8(name).unwrap_or_default();
        let rest = name.strip_prefix(&*self.prefix).and_then(|rest| rest.strip_prefix('/'));
        match rest.unwrap_or_default() {
            "sweeper" => Place::Sweeper,
            "floor" => Place::Floor,
            rest => match rest.split_at_checked(2) {
                Some(("k/", key)) => Place::Key(key),
                Some(("s/", name)) => Place::Service(name),
                Some(("l/", lease)) => lease_place(lease).unwrap_or(Place::Other),
                Some(("t/", at_ms)) => at_ms.parse().map_or(Place::Other, Place::Mark),
                Some(("n/", node)) => node_place(node).unwrap_or(Place::Other),
                _ => Place::Other,
            },
        }
    }
}

fn node_place(text: &str) -> Option<Place<'static>> {
    let number = |digits| u64::from_str_radix(digits, 16).ok();
    match text.split_once('/') {
        None => number(text).map(Place::Node),
        Some((node, "drain")) => number(node).map(Place::Draining),
        Some(_) => None,
    }
}

fn lease_place(text: &str) -> Option<Place<'static>> {
    let (node, revision) = text.split_once('/')?;
    let number = |digits| u64::from_str_radix(digits, 16).ok();
    Some(Place::Lease { node: number(node)?, revision: number(revision)? })
}

/// All names that begin with `name`.
fn range(name: Vec<u8>) -> RangeRequest {
    RangeRequest { range_end: end(&name), key: name, ..RangeRequest::default() }
}

/// The first name after all that begin with `name`, which is UTF-8, so that its bytes are below 255.
fn end(name: &[u8]) -> Vec<u8> {
    let mut end = name.to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_apart() {
        let layout = Layout::new("a/b");
        assert_eq!(layout.place(&layout.key("x/y")), Place::Key("x/y"));
        assert_eq!(layout.place(&layout.service("s")), Place::Service("s"));
        assert_eq!(layout.place(&layout.lease(7, u64::MAX)), Place::Lease { node: 7, revision: u64::MAX });
        assert_eq!(layout.place(&layout.mark(12)), Place::Mark(12));
        assert_eq!(layout.place(&layout.floor()), Place::Floor);
        assert_eq!(layout.place(&layout.sweeper()), Place::Sweeper);
        assert_eq!(layout.place(&layout.node(7)), Place::Node(7));
        assert_eq!(layout.place(&layout.draining(7)), Place::Draining(7));
        assert_eq!(layout.place(&layout.node_name("a")), Place::Other);
        assert_eq!(layout.place(b"a/b/n/7/else"), Place::Other);
        for other in [&b"a/bk/x"[..], b"a/b", b"c", b"", b"a/b/l/x/y", b"a/b/t/x", b"a/b/id", b"\xff"] {
            assert_eq!(layout.place(other), Place::Other);
        }
    }

    #[test]
    fn a_range_ends_after_what_begins_with_it() {
        let range = Layout::new("p").keys("é");
        assert!(range.key < "p/k/é\u{10ffff}".as_bytes().to_vec());
        assert!(range.range_end > "p/k/é\u{10ffff}".as_bytes().to_vec());
        assert!(
            range.range_end < "p/k/ê".as_bytes().to_vec() || range.range_end == "p/k/ê".as_bytes().to_vec()
        );
    }
}
