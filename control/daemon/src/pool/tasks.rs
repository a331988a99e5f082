//! Moves that go on: which comes next, how far it is, how it ended.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use flow::wire::session::{ChunkReference, Device};
use tokio::task::AbortHandle;

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
    pub(crate) chunk: ChunkReference,
    /// The node that it comes to.
    pub(crate) node: String,
    pub(crate) device: Device,
    /// The node that it comes from; empty for any.
    pub(crate) from: String,
    pub(crate) removes_source: bool,
}

/// Which of those that wait come first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Priority {
    Critical,
    High,
    Normal,
    Low,
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
    running: Option<AbortHandle>,
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
            all.tasks.insert(number, Task { shown, running: None });
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

    /// Ends a move that has not ended.
    pub(crate) fn cancel(&self, node: &Arc<Node>, id: &str) -> Result<(), TaskError> {
        {
            let mut all = self.lock();
            let task = all.tasks.values_mut().find(|task| task.shown.id == id).ok_or_else(|| no_task(id))?;
            if task.shown.state.has_ended() {
                return Err(TaskError::Ended(task.shown.state.name()));
            }
            task.end(State::Cancelled);
        }
        self.start_next(node);
        Ok(())
    }

    /// Starts those that come next while fewer run than may.
    fn start_next(&self, node: &Arc<Node>) {
        loop {
            let mut all = self.lock();
            let Some((number, work)) = all.take_next() else { return };
            let owner = node.clone();
            let carried = tokio::spawn(async move {
                let _busy = owner.activity.begin();
                let done = super::carry_out(&owner, &work).await;
                let state = done.map_or_else(|failure| State::Failed(failure.message), |()| State::Completed);
                owner.tasks.end(&owner, number, state);
            });
            if let Some(task) = all.tasks.get_mut(&number) {
                task.running = Some(carried.abort_handle());
            }
        }
    }

    fn end(&self, node: &Arc<Node>, number: u64, state: State) {
        if let Some(task) = self.lock().tasks.get_mut(&number).filter(|task| !task.shown.state.has_ended()) {
            // It ends by itself, so that there is nothing to stop.
            task.running = None;
            task.end(state);
        }
        self.start_next(node);
    }

    fn lock(&self) -> MutexGuard<'_, All> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl All {
    /// The move that comes next, which runs from then on; `None` while as many run as may, or none waits.
    fn take_next(&mut self) -> Option<(u64, Work)> {
        let running = self.tasks.values().filter(|task| task.shown.state == State::Running).count();
        let waiting = self.tasks.iter_mut().filter(|(_, task)| task.shown.state == State::Pending);
        let next = waiting.min_by_key(|(number, task)| (task.shown.priority, **number));
        let (number, task) = next.filter(|_| running < RUNNING_MAX)?;
        task.shown.state = State::Running;
        task.shown.started_ms = Some(Clock::calendar_ms());
        Some((*number, task.shown.work.clone()))
    }

    fn forget_old(&mut self) {
        let ended =
            self.tasks.iter().filter(|(_, task)| task.shown.state.has_ended()).map(|(number, _)| *number);
        let ended: Vec<u64> = ended.collect();
        let many = ended.len().saturating_sub(ENDED_MAX);
        ended[..many].iter().for_each(|number| drop(self.tasks.remove(number)));
    }
}

impl Task {
    fn end(&mut self, state: State) {
        self.shown.state = state;
        self.shown.ended_ms = Some(Clock::calendar_ms());
        if let Some(running) = self.running.take() {
            running.abort();
        }
    }
}

fn no_task(id: &str) -> TaskError {
    TaskError::NoTask(id.chars().take(120).collect())
}

#[cfg(test)]
mod tests {
    use flow::chunk::{ChunkId, Geometry};

    use super::*;

    fn waiting(all: &mut All, number: u64, priority: Priority) {
        let geometry = Geometry::of(1).unwrap();
        let chunk = ChunkReference { id: ChunkId([1; 32]), geometry, descriptor_digest: [0; 32] };
        let (device, from) = (Device::Dram, String::new());
        let work =
            Work { id: number.to_string(), chunk, node: "n1".into(), device, from, removes_source: false };
        let shown = TaskShown {
            id: number.to_string(),
            priority,
            state: State::Pending,
            work,
            created_ms: 0,
            started_ms: None,
            ended_ms: None,
        };
        all.tasks.insert(number, Task { shown, running: None });
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
            all.take_next().map(|(number, _)| number)
        };
        assert_eq!([next(None), next(None), next(None)], [Some(5), Some(3), None]);
        assert_eq!([next(Some(3)), next(None)], [Some(2), None]);
        assert_eq!([next(Some(2)), next(Some(5)), next(None)], [Some(4), Some(1), None]);
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
