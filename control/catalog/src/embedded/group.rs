//! What a group of writes does, as one batch.
//!
//! Requests of one group see each other: what they have changed is kept beside the view that the group began
//! with, until it is written.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::recent::Recorded;
use super::rows::{
    Batch, Buried, Current, Logged, LoggedKind, Made, Place, Registered, Retired, STATE, State, Stored,
    Table, View, change_row, content_row, expiry_row, owned_row, retired_row,
};
use super::shared::{Moment, Shared};
use crate::change::{Change, ChangeKind};
use crate::error::CatalogError;
use crate::write::OPERATIONS_MAX;

/// Bytes of records after which a group takes no further request.
const GROUP_SIZE: usize = 16 << 20;
/// What a reference count adds to a batch, in bytes.
const COUNT_SIZE: usize = 64;
/// What a change takes on disk beside its key, labels and content, in bytes, about.
const LOGGED_SIZE: usize = 64;
/// The largest value that lies behind the record of its key, in bytes: what is larger would slow down who wants only names.
const INLINE_SIZE_MAX: usize = 1 << 10;

/// Writes that become durable together.
pub(crate) struct Group<'a> {
    pub(super) shared: &'a Shared,
    pub(super) view: Arc<View>,
    pub(super) batch: Batch,
    /// The time of all its writes.
    pub(super) now_ms: u64,
    pub(super) state: State,
    began: State,
    slots: BTreeMap<String, Slot>,
    /// References of the chunks that the group has touched.
    pub(super) counts: BTreeMap<[u8; 32], u64>,
    services: BTreeMap<String, Option<Registered>>,
    recorded: Vec<(u64, Vec<Change>)>,
    contents_size: usize,
}

/// A key as the group has left it so far.
pub(super) struct Slot {
    /// What is on disk of it.
    before: Option<Current>,
    pub(super) current: Option<Current>,
    /// The content of `current`, if the group has written it; and otherwise what follows its record.
    content: Vec<u8>,
    last_version: u64,
    /// The revision that last wrote or ended it.
    pub(super) touched: u64,
    /// Whether the table of buried keys has it.
    buried: bool,
    changed: bool,
}

/// What a key is to have.
pub(super) struct Proposal {
    pub(super) content: Vec<u8>,
    pub(super) is_manifest: bool,
    pub(super) size: u64,
    pub(super) files: u64,
    pub(super) chunks: BTreeSet<[u8; 32]>,
    pub(super) expires_ms: Option<u64>,
    pub(super) owner: Option<String>,
    pub(super) labels: BTreeMap<String, String>,
}

impl<'a> Group<'a> {
    /// A group on top of what is there at a moment.
    pub(crate) fn new(shared: &'a Shared, moment: Moment) -> Self {
        let Moment { view, state, at_ms } = moment;
        Self {
            shared,
            view,
            batch: shared.rows.batch(),
            now_ms: at_ms,
            state,
            began: state,
            slots: BTreeMap::new(),
            counts: BTreeMap::new(),
            services: BTreeMap::new(),
            recorded: Vec::new(),
            contents_size: 0,
        }
    }

    /// Whether no further request should be added.
    pub(crate) fn is_full(&self) -> bool {
        self.batch.size + self.contents_size + self.counts.len() * COUNT_SIZE >= GROUP_SIZE
    }

    /// Begins the next write. It must change something.
    pub(super) fn begin(&mut self) {
        self.state.revision += 1;
        self.state.written_ms = self.now_ms;
        self.recorded.push((self.state.revision, Vec::new()));
    }

    /// The key as it is, after its end was written down if it has expired.
    pub(super) fn live(&mut self, key: &str) -> Result<&Slot, CatalogError> {
        if self.is_due(key)? {
            self.begin();
            self.end(key, |version| ChangeKind::Expire { version });
        }
        self.slot(key).map(|slot| &*slot)
    }

    /// Whether the key has expired, without writing that down.
    pub(super) fn is_due(&mut self, key: &str) -> Result<bool, CatalogError> {
        let now_ms = self.now_ms;
        Ok(self.slot(key)?.current.as_ref().is_some_and(|current| !current.lives_at(now_ms)))
    }

    /// Ends keys, which were asked about before, in writes of bounded size.
    pub(super) fn end_all(&mut self, keys: &[String], kind: impl Fn(u64) -> ChangeKind) {
        for keys in keys.chunks(OPERATIONS_MAX) {
            self.begin();
            keys.iter().for_each(|key| self.end(key, &kind));
        }
    }

    /// Ends a key, in the write that has begun.
    pub(super) fn end(&mut self, key: &str, kind: impl FnOnce(u64) -> ChangeKind) {
        let index = self.index();
        let Some(slot) = self.slots.get_mut(key) else { return };
        let Some(current) = slot.current.take() else { return };
        (slot.touched, slot.changed) = (self.state.revision, true);
        slot.content = Vec::new();
        self.retire(key, &current, index);
        self.record(key, kind(current.version), &[]);
    }

    /// Gives a key its next version, in the write that has begun; returns the version. [`Group::live`] has been asked about
    /// the key, and [`Group::count`] about the chunks.
    pub(super) fn put(&mut self, key: &str, proposal: Proposal) -> u64 {
        let (index, revision, now_ms) = (self.index(), self.state.revision, self.now_ms);
        let Some(slot) = self.slots.get_mut(key) else { return 0 };
        let before = slot.current.take();
        let version = slot.last_version.saturating_add(1);
        let Proposal { content, is_manifest, size, files, chunks, expires_ms, owner, labels } = proposal;
        let place = match is_manifest {
            true => Place::Manifest,
            false if content.len() <= INLINE_SIZE_MAX => Place::Inline,
            false => Place::Apart,
        };
        let created_ms = before.as_ref().map_or(now_ms, |before| before.created_ms);
        let current = Current {
            version,
            revision,
            created_ms,
            updated_ms: now_ms,
            expires_ms,
            owner,
            labels,
            size,
            files,
            place,
        };
        slot.current = Some(current.clone());
        (slot.last_version, slot.touched, slot.changed) = (version, revision, true);
        if is_manifest {
            let row = content_row(key, version);
            self.batch.put_with_tail(Table::Contents, &row, &Stored { revision }, &content);
        }
        for chunk in chunks {
            *self.counts.entry(chunk).or_default() += 1;
        }
        if let Some(before) = before {
            self.retire(key, &before, index);
        }
        let entry = current.into_entry(key.into(), Some(content.clone()));
        self.record(key, ChangeKind::Put(entry), &content);
        if let Some(slot) = self.slots.get_mut(key) {
            self.contents_size += content.len();
            slot.content = content;
        }
        version
    }

    /// The content of a key's current version.
    pub(super) fn content(&mut self, key: &str) -> Result<Vec<u8>, CatalogError> {
        let view = self.view.clone();
        let slot = self.slot(key)?;
        match &slot.current {
            Some(_) if slot.changed => Ok(slot.content.clone()),
            Some(current) => view.content(key, current, slot.content.clone()),
            None => Ok(Vec::new()),
        }
    }

    /// How many manifests refer to the chunk; it is remembered for the end of the group.
    pub(super) fn count(&mut self, chunk: &[u8; 32]) -> Result<u64, CatalogError> {
        if let Some(count) = self.counts.get(chunk) {
            return Ok(*count);
        }
        let count = self.view.get(Table::Chunks, chunk)?.unwrap_or_default();
        self.counts.insert(*chunk, count);
        Ok(count)
    }

    /// Registers a service, or with `None` forgets it.
    pub(super) fn set_service(&mut self, name: &str, registered: Option<Registered>) {
        self.services.insert(name.into(), registered);
        let mut services = self.shared.services();
        match registered {
            Some(registered) => services.set(name.into(), registered, self.now_ms),
            None => services.remove(name),
        }
    }

    /// Whether the group itself has changed a key that begins with `prefix`, after `revision`.
    pub(super) fn has_changed(&self, prefix: &str, revision: u64) -> bool {
        let since = self.recorded.iter().filter(|(written, _)| *written > revision);
        since.flat_map(|(_, changes)| changes).any(|change| change.key.starts_with(prefix))
    }

    /// Writes all of it.
    pub(crate) fn write(mut self) -> Result<(State, Vec<Recorded>, Made), CatalogError> {
        for (key, slot) in std::mem::take(&mut self.slots) {
            if slot.changed {
                self.write_slot(&key, &slot);
            }
        }
        for (chunk, count) in &self.counts {
            match count {
                0 => self.batch.remove(Table::Chunks, chunk),
                count => self.batch.put(Table::Chunks, chunk, count),
            }
        }
        for (name, registered) in &self.services {
            match registered {
                Some(registered) => self.batch.put(Table::Services, name.as_bytes(), registered),
                None => self.batch.remove(Table::Services, name.as_bytes()),
            }
        }
        if self.state != self.began {
            self.batch.put(Table::Meta, STATE, &self.state);
        }
        let made = self.batch.write()?;
        let recorded = self
            .recorded
            .into_iter()
            .map(|(revision, changes)| Recorded { revision, changes: changes.into() });
        Ok((self.state, recorded.collect(), made))
    }

    /// Writes what has become of a key, each row once.
    fn write_slot(&mut self, key: &str, slot: &Slot) {
        let (before, current) = (slot.before.as_ref(), slot.current.as_ref());
        let batch = &mut self.batch;
        match current {
            Some(current) => {
                let tail = if current.place == Place::Inline { &slot.content[..] } else { &[] };
                batch.put_with_tail(Table::Current, key.as_bytes(), current, tail);
                if slot.buried {
                    batch.remove(Table::Buried, key.as_bytes());
                }
                if current.place == Place::Apart {
                    let (row, stored) =
                        (content_row(key, current.version), Stored { revision: current.revision });
                    batch.put_with_tail(Table::Contents, &row, &stored, &slot.content);
                }
            }
            None => {
                batch.remove(Table::Current, key.as_bytes());
                let buried = Buried { version: slot.last_version, revision: slot.touched };
                batch.put(Table::Buried, key.as_bytes(), &buried);
            }
        }
        if let Some(before) = before.filter(|before| before.place == Place::Apart) {
            batch.remove(Table::Contents, &content_row(key, before.version));
        }
        let expiry = |current: Option<&Current>| Some(expiry_row(current?.expires_ms?, key));
        replace(batch, Table::Expiries, expiry(before), expiry(current));
        let owned = |current: Option<&Current>| Some(owned_row(current?.owner.as_ref()?, key));
        replace(batch, Table::Owned, owned(before), owned(current));
    }

    fn slot(&mut self, key: &str) -> Result<&mut Slot, CatalogError> {
        if !self.slots.contains_key(key) {
            let slot = self.read_slot(key)?;
            self.slots.insert(key.into(), slot);
        }
        Ok(self.slots.get_mut(key).expect("it was there, or was put there"))
    }

    fn read_slot(&self, key: &str) -> Result<Slot, CatalogError> {
        let current = self.view.get_with_tail::<Current>(Table::Current, key.as_bytes())?;
        let buried: Option<Buried> = match current {
            Some(_) => None,
            None => self.view.get(Table::Buried, key.as_bytes())?,
        };
        let last = current.as_ref().map(|(current, _)| (current.version, current.revision));
        let last = last.or(buried.map(|buried| (buried.version, buried.revision)));
        let (last_version, touched) = last.unwrap_or_default();
        let (current, content) = current.unzip();
        Ok(Slot {
            before: current.clone(),
            current,
            content: content.unwrap_or_default(),
            last_version,
            touched,
            buried: buried.is_some(),
            changed: false,
        })
    }

    /// Notes that a version is current no more. The chunks of a manifest stay referenced for a while.
    fn retire(&mut self, key: &str, current: &Current, index: u16) {
        if current.place == Place::Manifest {
            let retired = Retired { key: key.into(), version: current.version, revision: current.revision };
            let row = retired_row(self.now_ms, self.state.revision, index);
            self.batch.put(Table::Retired, &row, &retired);
        }
    }

    /// The number of the next change within the write that has begun.
    fn index(&self) -> u16 {
        let count = self.recorded.last().map_or(0, |(_, changes)| changes.len());
        u16::try_from(count).expect("a write has at most as many changes as operations")
    }

    fn record(&mut self, key: &str, kind: ChangeKind, content: &[u8]) {
        let (index, revision, at_ms) = (self.index(), self.state.revision, self.now_ms);
        let what = match &kind {
            ChangeKind::Put(_) => {
                let current = self.slots.get(key).and_then(|slot| slot.current.clone());
                LoggedKind::Put(current.expect("the key was just put"))
            }
            ChangeKind::Delete { version } => LoggedKind::Delete(*version),
            ChangeKind::Expire { version } => LoggedKind::Expire(*version),
            ChangeKind::OwnerEnded { version } => LoggedKind::OwnerEnded(*version),
        };
        let logged = Logged { at_ms, key: key.into(), what };
        self.state.changes_size = self.state.changes_size.saturating_add(logged.size_with(content));
        self.batch.put_with_tail(Table::Changes, &change_row(revision, index), &logged, content);
        let change = Change { revision, at_ms, key: key.into(), kind };
        if let Some((_, changes)) = self.recorded.last_mut() {
            changes.push(change);
        }
    }
}

impl Logged {
    /// About how many bytes it takes on disk, with the content that follows it.
    pub(super) fn size_with(&self, content: &[u8]) -> u64 {
        let labels = match &self.what {
            LoggedKind::Put(current) => {
                current.labels.iter().map(|(name, value)| name.len() + value.len()).sum()
            }
            _ => 0,
        };
        (LOGGED_SIZE + self.key.len() + labels + content.len()) as u64
    }

    /// The change, of which `content` follows the record.
    pub(super) fn into_change(self, revision: u64, content: Vec<u8>) -> Change {
        let Logged { at_ms, key, what } = self;
        let kind = match what {
            LoggedKind::Put(current) => ChangeKind::Put(current.into_entry(key.clone(), Some(content))),
            LoggedKind::Delete(version) => ChangeKind::Delete { version },
            LoggedKind::Expire(version) => ChangeKind::Expire { version },
            LoggedKind::OwnerEnded(version) => ChangeKind::OwnerEnded { version },
        };
        Change { revision, at_ms, key, kind }
    }
}

/// Replaces a row of an index by another.
fn replace(batch: &mut Batch, table: Table, before: Option<Vec<u8>>, after: Option<Vec<u8>>) {
    if before == after {
        return;
    }
    if let Some(row) = before {
        batch.remove(table, &row);
    }
    if let Some(row) = after {
        batch.put(table, &row, &());
    }
}
