//! Who is in the cluster, as its head sees it.
//!
//! Nodes join, send heartbeats, fall silent and are forgotten. The head drives this with messages and the time;
//! it answers with members and an epoch that grows whenever what the others must know has changed. Free memory
//! and the like change all the time and do not count.

use std::collections::{BTreeMap, VecDeque};

/// A member is dead when it was silent for this long, in milliseconds.
pub const DEAD_AFTER_MS: u64 = 3_000;
/// A head that has not looked for this long, in milliseconds, stood still itself, and what its members sent meanwhile is
/// still to be read.
const STOOD_STILL_MS: u64 = 1_000;
/// A member is forgotten when it was silent for this long, in milliseconds.
pub const FORGOTTEN_AFTER_MS: u64 = 3_600_000;
/// Members whose end is remembered for those who ask what has changed; who has missed more is told of all members.
const GONE_MAX: usize = 4096;
/// Longest name of a node, in bytes.
pub const NAME_LENGTH_MAX: usize = 64;
/// Longest address or rack of a node, in bytes.
pub const TEXT_LENGTH_MAX: usize = 256;

/// The members of the cluster.
#[derive(Debug, Clone)]
pub struct Membership {
    epoch: u64,
    nodes_max: usize,
    records: BTreeMap<u64, Record>,
    /// Who is no member any more, and since which epoch; the latest come last.
    gone: VecDeque<(u64, u64)>,
    /// From this epoch on, `gone` has everybody.
    remembered_from: u64,
    /// When time was last let pass.
    ticked_ms: Option<u64>,
}

/// One node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Names the node for its lifetime on one data directory; never zero.
    pub node: u64,
    /// Its name, unique in the cluster.
    pub name: String,
    /// Where its peers reach it: `host:port`.
    pub address: String,
    /// The rack it stands in; empty when unknown.
    pub rack: String,
    /// How many shards it runs.
    pub shards: u16,
    /// Grows with each start of the node.
    pub incarnation: u64,
    /// Whether it takes part. What a joining node says of itself here does not count.
    pub state: State,
    /// Whether it holds the catalog.
    pub head: bool,
    /// What it holds and may hold.
    pub figures: Figures,
}

/// What the head knows of a node's health.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// Heard from within the last [`DEAD_AFTER_MS`].
    Alive,
    /// Alive, gives its chunks away, gets no others.
    Draining,
    /// Not heard from.
    Dead,
}

/// What a node holds and may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Figures {
    /// Bytes of DRAM it may hold.
    pub memory_limit: u64,
    /// Bytes of DRAM in use.
    pub memory_used: u64,
    /// Bytes of chunks on its NVMe device.
    pub nvme_used: u64,
}

/// What time did to a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// It is dead: what it held in memory no longer counts.
    Died {
        /// The node.
        node: u64,
        /// Its name.
        name: String,
    },
    /// It is not a member any more.
    Forgotten {
        /// The node.
        node: u64,
        /// Its name.
        name: String,
    },
}

/// All members at one epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Grows with every change of membership.
    pub epoch: u64,
    /// The members, by ascending node.
    pub members: Vec<Member>,
}

/// What has changed between two epochs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changes {
    /// The later epoch.
    pub epoch: u64,
    /// Members that were not there before, or were others, by ascending node.
    pub members: Vec<Member>,
    /// Who is no member any more.
    pub gone: Vec<u64>,
}

/// Why a node was not taken in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JoinError {
    /// The node's description is not usable.
    #[error("a node cannot join with {what} {text:?}; {remedy}")]
    Unusable {
        /// Which part.
        what: &'static str,
        /// The beginning of it.
        text: String,
        /// What it must be.
        remedy: &'static str,
    },
    /// Another member that is not dead has this name.
    #[error(
        "the name '{name}' is taken by the live node at {address}; \
         start this node with another --name, or stop the other one and wait {} s", DEAD_AFTER_MS / 1000
    )]
    NameTaken {
        /// The name.
        name: String,
        /// Where its holder is.
        address: String,
    },
    /// The same node has started again since.
    #[error(
        "node '{name}' has started again since (incarnation {known} is known, {given} joins); \
         stop the older process, and check that no two nodes share a data directory"
    )]
    Superseded {
        /// The name.
        name: String,
        /// The incarnation that is a member.
        known: u64,
        /// The incarnation that wants to join.
        given: u64,
    },
    /// There is no room.
    #[error("the cluster has {nodes_max} live nodes already, which is the most it may have; stop one first")]
    Full {
        /// The most members.
        nodes_max: usize,
    },
}

/// Why a heartbeat did not count.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeartbeatError {
    /// The head does not know this node in this incarnation.
    #[error("node {node:016x} is not a member in this incarnation; join again")]
    Unknown {
        /// The node.
        node: u64,
    },
    /// The same node has started again since.
    #[error("node '{name}' has started again since; this process is not the node any more and must stop")]
    Superseded {
        /// The name.
        name: String,
    },
}

/// A name that no member has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no node is called '{name}'; `shoal node ls` lists the names")]
pub struct UnknownName {
    /// The name.
    pub name: String,
}

#[derive(Debug, Clone)]
struct Record {
    member: Member,
    draining: bool,
    heard_ms: u64,
    /// The epoch since which it is as it is.
    changed: u64,
}

impl Membership {
    /// No members. Epochs grow from `first_epoch`: a head passes the milliseconds since 1970, so that epochs
    /// grow over its restarts too and no node takes the members it knew before for the present ones.
    pub fn new(first_epoch: u64, nodes_max: usize) -> Self {
        Self {
            epoch: first_epoch,
            nodes_max,
            records: BTreeMap::new(),
            gone: VecDeque::new(),
            remembered_from: first_epoch,
            ticked_ms: None,
        }
    }

    /// Takes a node in, or renews what is known of it. A dead node gives its name up to another that asks for
    /// it. A node that starts again is no longer draining.
    pub fn join(&mut self, member: Member, now_ms: u64) -> Result<(), JoinError> {
        check(&member)?;
        let known = self.records.get(&member.node);
        if let Some(Record { member: known, .. }) = known
            && known.incarnation > member.incarnation
        {
            let (name, known, given) = (member.name, known.incarnation, member.incarnation);
            return Err(JoinError::Superseded { name, known, given });
        }
        let draining =
            known.is_some_and(|known| known.draining && known.member.incarnation == member.incarnation);
        let namesake = self.holder_of(&member);
        if let Some(Record { member: Member { name, address, .. }, .. }) =
            namesake.filter(|holder| holder.member.state != State::Dead)
        {
            return Err(JoinError::NameTaken { name: name.clone(), address: address.clone() });
        }
        let namesake = namesake.map(|holder| holder.member.node);
        if known.is_none() && namesake.is_none() {
            self.make_room()?;
        }
        namesake.into_iter().for_each(|node| self.remove(node));
        self.put(member, draining, now_ms);
        Ok(())
    }

    /// Notes a sign of life and the node's figures. A dead member comes alive again.
    pub fn heartbeat(
        &mut self,
        node: u64,
        incarnation: u64,
        figures: Figures,
        now_ms: u64,
    ) -> Result<(), HeartbeatError> {
        let Some(record) =
            self.records.get_mut(&node).filter(|known| known.member.incarnation >= incarnation)
        else {
            return Err(HeartbeatError::Unknown { node });
        };
        if record.member.incarnation > incarnation {
            return Err(HeartbeatError::Superseded { name: record.member.name.clone() });
        }
        record.heard_ms = record.heard_ms.max(now_ms);
        record.member.figures = figures;
        if record.member.state == State::Dead {
            record.member.state = if record.draining { State::Draining } else { State::Alive };
            self.epoch += 1;
            record.changed = self.epoch;
        }
        Ok(())
    }

    /// Takes a node out of placement until it starts again, and returns it. A dead node drains when it returns.
    pub fn drain(&mut self, name: &str) -> Result<u64, UnknownName> {
        let record = self.records.values_mut().find(|record| record.member.name == name);
        let record =
            record.ok_or_else(|| UnknownName { name: name.chars().take(NAME_LENGTH_MAX).collect() })?;
        record.draining = true;
        if record.member.state == State::Alive {
            record.member.state = State::Draining;
            self.epoch += 1;
            record.changed = self.epoch;
        }
        Ok(record.member.node)
    }

    /// Lets time pass: tells who died and who is forgotten. It is called several times a second; time in which it was not,
    /// because the caller was frozen, is not held against members that lived.
    pub fn tick(&mut self, now_ms: u64) -> Vec<Change> {
        self.forgive_own_silence(now_ms);
        let (mut changes, mut forgotten) = (Vec::new(), Vec::new());
        for (&node, record) in &mut self.records {
            let silent_ms = now_ms.saturating_sub(record.heard_ms);
            let name = || record.member.name.clone();
            if silent_ms >= DEAD_AFTER_MS && record.member.state != State::Dead {
                changes.push(Change::Died { node, name: name() });
                record.member.state = State::Dead;
                self.epoch += 1;
                record.changed = self.epoch;
            }
            if silent_ms >= FORGOTTEN_AFTER_MS {
                changes.push(Change::Forgotten { node, name: name() });
                forgotten.push(node);
            }
        }
        forgotten.into_iter().for_each(|node| self.remove(node));
        changes
    }

    fn forgive_own_silence(&mut self, now_ms: u64) {
        let silent_ms = now_ms.saturating_sub(self.ticked_ms.unwrap_or(now_ms));
        self.ticked_ms = Some(now_ms);
        if silent_ms < STOOD_STILL_MS {
            return;
        }
        for record in self.records.values_mut().filter(|record| record.member.state != State::Dead) {
            record.heard_ms = (record.heard_ms + silent_ms).min(now_ms);
        }
    }

    /// Grows with every change of membership, not of figures.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The members and the epoch.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot { epoch: self.epoch, members: self.members().cloned().collect() }
    }

    /// What has changed since an epoch; `None` when that is not known, and the asker must be told of all members.
    pub fn changes_since(&self, epoch: u64) -> Option<Changes> {
        if !(self.remembered_from..=self.epoch).contains(&epoch) {
            return None;
        }
        let changed = self.records.values().filter(|record| record.changed > epoch);
        let members = changed.map(|record| record.member.clone()).collect();
        let gone = self.gone.iter().rev().take_while(|(since, _)| *since > epoch).map(|(_, node)| *node);
        let gone = gone.filter(|node| !self.records.contains_key(node)).collect();
        Some(Changes { epoch: self.epoch, members, gone })
    }

    /// The members, by ascending node.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.records.values().map(|record| &record.member)
    }

    /// The members that are not dead, by ascending node: those that track chunks.
    pub fn live_nodes(&self) -> impl Iterator<Item = u64> {
        self.members().filter(|member| member.state != State::Dead).map(|member| member.node)
    }

    /// One member.
    pub fn member(&self, node: u64) -> Option<&Member> {
        self.records.get(&node).map(|record| &record.member)
    }

    fn holder_of(&self, joining: &Member) -> Option<&Record> {
        let same_name =
            |known: &&Record| known.member.name == joining.name && known.member.node != joining.node;
        self.records.values().find(same_name)
    }

    /// Forgets the member that has been dead for longest when there is no place for another.
    fn make_room(&mut self) -> Result<(), JoinError> {
        if self.records.len() < self.nodes_max {
            return Ok(());
        }
        let dead = self.records.values().filter(|record| record.member.state == State::Dead);
        let longest = dead.min_by_key(|record| record.heard_ms).map(|record| record.member.node);
        let longest = longest.ok_or(JoinError::Full { nodes_max: self.nodes_max })?;
        self.remove(longest);
        Ok(())
    }

    fn remove(&mut self, node: u64) {
        if self.records.remove(&node).is_none() {
            return;
        }
        self.epoch += 1;
        self.gone.push_back((self.epoch, node));
        if self.gone.len() > GONE_MAX
            && let Some((since, _)) = self.gone.pop_front()
        {
            self.remembered_from = since;
        }
    }

    fn put(&mut self, mut member: Member, draining: bool, now_ms: u64) {
        member.state = if draining { State::Draining } else { State::Alive };
        let known = self.records.get(&member.node).map(|record| &record.member);
        let unchanged =
            known.is_some_and(|known| Member { figures: member.figures, ..known.clone() } == member);
        let since = self.records.get(&member.node).map_or(0, |record| record.changed);
        self.epoch += u64::from(!unchanged);
        let changed = if unchanged { since } else { self.epoch };
        self.records.insert(member.node, Record { member, draining, heard_ms: now_ms, changed });
    }
}

pub(crate) fn check(member: &Member) -> Result<(), JoinError> {
    let unusable = |what, text: &str, remedy| {
        Err(JoinError::Unusable { what, text: text.chars().take(NAME_LENGTH_MAX).collect(), remedy })
    };
    let odd = |text: &str| text.chars().any(|character| character.is_control() || character.is_whitespace());
    let Member { node, name, address, rack, shards, .. } = member;
    if *node == 0 {
        return unusable("the node id", "0", "give it a data directory of its own");
    }
    if name.is_empty() || name.len() > NAME_LENGTH_MAX || odd(name) || name.contains([':', '/']) {
        return unusable("the name", name, "a name has 1 to 64 bytes and no blank, ':' or '/'");
    }
    if address.is_empty() || address.len() > TEXT_LENGTH_MAX || odd(address) {
        return unusable("the address", address, "it must be host:port, of at most 256 bytes");
    }
    if rack.len() > TEXT_LENGTH_MAX || odd(rack) {
        return unusable("the rack", rack, "a rack has at most 256 bytes and no blank");
    }
    if *shards == 0 {
        return unusable("the number of shards", "0", "a node has at least one");
    }
    Ok(())
}

#[cfg(test)]
mod tests;
