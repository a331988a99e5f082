//! What one key does when it is called by one at a time.

/// What is done to a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// It is read.
    Get,
    /// It is given a value.
    Put(u64),
    /// It is given a value if it has this version; 0 means that it is absent.
    PutIf {
        /// The version.
        version: u64,
        /// The value.
        value: u64,
    },
    /// It is removed.
    Delete,
}

/// What the caller was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// The version and the value that the key has, if it is there.
    Found(Option<(u64, u64)>),
    /// The version that the put made.
    Put(u64),
    /// The version that the key has instead of the one expected; 0 when it is absent.
    Conflict(u64),
    /// The version that was deleted; 0 when there was none.
    Deleted(u64),
}

/// A key: nothing about it is left open, not even the numbers of its versions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Key {
    /// The version and the value that it has, if it is there.
    current: Option<(u64, u64)>,
    /// The last version that it had.
    last_version: u64,
}

impl Key {
    /// The key afterwards, and what the caller is told.
    pub fn after(self, act: Act) -> (Key, Answer) {
        let version = self.current.map_or(0, |(version, _)| version);
        match act {
            Act::Get => (self, Answer::Found(self.current)),
            Act::PutIf { version: expected, .. } if expected != version => (self, Answer::Conflict(version)),
            Act::Put(value) | Act::PutIf { value, .. } => {
                let version = self.last_version + 1;
                (Key { current: Some((version, value)), last_version: version }, Answer::Put(version))
            }
            Act::Delete => (Key { current: None, ..self }, Answer::Deleted(version)),
        }
    }
}
