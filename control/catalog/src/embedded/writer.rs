//! The thread that writes.
//!
//! It takes what has queued up, carries it out as one group, makes the group durable with one fsync, and only
//! then answers. If all of them want to be told early it answers before the fsync, and lets the group be seen after it.

use std::sync::Arc;

use tokio::sync::watch;

use super::Settings;
use super::fence::Fence;
use super::group::Group;
use super::rows::number;
use super::shared::Shared;
use super::steps::{Cursor, Step};
use crate::check::Checked;
use crate::error::CatalogError;
use crate::write::Written;
use crate::{GRACE_MS, REOPENED_GRACE_MS};

/// Requests that wait before callers must.
pub(crate) const QUEUE_LENGTH: usize = 256;
/// Requests that one group carries out.
const GROUP_LENGTH: usize = 256;

/// Something to write.
pub(crate) enum Request {
    /// Carry out a write, and answer when it is on disk, or as soon as it is made if that is `early`.
    Write { checked: Box<Checked>, early: bool, reply: Reply<Written> },
    /// Register a service, or keep it alive; `false` when one of this name is to be ended before.
    Keep { name: String, ttl_ms: u64, reply: Reply<bool> },
    /// Say that a service has ended, also one that is alive only if `even_alive`; whether it was said.
    BeginEnd { name: String, even_alive: bool, reply: Reply<bool> },
    /// One step of something long.
    Step { task: Task, cursor: Option<Cursor>, reply: Reply<Step> },
}

/// What goes in steps.
#[derive(Debug, Clone)]
pub(crate) enum Task {
    /// Removing a key and what is below it.
    RemoveTree(String),
    /// Removing what an ended service owns.
    Abandon(String),
    /// Forgetting what was retired.
    Forget,
    /// Ending what has expired.
    Expire,
    /// Dropping old changes.
    Trim,
}

pub(crate) type Reply<T> = flume::Sender<Result<T, CatalogError>>;

/// Answers a request when its group is written, or failed to be.
type Answer = Box<dyn FnOnce(Option<CatalogError>)>;

/// The state of the thread.
pub(crate) struct Writer {
    pub(crate) shared: Arc<Shared>,
    pub(crate) queue: flume::Receiver<Request>,
    pub(crate) fence: Fence,
    pub(crate) settings: Settings,
    /// The last revision, for those who wait for another. That the writer ends is news too.
    pub(crate) news: watch::Sender<u64>,
    /// When the catalog was opened, and the last revision at that time. The leases on versions up to then are lost.
    pub(crate) opened_ms: u64,
    pub(crate) opened_revision: u64,
    /// Where the tables of retired versions and of expiries begin: what was before has been dealt with. Without it each
    /// sweep would pass what earlier ones removed.
    pub(crate) retired_from: Vec<u8>,
    pub(crate) expiries_from: Vec<u8>,
}

impl Writer {
    /// Writes until all senders of the queue are gone.
    pub(crate) fn run(mut self) {
        let mut waiting = None;
        while let Some(first) = waiting.take().or_else(|| self.queue.recv().ok()) {
            waiting = self.write_group(first);
        }
        // The writes are on disk with or without it; the fence only makes sure that a loss is noticed.
        let _ = self.fence.advance(self.shared.moment().state.revision);
    }

    /// Writes one group; returns the request that was taken from the queue but must begin the next one.
    fn write_group(&mut self, first: Request) -> Option<Request> {
        let shared = self.shared.clone();
        let mut group = Group::new(&shared, shared.begin_group());
        let mut all_early = first.is_early();
        let mut answers = vec![self.carry_out(&mut group, first)];
        let mut waiting = None;
        while answers.len() < GROUP_LENGTH && !group.is_full() {
            match self.queue.try_recv() {
                Ok(next @ Request::Step { .. }) => {
                    waiting = Some(next);
                    break;
                }
                Ok(next) => {
                    all_early &= next.is_early();
                    answers.push(self.carry_out(&mut group, next));
                }
                Err(_) => break,
            }
        }
        self.end_group(&shared, group, answers, all_early);
        waiting
    }

    /// Makes a group durable, lets it be seen, and answers: then, or if that is `early` as soon as it is made.
    fn end_group(&self, shared: &Shared, group: Group<'_>, mut answers: Vec<Answer>, early: bool) {
        let mut told_early = None;
        let ended = group.write().and_then(|(state, recorded, made)| {
            if early {
                told_early = Some(shared.tell_early());
                answer_all(std::mem::take(&mut answers), None);
            }
            made.sync()?;
            shared.end_group(state, recorded);
            self.news.send_replace(state.revision);
            Ok(())
        });
        // When the disk fails after somebody was told, the engine takes no write from then on.
        let failed = ended.err();
        if failed.is_some() {
            shared.drop_group();
        }
        drop(told_early);
        answer_all(answers, failed);
    }

    fn carry_out(&mut self, group: &mut Group<'_>, request: Request) -> Answer {
        match request {
            Request::Write { checked, reply, .. } => answer(reply, group.carry_out(*checked)),
            Request::Keep { name, ttl_ms, reply } => answer(reply, Ok(group.keep(&name, ttl_ms))),
            Request::BeginEnd { name, even_alive, reply } => {
                answer(reply, Ok(group.begin_end(&name, even_alive)))
            }
            Request::Step { task, cursor, reply } => answer(reply, self.step(group, task, cursor)),
        }
    }

    fn step(
        &mut self,
        group: &mut Group<'_>,
        task: Task,
        cursor: Option<Cursor>,
    ) -> Result<Step, CatalogError> {
        match task {
            Task::RemoveTree(key) => group.remove_tree(&key, cursor),
            Task::Abandon(name) => group.abandon(&name, cursor),
            Task::Forget => self.forget(group, cursor),
            Task::Expire => {
                let step = group.expire(&self.expiries_from, cursor)?;
                advance(&mut self.expiries_from, &step, group.now_ms);
                Ok(step)
            }
            Task::Trim => {
                let until_ms = group.now_ms.saturating_sub(self.settings.retention_ms);
                group.trim(until_ms, self.settings.changes_size_max)
            }
        }
    }

    fn forget(&mut self, group: &mut Group<'_>, cursor: Option<Cursor>) -> Result<Step, CatalogError> {
        let now_ms = group.now_ms;
        self.fence.advance(self.shared.moment().state.revision)?;
        self.shared.leases().expire(now_ms);
        let Some(until_ms) = now_ms.checked_sub(GRACE_MS) else { return Ok(Step::default()) };
        let may_have_lost_leases = now_ms < self.opened_ms.saturating_add(REOPENED_GRACE_MS);
        // Asking version by version is enough: a lease is granted only on a version that is current at that
        // moment, and what the group sees as retired never becomes current again.
        let is_leased = |retired: &super::rows::Retired| {
            (may_have_lost_leases && retired.revision <= self.opened_revision)
                || self.shared.leases().holds(&retired.key, retired.version)
        };
        let step = group.forget(until_ms, &self.retired_from, is_leased, cursor)?;
        advance(&mut self.retired_from, &step, until_ms);
        Ok(step)
    }
}

impl Request {
    /// Whether it is to be answered before it is on disk.
    fn is_early(&self) -> bool {
        matches!(self, Request::Write { early: true, .. })
    }
}

/// Where a table begins after a pass over all its rows up to `until_ms`.
fn advance(from: &mut Vec<u8>, step: &Step, until_ms: u64) {
    let after = until_ms.saturating_add(1).to_be_bytes();
    if step.next.is_none() && number(from) <= until_ms {
        *from = step.left.clone().unwrap_or_else(|| after.to_vec());
    }
}

fn answer_all(answers: Vec<Answer>, failed: Option<CatalogError>) {
    answers.into_iter().for_each(|answer| answer(failed.clone()));
}

/// A caller that has gone away misses its answer, nothing else.
fn answer<T: 'static>(reply: Reply<T>, outcome: Result<T, CatalogError>) -> Answer {
    Box::new(move |failed| {
        let _ = reply.send(failed.map_or(outcome, Err));
    })
}
