//! What a write comes to, given what there is: pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::mirror::Victim;
use super::record::{Kind, Owner, Record, Seen};
use crate::check::{Checked, Described};
use crate::entry::Content;
use crate::error::CatalogError;
use crate::write::{Condition, Expiry, Operation, Put, Write};

/// What must be known to decide about a write.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Question {
    pub(super) keys: BTreeSet<String>,
    pub(super) owners: BTreeSet<String>,
    /// Prefixes, and the revisions after which nothing below them may have been written.
    pub(super) prefixes: Vec<(String, u64)>,
    /// The oldest revision since which something must not have been written.
    pub(super) floor: Option<u64>,
}

/// What is known.
#[derive(Debug, Default)]
pub(super) struct Facts {
    /// Whether it was read from etcd, at `revision`; otherwise it is a guess.
    pub(super) certain: bool,
    pub(super) revision: u64,
    pub(super) keys: BTreeMap<String, Option<Arc<Seen>>>,
    /// Since which revision each service is registered.
    pub(super) services: BTreeMap<String, Option<u64>>,
    /// For each prefix of the question whether something was written.
    pub(super) changed: Vec<bool>,
    /// Up to which revision tombstones may be gone.
    pub(super) floor: u64,
}

/// What is to be done.
#[derive(Debug)]
pub(super) enum Plan {
    /// All conditions hold, and nothing is to be written.
    Nothing { versions: Vec<u64> },
    /// Keys whose time is over must be ended first, so that their end is a change of its own.
    End(Vec<Victim>),
    /// These are to be written.
    Put { rows: Vec<Row>, versions: Vec<u64> },
}

/// A key to be written.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) key: String,
    pub(super) seen: Seen,
}

impl Question {
    /// What must be known about a write.
    pub(super) fn of(write: &Write) -> Self {
        let mut question = Self::default();
        for condition in &write.conditions {
            match condition {
                Condition::Version { key, .. } => {
                    question.keys.insert(key.clone());
                }
                Condition::Unchanged { prefix, exact, revision } => {
                    if *exact {
                        question.keys.insert(prefix.clone());
                    } else {
                        question.prefixes.push((prefix.clone(), *revision));
                    }
                    question.floor = Some(question.floor.map_or(*revision, |floor| floor.min(*revision)));
                }
            }
        }
        for operation in &write.operations {
            question.keys.insert(operation.key().into());
            if let Operation::Put(Put { owner: Some(owner), .. }) = operation {
                question.owners.insert(owner.clone());
            }
        }
        question
    }
}

impl Facts {
    pub(super) fn seen(&self, key: &str) -> Option<&Arc<Seen>> {
        self.keys.get(key).and_then(Option::as_ref)
    }

    fn live(&self, key: &str, now_ms: u64) -> Option<&Arc<Seen>> {
        self.seen(key).filter(|seen| seen.record.is_live(now_ms))
    }

    fn version(&self, key: &str, now_ms: u64) -> u64 {
        self.live(key, now_ms).map_or(0, |seen| seen.record.version)
    }

    /// The key, when its time is over and nobody has written that.
    fn overdue(&self, key: &str, now_ms: u64) -> Option<Victim> {
        let seen = self.seen(key).filter(|seen| seen.record.is_overdue(now_ms))?;
        Some(Victim { key: key.into(), revision: seen.revision, version: seen.record.version })
    }
}

/// What `checked` comes to.
pub(super) fn plan(
    checked: &Checked,
    question: &Question,
    facts: &Facts,
    write: u64,
    now_ms: u64,
) -> Result<Plan, CatalogError> {
    let overdue = must_end(&checked.write, facts, now_ms);
    if !overdue.is_empty() {
        return Ok(Plan::End(overdue));
    }
    for condition in &checked.write.conditions {
        check(condition, question, facts, now_ms)?;
    }
    let (mut rows, mut versions) = (Vec::new(), Vec::new());
    for (operation, described) in checked.write.operations.iter().zip(&checked.described) {
        let key = operation.key();
        let seen = match operation {
            Operation::Put(put) => Some(next(put, described, facts, write, now_ms)?),
            Operation::Expire { when, .. } => Some(expiring(key, *when, facts, write, now_ms)?),
            Operation::Delete { .. } => facts.live(key, now_ms).map(|seen| {
                let record = Record::tombstone(Kind::Deleted, write, seen.record.version, now_ms);
                Seen { revision: 0, record, content: Vec::new() }
            }),
        };
        versions.push(seen.as_ref().map_or(0, |seen| seen.record.version));
        rows.extend(seen.map(|seen| Row { key: key.into(), seen }));
    }
    Ok(if rows.is_empty() { Plan::Nothing { versions } } else { Plan::Put { rows, versions } })
}

/// Keys that have expired, and of which somebody depends on that being written.
fn must_end(write: &Write, facts: &Facts, now_ms: u64) -> Vec<Victim> {
    let put = write.operations.iter().filter_map(|operation| match operation {
        Operation::Put(put) => Some(&put.key),
        _ => None,
    });
    let unchanged = write.conditions.iter().filter_map(|condition| match condition {
        Condition::Unchanged { prefix, exact: true, .. } => Some(prefix),
        _ => None,
    });
    let keys: BTreeSet<&String> = put.chain(unchanged).collect();
    keys.into_iter().filter_map(|key| facts.overdue(key, now_ms)).collect()
}

fn check(condition: &Condition, question: &Question, facts: &Facts, now_ms: u64) -> Result<(), CatalogError> {
    match condition {
        Condition::Version { key, version } => match facts.version(key, now_ms) {
            found if found == *version => Ok(()),
            found => Err(CatalogError::Conflict { key: key.clone(), expected: *version, found }),
        },
        Condition::Unchanged { prefix, exact, revision } => {
            let changed = if *exact {
                facts.seen(prefix).is_some_and(|seen| seen.revision > *revision)
            } else {
                let is_it = |(other, at): &&(String, u64)| other == prefix && at == revision;
                let conditions = question.prefixes.iter().zip(&facts.changed);
                conditions.filter(|(prefix, _)| is_it(prefix)).any(|(_, changed)| *changed)
            };
            if changed || *revision < facts.floor {
                return Err(CatalogError::Changed { prefix: prefix.clone(), revision: *revision });
            }
            Ok(())
        }
    }
}

fn next(
    put: &Put,
    described: &Described,
    facts: &Facts,
    write: u64,
    now_ms: u64,
) -> Result<Seen, CatalogError> {
    let owner = match &put.owner {
        None => None,
        Some(name) => match facts.services.get(name).copied().flatten() {
            Some(since) => Some(Owner { name: name.clone(), since }),
            None => return Err(CatalogError::NoService { name: name.clone() }),
        },
    };
    let (kind, content) = match &put.content {
        Content::Value(value) => (Kind::Value, value),
        Content::Manifest(root) => (Kind::Manifest, root),
    };
    let before = facts.seen(&put.key);
    let record = Record {
        write,
        version: before.map_or(0, |seen| seen.record.version).saturating_add(1),
        created_ms: facts.live(&put.key, now_ms).map_or(now_ms, |seen| seen.record.created_ms),
        at_ms: now_ms,
        expires_ms: put.ttl_ms.map(|ttl_ms| now_ms.saturating_add(ttl_ms)),
        owner,
        labels: put.labels.clone(),
        size: described.size,
        files: described.files,
        kind,
    };
    Ok(Seen { revision: 0, record, content: content.clone() })
}

fn expiring(key: &str, when: Expiry, facts: &Facts, write: u64, now_ms: u64) -> Result<Seen, CatalogError> {
    let live = facts.live(key, now_ms).ok_or_else(|| CatalogError::NoKey { key: key.into() })?;
    let expires_ms = match when {
        Expiry::In(ttl_ms) => Some(now_ms.saturating_add(ttl_ms)),
        Expiry::Never => None,
        Expiry::Later(more_ms) => match live.record.expires_ms {
            Some(expires_ms) => Some(expires_ms.saturating_add(more_ms)),
            None => return Err(CatalogError::NoExpiry { key: key.into() }),
        },
    };
    let version = live.record.version.saturating_add(1);
    let record = Record { write, version, expires_ms, at_ms: now_ms, ..live.record.clone() };
    Ok(Seen { revision: 0, record, content: live.content.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check;

    fn seen(revision: u64, version: u64, expires_ms: Option<u64>) -> Option<Arc<Seen>> {
        let record = Record { expires_ms, created_ms: 5, ..Record::tombstone(Kind::Value, 1, version, 6) };
        Some(Arc::new(Seen { revision, record, content: b"old".to_vec() }))
    }

    fn planned(write: Write, facts: Facts) -> Result<Plan, CatalogError> {
        let checked = check::write(write).unwrap();
        let question = Question::of(&checked.write);
        plan(&checked, &question, &facts, 77, 1000)
    }

    fn put(key: &str) -> Operation {
        Operation::Put(Put::new(key, Content::Value(b"new".to_vec())))
    }

    fn facts(keys: &[(&str, Option<Arc<Seen>>)]) -> Facts {
        let keys = keys.iter().map(|(key, seen)| (String::from(*key), seen.clone())).collect();
        Facts { certain: true, keys, ..Facts::default() }
    }

    #[test]
    fn versions_grow_by_one_and_over_deletions() {
        let buried = Some(Arc::new(Seen {
            revision: 4,
            record: Record::tombstone(Kind::Deleted, 1, 9, 6),
            content: Vec::new(),
        }));
        let facts =
            facts(&[("a", None), ("b", seen(3, 4, None)), ("c", buried), ("d", seen(3, 2, Some(2000)))]);
        let expire = Operation::Expire { key: "d".into(), when: Expiry::Later(500) };
        let operations = vec![put("a"), put("b"), put("c"), expire];
        let Ok(Plan::Put { rows, versions }) = planned(Write { operations, ..Write::default() }, facts)
        else {
            panic!("a plan");
        };
        assert_eq!(versions, [1, 5, 10, 3]);
        let created: Vec<u64> = rows.iter().map(|row| row.seen.record.created_ms).collect();
        assert_eq!(created, [1000, 5, 1000, 5], "a key that was away is created anew");
        let last = &rows[3].seen;
        assert_eq!(
            (last.record.expires_ms, &*last.content, last.record.at_ms),
            (Some(2500), &b"old"[..], 1000)
        );
        assert!(rows.iter().all(|row| row.seen.record.write == 77));
    }

    #[test]
    fn what_has_expired_is_absent_and_is_ended_before_it_is_put() {
        let facts = || facts(&[("a", seen(3, 4, Some(1000)))]);
        let Ok(Plan::End(victims)) =
            planned(Write { operations: vec![put("a")], ..Write::default() }, facts())
        else {
            panic!("an end");
        };
        assert_eq!((&*victims[0].key, victims[0].revision, victims[0].version), ("a", 3, 4));
        let delete = Operation::Delete { key: "a".into() };
        let outcome = planned(Write { operations: vec![delete], ..Write::default() }, facts());
        assert!(matches!(outcome, Ok(Plan::Nothing { versions }) if versions == [0]));
        let expire = Operation::Expire { key: "a".into(), when: Expiry::Never };
        let outcome = planned(Write { operations: vec![expire], ..Write::default() }, facts());
        assert!(matches!(outcome, Err(CatalogError::NoKey { .. })));
        let conditions = vec![Condition::Version { key: "a".into(), version: 4 }];
        let outcome = planned(Write { conditions, operations: Vec::new() }, facts());
        assert!(matches!(outcome, Err(CatalogError::Conflict { found: 0, .. })));
    }

    #[test]
    fn conditions_on_what_is_not_kept_do_not_hold() {
        let unchanged = |exact, revision| Write {
            conditions: vec![Condition::Unchanged { prefix: "a".into(), exact, revision }],
            operations: Vec::new(),
        };
        let known = |changed| Facts { floor: 5, changed: vec![changed], ..facts(&[("a", seen(7, 1, None))]) };
        assert!(planned(unchanged(true, 7), known(false)).is_ok());
        assert!(matches!(planned(unchanged(true, 6), known(false)), Err(CatalogError::Changed { .. })));
        assert!(planned(unchanged(false, 5), known(false)).is_ok());
        assert!(matches!(planned(unchanged(false, 5), known(true)), Err(CatalogError::Changed { .. })));
        assert!(matches!(planned(unchanged(false, 4), known(false)), Err(CatalogError::Changed { .. })));
    }

    #[test]
    fn an_owner_must_be_registered() {
        let mut owned = Put::new("a", Content::Value(Vec::new()));
        owned.owner = Some("s".into());
        let write = || Write { operations: vec![Operation::Put(owned.clone())], ..Write::default() };
        assert!(matches!(planned(write(), facts(&[])), Err(CatalogError::NoService { .. })));
        let services = [("s".to_owned(), Some(8))].into();
        let Ok(Plan::Put { rows, .. }) = planned(write(), Facts { services, ..facts(&[]) }) else {
            panic!("a plan")
        };
        assert_eq!(rows[0].seen.record.owner, Some(Owner { name: "s".into(), since: 8 }));
    }
}
