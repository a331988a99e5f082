//! The threads that shards run on.
//!
//! A node that has a machine to itself has a thread for each of its shards. Many small nodes in one process share a few
//! threads instead: each has one glommio executor and one ring, which cost about as much as thousands of connections.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;

use glommio::{LocalExecutorBuilder, Placement};

use crate::StartError;
use crate::ring::DataRing;

/// glommio's own buffers serve control only; its default would be 10 MiB for each executor.
const EXECUTOR_BUFFER_BYTES: usize = 64 << 10;

/// What runs on an executor until it ends by itself.
type Work = Box<dyn FnOnce(DataRing) -> Pin<Box<dyn Future<Output = ()>>> + Send>;

/// Threads with an executor and a ring each, for the shards of one engine or of many. Clones share them. They end when
/// all clones are gone and all shards on them have stopped.
#[derive(Clone)]
pub struct Executors {
    threads: Arc<Threads>,
}

struct Threads {
    lanes: Vec<Lane>,
    next: AtomicUsize,
}

/// One thread, and the way to it.
struct Lane {
    work: flume::Sender<Work>,
    thread: JoinHandle<()>,
}

impl Executors {
    /// Starts so many, at least one; with `pin_to_cores` each stays on a core of its own, of which there must be as many.
    pub fn start(count: u16, pin_to_cores: bool) -> Result<Self, StartError> {
        let lanes =
            (0..count.max(1)).map(|index| start_one(index, pin_to_cores)).collect::<Result<_, _>>()?;
        Ok(Self { threads: Arc::new(Threads { lanes, next: AtomicUsize::new(0) }) })
    }

    /// Runs something on the executor whose turn it is.
    pub(crate) fn run<F, R>(&self, work: F)
    where
        F: FnOnce(DataRing) -> R + Send + 'static,
        R: Future<Output = ()> + 'static,
    {
        let turn = self.threads.next.fetch_add(1, Ordering::Relaxed) % self.threads.lanes.len();
        // A thread is gone only after a panic; whoever waits for the work sees that it was dropped.
        let _ = self.threads.lanes[turn].work.send(Box::new(|ring| Box::pin(work(ring))));
    }

    /// Waits until the threads are gone, if nobody else has them. Everything on them must have been told to stop.
    pub(crate) fn join(self) {
        let lanes = Arc::into_inner(self.threads).map(|threads| threads.lanes).unwrap_or_default();
        let threads: Vec<_> = lanes.into_iter().map(|Lane { thread, .. }| thread).collect();
        for thread in threads {
            let _ = thread.join();
        }
    }
}

fn start_one(index: u16, pin_to_cores: bool) -> Result<Lane, StartError> {
    let failed = move |message| StartError::Shard { shard: index, message };
    let (work, coming) = flume::unbounded::<Work>();
    let (ready, started) = flume::bounded::<Result<(), String>>(1);
    let placement = if pin_to_cores { Placement::Fixed(usize::from(index)) } else { Placement::Unbound };
    let run = move || {
        let executor = LocalExecutorBuilder::new(placement).io_memory(EXECUTOR_BUFFER_BYTES).make();
        let executor = match executor {
            Ok(executor) => executor,
            Err(error) => return drop(ready.send(Err(error.to_string()))),
        };
        executor.run(async move {
            match DataRing::new() {
                Ok(ring) => {
                    let _ = ready.send(Ok(()));
                    carry_out(coming, ring).await;
                }
                Err(error) => drop(ready.send(Err(format!("io_uring: {error}")))),
            }
        });
    };
    let thread = std::thread::Builder::new().name(format!("shoal-shard-{index}")).spawn(run);
    let thread = thread.map_err(|error| failed(error.to_string()))?;
    match started.recv() {
        Ok(Ok(())) => Ok(Lane { work, thread }),
        Ok(Err(message)) => Err(failed(message)),
        Err(_) => Err(failed("its thread ended".into())),
    }
}

/// Begins what comes, until nobody can send more and all of it has ended.
async fn carry_out(coming: flume::Receiver<Work>, ring: DataRing) {
    let mut begun = Vec::new();
    while let Ok(work) = coming.recv_async().await {
        begun.push(glommio::spawn_local(work(ring.clone())));
    }
    for task in begun {
        task.await;
    }
}
