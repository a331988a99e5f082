//! A member's part: joins, sends heartbeats, joins again when the head has started anew.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use flow::wire::Message;
use flow::wire::control::{Beat, Join, NodeRecord};
use flow::wire::session::{Failure, FailureCode};
use plan::heartbeat;
use plan::membership::DEAD_AFTER_MS;

use super::apply;
use crate::members::View;
use crate::node::{Node, Seat};
use crate::peers::CallError;

/// Leases are renewed with every so many heartbeats.
const BEATS_PER_RENEWAL: u64 = 10;
/// First and longest time between two attempts to join.
const BACKOFF_MIN: Duration = Duration::from_millis(200);
const BACKOFF_MAX: Duration = Duration::from_secs(2);

/// Why a node must stop.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum StopReason {
    #[error("the head at {head} does not take this node in: {message}")]
    NotTaken { head: String, message: String },
    #[error("{0}")]
    Refused(String),
}

/// Keeps this node a member.
pub(crate) struct Follower {
    node: Arc<Node>,
    head: String,
    joined: bool,
    complained: bool,
    beats: u64,
    backoff: Duration,
    /// The members as the head told of them last; none until it has, and when what it told did not fit.
    told: View,
    before: Option<Before>,
    heard: Instant,
    /// What the head last told of versions that were forgotten.
    forgotten: u64,
}

/// Members that were known before the head started anew: until they have had the time to join it too, they count as
/// members, so that transfers between them go on.
struct Before {
    view: Arc<View>,
    until: Instant,
}

impl Follower {
    pub(crate) fn new(node: Arc<Node>, head: String) -> Self {
        Self {
            node,
            head,
            joined: false,
            complained: false,
            beats: 0,
            backoff: BACKOFF_MIN,
            told: View::default(),
            before: None,
            heard: Instant::now(),
            forgotten: 0,
        }
    }

    /// Runs for as long as this node may be a member.
    pub(crate) async fn follow(mut self) -> StopReason {
        loop {
            let pause = match self.step().await {
                Ok(pause) => pause,
                Err(reason) => return reason,
            };
            let hurry = self.node.members.hurry.notified();
            let _ = tokio::time::timeout(pause, hurry).await;
        }
    }

    /// Joins or sends a heartbeat; gives the time to wait before the next step.
    pub(crate) async fn step(&mut self) -> Result<Duration, StopReason> {
        let message = if self.joined { self.heartbeat() } else { Join { record: self.node.record() }.into() };
        let patience = Duration::from_millis(heartbeat::answer_within_ms(self.told.nodes.len()));
        let answer = self.node.peers.call(&self.head, 0, &message, Some(patience)).await;
        match answer {
            Ok(Message::Membership(membership)) => {
                let forgotten = membership.forgotten;
                self.take(View::of(membership), forgotten);
                Ok(self.pause())
            }
            Ok(Message::MembersChanged(change)) => {
                let forgotten = change.forgotten;
                let Some(view) = self.told.after(change) else {
                    self.told = View::default();
                    return Ok(BACKOFF_MIN);
                };
                self.take(view, forgotten);
                Ok(self.pause())
            }
            Ok(Message::Failure(Failure { code: FailureCode::NotFound, .. })) if self.joined => {
                (self.joined, self.told) = (false, View::default());
                Ok(Duration::ZERO)
            }
            Ok(Message::Failure(Failure {
                code: FailureCode::Conflict | FailureCode::Invalid,
                message,
                hint,
            })) => Err(StopReason::NotTaken { head: self.head.clone(), message: in_words(message, &hint) }),
            Ok(Message::Failure(failure)) => Ok(self.retry(&failure.message)),
            Ok(other) => Ok(self.retry(&format!("it answers with {}", other.name()))),
            Err(CallError::Refused { address, message }) if self.never_joined() => {
                Err(StopReason::Refused(format!("{address}: {message}")))
            }
            Err(error) => Ok(self.retry(&error.to_string())),
        }
    }

    fn pause(&self) -> Duration {
        Duration::from_millis(heartbeat::pause_ms(self.told.nodes.len()))
    }

    fn heartbeat(&mut self) -> Message {
        self.beats += 1;
        let renews = self.beats.is_multiple_of(BEATS_PER_RENEWAL);
        let leases = if renews { self.node.leases.all() } else { Vec::new() };
        let NodeRecord { node, incarnation, memory_limit, memory_used, nvme_used, .. } = self.node.record();
        Beat { node, incarnation, epoch: self.told.epoch, memory_limit, memory_used, nvme_used, leases }
            .into()
    }

    fn take(&mut self, told: View, forgotten: u64) {
        if !self.joined {
            tracing::info!(head = self.head, "this node is a member of the cluster");
            let view = self.node.members.view();
            let until = Instant::now() + Duration::from_millis(DEAD_AFTER_MS);
            self.before = (view.epoch != 0).then_some(Before { view, until });
            (self.joined, self.beats) = (true, 0);
        } else if self.complained {
            tracing::info!(head = self.head, "the head answers again");
        }
        self.note(true);
        (self.complained, self.backoff) = (false, BACKOFF_MIN);
        if self.heard.elapsed() >= Duration::from_millis(DEAD_AFTER_MS) {
            // For the others this node was dead for a while, and its holdings with it.
            crate::trackers::announce_anew(&self.node);
        }
        self.heard = Instant::now();
        if std::mem::replace(&mut self.forgotten, forgotten) != forgotten {
            self.node.collector.hurry();
        }
        let are_left = self.before.take_if(|before| Instant::now() >= before.until).is_some();
        let are_same = told.epoch == std::mem::replace(&mut self.told, told).epoch;
        if are_same && !are_left {
            return;
        }
        let view = self.told.clone();
        apply(
            &self.node,
            match &self.before {
                Some(before) => view.with_live_of(&before.view),
                None => view,
            },
        );
    }

    /// Notes whether the head answers, for those who ask.
    fn note(&self, answers: bool) {
        if let Seat::Member { reached, .. } = &self.node.seat {
            reached.store(answers, Ordering::Relaxed);
        }
    }

    fn retry(&mut self, why: &str) -> Duration {
        self.note(false);
        if !self.complained {
            tracing::warn!(head = self.head, why, "the head does not answer; trying again until it does");
            self.complained = true;
        }
        let pause = self.backoff;
        self.backoff = (self.backoff * 2).min(BACKOFF_MAX);
        pause
    }

    fn never_joined(&self) -> bool {
        self.node.members.view().epoch == 0
    }
}

fn in_words(message: String, hint: &str) -> String {
    if hint.is_empty() { message } else { format!("{message}; {hint}") }
}
