//! A node as a store, by a connection that is made again when it has ended.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use client::kv::{Consistency, Content, Entry, PutValue, Reason};
use client::{Address, Client, ClientError};

use super::model::{Act, Answer};
use super::store::{Outcome, Seen, Store};

/// A node as a store. It may be killed and started again meanwhile.
pub struct Remote {
    address: Address,
    client: Mutex<Option<Arc<Client>>>,
}

impl Remote {
    /// The node at this address.
    pub fn at(address: Address) -> Self {
        Self { address, client: Mutex::default() }
    }

    /// The connection that there is, or another.
    fn client(&self) -> Option<Arc<Client>> {
        let mut known = self.known();
        if known.is_none() {
            *known = Client::connect(&self.address, None).ok().map(Arc::new);
        }
        known.clone()
    }

    fn forget(&self, ended: &Arc<Client>) {
        let mut known = self.known();
        if known.as_ref().is_some_and(|client| Arc::ptr_eq(client, ended)) {
            *known = None;
        }
    }

    fn known(&self) -> MutexGuard<'_, Option<Arc<Client>>> {
        self.client.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store for Remote {
    fn call(&self, key: &str, act: Act) -> Outcome {
        let Some(client) = self.client() else { return Outcome::Refused };
        match answer(&client, key, act) {
            Ok(seen) => Outcome::Answered(seen),
            Err(ClientError::Closed { .. }) => {
                self.forget(&client);
                Outcome::Unknown
            }
            Err(ClientError::Catalog(refused)) => match refused.reason {
                Reason::Conflict(conflict) => {
                    Outcome::Answered(Seen { answer: Answer::Conflict(conflict.found), revision: None })
                }
                Reason::Unreachable(again) if again.maybe_done => Outcome::Unknown,
                Reason::Unreachable(_) => Outcome::Refused,
                _ => panic!("{act:?} of '{key}' failed: {}", refused.failure.message),
            },
            Err(error) => panic!("{act:?} of '{key}' failed: {error}"),
        }
    }
}

fn answer(client: &Client, key: &str, act: Act) -> Result<Seen, ClientError> {
    let kv = client.kv();
    let put = |value: u64, if_version| {
        let written =
            kv.put(key, value.to_string().as_bytes(), &PutValue { if_version, ..PutValue::default() })?;
        Ok(Seen { answer: Answer::Put(written.versions[0]), revision: Some(written.revision) })
    };
    match act {
        Act::Get => {
            let mut found = kv.get_many(&[key], Consistency::Quorum)?;
            let entry = found.entries.pop().flatten();
            let answer = Answer::Found(entry.map(|entry| (entry.version, value(&entry))));
            Ok(Seen { answer, revision: Some(found.revision) })
        }
        Act::Put(value) => put(value, None),
        Act::PutIf { version, value } => put(value, Some(version)),
        Act::Delete => Ok(Seen { answer: Answer::Deleted(kv.delete(key, None)?), revision: None }),
    }
}

fn value(entry: &Entry) -> u64 {
    let Some(Content::Value(value)) = &entry.content else { panic!("{entry:?} has no value") };
    let text = std::str::from_utf8(value).expect("the value is text");
    text.parse().expect("the value is a number")
}
