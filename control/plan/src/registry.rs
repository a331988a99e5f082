//! Who is in the cluster, as its nodes have registered themselves, and what a node does to stay registered.
//!
//! Without a head, each node follows what all of them register and comes to the same members. What is registered has a
//! revision; that of the last change is the epoch. A node that is not registered any more is dead, and is remembered for a
//! while by those who saw it.

use std::collections::BTreeMap;

use crate::membership::{DEAD_AFTER_MS, FORGOTTEN_AFTER_MS, JoinError, Member, Snapshot, State, check};

/// Between two renewals of a registration, in milliseconds. A lease outlives the loss of two.
pub const RENEWAL_MS: u64 = 800;
/// Before a registration or renewal that failed is tried again, in milliseconds.
pub const RETRY_MS: u64 = 200;

/// The nodes that have registered.
#[derive(Debug, Clone)]
pub struct Registry {
    revision: u64,
    nodes_max: usize,
    records: BTreeMap<u64, Record>,
}

#[derive(Debug, Clone)]
struct Record {
    member: Member,
    /// Since when it is not registered any more.
    dead_since_ms: Option<u64>,
}

impl Registry {
    /// None. At most `nodes_max` are remembered, of which the registered ones come first.
    pub fn new(nodes_max: usize) -> Self {
        Self { revision: 0, nodes_max, records: BTreeMap::new() }
    }

    /// All nodes are told anew, as they are at a revision: those that are not told next are dead.
    pub fn begin_anew(&mut self, revision: u64, now_ms: u64) {
        self.revision = revision;
        self.records.values_mut().for_each(|record| record.end(now_ms));
    }

    /// A node is registered, and not draining. What cannot be a member is refused.
    pub fn here(&mut self, revision: u64, mut member: Member) -> Result<(), JoinError> {
        check(&member)?;
        self.revision = self.revision.max(revision);
        member.state = State::Alive;
        // A name is registered once, so that the other node is dead, or about to be told so.
        self.records.retain(|&node, known| node == member.node || known.member.name != member.name);
        self.records.insert(member.node, Record { member, dead_since_ms: None });
        self.forget_surplus();
        Ok(())
    }

    /// A node is not registered any more.
    pub fn gone(&mut self, revision: u64, node: u64, now_ms: u64) {
        self.revision = self.revision.max(revision);
        if let Some(record) = self.records.get_mut(&node) {
            record.end(now_ms);
        }
    }

    /// A registered node is draining, or is not.
    pub fn draining(&mut self, revision: u64, node: u64, draining: bool) {
        self.revision = self.revision.max(revision);
        if let Some(record) = self.records.get_mut(&node).filter(|record| record.dead_since_ms.is_none()) {
            record.member.state = if draining { State::Draining } else { State::Alive };
        }
    }

    /// Forgets who has been dead for long; whether there was somebody.
    pub fn forget(&mut self, now_ms: u64) -> bool {
        let before = self.records.len();
        self.records.retain(|_, record| {
            record.dead_since_ms.is_none_or(|since_ms| now_ms.saturating_sub(since_ms) < FORGOTTEN_AFTER_MS)
        });
        self.records.len() < before
    }

    /// The members, and the revision of the last change as the epoch.
    pub fn snapshot(&self) -> Snapshot {
        let members = self.records.values().map(|record| record.member.clone()).collect();
        Snapshot { epoch: self.revision, members }
    }

    /// How many are registered.
    pub fn live_count(&self) -> usize {
        self.records.values().filter(|record| record.dead_since_ms.is_none()).count()
    }

    /// Where a node stands that believes to be registered by `revision`, as this incarnation.
    pub fn standing(&self, node: u64, incarnation: u64, revision: u64) -> Standing {
        let record = self.records.get(&node).filter(|record| record.dead_since_ms.is_none());
        match record.map(|record| &record.member) {
            Some(known) if known.incarnation > incarnation => Standing::Superseded { by: known.incarnation },
            Some(known) if known.incarnation == incarnation => {
                Standing::Registered { draining: known.state == State::Draining }
            }
            _ if self.revision < revision => Standing::Unknown,
            _ => Standing::Absent,
        }
    }

    fn forget_surplus(&mut self) {
        while self.records.len() > self.nodes_max {
            let dead = self.records.iter().filter_map(|(&node, record)| Some((record.dead_since_ms?, node)));
            let Some((_, longest)) = dead.min() else { return };
            self.records.remove(&longest);
        }
    }
}

impl Record {
    fn end(&mut self, now_ms: u64) {
        self.member.state = State::Dead;
        self.dead_since_ms.get_or_insert(now_ms);
    }
}

/// Whether those who keep the registry are reached, by the signs of life that they give.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reach {
    heard_ms: u64,
    is_reached: bool,
}

impl Reach {
    /// They have just been heard.
    pub fn new(now_ms: u64) -> Self {
        Self { heard_ms: now_ms, is_reached: true }
    }

    /// Whether they were reached when it was last looked.
    pub fn is_reached(&self) -> bool {
        self.is_reached
    }

    /// They have given a sign of life.
    pub fn hear(&mut self, now_ms: u64) {
        self.heard_ms = self.heard_ms.max(now_ms);
    }

    /// Whether they are reached, when that has changed since it was last looked.
    pub fn look(&mut self, now_ms: u64) -> Option<bool> {
        let is_reached = now_ms.saturating_sub(self.heard_ms) < DEAD_AFTER_MS;
        let before = std::mem::replace(&mut self.is_reached, is_reached);
        (before != is_reached).then_some(is_reached)
    }
}

/// Where a node stands in the registry, as it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// The registry is not known as far as that.
    Unknown,
    /// It is there.
    Registered {
        /// Whether it is draining.
        draining: bool,
    },
    /// It is not there.
    Absent,
    /// A later process of the same node is there.
    Superseded {
        /// That one's incarnation.
        by: u64,
    },
}

/// What a node does to stay registered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration {
    /// The revision that registered it.
    registered: Option<u64>,
    /// When there is something to do next.
    due_ms: u64,
    draining: bool,
    superseded: Option<u64>,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Register.
    Register {
        /// As one that is draining.
        draining: bool,
    },
    /// Renew the lease.
    Renew,
    /// Nothing for so many milliseconds, unless the registry changes.
    Wait(u64),
    /// Stop for good: a later process is the node.
    Stop {
        /// That one's incarnation.
        by: u64,
    },
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is registered.
    Registered {
        /// The revision that did it.
        revision: u64,
    },
    /// The lease lives on.
    Renewed,
    /// The lease is over.
    Lost,
    /// Nobody has answered.
    Unreachable,
}

impl Registration {
    /// Of a node that is not registered and not draining.
    pub fn new() -> Self {
        Self { registered: None, due_ms: 0, draining: false, superseded: None }
    }

    /// The revision that the node believes to be registered by; 0 when it does not.
    pub fn revision(&self) -> u64 {
        self.registered.unwrap_or(0)
    }

    /// What is to be done at this time, when the node stands so in the registry.
    pub fn step(&mut self, now_ms: u64, standing: Standing) -> Step {
        match standing {
            Standing::Superseded { by } => self.superseded = Some(by),
            Standing::Registered { draining } => self.draining = draining,
            // Somebody has removed it, or the lease ended sooner than was thought.
            Standing::Absent if self.registered.take().is_some() => self.due_ms = now_ms,
            Standing::Absent | Standing::Unknown => {}
        }
        match (self.superseded, self.registered) {
            (Some(by), _) => Step::Stop { by },
            _ if now_ms < self.due_ms => Step::Wait(self.due_ms - now_ms),
            (None, Some(_)) => Step::Renew,
            (None, None) => Step::Register { draining: self.draining },
        }
    }

    /// What has come of a step that was begun at this time.
    pub fn done(&mut self, begun_ms: u64, now_ms: u64, outcome: Outcome) {
        match outcome {
            Outcome::Registered { revision } => {
                (self.registered, self.due_ms) = (Some(revision), begun_ms + RENEWAL_MS);
            }
            Outcome::Renewed => self.due_ms = begun_ms + RENEWAL_MS,
            Outcome::Lost => (self.registered, self.due_ms) = (None, now_ms),
            Outcome::Unreachable => self.due_ms = now_ms + RETRY_MS,
        }
    }
}

impl Default for Registration {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests;
