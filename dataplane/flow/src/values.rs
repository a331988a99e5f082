//! Small values of one shard: which are there, which go first when room is wanted, and how many bytes they are.
//!
//! The order of use comes as numbers from outside, so that several tables can be looked at as one: the one whose
//! [`Table::oldest`] is the least has what was used least recently of all.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::rc::Rc;

use crate::time::Instant;

/// A number spread evenly over all keys, the same on every node: it chooses shards.
pub fn spread(key: &str) -> u64 {
    let digest = blake3::hash(key.as_bytes());
    let mut head = [0; 8];
    head.copy_from_slice(&digest.as_bytes()[..8]);
    u64::from_le_bytes(head)
}

/// What is put under a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Item<V> {
    /// The value, or where it is.
    pub value: V,
    /// Bytes that it counts.
    pub size: u64,
    /// Whether it stays however little room there is.
    pub is_fixed: bool,
    /// From when on it is absent; `None` is never.
    pub ends: Option<Instant>,
}

/// What a table holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// How many keys.
    pub keys: u64,
    /// Bytes of all of them.
    pub bytes: u64,
    /// How many keys stay however little room there is.
    pub fixed_keys: u64,
    /// Their bytes.
    pub fixed_bytes: u64,
}

/// Values under keys.
#[derive(Debug)]
pub struct Table<V> {
    entries: HashMap<Rc<str>, Entry<V>>,
    /// What may go, by the number of its last use.
    by_use: BTreeMap<u64, Rc<str>>,
    by_end: BTreeSet<(Instant, Rc<str>)>,
    tally: Tally,
}

#[derive(Debug)]
struct Entry<V> {
    item: Item<V>,
    used: u64,
}

impl<V> Default for Table<V> {
    fn default() -> Self {
        Self {
            entries: HashMap::new(),
            by_use: BTreeMap::new(),
            by_end: BTreeSet::new(),
            tally: Tally::default(),
        }
    }
}

impl<V> Table<V> {
    /// What is there under a key, which counts as a use when `used`, a number larger than all before, is given.
    pub fn get(&mut self, key: &str, now: Instant, used: Option<u64>) -> Option<&mut Item<V>> {
        let entry = self.entries.get_mut(key)?;
        if has_ended(&entry.item, now) {
            return None;
        }
        if let Some(used) = used.filter(|_| !entry.item.is_fixed)
            && let Some(key) = self.by_use.remove(&entry.used)
        {
            entry.used = used;
            self.by_use.insert(used, key);
        }
        Some(&mut entry.item)
    }

    /// Puts an item in place of what is there, which is given back. `used` is a number larger than all before.
    pub fn put(&mut self, key: &str, item: Item<V>, used: u64) -> Option<Item<V>> {
        let replaced = self.remove(key);
        let key: Rc<str> = key.into();
        if !item.is_fixed {
            self.by_use.insert(used, key.clone());
        }
        if let Some(end) = item.ends {
            self.by_end.insert((end, key.clone()));
        }
        self.tally.add(&item);
        self.entries.insert(key, Entry { item, used });
        replaced
    }

    /// Removes what is there, be it over or not.
    pub fn remove(&mut self, key: &str) -> Option<Item<V>> {
        let (key, Entry { item, used }) = self.entries.remove_entry(key)?;
        if !item.is_fixed {
            self.by_use.remove(&used);
        }
        if let Some(end) = item.ends {
            self.by_end.remove(&(end, key));
        }
        self.tally.take(&item);
        Some(item)
    }

    /// The number of the last use of what goes next; `None` when all is fixed.
    pub fn oldest(&self) -> Option<u64> {
        self.by_use.first_key_value().map(|(used, _)| *used)
    }

    /// Removes what was used least recently.
    pub fn evict(&mut self) -> Option<Item<V>> {
        let key = self.by_use.first_key_value()?.1.clone();
        self.remove(&key)
    }

    /// Removes one item whose time is over.
    pub fn expire(&mut self, now: Instant) -> Option<Item<V>> {
        let (end, key) = self.by_end.first()?;
        if *end > now {
            return None;
        }
        let key = key.clone();
        self.remove(&key)
    }

    /// What it holds, what is over and not yet removed included.
    pub fn tally(&self) -> Tally {
        self.tally
    }

    /// All that is there, in no order.
    pub fn iter(&self, now: Instant) -> impl Iterator<Item = (&str, &Item<V>)> {
        let there = self.entries.iter().filter(move |(_, entry)| !has_ended(&entry.item, now));
        there.map(|(key, entry)| (&**key, &entry.item))
    }
}

fn has_ended<V>(item: &Item<V>, now: Instant) -> bool {
    item.ends.is_some_and(|end| end <= now)
}

impl Tally {
    fn add<V>(&mut self, item: &Item<V>) {
        self.keys += 1;
        self.bytes += item.size;
        if item.is_fixed {
            self.fixed_keys += 1;
            self.fixed_bytes += item.size;
        }
    }

    fn take<V>(&mut self, item: &Item<V>) {
        self.keys -= 1;
        self.bytes -= item.size;
        if item.is_fixed {
            self.fixed_keys -= 1;
            self.fixed_bytes -= item.size;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The same, as plainly as can be: a list in the order of use.
    #[derive(Default)]
    struct Model(Vec<(String, Item<u32>)>);

    impl Model {
        fn at(&self, key: &str) -> Option<usize> {
            self.0.iter().position(|(known, _)| known == key)
        }

        fn get(&mut self, key: &str, now: Instant, is_use: bool) -> Option<Item<u32>> {
            let at = self.at(key)?;
            let (key, item) = self.0[at].clone();
            if has_ended(&item, now) {
                return None;
            }
            if is_use {
                self.0.remove(at);
                self.0.push((key, item));
            }
            Some(item)
        }

        fn remove(&mut self, key: &str) -> Option<Item<u32>> {
            self.at(key).map(|at| self.0.remove(at).1)
        }

        fn evict(&mut self) -> Option<Item<u32>> {
            let at = self.0.iter().position(|(_, item)| !item.is_fixed)?;
            Some(self.0.remove(at).1)
        }

        fn expire(&mut self, now: Instant) -> Vec<Item<u32>> {
            let (over, left) = self.0.drain(..).partition(|(_, item)| has_ended(item, now));
            self.0 = left;
            let over: Vec<(String, Item<u32>)> = over;
            over.into_iter().map(|(_, item)| item).collect()
        }

        fn tally(&self) -> Tally {
            let mut tally = Tally::default();
            self.0.iter().for_each(|(_, item)| tally.add(item));
            tally
        }
    }

    #[derive(Debug, Clone)]
    enum Step {
        Put { key: u8, size: u64, is_fixed: bool, lives: Option<u64> },
        Get { key: u8, is_use: bool },
        Remove { key: u8 },
        Evict,
        Expire,
        Wait { micros: u64 },
    }

    fn step() -> impl Strategy<Value = Step> {
        let put = (0u8..12, 0u64..100, any::<bool>(), prop::option::of(0u64..50))
            .prop_map(|(key, size, is_fixed, lives)| Step::Put { key, size, is_fixed, lives });
        let get = (0u8..12, any::<bool>()).prop_map(|(key, is_use)| Step::Get { key, is_use });
        prop_oneof![
            4 => put,
            3 => get,
            1 => (0u8..12).prop_map(|key| Step::Remove { key }),
            2 => Just(Step::Evict),
            1 => Just(Step::Expire),
            1 => (0u64..30).prop_map(|micros| Step::Wait { micros }),
        ]
    }

    proptest! {
        #[test]
        fn a_table_does_what_a_list_does(steps in prop::collection::vec(step(), 0..120)) {
            let (mut table, mut model) = (Table::default(), Model::default());
            let mut micros = 0;
            for (number, step) in (1..).zip(steps) {
                let now = Instant::from_micros(micros);
                match step {
                    Step::Put { key, size, is_fixed, lives } => {
                        let key = format!("k{key}");
                        let ends = lives.map(|lives| Instant::from_micros(micros + lives));
                        let item = Item { value: number as u32, size, is_fixed, ends };
                        let replaced = model.remove(&key);
                        model.0.push((key.clone(), item));
                        prop_assert_eq!(table.put(&key, item, number), replaced);
                    }
                    Step::Get { key, is_use } => {
                        let key = format!("k{key}");
                        let found = table.get(&key, now, is_use.then_some(number)).copied();
                        prop_assert_eq!(found, model.get(&key, now, is_use));
                    }
                    Step::Remove { key } => {
                        let key = format!("k{key}");
                        prop_assert_eq!(table.remove(&key), model.remove(&key));
                    }
                    Step::Evict => prop_assert_eq!(table.evict(), model.evict()),
                    Step::Expire => {
                        let mut over: Vec<_> = std::iter::from_fn(|| table.expire(now)).collect();
                        over.sort_by_key(|item| item.value);
                        let mut expected = model.expire(now);
                        expected.sort_by_key(|item| item.value);
                        prop_assert_eq!(over, expected);
                    }
                    Step::Wait { micros: more } => micros += more,
                }
                prop_assert_eq!(table.tally(), model.tally());
                prop_assert_eq!(table.oldest().is_some(), model.0.iter().any(|(_, item)| !item.is_fixed));
                let now = Instant::from_micros(micros);
                let there = model.0.iter().filter(|(_, item)| !has_ended(item, now)).count();
                prop_assert_eq!(table.iter(now).count(), there);
            }
            let rest = std::iter::from_fn(|| table.evict()).count();
            prop_assert_eq!(table.tally().keys, table.tally().fixed_keys);
            prop_assert!(rest <= model.0.len() && table.oldest().is_none());
        }
    }

    #[test]
    fn of_two_tables_the_lesser_oldest_was_used_less_recently() {
        let item = |value| Item { value, size: 1, is_fixed: false, ends: None };
        let (mut left, mut right) = (Table::default(), Table::default());
        left.put("a", item(1), 1);
        right.put("b", item(2), 2);
        assert!(left.oldest() < right.oldest());
        assert!(left.get("a", Instant::ZERO, Some(3)).is_some());
        assert!(left.oldest() > right.oldest());
    }

    #[test]
    fn keys_are_spread_over_shards() {
        let mut counts = [0; 4];
        (0..4000).for_each(|number| counts[(spread(&format!("key:{number}")) % 4) as usize] += 1);
        assert!(counts.iter().all(|&count| count > 850), "{counts:?}");
    }
}
