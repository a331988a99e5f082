//! What goes on by itself for a node, and ends with it.

use tokio::sync::watch;
use tokio::task::JoinHandle;

/// The tasks and connections of one node. A process may have many nodes, each of which ends without the others.
#[derive(Debug, Default)]
pub(crate) struct Life {
    ended: watch::Sender<bool>,
}

impl Life {
    /// Runs a task until it ends or the node does, which gives `None`.
    pub(crate) fn spawn<F>(&self, task: F) -> JoinHandle<Option<F::Output>>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let mut ended = self.ended.subscribe();
        tokio::spawn(async move {
            tokio::select! {
                output = task => Some(output),
                _ = ended.wait_for(|&ended| ended) => None,
            }
        })
    }

    /// Ends all of it.
    pub(crate) fn end(&self) {
        self.ended.send_replace(true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_end_with_the_node_or_before() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (life, other) = (Life::default(), Life::default());
            assert_eq!(life.spawn(async { 7 }).await.unwrap(), Some(7));
            let lasting = life.spawn(std::future::pending::<()>());
            let of_other = other.spawn(std::future::pending::<()>());
            life.end();
            assert_eq!(lasting.await.unwrap(), None);
            assert_eq!(life.spawn(std::future::pending::<()>()).await.unwrap(), None);
            assert!(!of_other.is_finished());
        });
    }
}
