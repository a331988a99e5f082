//! Small values, as the control plane sees them: each key has one shard that owns it, and what all of them may hold
//! together is counted in numbers that they share.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use flow::values::spread;
use flow::wire::session::ChunkReference;

use crate::command::Reply;
use crate::{EngineError, Handle};

/// What a shard keeps under a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// What it is.
    pub content: HeldContent,
    /// What kind of value it is, in the words of whoever put it.
    pub kind: u8,
    /// Bytes that it counts.
    pub size: u64,
    /// Whether it stays however little room there is.
    pub is_fixed: bool,
    /// How long it lives from now on, in milliseconds; `None` for ever.
    pub ttl_ms: Option<u64>,
    /// When it was put or read last, milliseconds since 1970.
    pub used_ms: u64,
}

/// Where the bytes of a value are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeldContent {
    /// Here.
    Inline(Arc<[u8]>),
    /// In a chunk, and the handle that keeps it.
    Chunk {
        /// The chunk.
        chunk: ChunkReference,
        /// The open handle.
        handle: u64,
        /// The GPU that it is kept on, if it is.
        gpu: Option<u16>,
    },
    /// In the catalog: here it is only counted.
    Catalog,
}

/// What there is under one key, without the bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The key.
    pub key: String,
    /// What there is; an inline value has no bytes here.
    pub held: Held,
}

/// What the values of a node are together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// Bytes that they may be.
    pub limit: u64,
    /// Bytes that they are.
    pub bytes: u64,
    /// How many keys there are.
    pub keys: u64,
    /// Of them, those whose bytes are in the catalog.
    pub catalog_keys: u64,
}

pub(crate) enum Command {
    /// What is there; reading it is a use.
    Get { key: String, at_ms: u64, reply: Reply<Option<Held>> },
    /// Puts a value in place of what is there, and gives that. `reserved` bytes of it are counted already.
    Put { key: String, held: Held, reserved: u64, reply: Reply<Option<Held>> },
    /// Puts a value where nothing else has to be done for it; gives whether it did.
    Swap { key: String, held: Held, reply: Reply<bool> },
    /// Removes what is there; gives it.
    Remove { key: String, reply: Reply<Option<Held>> },
    /// Removes what was used least recently until so many bytes are free or another shard has what goes next.
    Evict { bytes: u64, reply: Reply<()> },
    /// Removes what is over and counts the rest: all keys, and those in the catalog.
    Count { reply: Reply<(u64, u64)> },
    /// Everything.
    List { reply: Reply<Vec<Listed>> },
}

/// Bytes of the values of all shards. The numbers are exact; whoever adds to them makes sure that they fit first.
pub(crate) struct Budget {
    limit: AtomicU64,
    used: AtomicU64,
    /// Of them, bytes of what stays however little room there is.
    fixed: AtomicU64,
    uses: AtomicU64,
    /// For each shard the number of the last use of what goes next; [`u64::MAX`] where all is fixed.
    oldest: Vec<AtomicU64>,
}

impl Budget {
    pub(crate) fn new(limit: u64, shards: u16) -> Self {
        Self {
            limit: limit.into(),
            used: 0.into(),
            fixed: 0.into(),
            uses: 1.into(),
            oldest: (0..shards).map(|_| u64::MAX.into()).collect(),
        }
    }

    /// A number larger than all that were given out before.
    pub(crate) fn next_use(&self) -> u64 {
        self.uses.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn limit(&self) -> u64 {
        self.limit.load(Ordering::SeqCst)
    }

    pub(crate) fn used(&self) -> u64 {
        self.used.load(Ordering::SeqCst)
    }

    pub(crate) fn fixed(&self) -> u64 {
        self.fixed.load(Ordering::SeqCst)
    }

    /// Counts so many bytes more, if they fit.
    pub(crate) fn try_add(&self, bytes: u64) -> bool {
        let limit = self.limit();
        let added = |used: u64| used.checked_add(bytes).filter(|after| *after <= limit);
        self.used.fetch_update(Ordering::SeqCst, Ordering::SeqCst, added).is_ok()
    }

    /// Counts `more` bytes where `less` go, for which there was room made before.
    pub(crate) fn exchange(&self, more: u64, less: u64) {
        self.used.fetch_add(more, Ordering::SeqCst);
        self.used.fetch_sub(less, Ordering::SeqCst);
    }

    pub(crate) fn exchange_fixed(&self, more: u64, less: u64) {
        self.fixed.fetch_add(more, Ordering::SeqCst);
        self.fixed.fetch_sub(less, Ordering::SeqCst);
    }

    pub(crate) fn give_back(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::SeqCst);
    }

    pub(crate) fn set_oldest(&self, shard: u16, oldest: Option<u64>) {
        self.oldest[usize::from(shard)].store(oldest.unwrap_or(u64::MAX), Ordering::SeqCst);
    }

    /// The shard that has what was used least recently of all; `None` when everything is fixed.
    pub(crate) fn next_to_evict(&self) -> Option<usize> {
        let of = |shard: &usize| self.oldest[*shard].load(Ordering::SeqCst);
        (0..self.oldest.len()).min_by_key(of).filter(|shard| of(shard) != u64::MAX)
    }
}

/// Bytes that are counted for a value that is on its way. Dropped, they are free again.
pub struct Reservation {
    budget: Arc<Budget>,
    bytes: u64,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.budget.give_back(self.bytes);
    }
}

impl Handle {
    /// What is there under a key. It counts as a use.
    pub async fn value(&self, key: &str, at_ms: u64) -> Result<Option<Held>, EngineError> {
        let key_text = key.to_owned();
        self.ask_values(key, |reply| Command::Get { key: key_text, at_ms, reply }).await
    }

    /// Counts `size` bytes for a value that comes in place of `old`, and removes what was used least recently where
    /// they would not fit otherwise. When they cannot fit, nothing is removed.
    pub async fn reserve_value(&self, size: u64, old: Option<&Held>) -> Result<Reservation, EngineError> {
        let budget = self.budget.clone();
        let (old_size, old_fixed) =
            old.map_or((0, 0), |old| (old.size, if old.is_fixed { old.size } else { 0 }));
        let full = || EngineError::ValuesFull { wanted: size, limit: self.budget.limit() };
        let wanted = size.saturating_sub(old_size);
        loop {
            if wanted == 0 || budget.try_add(wanted) {
                return Ok(Reservation { budget, bytes: wanted });
            }
            let stays = budget.fixed().saturating_sub(old_fixed);
            if stays.saturating_add(size) > budget.limit() {
                return Err(full());
            }
            let shard = budget.next_to_evict().ok_or_else(full)?;
            let bytes = (budget.used() + wanted).saturating_sub(budget.limit());
            self.ask(shard, |reply| crate::command::Command::Values(Command::Evict { bytes, reply })).await?;
        }
    }

    /// Counts `size` bytes for a value whatever it comes in place of, at once, where that leaves room for many others.
    pub fn reserve_value_amply(&self, size: u64) -> Option<Reservation> {
        let budget = self.budget.clone();
        let is_ample = budget.used().saturating_add(size) <= budget.limit() / 2;
        // A reservation that is made gives back what it says when it is dropped.
        (is_ample && budget.try_add(size)).then(|| Reservation { budget, bytes: size })
    }

    /// Puts a value whose bytes are with it, if there is room and what it comes in place of has its bytes with it, too, or
    /// is not there; gives whether it did. That it is looked at and replaced takes one answer of the shard.
    pub async fn swap_value(&self, key: &str, held: Held) -> Result<bool, EngineError> {
        let key_text = key.to_owned();
        self.ask_values(key, |reply| Command::Swap { key: key_text, held, reply }).await
    }

    /// Puts a value for which room was reserved; gives what it replaces.
    pub async fn put_value(
        &self,
        key: &str,
        held: Held,
        room: Reservation,
    ) -> Result<Option<Held>, EngineError> {
        let key_text = key.to_owned();
        let reserved = room.bytes;
        // From here on the shard counts it, also when nobody waits for the answer any more.
        std::mem::forget(room);
        self.ask_values(key, |reply| Command::Put { key: key_text, held, reserved, reply }).await
    }

    /// Puts what is there anyway and has only to be counted, be there room for it or not.
    pub async fn put_value_anyway(&self, key: &str, held: Held) -> Result<(), EngineError> {
        let key_text = key.to_owned();
        let put = |reply| Command::Put { key: key_text, held, reserved: 0, reply };
        self.ask_values(key, put).await.map(drop)
    }

    /// Removes what is there under a key.
    pub async fn remove_value(&self, key: &str) -> Result<Option<Held>, EngineError> {
        let key_text = key.to_owned();
        self.ask_values(key, |reply| Command::Remove { key: key_text, reply }).await
    }

    /// How many bytes all values may have.
    pub fn values_limit(&self) -> u64 {
        self.budget.limit()
    }

    /// Sets how many bytes all values may have, and removes what is too much and may go.
    pub async fn limit_values(&self, bytes: u64) -> Result<(), EngineError> {
        self.budget.limit.store(bytes, Ordering::SeqCst);
        loop {
            let over = self.budget.used().saturating_sub(bytes);
            let Some(shard) = self.budget.next_to_evict().filter(|_| over > 0) else { return Ok(()) };
            let evict = |reply| crate::command::Command::Values(Command::Evict { bytes: over, reply });
            self.ask(shard, evict).await?;
        }
    }

    /// Removes what was used least recently, about so many bytes of it; false when there is nothing that may go.
    pub async fn free_values(&self, bytes: u64) -> Result<bool, EngineError> {
        let Some(shard) = self.budget.next_to_evict() else { return Ok(false) };
        self.ask(shard, |reply| crate::command::Command::Values(Command::Evict { bytes, reply })).await?;
        Ok(true)
    }

    /// What all values are together.
    pub async fn value_totals(&self) -> Result<Totals, EngineError> {
        let mut totals = Totals::default();
        for shard in 0..usize::from(self.shards()) {
            let count = |reply| crate::command::Command::Values(Command::Count { reply });
            let (keys, catalog_keys) = self.ask(shard, count).await?;
            totals.keys += keys;
            totals.catalog_keys += catalog_keys;
        }
        Ok(Totals { limit: self.budget.limit(), bytes: self.budget.used(), ..totals })
    }

    /// All keys that there are, in their order, and what they have.
    pub async fn list_values(&self) -> Result<Vec<Listed>, EngineError> {
        let mut all = Vec::new();
        for shard in 0..usize::from(self.shards()) {
            let list = |reply| crate::command::Command::Values(Command::List { reply });
            all.append(&mut self.ask(shard, list).await?);
        }
        all.sort_unstable_by(|left, right| left.key.cmp(&right.key));
        Ok(all)
    }

    async fn ask_values<T>(
        &self,
        key: &str,
        command: impl FnOnce(Reply<T>) -> Command,
    ) -> Result<T, EngineError> {
        let shard = (spread(key) % u64::from(self.shards())) as usize;
        self.ask(shard, |reply| crate::command::Command::Values(command(reply))).await
    }
}
