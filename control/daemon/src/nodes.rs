//! Many nodes in one process, for measurements: real ones, which share a control thread and a few executors.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use engine::Executors;
use flow::wire::session::{ChunkFetched, ChunkReference, Failure};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use crate::peers;
use crate::running::{NodeError, Running};
use crate::settings::Settings;

/// How often it is asked whether to give up.
const LOOK: Duration = Duration::from_millis(50);
/// Threads for what blocks: opening a catalog, stopping an engine.
const BLOCKING_THREADS: usize = 16;
/// Pause before a fetch is begun again that nobody helped.
const FETCH_PAUSE: Duration = Duration::from_millis(200);
/// How long tasks may take to end with the control thread.
const SHUTDOWN: Duration = Duration::from_secs(1);

/// Nodes that live as long as this does, or until [`Nodes::stop`].
pub struct Nodes {
    control: Handle,
    executors: Executors,
    nodes: Vec<Arc<Running>>,
    /// Dropped first, it ends the thread.
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Nodes {
    /// No nodes yet, and so many threads for the shards of all of them.
    pub fn new(executors: u16) -> Result<Self, NodeError> {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_all().max_blocking_threads(BLOCKING_THREADS).build()?;
        let control = runtime.handle().clone();
        let (end, ended) = oneshot::channel();
        let thread = std::thread::Builder::new().name("shoal-control".into()).spawn(move || {
            let _ = runtime.block_on(ended);
            runtime.shutdown_timeout(SHUTDOWN);
        })?;
        let executors = Executors::start(executors, false)?;
        Ok(Self { control, executors, nodes: Vec::new(), end: Some(end), thread: Some(thread) })
    }

    /// Starts nodes and lets all of them enter the cluster at once; without a word from `given_up` before that is over.
    pub fn start(
        &mut self,
        settings: impl IntoIterator<Item = Settings>,
        given_up: impl Fn() -> bool,
    ) -> Result<(), NodeError> {
        let mut started = Vec::new();
        for settings in settings {
            if given_up() {
                break;
            }
            started.push(self.control.block_on(Running::start(settings, Some(&self.executors)))?);
        }
        let entered = self.control.block_on(async {
            let mut entering = JoinSet::new();
            for (at, mut node) in started.into_iter().enumerate() {
                entering.spawn(async move { node.enter().await.map(|()| (at, node)) });
            }
            let mut entered = Vec::new();
            while let Some(joined) = entering.join_next().await {
                let unexpected = |error: tokio::task::JoinError| NodeError::Stopped(error.to_string());
                entered.push(joined.map_err(unexpected)??);
            }
            Ok::<_, NodeError>(entered)
        });
        let mut entered = entered?;
        entered.sort_by_key(|(at, _)| *at);
        self.nodes.extend(entered.into_iter().map(|(_, node)| Arc::new(node)));
        Ok(())
    }

    /// The nodes, in the order in which they were started.
    pub fn list(&self) -> &[Arc<Running>] {
        &self.nodes
    }

    /// Does the same with some of the nodes, all at once, and gives what came of it in their order; `None` when
    /// `given_up` says so before.
    pub fn each<T, F>(
        &self,
        nodes: &[Arc<Running>],
        task: impl Fn(Arc<Running>) -> F,
        given_up: impl Fn() -> bool,
    ) -> Option<Vec<T>>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let tasks: Vec<_> = nodes.iter().map(|node| self.control.spawn(task(node.clone()))).collect();
        self.control.block_on(async {
            let mut outcomes = Vec::with_capacity(tasks.len());
            for mut task in tasks {
                let outcome = loop {
                    match tokio::time::timeout(LOOK, &mut task).await {
                        Ok(outcome) => break outcome.ok()?,
                        Err(_) if given_up() => return None,
                        Err(_) => {}
                    }
                };
                outcomes.push(outcome);
            }
            Some(outcomes)
        })
    }

    /// Stops all nodes, the last that was started first.
    pub fn stop(mut self) {
        let nodes: Vec<_> = self.nodes.drain(..).rev().collect();
        self.control.block_on(async {
            let mut stopping = JoinSet::new();
            for node in nodes.into_iter().filter_map(Arc::into_inner) {
                stopping.spawn(node.stop());
            }
            while stopping.join_next().await.is_some() {}
        });
    }
}

impl Running {
    /// As [`Running::fetch`], begun again so many times at the most when nobody helps; and how often it was. What has come is
    /// kept.
    pub async fn fetch_patiently(
        &self,
        chunk: ChunkReference,
        begun_again_max: u32,
    ) -> (Result<ChunkFetched, Failure>, u32) {
        let mut begun_again = 0;
        loop {
            let outcome = self.fetch(chunk).await;
            let is_lonely = outcome.as_ref().is_err_and(peers::is_away);
            if !is_lonely || begun_again == begun_again_max {
                return (outcome, begun_again);
            }
            begun_again += 1;
            tokio::time::sleep(FETCH_PAUSE).await;
        }
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
