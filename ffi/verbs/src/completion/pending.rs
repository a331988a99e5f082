//! What work requests under way work on. Pure: it knows nothing of devices.

use super::WorkRequestId;

/// Which queue a work request was posted to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owner {
    /// A queue pair, by its number.
    QueuePair(u32),
    /// A shared receive queue, by its place in memory.
    SharedReceiveQueue(usize),
}

/// What work requests hold, by the number that the device knows them by: 32 bits of a slot, and 32 bits that count how
/// often the slot was used, so that the completion of a request that was given up is told from that of a later one.
pub(super) struct Pending<T> {
    slots: Vec<Slot<T>>,
    vacant: Vec<u32>,
}

struct Slot<T> {
    uses: u32,
    entry: Option<(Owner, T)>,
}

impl<T> Pending<T> {
    /// Room for `capacity` work requests.
    pub(super) fn new(capacity: u32) -> Self {
        Self {
            slots: (0..capacity).map(|_| Slot { uses: 0, entry: None }).collect(),
            vacant: (0..capacity).rev().collect(),
        }
    }

    /// Keeps what a work request works on, or gives it back when there is no room.
    pub(super) fn put(&mut self, owner: Owner, value: T) -> Result<WorkRequestId, T> {
        let Some(index) = self.vacant.pop() else { return Err(value) };
        let slot = &mut self.slots[index as usize];
        slot.uses = slot.uses.wrapping_add(1);
        slot.entry = Some((owner, value));
        Ok(WorkRequestId(u64::from(slot.uses) << 32 | u64::from(index)))
    }

    /// Gives up what a work request worked on; nothing when it was given up before.
    pub(super) fn take(&mut self, id: WorkRequestId) -> Option<T> {
        let (uses, index) = ((id.0 >> 32) as u32, id.0 as u32);
        let slot = self.slots.get_mut(index as usize).filter(|slot| slot.uses == uses)?;
        let (_, value) = slot.entry.take()?;
        self.vacant.push(index);
        Some(value)
    }

    /// Gives up all that was posted to one queue.
    pub(super) fn take_all(&mut self, owner: Owner) -> Vec<T> {
        let mut taken = Vec::new();
        for (index, slot) in self.slots.iter_mut().enumerate() {
            if slot.entry.as_ref().is_some_and(|(posted_to, _)| *posted_to == owner) {
                taken.extend(slot.entry.take().map(|(_, value)| value));
                self.vacant.push(index as u32);
            }
        }
        taken
    }

    /// How many are kept.
    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.vacant.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Owner = Owner::QueuePair(1);
    const SECOND: Owner = Owner::SharedReceiveQueue(1);

    #[test]
    fn what_is_posted_comes_back_once() {
        let mut pending = Pending::new(2);
        let one = pending.put(FIRST, "one").unwrap();
        let two = pending.put(FIRST, "two").unwrap();
        assert_eq!(pending.put(FIRST, "three"), Err("three"));
        assert_eq!(pending.take(two), Some("two"));
        assert_eq!(pending.take(two), None);
        assert_eq!(pending.len(), 1);
        assert_eq!(pending.take(one), Some("one"));
    }

    #[test]
    fn a_late_completion_does_not_take_what_came_after() {
        let mut pending = Pending::new(1);
        let given_up = pending.put(FIRST, "given up").unwrap();
        assert_eq!(pending.take_all(FIRST), ["given up"]);
        let later = pending.put(FIRST, "later").unwrap();
        assert_eq!(pending.take(given_up), None);
        assert_eq!(pending.take(WorkRequestId(u64::MAX)), None);
        assert_eq!(pending.take(later), Some("later"));
    }

    #[test]
    fn queues_are_told_apart() {
        let mut pending = Pending::new(4);
        pending.put(FIRST, 1).unwrap();
        pending.put(SECOND, 2).unwrap();
        pending.put(FIRST, 3).unwrap();
        assert_eq!(pending.take_all(FIRST), [1, 3]);
        assert_eq!((pending.len(), pending.take_all(SECOND)), (1, vec![2]));
    }
}
