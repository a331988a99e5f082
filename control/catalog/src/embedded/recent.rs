//! The latest changes, in memory: for streams that keep up, and for writes that depend on nothing having changed.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::change::{Change, ChangeKind};
use crate::entry::Content;

/// Most bytes of changes that are kept in memory, about.
const RECENT_SIZE_MAX: usize = 16 << 20;

/// The changes of one revision.
#[derive(Debug, Clone)]
pub(crate) struct Recorded {
    pub(crate) revision: u64,
    pub(crate) changes: Arc<[Change]>,
}

/// The changes after one revision, of every revision since.
pub(crate) struct Recent {
    after: u64,
    recorded: VecDeque<Recorded>,
    size: usize,
}

impl Recent {
    pub(crate) fn new(after: u64) -> Self {
        Self { after, recorded: VecDeque::new(), size: 0 }
    }

    /// The revision after which all changes are here.
    pub(crate) fn after(&self) -> u64 {
        self.after
    }

    pub(crate) fn extend(&mut self, recorded: Vec<Recorded>) {
        for next in recorded {
            self.size += bytes_of(&next);
            self.recorded.push_back(next);
        }
        while self.size > RECENT_SIZE_MAX
            && let Some(oldest) = self.recorded.pop_front()
        {
            self.size -= bytes_of(&oldest);
            self.after = oldest.revision;
        }
    }

    /// The changes of the revisions after `revision`, which is not before [`Recent::after`].
    pub(crate) fn since(&self, revision: u64) -> impl Iterator<Item = &Recorded> {
        // Each revision has changes, so that none is missing in between.
        let first = usize::try_from(revision.saturating_sub(self.after)).unwrap_or(usize::MAX);
        self.recorded.range(first.min(self.recorded.len())..)
    }
}

fn bytes_of(recorded: &Recorded) -> usize {
    recorded.changes.iter().map(bytes_of_change).sum()
}

fn bytes_of_change(change: &Change) -> usize {
    let entry = match &change.kind {
        ChangeKind::Put(entry) => {
            let content = match &entry.content {
                Some(Content::Value(content) | Content::Manifest(content)) => content.len(),
                None => 0,
            };
            let labels: usize = entry.labels.iter().map(|(name, value)| name.len() + value.len() + 64).sum();
            entry.key.len() + content + labels + entry.owner.as_ref().map_or(0, String::len)
        }
        _ => 0,
    };
    size_of::<Change>() + change.key.len() + entry
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_go_when_there_is_no_room() {
        let change = |revision| {
            let kind = ChangeKind::Delete { version: 1 };
            Change { revision, at_ms: 0, key: "k".repeat(1000), kind }
        };
        let recorded = |revision| Recorded { revision, changes: [change(revision)].into() };
        let mut recent = Recent::new(7);
        recent.extend(vec![recorded(8), recorded(9)]);
        assert_eq!((recent.after(), recent.since(8).map(|one| one.revision).collect()), (7, vec![9]));
        assert_eq!(recent.since(9).count() + recent.since(99).count(), 0);
        recent.extend((10..30_000).map(recorded).collect());
        assert!(recent.after() > 10_000 && recent.size <= RECENT_SIZE_MAX);
        assert_eq!(recent.since(recent.after()).next().unwrap().revision, recent.after() + 1);
        assert_eq!(recent.since(29_998).map(|one| one.revision).collect::<Vec<_>>(), [29_999]);
    }
}
