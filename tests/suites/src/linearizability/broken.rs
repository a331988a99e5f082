//! Stores with one defect, which must be noticed.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use fastrand::Rng;

use super::model::{Act, Answer};
use super::store::{Outcome, Seen, Store};

/// One call in so many is affected.
const ONE_IN: u8 = 5;

/// What is wrong with a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Defect {
    /// Some reads tell what an earlier one was told.
    StaleReads,
    /// Some puts are acknowledged, and carried out when the key is put again.
    EarlyAcknowledgements,
    /// Some puts are acknowledged and never carried out.
    LostWrites,
    /// Some puts do not look at the version that they depend on.
    ForgottenConditions,
}

/// A store that works, made worse.
pub struct Broken<'a> {
    store: &'a dyn Store,
    defect: Defect,
    mind: Mutex<Mind>,
}

struct Mind {
    random: Rng,
    /// What was last read of each key.
    read: HashMap<String, Seen>,
    /// What was acknowledged of each key and not carried out.
    postponed: HashMap<String, Act>,
}

impl<'a> Broken<'a> {
    /// A store that works, with a defect.
    pub fn new(store: &'a dyn Store, defect: Defect, seed: u64) -> Self {
        let (random, read, postponed) = (Rng::with_seed(seed), HashMap::new(), HashMap::new());
        Self { store, defect, mind: Mutex::new(Mind { random, read, postponed }) }
    }

    fn mind(&self) -> MutexGuard<'_, Mind> {
        self.mind.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Acknowledges a put that is not carried out, as if it were the next of its key.
    fn pretend(&self, key: &str) -> Option<Outcome> {
        match self.store.call(key, Act::Get) {
            Outcome::Answered(Seen { answer: Answer::Found(Some((version, _))), .. }) => {
                Some(Outcome::Answered(Seen { answer: Answer::Put(version + 1), revision: None }))
            }
            _ => None,
        }
    }
}

impl Store for Broken<'_> {
    fn call(&self, key: &str, act: Act) -> Outcome {
        let strikes = self.mind().random.u8(0..ONE_IN) == 0;
        match (self.defect, act) {
            (Defect::StaleReads, Act::Get) => {
                let earlier = self.mind().read.get(key).copied();
                if let Some(earlier) = earlier.filter(|_| strikes) {
                    return Outcome::Answered(earlier);
                }
                let outcome = self.store.call(key, act);
                if let Outcome::Answered(seen) = outcome {
                    self.mind().read.insert(key.into(), seen);
                }
                outcome
            }
            (Defect::LostWrites, Act::Put(_)) if strikes => {
                self.pretend(key).unwrap_or_else(|| self.store.call(key, act))
            }
            (Defect::EarlyAcknowledgements, Act::Put(_)) => {
                let postponed = self.mind().postponed.remove(key);
                if let Some(postponed) = postponed {
                    self.store.call(key, postponed);
                }
                match self.pretend(key).filter(|_| strikes) {
                    Some(pretended) => {
                        self.mind().postponed.insert(key.into(), act);
                        pretended
                    }
                    None => self.store.call(key, act),
                }
            }
            (Defect::ForgottenConditions, Act::PutIf { value, .. }) if strikes => {
                self.store.call(key, Act::Put(value))
            }
            _ => self.store.call(key, act),
        }
    }
}
