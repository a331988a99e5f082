//! What comes first of all that is on its way here. `flow::swarm::priority` decides; this carries it out.

use std::rc::Rc;

use flow::chunk::ChunkId;
use flow::swarm::Priority;
use flow::wire::data::Preference;

use super::Shard;
use super::fetching::Fetching;
use crate::transport::Writer;

impl Shard {
    /// Somebody else waits for a chunk that is on its way: it matters as much as to whom it matters most.
    pub(super) fn prefer(&self, fetching: &Fetching, priority: Priority) {
        if priority <= fetching.priority.get() {
            return;
        }
        fetching.priority.set(priority);
        let chunk = fetching.replica.id;
        let mesh = self.mesh.borrow();
        let sources = fetching.replica.state.borrow();
        for writer in sources.interested.keys().filter_map(|peer| mesh.writer(*peer)) {
            writer.message(Preference { chunk, priority });
        }
        self.share_out();
    }

    /// Tells a peer how much a chunk matters here, if not as usual.
    pub(super) fn tell_preference(&self, writer: &Writer, chunk: &ChunkId) {
        let priority = self.fetches.borrow().get(chunk).map(|fetching| fetching.priority.get());
        if let Some(priority) = priority.filter(|priority| *priority != Priority::Normal) {
            writer.message(Preference { chunk: *chunk, priority });
        }
    }

    /// Divides what is asked for at once among the fetches.
    pub(super) fn share_out(&self) {
        let fetches: Vec<Rc<Fetching>> = self.fetches.borrow().values().cloned().collect();
        let all = self.mesh.borrow().fetch_settings().pieces_at_once;
        let highest = fetches.iter().map(|fetching| fetching.priority.get()).max().unwrap_or_default();
        for fetching in fetches {
            let at_once = fetching.priority.get().pieces_at_once(highest, all);
            fetching.fetch.borrow_mut().set_pieces_at_once(at_once);
        }
    }
}
