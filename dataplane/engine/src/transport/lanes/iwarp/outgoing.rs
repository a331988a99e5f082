//! Writes of one end of a lane, from when they are asked for until the peer has said that it has their bytes. Pure.

use std::collections::VecDeque;

/// Requests that a write takes: of the device, to write and to send the message after it.
const REQUESTS: u8 = 2;

/// Writes that wait, and those under way in the order of their posting. `W` is a write with its memory.
#[derive(Debug)]
pub(super) struct Outgoing<W> {
    waiting: VecDeque<W>,
    under_way: VecDeque<UnderWay<W>>,
    /// Number of the first that is under way; numbers go round after 2³².
    first: u32,
    /// Number of the first that the peer has not said to have.
    unacknowledged: u32,
}

#[derive(Debug)]
struct UnderWay<W> {
    write: W,
    /// Requests that the device is not done with.
    requests: u8,
}

impl<W> Default for Outgoing<W> {
    fn default() -> Self {
        Self { waiting: VecDeque::new(), under_way: VecDeque::new(), first: 0, unacknowledged: 0 }
    }
}

impl<W> Outgoing<W> {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.waiting.len() + self.under_way.len()
    }

    /// Takes one that is to be posted.
    pub(super) fn push(&mut self, write: W) {
        self.waiting.push_back(write);
    }

    /// The next that is to be posted, and its number.
    pub(super) fn next(&self) -> Option<(u32, &W)> {
        self.waiting.front().map(|write| (self.end(), write))
    }

    /// The next one is posted.
    pub(super) fn posted(&mut self) {
        let next = self.waiting.pop_front();
        self.under_way.extend(next.map(|write| UnderWay { write, requests: REQUESTS }));
    }

    /// The device is done with a request of a write.
    pub(super) fn done(&mut self, number: u32) {
        let place = number.wrapping_sub(self.first) as usize;
        if let Some(under_way) = self.under_way.get_mut(place) {
            under_way.requests = under_way.requests.saturating_sub(1);
        }
    }

    /// The peer has the bytes of so many writes in all. Whether it can: no more than were posted, no fewer than before.
    pub(super) fn acknowledged(&mut self, count: u32) -> bool {
        let possible = self.end().wrapping_sub(self.unacknowledged);
        let is_possible = count.wrapping_sub(self.unacknowledged) <= possible;
        if is_possible {
            self.unacknowledged = count;
        }
        is_possible
    }

    /// The next one that the peer has and the device is done with. Its memory can be used again.
    pub(super) fn pop_finished(&mut self) -> Option<W> {
        let first = self.under_way.front()?;
        if first.requests > 0 || self.unacknowledged == self.first {
            return None;
        }
        self.first = self.first.wrapping_add(1);
        self.under_way.pop_front().map(|under_way| under_way.write)
    }

    /// Gives up all.
    pub(super) fn take_all(&mut self) -> Vec<W> {
        let under_way = std::mem::take(&mut self.under_way);
        under_way.into_iter().map(|under_way| under_way.write).chain(self.waiting.drain(..)).collect()
    }

    /// Number of the next that is posted.
    fn end(&self) -> u32 {
        self.first.wrapping_add(self.under_way.len() as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes 0 to 3, all of them posted but the last, whose numbers go round.
    fn outgoing() -> Outgoing<u32> {
        let mut outgoing = Outgoing { first: u32::MAX, unacknowledged: u32::MAX, ..Outgoing::default() };
        (0..4).for_each(|write| outgoing.push(write));
        for number in [u32::MAX, 0, 1] {
            assert_eq!(outgoing.next().map(|(number, _)| number), Some(number));
            outgoing.posted();
        }
        outgoing
    }

    #[test]
    fn a_write_ends_when_the_peer_has_it_and_the_device_is_done() {
        let mut outgoing = outgoing();
        [u32::MAX, u32::MAX, 0].into_iter().for_each(|number| outgoing.done(number));
        assert_eq!(outgoing.pop_finished(), None, "the peer has said nothing");
        assert!(outgoing.acknowledged(1));
        assert_eq!(outgoing.pop_finished(), Some(0));
        assert_eq!(outgoing.pop_finished(), None, "the device is at it still");
        outgoing.done(0);
        assert_eq!(outgoing.pop_finished(), Some(1));
        [1, 1].into_iter().for_each(|number| outgoing.done(number));
        assert_eq!((outgoing.pop_finished(), outgoing.len()), (None, 2));
        assert_eq!(outgoing.take_all(), [2, 3]);
        assert_eq!((outgoing.len(), outgoing.pop_finished()), (0, None));
    }

    #[test]
    fn a_peer_cannot_have_what_was_not_posted_or_lose_what_it_had() {
        let mut outgoing = outgoing();
        assert!(!outgoing.acknowledged(3));
        assert!(!outgoing.acknowledged(u32::MAX - 1));
        assert!(outgoing.acknowledged(0) && outgoing.acknowledged(2));
        assert!(!outgoing.acknowledged(1));
        outgoing.done(77);
    }
}
