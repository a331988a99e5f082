//! What trackers have yet to hear.

use std::collections::BTreeMap;
use std::time::Duration;

use flow::chunk::ChunkId;
use flow::time::Instant;
use flow::wire::control::{Holding, NodeId};

/// A tracker that did not answer is left alone for so long.
const PAUSE: Duration = Duration::from_millis(500);

/// The latest news for each tracker. It holds at most one entry for each chunk and tracker.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    trackers: BTreeMap<NodeId, Letters>,
}

#[derive(Debug, Default)]
struct Letters {
    waiting: BTreeMap<ChunkId, Holding>,
    /// Whether a message is on its way. News of one chunk must not overtake each other.
    busy: bool,
    not_before: Instant,
}

impl Outbox {
    /// Adds news; older news of the same chunk that is still here is dropped.
    pub(super) fn put(&mut self, tracker: NodeId, chunk: ChunkId, holding: Holding) {
        self.trackers.entry(tracker).or_default().waiting.insert(chunk, holding);
    }

    /// What to send: at most one message of at most `limit` holdings to each tracker. Each must be followed by
    /// [`Outbox::on_delivered`].
    pub(super) fn take(&mut self, now: Instant, limit: usize) -> Vec<(NodeId, Vec<(ChunkId, Holding)>)> {
        let mut batches = Vec::new();
        for (&tracker, letters) in &mut self.trackers {
            if letters.busy || now < letters.not_before || letters.waiting.is_empty() {
                continue;
            }
            letters.busy = true;
            let mut batch = Vec::new();
            while batch.len() < limit
                && let Some(news) = letters.waiting.pop_first()
            {
                batch.push(news);
            }
            batches.push((tracker, batch));
        }
        batches
    }

    /// How a message went. News that did not arrive waits again unless there is later news of the same chunk; gives
    /// the time after which to try again.
    pub(super) fn on_delivered(
        &mut self,
        tracker: NodeId,
        batch: Vec<(ChunkId, Holding)>,
        delivered: bool,
        now: Instant,
    ) -> Option<Duration> {
        let letters = self.trackers.get_mut(&tracker)?;
        letters.busy = false;
        if delivered {
            if letters.waiting.is_empty() {
                self.trackers.remove(&tracker);
            }
            return None;
        }
        for (chunk, holding) in batch {
            letters.waiting.entry(chunk).or_insert(holding);
        }
        letters.not_before = now + PAUSE;
        Some(PAUSE)
    }

    /// Drops the news for a tracker that is gone.
    pub(super) fn forget(&mut self, tracker: NodeId) {
        self.trackers.remove(&tracker);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(number: u8) -> ChunkId {
        ChunkId([number; 32])
    }

    const fn at(millis: u64) -> Instant {
        Instant::from_micros(millis * 1000)
    }

    #[test]
    fn only_the_latest_news_is_sent_and_one_message_at_a_time() {
        let mut outbox = Outbox::default();
        outbox.put(1, chunk(1), Holding::Partial);
        outbox.put(1, chunk(1), Holding::Complete);
        assert_eq!(outbox.take(at(0), 10), [(1, vec![(chunk(1), Holding::Complete)])]);
        outbox.put(1, chunk(1), Holding::None);
        assert_eq!(outbox.take(at(0), 10), []);
        assert_eq!(outbox.on_delivered(1, vec![(chunk(1), Holding::Complete)], true, at(1)), None);
        assert_eq!(outbox.take(at(1), 10), [(1, vec![(chunk(1), Holding::None)])]);
    }

    #[test]
    fn what_did_not_arrive_is_sent_later_unless_there_is_later_news() {
        let mut outbox = Outbox::default();
        outbox.put(1, chunk(1), Holding::Partial);
        outbox.put(1, chunk(2), Holding::Partial);
        let (_, batch) = outbox.take(at(0), 10).remove(0);
        outbox.put(1, chunk(2), Holding::Complete);
        assert_eq!(outbox.on_delivered(1, batch, false, at(0)), Some(PAUSE));
        assert_eq!(outbox.take(at(499), 10), []);
        let (_, batch) = outbox.take(at(500), 10).remove(0);
        assert_eq!(batch, [(chunk(1), Holding::Partial), (chunk(2), Holding::Complete)]);
    }

    #[test]
    fn messages_are_bounded_and_the_dead_get_none() {
        let mut outbox = Outbox::default();
        (0..10).for_each(|number| outbox.put(1, chunk(number), Holding::Complete));
        outbox.put(2, chunk(1), Holding::Complete);
        outbox.forget(2);
        let batches = outbox.take(at(0), 4);
        assert_eq!((batches.len(), batches[0].1.len()), (1, 4));
        assert_eq!(outbox.on_delivered(2, Vec::new(), false, at(0)), None);
    }
}
