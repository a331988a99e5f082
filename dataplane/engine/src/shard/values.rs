//! Small values: those whose keys this shard owns.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use flow::limits::VALUES_PER_SHARD;
use flow::time::Instant;
use flow::values::{Item, Table};

use super::Shard;
use crate::Event;
use crate::values::{Budget, Command, Held, HeldContent, Listed};

/// The values of one shard, and what all shards count together.
pub(super) struct Values {
    table: RefCell<Table<Value>>,
    budget: Arc<Budget>,
}

struct Value {
    content: HeldContent,
    kind: u8,
    used_ms: u64,
}

impl Values {
    pub(super) fn new(budget: Arc<Budget>) -> Self {
        Self { table: RefCell::default(), budget }
    }
}

impl Shard {
    /// Carries one command out.
    pub(super) fn values(self: Rc<Self>, command: Command) {
        match command {
            Command::Get { key, at_ms, reply } => drop(reply.send(Ok(self.value(&key, at_ms)))),
            Command::Put { key, held, reserved, reply } => {
                drop(reply.send(Ok(self.put_value(&key, held, reserved))));
            }
            Command::Swap { key, held, reply } => drop(reply.send(Ok(self.swap_value(&key, held)))),
            Command::Remove { key, reply } => drop(reply.send(Ok(self.remove_value(&key)))),
            Command::Evict { bytes, reply } => {
                self.evict_values(bytes);
                drop(reply.send(Ok(())));
            }
            Command::Count { reply } => {
                self.expire_values();
                let table = self.values.table.borrow();
                let is_in_catalog = |item: &&Item<Value>| item.value.content == HeldContent::Catalog;
                let in_catalog = table.iter(self.now()).map(|(_, item)| item).filter(is_in_catalog).count();
                drop(reply.send(Ok((table.tally().keys, in_catalog as u64))));
            }
            Command::List { reply } => drop(reply.send(Ok(self.list_values()))),
        }
        let oldest = self.values.table.borrow().oldest();
        self.values.budget.set_oldest(self.index, oldest);
    }

    fn value(&self, key: &str, at_ms: u64) -> Option<Held> {
        let (now, used) = (self.now(), self.values.budget.next_use());
        let mut table = self.values.table.borrow_mut();
        let item = table.get(key, now, Some(used))?;
        item.value.used_ms = item.value.used_ms.max(at_ms);
        Some(shown(item, now))
    }

    fn swap_value(&self, key: &str, held: Held) -> bool {
        let old = self.value(key, held.used_ms);
        let has_bytes = |held: &Held| matches!(held.content, HeldContent::Inline(_));
        let wanted = held.size.saturating_sub(old.as_ref().map_or(0, |old| old.size));
        if !has_bytes(&held) || !old.as_ref().is_none_or(has_bytes) || !self.values.budget.try_add(wanted) {
            return false;
        }
        self.put_value(key, held, wanted);
        true
    }

    fn put_value(&self, key: &str, held: Held, reserved: u64) -> Option<Held> {
        self.expire_values();
        let Held { content, kind, size, is_fixed, ttl_ms, used_ms } = held;
        let ends = ttl_ms.map(|ttl_ms| self.now() + Duration::from_millis(ttl_ms));
        let item = Item { value: Value { content, kind, used_ms }, size, is_fixed, ends };
        let budget = &self.values.budget;
        let replaced = self.values.table.borrow_mut().put(key, item, budget.next_use());
        let replaced_size = replaced.as_ref().map_or(0, |item| item.size);
        // What was reserved is counted already, and what is replaced is free.
        budget.exchange(size, replaced_size + reserved);
        let over = budget.used().saturating_sub(budget.limit());
        if over > 0 {
            // It was written by others since the room was reserved, or the limit is another.
            self.evict_values(over);
        }
        let replaced_fixed = replaced.as_ref().filter(|item| item.is_fixed).map_or(0, |item| item.size);
        budget.exchange_fixed(if is_fixed { size } else { 0 }, replaced_fixed);
        let old = replaced.as_ref().map(|item| shown(item, self.now()));
        replaced.into_iter().for_each(|item| self.let_value_go(item.value));
        if self.values.table.borrow().tally().keys > VALUES_PER_SHARD as u64 {
            self.drop_one();
        }
        old
    }

    fn remove_value(&self, key: &str) -> Option<Held> {
        self.expire_values();
        let now = self.now();
        let item = self.values.table.borrow_mut().remove(key)?;
        let held = shown(&item, now);
        self.forget(item);
        Some(held)
    }

    /// Removes what was used least recently, until so many bytes are free or another shard has what goes next.
    fn evict_values(&self, bytes: u64) {
        let before = self.values.table.borrow().tally().bytes;
        self.expire_values();
        loop {
            let (freed, oldest) = {
                let table = self.values.table.borrow();
                (before - table.tally().bytes, table.oldest())
            };
            let budget = &self.values.budget;
            budget.set_oldest(self.index, oldest);
            let is_next = budget.next_to_evict() == Some(usize::from(self.index));
            if freed >= bytes || !is_next || !self.drop_one() {
                return;
            }
        }
    }

    fn expire_values(&self) {
        let now = self.now();
        loop {
            let over = self.values.table.borrow_mut().expire(now);
            let Some(item) = over else { return };
            self.forget(item);
        }
    }

    fn drop_one(&self) -> bool {
        let evicted = self.values.table.borrow_mut().evict();
        evicted.map(|item| self.forget(item)).is_some()
    }

    /// Counts an item no more that is out of the table.
    fn forget(&self, item: Item<Value>) {
        let budget = &self.values.budget;
        budget.give_back(item.size);
        if item.is_fixed {
            budget.exchange_fixed(0, item.size);
        }
        self.let_value_go(item.value);
    }

    fn let_value_go(&self, value: Value) {
        if let HeldContent::Chunk { chunk, handle, .. } = value.content {
            self.tell(Event::ValueDropped { chunk: chunk.id, handle });
        }
    }

    fn list_values(&self) -> Vec<Listed> {
        let now = self.now();
        let table = self.values.table.borrow();
        let listed = |(key, item): (&str, &Item<Value>)| {
            let mut held = shown(item, now);
            if let HeldContent::Inline(bytes) = &mut held.content {
                *bytes = Arc::new([]);
            }
            Listed { key: key.to_owned(), held }
        };
        table.iter(now).map(listed).collect()
    }
}

fn shown(item: &Item<Value>, now: Instant) -> Held {
    let Value { content, kind, used_ms } = &item.value;
    Held {
        content: content.clone(),
        kind: *kind,
        size: item.size,
        is_fixed: item.is_fixed,
        ttl_ms: item.ends.map(|end| end.since(now).as_millis() as u64),
        used_ms: *used_ms,
    }
}
