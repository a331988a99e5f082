//! Who has which chunk, and who wants it: this node's part in tracking, and its questions to other trackers.

mod outbox; // what trackers have yet to hear

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use flow::chunk::ChunkId;
use flow::limits::PEERS_PER_RECEIVER;
use flow::swarm::Tracker;
use flow::wire::Message;
use flow::wire::control::{
    Holding, NodeId, NodeState, ReplicaRecord, TrackerAnnounce, TrackerJoin, TrackerPeer, TrackerPeers,
};
use flow::wire::session::{Done, Failure};
use outbox::Outbox;
use plan::membership::DEAD_AFTER_MS;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use crate::members::View;
use crate::node::Node;
use crate::{failure, operate, peers};

/// News for trackers is gathered for so long, so that one message carries many.
const GATHER: Duration = Duration::from_millis(5);
/// Pauses before a tracker that knew no source is asked again.
const SECOND_THOUGHTS: [Duration; 3] =
    [Duration::from_millis(5), Duration::from_millis(20), Duration::from_millis(50)];
/// How long a tracker may take to answer.
const TRACKER_TIMEOUT: Duration = Duration::from_secs(1);
/// How long it may take before the other one is asked as well: a hedged request (Dean and Barroso, "The Tail at Scale", 2013). One
/// that has just died is not missed yet, and whoever wants a chunk meanwhile shall not wait for it.
const HEDGE: Duration = Duration::from_millis(50);
/// All holdings are announced again so often, in case a tracker has lost what it heard.
const REFRESH: Duration = Duration::from_secs(30);
/// The first time after the node's start, when all trackers have surely heard that it started again.
const FIRST_REFRESH: Duration = Duration::from_secs(2);
/// Chunks that are looked at before other tasks have their turn.
const CHUNKS_AT_A_STRETCH: usize = 64;
/// Holdings in one message.
const HOLDINGS_PER_MESSAGE: usize = 4096;

/// The soft state of the swarms that this node tracks, and what it has yet to tell other trackers.
pub(crate) struct Trackers {
    tracker: Mutex<Tracker>,
    outbox: Mutex<Outbox>,
    news: Notify,
}

impl Trackers {
    pub(crate) fn new() -> Self {
        let tracker = Mutex::new(Tracker::new(crate::node::random_number()));
        Self { tracker, outbox: Mutex::default(), news: Notify::new() }
    }

    /// Forgets nodes that are gone, or have started anew with empty memory.
    pub(crate) fn on_lost(&self, nodes: &[NodeId]) {
        let mut tracker = self.tracker();
        nodes.iter().for_each(|&node| tracker.on_node_lost(node));
        drop(tracker);
        let mut outbox = self.outbox();
        nodes.iter().for_each(|&node| outbox.forget(node));
    }

    fn tracker(&self) -> MutexGuard<'_, Tracker> {
        self.tracker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn outbox(&self) -> MutexGuard<'_, Outbox> {
        self.outbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What this node holds of a chunk has changed: both trackers of it shall hear.
pub(crate) fn announce(node: &Node, chunk: ChunkId, holding: Holding) {
    let view = node.members.view();
    announce_to(node, &view, chunk, holding, |_| true);
}

/// The members have changed: trackers that were not so before hear what this node holds of their chunks.
pub(crate) fn announce_moved(node: &Arc<Node>, before: Arc<View>, view: Arc<View>) {
    let node = node.clone();
    tokio::spawn(async move {
        let is_new = |chunk: &ChunkId, tracker| {
            let restarted = before.incarnation(tracker) != view.incarnation(tracker);
            restarted || !before.trackers(&chunk.0).contains(&tracker)
        };
        announce_all(&node, &view, is_new).await;
    });
}

/// Trackers may have dropped what this node told them: all hear it again.
pub(crate) fn announce_anew(node: &Arc<Node>) {
    announce_moved(node, Arc::default(), node.members.view());
}

/// Announces everything again from time to time. It never returns.
pub(crate) async fn refresh(node: Arc<Node>) {
    tokio::time::sleep(FIRST_REFRESH).await;
    loop {
        let view = node.members.view();
        announce_all(&node, &view, |_, _| true).await;
        tokio::time::sleep(REFRESH).await;
    }
}

async fn announce_all(node: &Node, view: &View, wanted: impl Fn(&ChunkId, NodeId) -> bool) {
    for (count, replica) in node.replicas(None).await.unwrap_or_default().into_iter().enumerate() {
        let chunk = replica.chunk;
        announce_to(node, view, chunk, holding_of(&replica), |tracker| wanted(&chunk, tracker));
        // Choosing trackers among thousands of nodes takes a while for thousands of chunks, and heartbeats must go on.
        if count % CHUNKS_AT_A_STRETCH == 0 {
            tokio::task::yield_now().await;
        }
    }
}

/// Sends what has been gathered, one message at a time to each tracker. It never returns.
pub(crate) async fn deliver(node: Arc<Node>) {
    loop {
        node.trackers.news.notified().await;
        let batches = node.trackers.outbox().take(node.clock.now(), HOLDINGS_PER_MESSAGE);
        for (tracker, holdings) in batches {
            tokio::spawn(deliver_to(node.clone(), tracker, holdings));
        }
        // The first news after a silence leaves at once, since somebody may wait for it; more of it is gathered.
        tokio::time::sleep(GATHER).await;
    }
}

/// Answers `FindPeers`. When nobody is known to have all of the chunk, somebody may be about to announce just that,
/// so this asks again a few times; the engine has its first answer by then.
pub(crate) async fn find_peers(node: Arc<Node>, chunk: ChunkId) {
    let found = ask_trackers(&node, chunk).await;
    let mut has_source = found.iter().any(|peer| peer.complete);
    node.engine.peers(chunk, found);
    for pause in SECOND_THOUGHTS {
        if has_source {
            return;
        }
        tokio::time::sleep(pause).await;
        let found = ask_trackers(&node, chunk).await;
        has_source = found.iter().any(|peer| peer.complete);
        if has_source {
            node.engine.peers(chunk, found);
        }
    }
}

/// Who has all of a chunk, as far as this node tracks it: to ask nobody takes no time. The fetch joins the swarm as ever.
pub(crate) fn known_here(node: &Node, chunk: ChunkId) -> Vec<TrackerPeer> {
    let mut known = node.trackers.tracker().complete(&chunk, &node.identity.rack, PEERS_PER_RECEIVER);
    let view = node.members.view();
    known.retain(|peer| peer.node != node.id() && view.is_live(peer.node));
    known
}

/// Answers `FindHolders`: asks nodes what they have, since trackers may have forgotten it; `most` of them at
/// most, drawn at random. When not all are asked, somebody who lives does not answer, or members may
/// still be on their way to a head that has just started, the list may lack some.
pub(crate) async fn find_holders(node: Arc<Node>, chunk: ChunkId, most: usize) {
    let found = operate::survey_some(&node, chunk, most).await;
    let view = node.members.view();
    let asked_all = view.live().count() <= most + 1;
    let may_live = |name: &String| !view.named(name).is_ok_and(|record| record.state == NodeState::Dead);
    let knows_members = view.epoch != 0 && node.clock.uptime_ms() >= DEAD_AFTER_MS;
    let are_all = asked_all && knows_members && !found.silent.iter().any(may_live);
    let held = |replica: &ReplicaRecord| (replica.node, replica.most_pieces());
    let holders = found.replicas.iter().map(held).filter(|&(holder, held)| holder != node.id() && held > 0);
    node.engine.holders(chunk, holders.collect(), are_all);
}

/// Joins the swarm at the first tracker that answers, and at the other one when the first knows nobody or is silent for a while.
async fn ask_trackers(node: &Arc<Node>, chunk: ChunkId) -> Vec<TrackerPeer> {
    let view = node.members.view();
    let question = |tracker: NodeId| {
        let (node, view) = (node.clone(), view.clone());
        async move {
            let mut found = join_at(&node, &view, tracker, chunk).await.unwrap_or_default();
            found.retain(|peer| peer.node != node.id() && view.is_live(peer.node));
            found
        }
    };
    first_that_knows(view.trackers(&chunk.0).into_iter().map(question)).await
}

/// Asks one after the other until somebody is named. Whoever has not answered when the next one is asked may still be the first.
async fn first_that_knows<F>(questions: impl Iterator<Item = F>) -> Vec<TrackerPeer>
where
    F: Future<Output = Vec<TrackerPeer>> + Send + 'static,
{
    let mut asked = JoinSet::new();
    let mut questions = questions.peekable();
    while let Some(question) = questions.next() {
        asked.spawn(question);
        let turn_ends = questions.peek().map(|_| Instant::now() + HEDGE);
        while let Some(answer) = match turn_ends {
            Some(turn_ends) => timeout_at(turn_ends, asked.join_next()).await.unwrap_or_default(),
            None => asked.join_next().await,
        } {
            if let Ok(peers) = answer
                && !peers.is_empty()
            {
                return peers;
            }
        }
    }
    Vec::new()
}

/// Another node says what it holds.
pub(crate) fn on_announce(node: &Node, from: NodeId, announce: TrackerAnnounce) -> Result<Message, Failure> {
    check_sender(from, announce.node)?;
    let view = node.members.view();
    let rack = view.node(from).map_or("", |record| &record.rack);
    let (mut tracker, now) = (node.trackers.tracker(), node.clock.now());
    for (chunk, holding) in announce.holdings {
        tracker.on_announce(now, from, rack, chunk, holding);
    }
    Ok(Done {}.into())
}

/// Another node wants a chunk.
pub(crate) fn on_join(node: &Node, from: NodeId, join: TrackerJoin) -> Result<Message, Failure> {
    check_sender(from, join.node)?;
    let TrackerJoin { chunk, limit, .. } = join;
    Ok(TrackerPeers { chunk, peers: join_here(node, from, chunk, limit as usize) }.into())
}

fn check_sender(from: NodeId, claimed: NodeId) -> Result<(), Failure> {
    if from == claimed {
        return Ok(());
    }
    Err(failure::invalid(
        format!("node {from:016x} speaks for node {claimed:016x}"),
        "a node speaks for itself alone",
    ))
}

fn join_here(node: &Node, receiver: NodeId, chunk: ChunkId, limit: usize) -> Vec<TrackerPeer> {
    let view = node.members.view();
    let rack = view.node(receiver).map_or("", |record| &record.rack);
    let mut tracker = node.trackers.tracker();
    tracker.join(node.clock.now(), chunk, receiver, rack, limit.min(PEERS_PER_RECEIVER))
}

async fn join_at(
    node: &Node,
    view: &View,
    tracker: NodeId,
    chunk: ChunkId,
) -> Result<Vec<TrackerPeer>, Failure> {
    if tracker == node.id() {
        return Ok(join_here(node, node.id(), chunk, PEERS_PER_RECEIVER));
    }
    let record = view.node(tracker).ok_or_else(|| failure::internal("a tracker is not a member"))?;
    let question = TrackerJoin { chunk, node: node.id(), limit: PEERS_PER_RECEIVER as u32 };
    let answer = node.peers.ask(record, question, Some(TRACKER_TIMEOUT)).await?;
    let TrackerPeers { mut peers, .. } = peers::expect("TrackerJoin", answer)?;
    peers.truncate(PEERS_PER_RECEIVER);
    Ok(peers)
}

fn announce_to(node: &Node, view: &View, chunk: ChunkId, holding: Holding, wanted: impl Fn(NodeId) -> bool) {
    for tracker in view.trackers(&chunk.0).into_iter().filter(|&tracker| wanted(tracker)) {
        if tracker == node.id() {
            let rack = &node.identity.rack;
            node.trackers.tracker().on_announce(node.clock.now(), tracker, rack, chunk, holding);
        } else {
            node.trackers.outbox().put(tracker, chunk, holding);
            node.trackers.news.notify_one();
        }
    }
}

async fn deliver_to(node: Arc<Node>, tracker: NodeId, holdings: Vec<(ChunkId, Holding)>) {
    let view = node.members.view();
    let delivered = match view.node(tracker).filter(|_| view.is_live(tracker)) {
        Some(record) => {
            let announce = TrackerAnnounce { node: node.id(), holdings: holdings.clone() };
            node.peers.ask(record, announce, Some(TRACKER_TIMEOUT)).await.is_ok()
        }
        // Who tracks these chunks instead hears of them when the members change.
        None => true,
    };
    let retry_in = node.trackers.outbox().on_delivered(tracker, holdings, delivered, node.clock.now());
    if let Some(pause) = retry_in {
        tokio::time::sleep(pause).await;
    }
    node.trackers.news.notify_one();
}

fn holding_of(replica: &ReplicaRecord) -> Holding {
    let pieces = replica.geometry.pieces();
    let held = replica.most_pieces();
    match held {
        _ if held >= pieces => Holding::Complete,
        _ if held == 0 && !replica.fetching => Holding::None,
        _ => Holding::Partial,
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;

    use super::*;

    type Question = Pin<Box<dyn Future<Output = Vec<TrackerPeer>> + Send>>;

    /// Names a peer, or nobody, after so many milliseconds.
    fn answer(after_ms: u64, node: Option<NodeId>) -> Question {
        Box::pin(async move {
            tokio::time::sleep(Duration::from_millis(after_ms)).await;
            node.map(|node| TrackerPeer { node, complete: true, near: false }).into_iter().collect()
        })
    }

    /// Who is named, and after how many milliseconds.
    async fn named(questions: Vec<Question>) -> (Option<NodeId>, u128) {
        let began = Instant::now();
        let peers = first_that_knows(questions.into_iter()).await;
        (peers.first().map(|peer| peer.node), began.elapsed().as_millis())
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_tracker_holds_nobody_up_for_long() {
        let hedge_ms = HEDGE.as_millis() as u64;
        let soon = named(vec![answer(1, Some(1)), answer(1, Some(2))]).await;
        assert_eq!(soon, (Some(1), 1), "the first one answers, the other one is not asked");
        let nobody_first = named(vec![answer(1, None), answer(1, Some(2))]).await;
        assert_eq!(nobody_first, (Some(2), 2));
        let silent = named(vec![answer(1000, None), answer(1, Some(2))]).await;
        assert_eq!(silent, (Some(2), u128::from(hedge_ms) + 1));
        let late = named(vec![answer(hedge_ms + 5, Some(1)), answer(1000, Some(2))]).await;
        assert_eq!(late, (Some(1), u128::from(hedge_ms) + 5), "whoever is late may still be the first");
        let knows = named(vec![answer(1000, Some(1)), answer(1, None)]).await;
        assert_eq!(knows, (Some(1), 1000));
        assert_eq!(named(vec![answer(1, None), answer(2, None)]).await, (None, 3));
        assert_eq!(named(vec![]).await, (None, 0));
    }
}
