//! Values on the other nodes that their keys belong to.
//!
//! A key belongs to the live node with the highest random weight for it. When nodes come and go, few keys change hands;
//! what was in memory is handed to the node that it belongs to from then on.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use flow::limits::INLINE_VALUE_MAX;
use flow::wire::Message;
use flow::wire::control::{NodeId, NodeRecord};
use flow::wire::session::{Done, Failure};
use flow::wire::values::*;
use hyper::body::Bytes;

use super::{Content, Keep, Kind, Value, ValueError, here, name};
use crate::members::View;
use crate::node::Node;
use crate::{failure, operate, peers};

/// How long a node may take to read or remove a value, and to write a small one.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// How long it takes to try again what a change of the members asked for and failed.
const REST: Duration = Duration::from_secs(1);

/// The node that a key belongs to, unless that is this one.
pub(super) fn owner(node: &Node, key: &str) -> Option<NodeRecord> {
    let view = node.members.view();
    let owner = owner_in(&view, key)?;
    view.node(owner).filter(|record| record.node != node.id()).cloned()
}

fn owner_in(view: &View, key: &str) -> Option<NodeId> {
    let digest = blake3::hash(key.as_bytes());
    let live = view.live().map(|record| record.node);
    plan::rendezvous::trackers(digest.as_bytes(), live, 1).first().copied()
}

pub(super) async fn read(
    node: &Arc<Node>,
    owner: &NodeRecord,
    key: &str,
) -> Result<Option<(Value, u64)>, ValueError> {
    let asked = ask(node, owner, ValueRead { key: key.to_owned() }, Some(ANSWER_TIMEOUT)).await;
    let found: ValueFound = match asked.and_then(|answer| peers::expect("ValueRead", answer)) {
        Ok(found) => found,
        // What is durable can be read without its node; whether there is something else is not known.
        Err(failure) if peers::is_away(&failure) => {
            let durable = here::read_durable(node, key).await?;
            let value = durable.ok_or(ValueError::Failed(failure))?;
            return Ok(Some((value, 0)));
        }
        Err(failure) => return Err(failure.into()),
    };
    found.value.map(|record| Ok((value_of(record)?, found.used_ms))).transpose()
}

pub(super) async fn write(
    node: &Arc<Node>,
    owner: &NodeRecord,
    key: &str,
    value: Value,
    if_absent: bool,
) -> Result<(), ValueError> {
    // A large one has to get there first; that its node is gone shows in the connection.
    let limit = matches!(value.content, Content::Inline(_)).then_some(ANSWER_TIMEOUT);
    let write = ValueWrite { key: key.to_owned(), value: record_of(value), if_absent };
    let answer = ask(node, owner, write, limit).await?;
    Ok(peers::expect::<Done>("ValueWrite", answer).map(drop)?)
}

pub(super) async fn release(node: &Arc<Node>, owner: &NodeRecord, key: &str) -> Result<bool, ValueError> {
    let answer = ask(node, owner, ValueRelease { key: key.to_owned() }, Some(ANSWER_TIMEOUT)).await?;
    let released: ValueReleased = peers::expect("ValueRelease", answer)?;
    Ok(released.was_there)
}

pub(super) async fn rekeep(
    node: &Arc<Node>,
    owner: &NodeRecord,
    key: &str,
    keep: Keep,
) -> Result<Option<Keep>, ValueError> {
    // A large one has to come to its device first; that its node is gone shows in the connection.
    let answer = ask(node, owner, ValueMove { key: key.to_owned(), keep: on_wire(keep) }, None).await?;
    let moved: ValueMoved = peers::expect("ValueMove", answer)?;
    Ok(moved.before.map(off_wire))
}

async fn ask(
    node: &Arc<Node>,
    owner: &NodeRecord,
    message: impl Into<Message>,
    limit: Option<Duration>,
) -> Result<Message, Failure> {
    node.peers.ask(owner, message, limit).await
}

/// Answers another node. It is not asked further whose key it is: two nodes that know different members would go on
/// asking each other.
pub(crate) async fn answer(node: &Arc<Node>, message: Message) -> Result<Message, Failure> {
    match message {
        Message::ValueRead(ValueRead { key }) => {
            check(&key)?;
            let value = here::read(node, &key).await.map_err(failure_of)?;
            let used_ms = here::used_ms(node, &key).await.map_err(failure_of)?;
            Ok(ValueFound { value: value.map(record_of), used_ms }.into())
        }
        Message::ValueWrite(ValueWrite { key, value, if_absent }) => {
            check(&key)?;
            let value = value_of(value)?;
            here::write(node, &key, value, if_absent).await.map_err(failure_of)?;
            Ok(Done {}.into())
        }
        Message::ValueRelease(ValueRelease { key }) => {
            check(&key)?;
            let was_there = here::release(node, &key).await.map_err(failure_of)?;
            Ok(ValueReleased { was_there }.into())
        }
        Message::ValueMove(ValueMove { key, keep }) => {
            check(&key)?;
            let before = here::rekeep(node, &key, off_wire(keep)).await.map_err(failure_of)?;
            Ok(ValueMoved { before: before.map(on_wire) }.into())
        }
        other => Err(failure::unexpected("a message about values", other.name())),
    }
}

fn check(key: &str) -> Result<(), Failure> {
    name::check(key).map_err(|error| failure::invalid(error.to_string(), ""))
}

fn failure_of(error: ValueError) -> Failure {
    match error {
        ValueError::Full => failure::full(),
        ValueError::Failed(failure) => failure,
    }
}

fn record_of(value: Value) -> ValueRecord {
    ValueRecord {
        kind: match value.kind {
            Kind::Json => ValueKind::Json,
            Kind::Pickle => ValueKind::Pickle,
        },
        keep: on_wire(value.keep),
        ttl_ms: value.ttl_ms,
        content: match value.content {
            Content::Inline(bytes) => ValueContent::Inline(bytes.into()),
            Content::Chunk(chunk) => ValueContent::Chunk(chunk),
        },
    }
}

/// A value as another node says that it is.
fn value_of(record: ValueRecord) -> Result<Value, Failure> {
    let ValueRecord { kind, keep, ttl_ms, content } = record;
    let content = match content {
        ValueContent::Inline(bytes) if bytes.len() > INLINE_VALUE_MAX => {
            let text = format!("a value of {} bytes must be a chunk", bytes.len());
            return Err(failure::invalid(text, ""));
        }
        ValueContent::Inline(bytes) => Content::Inline(Bytes::from(bytes)),
        ValueContent::Chunk(chunk) => {
            operate::check_geometry(chunk.geometry)?;
            Content::Chunk(chunk)
        }
    };
    let kind = if kind == ValueKind::Pickle { Kind::Pickle } else { Kind::Json };
    Ok(Value { kind, content, keep: off_wire(keep), ttl_ms })
}

fn on_wire(keep: Keep) -> ValueKeep {
    match keep {
        Keep::Memory => ValueKeep::Memory,
        Keep::Pinned => ValueKeep::Pinned,
        Keep::Durable => ValueKeep::Durable,
        Keep::Gpu(index) => ValueKeep::Gpu(index),
    }
}

fn off_wire(keep: ValueKeep) -> Keep {
    match keep {
        ValueKeep::Memory => Keep::Memory,
        ValueKeep::Pinned => Keep::Pinned,
        ValueKeep::Durable => Keep::Durable,
        ValueKeep::Gpu(index) => Keep::Gpu(index),
    }
}

/// Hands values over, again and again, as nodes come and go. It never returns.
pub(crate) async fn follow_members(node: Arc<Node>) {
    let mut changes = node.members.changes();
    let mut settled: Option<BTreeSet<NodeId>> = None;
    loop {
        let view = changes.borrow_and_update().clone();
        let live: BTreeSet<NodeId> = view.live().map(|record| record.node).collect();
        if settled.as_ref() != Some(&live) {
            node.values.unload();
            match settle(&node, &view).await {
                Ok(()) => settled = Some(live),
                Err(error) => {
                    tracing::debug!(%error, "values are not all where they belong yet");
                    tokio::time::sleep(REST).await;
                    continue;
                }
            }
        }
        if changes.changed().await.is_err() {
            return;
        }
    }
}

/// Hands over what belongs to others, and counts the durable values that belong here.
async fn settle(node: &Arc<Node>, view: &View) -> Result<(), ValueError> {
    let is_ours = |key: &str| owner_in(view, key).is_none_or(|owner| owner == node.id());
    for listed in node.engine.list_values().await? {
        let Some(owner) = owner_in(view, &listed.key).filter(|owner| *owner != node.id()) else { continue };
        let Some(owner) = view.node(owner) else { continue };
        here::hand_over(node, &listed.key, |value| write(node, owner, &listed.key, value, true)).await?;
    }
    here::load(node, is_ours).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_say_of_values_is_checked() {
        let record = |length| ValueRecord {
            kind: ValueKind::Pickle,
            keep: ValueKeep::Pinned,
            ttl_ms: Some(7),
            content: ValueContent::Inline(vec![b'1'; length]),
        };
        let value = value_of(record(INLINE_VALUE_MAX)).unwrap();
        assert_eq!((value.kind, value.keep, value.ttl_ms), (Kind::Pickle, Keep::Pinned, Some(7)));
        assert_eq!(record_of(value), record(INLINE_VALUE_MAX));
        assert!(value_of(record(INLINE_VALUE_MAX + 1)).is_err());
        assert!(check("").is_err() && check("a").is_ok());
    }
}
