//! How a write is carried out: what there is is guessed, or else read; the write is made conditional on it, and tried again
//! with what there really is.
//!
//! etcd carries a transaction out once, but its answer may be lost. The same transaction is then sent again, to another
//! member if need be: it is conditional on revisions that can never come back, so that it happens once. When it is refused
//! then, the number that every record bears tells whether the first one was it.

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::sync::Arc;
use std::time::{Duration, Instant};

use prost::Message;
use tokio::sync::MutexGuard;

use super::client::{CallError, REQUEST_SIZE_MAX};
use super::core::{
    Core, OPS_MAX, created_by, get, header_revision, holds_less, put, random, range, ranges, unwritten_since,
    written_by,
};
use super::follow::number;
use super::mirror::Victim;
use super::plan::{Facts, Plan, Question, Row, plan};
use super::proto::{Compare, RangeRequest, Request, RequestOp, ResponseOp, TxnRequest, TxnResponse};
use super::record::{Kind, Record, Seen, revision};
use crate::check::{self, at_most};
use crate::error::CatalogError;
use crate::write::{Write, Written};

/// How long a write may be overtaken by others.
const CONTENTION: Duration = Duration::from_secs(10);
/// Most conditions on prefixes, and different owners, of one write.
const RANGES_MAX: usize = 64;
/// How many versions of a key are looked at to find a write whose answer was lost.
const HISTORY_MAX: usize = 64;
/// How often keys are looked at again that others write while they are to be ended.
const ENDS_MAX: usize = 8;

/// What became of a transaction.
enum Outcome {
    Done(u64),
    /// Something is not as it was thought to be, but so, if that was told.
    Otherwise(Option<Facts>),
}

impl Core {
    /// Carries out a write.
    pub(super) async fn write(&self, write: Write) -> Result<Written, CatalogError> {
        let checked = check::write(write)?;
        let question = Question::of(&checked.write);
        let ranges = question.prefixes.len() + question.owners.len();
        at_most("conditions on prefixes and owners", ranges, RANGES_MAX)?;
        self.end_overdue_below(&question).await?;
        let (number, begin) = (random()?, Instant::now());
        let mut facts = self.guess(&question);
        let mut turns = Vec::new();
        while begin.elapsed() < CONTENTION {
            let planned = plan(&checked, &question, &facts, number, self.now_ms());
            let certain = facts.certain;
            let next = match planned {
                Ok(Plan::Put { rows, versions }) => {
                    match self.commit(&rows, &question, &facts, number).await? {
                        Outcome::Done(revision) => {
                            self.remember(rows, revision);
                            return Ok(Written { revision, versions });
                        }
                        Outcome::Otherwise(facts) => facts,
                    }
                }
                _ if !certain => None,
                Ok(Plan::Nothing { versions }) => return Ok(Written { revision: facts.revision, versions }),
                Ok(Plan::End(victims)) => {
                    self.end(&victims, Kind::Expired).await?;
                    None
                }
                Err(error) => return Err(error),
            };
            // Whoever was overtaken waits for the others on this node, rather than overtake them in turn.
            if certain && turns.is_empty() {
                turns = self.turns_for(&question).await;
                facts = self.ask(&question).await?;
                continue;
            }
            facts = match next {
                Some(facts) => facts,
                None => self.ask(&question).await?,
            };
        }
        Err(CallError::late("other writers of the same keys were always first").into())
    }

    /// What would be known if nothing happened since it was seen.
    fn guess(&self, question: &Question) -> Facts {
        let mut cache = self.cache();
        let keys = question.keys.iter().map(|key| (key.clone(), cache.get(key))).collect();
        drop(cache);
        let since = |owner: &String| self.mirror().as_ref().and_then(|mirror| mirror.service_since(owner));
        let services = question.owners.iter().map(|owner| (owner.clone(), since(owner))).collect();
        Facts { keys, services, ..Facts::default() }
    }

    /// Reads what must be known.
    pub(super) async fn ask(&self, question: &Question) -> Result<Facts, CatalogError> {
        let mut ops = self.reads(question);
        let (mut at, mut responses) = (0, Vec::new());
        while !ops.is_empty() {
            let rest = ops.split_off(ops.len().min(OPS_MAX));
            for op in &mut ops {
                if let Some(Request::Range(range)) = &mut op.request {
                    range.revision = at as i64;
                }
            }
            let request = TxnRequest { success: ops, ..TxnRequest::default() };
            let response = self.client.txn(request).await?.response;
            at = if at == 0 { header_revision(&response) } else { at };
            responses.extend(response.responses);
            ops = rest;
        }
        if at == 0 {
            at = self.revision().await?;
        }
        self.facts(question, at, responses)
    }

    /// The reads that answer a question; [`Core::facts`] takes what they find.
    fn reads(&self, question: &Question) -> Vec<RequestOp> {
        let keys = question.keys.iter().map(|key| get(self.layout.key(key)));
        let owners = question.owners.iter().map(|owner| get(self.layout.service(owner)));
        let prefixes = question.prefixes.iter().map(|(prefix, revision)| {
            let all = self.layout.keys(prefix);
            range(RangeRequest { limit: 1, keys_only: true, min_mod_revision: *revision as i64 + 1, ..all })
        });
        let floor = question.floor.map(|_| get(self.layout.floor()));
        keys.chain(owners).chain(prefixes).chain(floor).collect()
    }

    fn facts(&self, question: &Question, at: u64, responses: Vec<ResponseOp>) -> Result<Facts, CatalogError> {
        let mut found = ranges(responses);
        let mut next = || found.next().unwrap_or_default();
        let mut facts = Facts { certain: true, revision: at, ..Facts::default() };
        for key in &question.keys {
            let seen = next().first().map(|kv| Seen::read(key, kv)).transpose()?.map(Arc::new);
            if let Some(seen) = &seen {
                self.cache().put(key, seen.clone());
            }
            facts.keys.insert(key.clone(), seen);
        }
        for owner in &question.owners {
            let since = next().first().map(|kv| revision(kv.create_revision));
            facts.services.insert(owner.clone(), since);
        }
        facts.changed = question.prefixes.iter().map(|_| !next().is_empty()).collect();
        if question.floor.is_some() {
            facts.floor = next().first().and_then(|kv| number(&kv.value)).unwrap_or_default();
        }
        Ok(facts)
    }

    async fn commit(
        &self,
        rows: &[Row],
        question: &Question,
        facts: &Facts,
        write: u64,
    ) -> Result<Outcome, CatalogError> {
        let Some(compare) = self.compares(question, facts) else { return Ok(Outcome::Otherwise(None)) };
        let puts = rows
            .iter()
            .map(|row| put(self.layout.key(&row.key), row.seen.record.seal(&row.key, &row.seen.content), 0));
        let failure = Some(self.reads(question)).filter(|reads| reads.len() <= OPS_MAX).unwrap_or_default();
        let mut request = TxnRequest { compare, success: puts.collect(), failure };
        if request.encoded_len() > REQUEST_SIZE_MAX {
            request.failure.clear();
        }
        at_most("bytes in etcd", request.encoded_len(), REQUEST_SIZE_MAX)?;
        let told = !request.failure.is_empty();
        let answer = self.client.txn(request).await?;
        let at = header_revision(&answer.response);
        if answer.response.succeeded {
            return Ok(Outcome::Done(at));
        }
        let TxnResponse { responses, .. } = answer.response;
        let facts_then = if told { self.facts(question, at, responses)? } else { self.ask(question).await? };
        if answer.repeated
            && let Some(done) = self.find(&rows[0].key, facts, &facts_then, write).await?
        {
            return Ok(Outcome::Done(done));
        }
        Ok(Outcome::Otherwise(Some(facts_then)))
    }

    /// What makes a transaction depend on the facts; `None` when they must be certain for it, and are a guess.
    fn compares(&self, question: &Question, facts: &Facts) -> Option<Vec<Compare>> {
        let owners = question.owners.iter().map(|owner| {
            let since = facts.services.get(owner).copied().flatten().unwrap_or_default();
            created_by(self.layout.service(owner), since)
        });
        let prefixes = question.prefixes.iter().map(|(prefix, revision)| {
            let all = self.layout.keys(prefix);
            unwritten_since(all.key, all.range_end, *revision)
        });
        let floor = question.floor.map(|floor| holds_less(self.layout.floor(), floor.saturating_add(1)));
        let mut compares: Vec<Compare> = owners.chain(prefixes).chain(floor).collect();
        let room = OPS_MAX - compares.len();
        if question.keys.len() <= room {
            compares.extend(question.keys.iter().map(|key| {
                written_by(self.layout.key(key), facts.seen(key).map_or(0, |seen| seen.revision))
            }));
            return Some(compares);
        }
        if !facts.certain {
            return None;
        }
        // There are more keys than comparisons: neighbours share one, which is about all keys between them as well.
        let keys: Vec<&String> = question.keys.iter().collect();
        compares.extend(keys.chunks(keys.len().div_ceil(room)).map(|keys| {
            let (first, mut end) = (self.layout.key(keys[0]), self.layout.key(keys[keys.len() - 1]));
            end.push(0);
            unwritten_since(first, end, facts.revision)
        }));
        Some(compares)
    }

    /// The revision by which a write was carried out that was sent more than once; `None` when it was not. It was conditional
    /// on `before`, and what there is then is `then`.
    async fn find(
        &self,
        key: &str,
        before: &Facts,
        then: &Facts,
        write: u64,
    ) -> Result<Option<u64>, CatalogError> {
        let before = before.seen(key).map_or(0, |seen| seen.revision);
        let mut seen = then.seen(key).cloned();
        for _ in 0..HISTORY_MAX {
            let Some(at) = seen.filter(|seen| seen.revision > before) else { return Ok(None) };
            if at.record.write == write {
                return Ok(Some(at.revision));
            }
            let name = self.layout.key(key);
            let revision = at.revision as i64 - 1;
            let earlier = self.client.range(RangeRequest { key: name, revision, ..RangeRequest::default() });
            let earlier = match earlier.await {
                Err(error) if error.is_compacted() => break,
                earlier => earlier?,
            };
            seen = earlier.kvs.first().map(|kv| Seen::read(key, kv)).transpose()?.map(Arc::new);
        }
        let reason = format!("etcd does not tell whether a write of key '{key}' was carried out");
        Err(CallError::Unreachable { reason, maybe_done: true }.into())
    }

    fn remember(&self, rows: Vec<Row>, revision: u64) {
        let mut cache = self.cache();
        for Row { key, seen } in rows {
            cache.put(&key, Arc::new(Seen { revision, ..seen }));
        }
    }

    /// Ends the keys below the prefixes of a question whose time is over, as somebody depends on that being written.
    async fn end_overdue_below(&self, question: &Question) -> Result<(), CatalogError> {
        for (prefix, revision) in &question.prefixes {
            let known = self.mirror().as_ref().map_or(0, |mirror| mirror.revision());
            if known < *revision || known == 0 {
                self.seen(*revision).await?;
            }
            let overdue = self.reflected(|mirror| mirror.overdue(prefix, self.now_ms(), OPS_MAX))?;
            self.end(&overdue, Kind::Expired).await?;
        }
        Ok(())
    }

    /// Writes tombstones for those that are still as they were; how many that were.
    pub(super) async fn end(&self, victims: &[Victim], kind: Kind) -> Result<u64, CatalogError> {
        let mut ended = 0;
        for step in victims.chunks(OPS_MAX) {
            ended += self.end_step(step.to_vec(), kind).await?;
        }
        Ok(ended)
    }

    async fn end_step(&self, mut victims: Vec<Victim>, kind: Kind) -> Result<u64, CatalogError> {
        let (write, now_ms) = (random()?, self.now_ms());
        let keys = victims.iter().map(|victim| victim.key.to_string()).collect();
        let question = Question { keys, ..Question::default() };
        for _ in 0..ENDS_MAX {
            if victims.is_empty() {
                break;
            }
            let tombstone = |version| Record::tombstone(kind, write, version, now_ms);
            let request = TxnRequest {
                compare: victims.iter().map(|it| written_by(self.layout.key(&it.key), it.revision)).collect(),
                success: victims
                    .iter()
                    .map(|it| put(self.layout.key(&it.key), tombstone(it.version).seal(&it.key, &[]), 0))
                    .collect(),
                failure: Vec::new(),
            };
            let answer = self.client.txn(request).await?;
            if answer.response.succeeded {
                return Ok(victims.len() as u64);
            }
            let facts = self.ask(&question).await?;
            let is_ours = |seen: &Arc<Seen>| seen.record.write == write;
            if victims.iter().any(|victim| facts.seen(&victim.key).is_some_and(is_ours)) {
                return Ok(victims.len() as u64);
            }
            victims.retain(|it| facts.seen(&it.key).is_some_and(|seen| seen.revision == it.revision));
        }
        Ok(0)
    }

    /// Waits until nobody else on this node who waits likewise writes the keys.
    async fn turns_for(&self, question: &Question) -> Vec<MutexGuard<'_, ()>> {
        let hasher = BuildHasherDefault::<DefaultHasher>::default();
        let mut turns: Vec<usize> =
            question.keys.iter().map(|key| hasher.hash_one(key) as usize % self.turns.len()).collect();
        turns.sort_unstable();
        turns.dedup();
        let mut guards = Vec::with_capacity(turns.len());
        for turn in turns {
            guards.push(self.turns[turn].lock().await);
        }
        guards
    }
}
