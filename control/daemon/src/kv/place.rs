//! Where the catalog is, and whether it is reached.

use std::fmt;
use std::sync::atomic::Ordering;

use catalog::Consistency;

use crate::node::{Node, Seat};

/// Where a node's catalog is, as it is known without asking anybody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CatalogPlace {
    /// `embedded` on this node, at the `head`, or on `etcd`.
    pub(crate) kind: &'static str,
    /// Who is asked, `host:port` each; none when it is this node.
    pub(crate) endpoints: Vec<String>,
    /// Whether somebody answered when they were asked last.
    pub(crate) reached: bool,
    /// The last revision that is known here.
    pub(crate) revision: Option<u64>,
}

impl CatalogPlace {
    /// The place of this node's catalog.
    pub(crate) async fn of(node: &Node) -> Self {
        match &node.seat {
            Seat::Head(_) => {
                let found = node.catalog.get(&[], Consistency::Quorum).await.ok();
                let (reached, revision) = (found.is_some(), found.map(|found| found.revision));
                Self { kind: "embedded", endpoints: Vec::new(), reached, revision }
            }
            Seat::Member { head, reached } => Self {
                kind: "head",
                endpoints: vec![head.clone()],
                reached: reached.load(Ordering::Relaxed),
                revision: None,
            },
            Seat::Equal(equal) => Self {
                kind: "etcd",
                endpoints: equal.address.endpoints.clone(),
                reached: equal.is_reached(),
                revision: Some(equal.catalog.revision_seen()),
            },
        }
    }
}

impl fmt::Display for CatalogPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            "embedded" => write!(f, "on this node")?,
            kind => write!(f, "{kind} at {}", self.endpoints.join(", "))?,
        }
        match self.reached {
            true => write!(f, "; reached")?,
            false => write!(f, "; out of reach")?,
        }
        self.revision.map_or(Ok(()), |revision| write!(f, "; revision {revision}"))
    }
}
