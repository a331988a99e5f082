//! The nodes that this task hosts, and what they do in each step.

use std::sync::Arc;
use std::time::Instant;

use daemon::{Nodes, Running, Settings};
use flow::wire::session::{ChunkReference, Failure as Refusal};

use super::meeting::{Fetched, Verified};
use super::usage::{Held, Since};
use crate::bench::BenchError;
use crate::bench::carried::Carried;
use crate::failure::Failure;
use crate::interrupt;

/// How often a fetch that nobody helped is begun again: a machine that hosts all nodes may be too busy for any of them to be heard
/// for a while.
const BEGUN_AGAIN_MAX: u32 = 5;

/// The nodes of this process: on the first task the origin, and the receivers that are this task's share.
pub struct Hosted {
    nodes: Nodes,
    has_origin: bool,
}

/// A round that has begun.
pub struct Round {
    chunks: Vec<ChunkReference>,
    since: Since,
    messages: u64,
    carried: Carried,
}

impl Hosted {
    /// Starts nodes on so many threads; the first of them is the origin if there is to be one here.
    pub fn new(executors: u16, origin: Option<Settings>) -> Result<Self, Failure> {
        let mut nodes = Nodes::new(executors).map_err(BenchError::from)?;
        let has_origin = origin.is_some();
        nodes.start(origin, is_interrupted).map_err(BenchError::from)?;
        Ok(Self { nodes, has_origin })
    }

    /// Starts receivers.
    pub fn add(&mut self, settings: impl IntoIterator<Item = Settings>) -> Result<(), Failure> {
        self.nodes.start(settings, is_interrupted).map_err(BenchError::from)?;
        interrupt::check()
    }

    /// The node that the task itself talks to; none when there is none yet.
    pub fn first(&self) -> Option<&Arc<Running>> {
        self.nodes.list().first()
    }

    /// How many receivers there are.
    pub fn receivers(&self) -> u32 {
        self.receiving().len() as u32
    }

    fn receiving(&self) -> &[Arc<Running>] {
        &self.nodes.list()[usize::from(self.has_origin)..]
    }

    /// Lets all receivers fetch chunks at once, until the deadline at the longest.
    pub fn fetch(&self, chunks: Vec<ChunkReference>, deadline: Instant) -> Result<(Round, Fetched), Failure> {
        let (messages, carried) = self.counted()?.into_iter().fold((0, Carried::default()), add);
        let (since, begin) = (Since::now(), Instant::now());
        let fetch = |node: Arc<Running>| {
            let chunks = chunks.clone();
            async move {
                let mut fetched = Fetched::default();
                for chunk in chunks {
                    let (one, begun_again) = node.fetch_patiently(chunk, BEGUN_AGAIN_MAX).await;
                    let one = one.map_err(|refusal| of_node(&node, refusal))?;
                    fetched.begun_again += u64::from(begun_again);
                    fetched.pieces_from_origin += u64::from(one.pieces_from_origin);
                    fetched.pieces_from_peers += u64::from(one.pieces_from_peers);
                    fetched.pieces_corrupt += u64::from(one.pieces_corrupt);
                    fetched.pieces_duplicate += u64::from(one.pieces_duplicate);
                }
                fetched.times_us.push(begin.elapsed().as_micros() as u64);
                Ok(fetched)
            }
        };
        let given_up = || is_interrupted() || Instant::now() > deadline;
        let Some(fetched) = self.nodes.each(self.receiving(), fetch, given_up) else {
            interrupt::check()?;
            return Err(BenchError::Late { what: "every receiver" }.into());
        };
        let fetched = all(Some(fetched))?;
        let sum = fetched.into_iter().fold(Fetched::default(), |mut sum, one| {
            sum.times_us.extend(one.times_us);
            sum.pieces_from_origin += one.pieces_from_origin;
            sum.pieces_from_peers += one.pieces_from_peers;
            sum.pieces_corrupt += one.pieces_corrupt;
            sum.pieces_duplicate += one.pieces_duplicate;
            sum.begun_again += one.begun_again;
            sum
        });
        Ok((Round { chunks, since, messages, carried }, sum))
    }

    /// Says what the round took, lets all receivers read what they have, and takes it away from all nodes of this task.
    pub fn verify(&self, round: Round) -> Result<Verified, Failure> {
        let Round { chunks, since, messages, carried } = round;
        let (used, held) = (since.used(), Held::here());
        let counted = self.counted()?;
        let connections =
            counted.iter().map(|counters| counter(counters, "connections_open") as u32).collect();
        let (messages_now, carried_now) = counted.into_iter().fold((0, Carried::default()), add);
        let verify = |node: Arc<Running>| {
            let chunks = chunks.clone();
            async move {
                let mut is_right = true;
                for chunk in chunks {
                    let digest = node.verify(chunk.id).await.map_err(|refusal| of_node(&node, refusal))?;
                    is_right &= digest == chunk.id;
                }
                Ok((node.name().to_owned(), is_right))
            }
        };
        let outcomes = all(self.nodes.each(self.receiving(), verify, is_interrupted))?;
        let verified = outcomes.iter().filter(|(_, is_right)| *is_right).count() as u32;
        let wrong = outcomes.into_iter().filter(|(_, is_right)| !is_right).map(|(name, _)| name).collect();
        let forget = |node: Arc<Running>| {
            let chunks = chunks.clone();
            async move {
                for chunk in chunks {
                    node.forget(chunk.id).await.map_err(|refusal| of_node(&node, refusal))?;
                }
                Ok(())
            }
        };
        all(self.nodes.each(self.nodes.list(), forget, is_interrupted))?;
        let (messages, carried) = (messages_now - messages, carried_now.since(carried));
        Ok(Verified { verified, wrong, connections, messages, carried, used, held })
    }

    fn counted(&self) -> Result<Vec<Vec<(String, u64)>>, Failure> {
        let count = |node: Arc<Running>| async move {
            node.counters().await.map_err(|refusal| of_node(&node, refusal))
        };
        all(self.nodes.each(self.receiving(), count, is_interrupted))
    }

    /// Stops the origin, which writes files, and lets the others go.
    pub fn stop(self) {
        self.nodes.stop();
    }
}

fn is_interrupted() -> bool {
    interrupt::signal().is_some()
}

/// What came of all nodes; the first failure counts.
fn all<T>(outcomes: Option<Vec<Result<T, Failure>>>) -> Result<Vec<T>, Failure> {
    outcomes.ok_or(Failure::Interrupted)?.into_iter().collect()
}

fn of_node(node: &Running, refusal: Refusal) -> Failure {
    BenchError::Receiver { name: node.name().to_owned(), message: refusal.message }.into()
}

fn counter(counters: &[(String, u64)], name: &str) -> u64 {
    counters.iter().find(|(known, _)| known == name).map_or(0, |(_, value)| *value)
}

fn add((messages, carried): (u64, Carried), counters: Vec<(String, u64)>) -> (u64, Carried) {
    (messages + counter(&counters, "messages_received"), carried.and(Carried::of(&counters)))
}
