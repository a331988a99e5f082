//! What can be called, and the engines of the catalog as one.

use std::sync::atomic::{AtomicUsize, Ordering};

use catalog::{Catalog, CatalogError, Condition, Consistency, Content, Entry, Operation, Put, Write};
use futures_lite::future::block_on;

use super::model::{Act, Answer};

/// Something that has keys. Many threads call it at once.
pub trait Store: Sync {
    /// Does something to a key, and waits for the outcome.
    fn call(&self, key: &str, act: Act) -> Outcome;
}

/// What came of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was answered.
    Answered(Seen),
    /// It was refused, or never arrived, and has changed nothing.
    Refused,
    /// Nobody knows.
    Unknown,
}

/// What an answered call was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// The answer.
    pub answer: Answer,
    /// The revision, where one was said.
    pub revision: Option<u64>,
}

/// Several ways to one store, taken in turn.
pub struct Turns {
    ways: Vec<Box<dyn Store>>,
    turn: AtomicUsize,
}

impl Turns {
    /// These ways, of which there is at least one.
    pub fn of(ways: Vec<Box<dyn Store>>) -> Self {
        Self { ways, turn: AtomicUsize::new(0) }
    }
}

impl Store for Turns {
    fn call(&self, key: &str, act: Act) -> Outcome {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        self.ways[turn % self.ways.len()].call(key, act)
    }
}

impl<C: Catalog + ?Sized> Store for C {
    fn call(&self, key: &str, act: Act) -> Outcome {
        let outcome = match act {
            Act::Get => get(self, key),
            _ => write(self, key, act),
        };
        match outcome {
            Ok(seen) => Outcome::Answered(seen),
            Err(CatalogError::Unreachable { maybe_done: true, .. }) => Outcome::Unknown,
            Err(CatalogError::Unreachable { maybe_done: false, .. }) => Outcome::Refused,
            Err(error) => panic!("{act:?} of '{key}' failed: {error}"),
        }
    }
}

fn get<C: Catalog + ?Sized>(catalog: &C, key: &str) -> Result<Seen, CatalogError> {
    let mut found = block_on(catalog.get(&[key.into()], Consistency::Quorum))?;
    let entry = found.entries.pop().flatten();
    let answer = Answer::Found(entry.map(|entry| (entry.version, value(&entry))));
    Ok(Seen { answer, revision: Some(found.revision) })
}

fn write<C: Catalog + ?Sized>(catalog: &C, key: &str, act: Act) -> Result<Seen, CatalogError> {
    let put = |value: u64| Operation::Put(Put::new(key, Content::Value(value.to_string().into_bytes())));
    let (conditions, operation) = match act {
        Act::PutIf { version, value } => (vec![Condition::Version { key: key.into(), version }], put(value)),
        Act::Put(value) => (vec![], put(value)),
        Act::Get | Act::Delete => (vec![], Operation::Delete { key: key.into() }),
    };
    match block_on(catalog.write(Write { conditions, operations: vec![operation] })) {
        Ok(written) => {
            let version = written.versions[0];
            let answer = if act == Act::Delete { Answer::Deleted(version) } else { Answer::Put(version) };
            Ok(Seen { answer, revision: Some(written.revision) })
        }
        Err(CatalogError::Conflict { found, .. }) => {
            Ok(Seen { answer: Answer::Conflict(found), revision: None })
        }
        Err(error) => Err(error),
    }
}

fn value(entry: &Entry) -> u64 {
    let Some(Content::Value(value)) = &entry.content else { panic!("{entry:?} has no value") };
    let text = std::str::from_utf8(value).expect("the value is text");
    text.parse().expect("the value is a number")
}
