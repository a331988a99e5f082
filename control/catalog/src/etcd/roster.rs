//! Which nodes are registered, and how they come and go: read once, then watched.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::sleep;

use super::client::CallError;
use super::core::Core;
use super::layout::Place;
use super::proto::KeyValue;
use super::registry::Stored;
use super::runtime::Runtime;
use super::watch::{Told, Watch};

/// News that are held for a reader who is slow. More stay in etcd.
const QUEUE_LENGTH: usize = 16;
/// Pause after the nodes could not be read.
const PAUSE: Duration = Duration::from_millis(200);

/// The registered nodes, as they come and go. It goes on for as long as it is held.
#[derive(Debug)]
pub struct Roster {
    news: mpsc::Receiver<News>,
    watching: AbortHandle,
}

/// What is told of the registered nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// All that is there, in place of all that was told before. It comes first.
    All {
        /// The last revision that is in it.
        revision: u64,
        /// The nodes, each before its mark that it is draining.
        changes: Vec<Change>,
    },
    /// What one revision has changed.
    Changed {
        /// The revision.
        revision: u64,
        /// The changes, in order.
        changes: Vec<Change>,
    },
    /// etcd answers, and nothing has changed.
    Quiet,
    /// etcd is not reached for the time being; it will be tried on.
    Away,
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A node is registered, and not draining unless that is told next.
    Here {
        /// The node.
        node: u64,
        /// What it says of itself; `None` when this build cannot read it.
        record: Option<Vec<u8>>,
    },
    /// It is not registered any more.
    Gone {
        /// The node.
        node: u64,
    },
    /// It is draining, or is not any more.
    Draining {
        /// The node.
        node: u64,
        /// Whether it is.
        draining: bool,
    },
}

impl Roster {
    pub(super) fn begin(core: Arc<Core>, runtime: &Runtime) -> Self {
        let (queue, news) = mpsc::channel(QUEUE_LENGTH);
        let watching = runtime.keep(async move {
            // It ends when nobody listens any more.
            let _ = core.watch_nodes(&queue).await;
        });
        Self { news, watching }
    }

    /// Waits for what comes next; `None` when the catalog was closed. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<News> {
        self.news.recv().await
    }
}

impl Drop for Roster {
    fn drop(&mut self) {
        self.watching.abort();
    }
}

impl Core {
    async fn watch_nodes(&self, queue: &mpsc::Sender<News>) -> Result<(), mpsc::error::SendError<News>> {
        loop {
            let revision = match self.all_nodes().await {
                Ok((revision, changes)) => {
                    queue.send(News::All { revision, changes }).await?;
                    revision
                }
                Err(_) => {
                    queue.send(News::Away).await?;
                    sleep(PAUSE).await;
                    continue;
                }
            };
            let mut watch = Watch::new(self.client.clone(), self.layout.nodes(), revision + 1);
            loop {
                let news = match watch.next().await {
                    Told::Events(revision, events) => {
                        let events =
                            events.into_iter().filter_map(|event| Some((event.kind == 1, event.kv?)));
                        let changes = events.filter_map(|(gone, kv)| self.change(&kv, gone)).collect();
                        News::Changed { revision, changes }
                    }
                    Told::Silence => News::Quiet,
                    Told::Away => News::Away,
                    // Who came and went meanwhile does not matter: who is there does.
                    Told::Compacted(_) => break,
                };
                queue.send(news).await?;
            }
        }
    }

    /// All nodes, and at which revision.
    async fn all_nodes(&self) -> Result<(u64, Vec<Change>), CallError> {
        let mut changes = Vec::new();
        let mut pages = self.pages(self.layout.nodes(), 0);
        while let Some(kvs) = pages.next(&self.client).await? {
            changes.extend(kvs.iter().filter_map(|kv| self.change(kv, false)));
        }
        Ok((pages.revision(), changes))
    }

    fn change(&self, kv: &KeyValue, gone: bool) -> Option<Change> {
        match self.layout.place(&kv.key) {
            Place::Node(node) if gone => Some(Change::Gone { node }),
            Place::Node(node) => {
                let record = Stored::read(&kv.value).map(|stored| stored.record.to_vec());
                Some(Change::Here { node, record })
            }
            Place::Draining(node) => Some(Change::Draining { node, draining: !gone }),
            _ => None,
        }
    }
}
