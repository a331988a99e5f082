//! How the tasks of a run talk: by keys of the cluster that they have started. The first task gives orders, one after the
//! other; every task answers each of them.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use client::kv::{Change, ChangeKind, Content, PutValue, Selector, Start};
use client::{Address, Client, ClientError};
use flow::wire::session::{ChunkReference, FailureCode};
use serde::{Deserialize, Serialize};

use super::usage::{Held, Used};
use crate::bench::BenchError;
use crate::bench::carried::Carried;
use crate::failure::Failure;
use crate::host::Host;
use crate::{global, interrupt};

/// How long the head may be too busy to answer.
const PATIENCE: Duration = Duration::from_secs(60);
/// Keys of orders and of answers.
const ORDERS: &str = "bench/orders/";
const ANSWERS: &str = "bench/answers/";
/// Time between two looks at whether the others are still there.
const LOOK: Duration = Duration::from_millis(100);

/// What all tasks are to do next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Every receiver fetches what a key has.
    Fetch(String),
    /// Every receiver reads its copy and compares the digest, then lets go of it.
    Verify(String),
    /// The run is over; with a reason if it has failed.
    End(Option<String>),
}

/// What a task has done.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// Its receivers are in the cluster.
    Ready(Box<Ready>),
    /// Its receivers have everything.
    Fetched(Fetched),
    /// Its receivers have the right bytes.
    Verified(Verified),
    /// It ends.
    Ended,
    /// It cannot go on.
    Failed(String),
}

/// A task as it is before the first round.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Ready {
    /// Its machine.
    pub host: Host,
    /// The network interface and address that its nodes use.
    pub interface: String,
    /// See there.
    pub address: String,
    /// How many receivers it hosts.
    pub receivers: u32,
}

/// How a fetch went on the receivers of a task.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Fetched {
    /// For each receiver the time from the task's start until it had everything, in microseconds.
    pub times_us: Vec<u64>,
    /// Pieces from nodes that had everything when the fetch began.
    pub pieces_from_origin: u64,
    /// Pieces from nodes that were receivers themselves.
    pub pieces_from_peers: u64,
    /// Pieces that failed their checksum.
    pub pieces_corrupt: u64,
    /// Pieces that came twice.
    pub pieces_duplicate: u64,
    /// Fetches that were begun again because nobody helped them.
    pub begun_again: u64,
}

/// What the receivers of a task have, and what it took; counted from the order to fetch to the order to verify.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Verified {
    /// Receivers whose bytes are right.
    pub verified: u32,
    /// Names of those whose bytes are wrong.
    pub wrong: Vec<String>,
    /// For each receiver its connections to other nodes.
    pub connections: Vec<u32>,
    /// Messages that its receivers got.
    pub messages: u64,
    /// How bytes came to its receivers.
    pub carried: Carried,
    /// What the round has used.
    pub used: Used,
    /// What the task holds.
    pub held: Held,
}

/// One task's part in the talk.
pub struct Meeting {
    client: Arc<Client>,
    rank: u32,
    news: Receiver<Result<(String, Vec<u8>), ClientError>>,
}

impl Meeting {
    /// Begins to listen, through the node with this local socket: the first task to answers, the others to orders.
    pub fn begin(socket: &Path, rank: u32) -> Result<Self, Failure> {
        let client = global::open(&Address::Local(socket.to_owned()), None)?;
        let (sender, news) = channel();
        let listener = client.clone();
        let prefix = if rank == 0 { ANSWERS } else { ORDERS };
        let listen = move || {
            // The cluster is younger than any time that can be named: nothing was said before.
            let watch = || listener.kv().watch(Selector::Prefix(prefix.into()), Start::At(0));
            let watch = match patiently(watch) {
                Ok(watch) => watch,
                Err(error) => return drop(sender.send(Err(error))),
            };
            let said = watch.filter_map(|change| change.map(said).transpose());
            said.map_while(|said| sender.send(said).ok()).for_each(drop);
        };
        let listening = thread::Builder::new().name("orders".into()).spawn(listen);
        listening.map_err(crate::processes::ProcessError::machine("start a thread"))?;
        Ok(Self { client, rank, news })
    }

    /// The connection that this goes over.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Tells all tasks what to do in a step.
    pub fn order(&self, step: u32, order: &Order) -> Result<(), Failure> {
        self.say(format!("{ORDERS}{step:08}"), order)
    }

    /// Tells the first task how a step went.
    pub fn answer(&self, step: u32, answer: &Answer) -> Result<(), Failure> {
        self.say(format!("{ANSWERS}{step:08}/{}", self.rank), answer)
    }

    /// Waits for the order of a step. `check` is asked again and again whether that makes sense.
    pub fn next_order(
        &self,
        step: u32,
        check: &mut dyn FnMut() -> Result<(), Failure>,
    ) -> Result<Order, Failure> {
        let wanted = format!("{ORDERS}{step:08}");
        loop {
            let (key, value) = self.next(check)?;
            if key == wanted {
                return read(&value);
            }
            // The run may be ended at any time.
            if let Ok(end @ Order::End(_)) = read(&value) {
                return Ok(end);
            }
        }
    }

    /// Waits until all tasks have answered in a step, and gives the answers in their order; a task that cannot go on is an
    /// error.
    pub fn answers(
        &self,
        step: u32,
        tasks: u32,
        check: &mut dyn FnMut() -> Result<(), Failure>,
    ) -> Result<Vec<Answer>, Failure> {
        let mut answers: Vec<Option<Answer>> = vec![None; tasks as usize];
        let prefix = format!("{ANSWERS}{step:08}/");
        while answers.iter().any(Option::is_none) {
            let (key, value) = self.next(check)?;
            let answer: Answer = read(&value)?;
            let rank = key.rsplit('/').next().and_then(|rank| rank.parse::<usize>().ok());
            if let Answer::Failed(message) = answer {
                return Err(BenchError::Task { rank: rank.unwrap_or(0), message }.into());
            }
            if let Some(place) =
                rank.filter(|_| key.starts_with(&prefix)).and_then(|rank| answers.get_mut(rank))
            {
                *place = Some(answer);
            }
        }
        Ok(answers.into_iter().flatten().collect())
    }

    /// The chunks that a key has.
    pub fn chunks(&self, key: &str) -> Result<Vec<ChunkReference>, Failure> {
        Ok(patiently(|| self.client.info(key))?.references()?)
    }

    fn say(&self, key: String, what: &impl Serialize) -> Result<(), Failure> {
        let text = serde_json::to_vec(what).map_err(std::io::Error::from)?;
        // To say the same again changes nothing.
        patiently(|| self.client.kv().put(&key, &text, &PutValue::default()))?;
        Ok(())
    }

    fn next(&self, check: &mut dyn FnMut() -> Result<(), Failure>) -> Result<(String, Vec<u8>), Failure> {
        loop {
            interrupt::check()?;
            match self.news.recv_timeout(LOOK) {
                Ok(news) => return Ok(news?),
                Err(RecvTimeoutError::Timeout) => check()?,
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(ClientError::Closed { node: self.client.node().into() }.into());
                }
            }
        }
    }
}

impl Drop for Meeting {
    fn drop(&mut self) {
        // It lets the thread that listens end.
        self.client.cancel();
    }
}

/// What was put, if a change is that.
fn said(change: Change) -> Option<(String, Vec<u8>)> {
    match change.kind {
        ChangeKind::Put(entry) => match entry.content {
            Some(Content::Value(value)) => Some((change.key, value)),
            _ => None,
        },
        _ => None,
    }
}

/// Asks again while the head does not answer, for a while: it may be busy with all the nodes.
fn patiently<T>(ask: impl Fn() -> Result<T, ClientError>) -> Result<T, ClientError> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match ask() {
            Err(error) if is_busy(&error) && interrupt::signal().is_none() && Instant::now() < deadline => {
                thread::sleep(LOOK);
            }
            answer => return answer,
        }
    }
}

fn is_busy(error: &ClientError) -> bool {
    error.code() == Some(FailureCode::Unavailable) && !matches!(error, ClientError::Closed { .. })
}

fn read<T: for<'de> Deserialize<'de>>(value: &[u8]) -> Result<T, Failure> {
    Ok(serde_json::from_slice(value).map_err(|error| BenchError::Tongue { message: error.to_string() })?)
}

/// Fails once a time has passed.
pub fn until(deadline: Instant, what: &'static str) -> Result<(), Failure> {
    if Instant::now() < deadline { Ok(()) } else { Err(BenchError::Late { what }.into()) }
}
