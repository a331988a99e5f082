//! Moves that go on: which comes next, how far it is, how it ended.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use flow::swarm::Priority;
use flow::wire::session::Device;
use tokio::task::JoinHandle;

use super::{Body, Standing};
use crate::node::{Clock, Node};

/// Moves at once.
const RUNNING_MAX: usize = 2;
/// Moves that wait.
const PENDING_MAX: usize = 1024;
/// Moves that have ended and are remembered.
const ENDED_MAX: usize = 1024;

/// What is moved where.
#[derive(Debug, Clone)]
pub(crate) struct Work {
    /// The chunk's name in the pool.
    pub(crate) id: String,
    pub(crate) body: Body,
    /// The node that it comes to.
    pub(crate) node: String,
    pub(crate) device: Device,
    /// The node that it comes from; empty for any.
    pub(crate) from: String,
    pub(crate) removes_source: bool,
}

/// How a move stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum State {
    Pending,
    Running,
    Completed,
    Failed(String),
    Cancelled,
}

/// Why a move was not taken on or ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TaskError {
    #[error("Task '{0}' not found")]
    NoTask(String),
    #[error("{PENDING_MAX} moves wait already; try again later")]
    Full,
    #[error("Cannot cancel task in '{0}' state")]
    Ended(&'static str),
    #[error("Cannot cancel task in 'running' state: all bytes have come, and what they replace is going")]
    Settled,
}

/// A move as it is told.
#[derive(Debug, Clone)]
pub(crate) struct TaskShown {
    pub(crate) id: String,
    pub(crate) priority: Priority,
    pub(crate) state: State,
    pub(crate) work: Work,
    /// Milliseconds since 1970.
    pub(crate) created_ms: u64,
    pub(crate) started_ms: Option<u64>,
    pub(crate) ended_ms: Option<u64>,
}

/// All moves that this node was asked for.
#[derive(Debug, Default)]
pub(crate) struct Tasks(Mutex<All>);

#[derive(Debug, Default)]
struct All {
    last: u64,
    tasks: BTreeMap<u64, Task>,
}

#[derive(Debug)]
struct Task {
    shown: TaskShown,
    running: Option<JoinHandle<()>>,
    /// What was at its end when it began.
    before: Option<Standing>,
    /// Whether it can only come to its end, since what is replaced goes.
    is_settled: bool,
    /// Whether what it has brought is being taken back.
    is_undone: bool,
}

impl State {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            State::Pending => "pending",
            State::Running => "running",
            State::Completed => "completed",
            State::Failed(_) => "failed",
            State::Cancelled => "cancelled",
        }
    }

    fn has_ended(&self) -> bool {
        !matches!(self, State::Pending | State::Running)
    }
}

impl Tasks {
    /// Takes a move on; gives its id.
    pub(crate) fn begin(
        &self,
        node: &Arc<Node>,
        verb: &str,
        priority: Priority,
        work: Work,
    ) -> Result<String, TaskError> {
        let id = {
            let mut all = self.lock();
            if all.tasks.values().filter(|task| task.shown.state == State::Pending).count() >= PENDING_MAX {
                return Err(TaskError::Full);
            }
            all.last += 1;
            let (number, id) = (all.last, format!("{verb}-{}-{}", work.id, all.last));
            let created_ms = Clock::calendar_ms();
            let (state, started_ms, ended_ms) = (State::Pending, None, None);
            let shown = TaskShown { id: id.clone(), priority, state, work, created_ms, started_ms, ended_ms };
            all.tasks.insert(number, Task::of(shown));
            all.forget_old();
            id
        };
        self.start_next(node);
        Ok(id)
    }

    pub(crate) fn get(&self, id: &str) -> Result<TaskShown, TaskError> {
        let all = self.lock();
        let task = all.tasks.values().find(|task| task.shown.id == id);
        task.map(|task| task.shown.clone()).ok_or_else(|| no_task(id))
    }

    pub(crate) fn list(&self) -> Vec<TaskShown> {
        self.lock().tasks.values().rev().map(|task| task.shown.clone()).collect()
    }

    /// Ends a move that has not ended. What it has brought is taken back.
    pub(crate) fn cancel(&self, node: &Arc<Node>, id: &str) -> Result<(), TaskError> {
        {
            let mut all = self.lock();
            let found = all.tasks.iter_mut().find(|(_, task)| task.shown.id == id);
            let (&number, task) = found.ok_or_else(|| no_task(id))?;
            if task.shown.state.has_ended() {
                return Err(TaskError::Ended(task.shown.state.name()));
            }
            if task.is_settled {
                return Err(TaskError::Settled);
            }
            task.end(State::Cancelled);
            if let Some(running) = task.running.take() {
                task.is_undone = true;
                tokio::spawn(undo(node.clone(), number, running));
            }
        }
        self.start_next(node);
        Ok(())
    }

    /// Starts those that come next while fewer run than may.
    fn start_next(&self, node: &Arc<Node>) {
        loop {
            let mut all = self.lock();
            let Some((number, work, priority)) = all.take_next() else { return };
            let carried = tokio::spawn(run(node.clone(), number, work, priority));
            if let Some(task) = all.tasks.get_mut(&number) {
                task.running = Some(carried);
            }
        }
    }

    /// Whether a move still stands, which from then on cannot be cancelled.
    fn settle(&self, number: u64) -> bool {
        let mut all = self.lock();
        let task = all.tasks.get_mut(&number).filter(|task| !task.shown.state.has_ended());
        task.map(|task| task.is_settled = true).is_some()
    }

    fn end(&self, node: &Arc<Node>, number: u64, state: State) {
        if let Some(task) = self.lock().tasks.get_mut(&number).filter(|task| !task.shown.state.has_ended()) {
            task.running = None;
            task.end(state);
        }
        self.start_next(node);
    }

    fn lock(&self) -> MutexGuard<'_, All> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Carries out one move.
async fn run(node: Arc<Node>, number: u64, work: Work, priority: Priority) {
    let _busy = node.activity.begin();
    let done = async {
        let before = super::look_ahead(&node, &work).await?;
        if let Some(task) = node.tasks.lock().tasks.get_mut(&number) {
            task.before = Some(before);
        }
        super::carry_out(&node, &work, priority, || node.tasks.settle(number)).await
    };
    let state = done.await.map_or_else(|failure| State::Failed(failure.message), |()| State::Completed);
    node.tasks.end(&node, number, state);
}

/// Stops a move that was cancelled, and takes back what it has brought.
async fn undo(node: Arc<Node>, number: u64, running: JoinHandle<()>) {
    let _busy = node.activity.begin();
    running.abort();
    let _ = running.await;
    let begun = |task: &Task| Some((task.shown.work.clone(), task.before.clone()?));
    let begun = node.tasks.lock().tasks.get(&number).and_then(begun);
    if let Some((work, before)) = begun {
        match super::undo(&node, &work, before).await {
            Ok(()) => tracing::info!(chunk = work.id, node = work.node, "a cancelled move was undone"),
            Err(failure) => {
                let reason = failure.message;
                tracing::info!(chunk = work.id, node = work.node, reason, "a cancelled move left its copy");
            }
        }
    }
    if let Some(task) = node.tasks.lock().tasks.get_mut(&number) {
        task.is_undone = false;
    }
    node.tasks.start_next(&node);
}

impl All {
    /// The move that comes next, which runs from then on; `None` while as many run as may, or none waits.
    fn take_next(&mut self) -> Option<(u64, Work, Priority)> {
        let running = self.tasks.values().filter(|task| task.shown.state == State::Running).count();
        // What is brought to where something is being taken away would go with it.
        let undone = self.tasks.values().filter(|task| task.is_undone).map(|task| task.shown.work.clone());
        let undone: Vec<Work> = undone.collect();
        let is_free =
            |work: &Work| !undone.iter().any(|other| (&other.id, &other.node) == (&work.id, &work.node));
        let waiting = self
            .tasks
            .iter_mut()
            .filter(|(_, task)| task.shown.state == State::Pending && is_free(&task.shown.work));
        let next = waiting.min_by_key(|(number, task)| (Reverse(task.shown.priority), **number));
        let (number, task) = next.filter(|_| running < RUNNING_MAX)?;
        task.shown.state = State::Running;
        task.shown.started_ms = Some(Clock::calendar_ms());
        Some((*number, task.shown.work.clone(), task.shown.priority))
    }

    fn forget_old(&mut self) {
        let ended = self.tasks.iter().filter(|(_, task)| task.shown.state.has_ended() && !task.is_undone);
        let ended = ended.map(|(number, _)| *number);
        let ended: Vec<u64> = ended.collect();
        let many = ended.len().saturating_sub(ENDED_MAX);
        ended[..many].iter().for_each(|number| drop(self.tasks.remove(number)));
    }
}

impl Task {
    fn of(shown: TaskShown) -> Self {
        Self { shown, running: None, before: None, is_settled: false, is_undone: false }
    }

    fn end(&mut self, state: State) {
        self.shown.state = state;
        self.shown.ended_ms = Some(Clock::calendar_ms());
    }
}

fn no_task(id: &str) -> TaskError {
    TaskError::NoTask(id.chars().take(120).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting(all: &mut All, number: u64, priority: Priority) {
        let (device, from) = (Device::Dram, String::new());
        let body = Body::empty_on("n1", device);
        let work =
            Work { id: number.to_string(), body, node: "n1".into(), device, from, removes_source: false };
        let shown = TaskShown {
            id: number.to_string(),
            priority,
            state: State::Pending,
            work,
            created_ms: 0,
            started_ms: None,
            ended_ms: None,
        };
        all.tasks.insert(number, Task::of(shown));
    }

    #[test]
    fn the_urgent_run_first_and_not_too_many() {
        let mut all = All::default();
        for (number, priority) in
            (1..).zip([Priority::Low, Priority::Normal, Priority::High, Priority::Normal, Priority::Critical])
        {
            waiting(&mut all, number, priority);
        }
        let mut next = |ended: Option<u64>| {
            if let Some(task) = ended.and_then(|ended| all.tasks.get_mut(&ended)) {
                task.end(State::Completed);
            }
            all.take_next().map(|(number, ..)| number)
        };
        assert_eq!([next(None), next(None), next(None)], [Some(5), Some(3), None]);
        assert_eq!([next(Some(3)), next(None)], [Some(2), None]);
        assert_eq!([next(Some(2)), next(Some(5)), next(None)], [Some(4), Some(1), None]);
    }

    #[test]
    fn nothing_comes_to_where_something_is_taken_away() {
        let mut all = All::default();
        (1..=3).for_each(|number| waiting(&mut all, number, Priority::Normal));
        let task = all.tasks.get_mut(&1).unwrap();
        task.end(State::Cancelled);
        (task.is_undone, task.shown.work.id) = (true, "2".into());
        assert_eq!(all.take_next().map(|(number, ..)| number), Some(3));
        assert_eq!(all.take_next().map(|(number, ..)| number), None);
        all.tasks.get_mut(&1).unwrap().is_undone = false;
        assert_eq!(all.take_next().map(|(number, ..)| number), Some(2));
    }

    #[test]
    fn those_that_ended_long_ago_are_forgotten() {
        let mut all = All::default();
        for number in 0..ENDED_MAX as u64 + 5 {
            waiting(&mut all, number, Priority::Normal);
            all.tasks.get_mut(&number).unwrap().end(State::Cancelled);
        }
        waiting(&mut all, u64::MAX, Priority::Low);
        all.forget_old();
        assert_eq!(all.tasks.len(), ENDED_MAX + 1);
        assert_eq!(all.tasks.first_key_value().map(|(number, _)| *number), Some(5));
    }
}
