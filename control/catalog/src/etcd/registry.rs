//! Nodes that register, each under a lease: one that ends without a word is gone when its lease is.
//!
//! A node has its record, its name, and perhaps a mark that it is draining, all under the same lease. They are written
//! together, conditional on what was there, so that no two nodes have one name.

use super::core::{Core, created_by, get, header_revision, put, ranges, written_by};
use super::proto::{Compare, DeleteRangeRequest, KeyValue, Request, RequestOp, TxnRequest};
use super::record::revision;
use super::{NODE_LEASE_S, client::CallError};
use crate::error::CatalogError;

/// How often it is tried to register among others who register and end meanwhile.
const ATTEMPTS_MAX: usize = 8;
/// The first byte of a node's record in etcd.
const FORMAT: u8 = 1;

/// What a node registers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enrolment {
    /// The node.
    pub node: u64,
    /// Which process of it: a later one has a larger number.
    pub incarnation: u64,
    /// Its name, which no other node may have.
    pub name: String,
    /// What it says of itself.
    pub record: Vec<u8>,
    /// Whether it is draining.
    pub draining: bool,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Enrolled {
    /// It is registered.
    Done {
        /// The lease, to be renewed with [`Etcd::stay`](super::Etcd::stay).
        lease: i64,
        /// The revision that wrote it.
        revision: u64,
    },
    /// Another node has the name.
    NameTaken {
        /// What that node says of itself, if it does.
        record: Option<Vec<u8>>,
    },
    /// A later process of the same node is registered.
    Superseded {
        /// Which one.
        incarnation: u64,
    },
}

/// A record as it lies in etcd.
pub(super) struct Stored<'a> {
    pub(super) incarnation: u64,
    pub(super) record: &'a [u8],
}

impl<'a> Stored<'a> {
    fn bytes(&self) -> Vec<u8> {
        [&[FORMAT][..], &self.incarnation.to_be_bytes(), self.record].concat()
    }

    /// `None` when another build wrote it, or nobody who is known here.
    pub(super) fn read(value: &'a [u8]) -> Option<Self> {
        let (&FORMAT, rest) = value.split_first()? else { return None };
        let (incarnation, record) = rest.split_first_chunk::<8>()?;
        Some(Self { incarnation: u64::from_be_bytes(*incarnation), record })
    }
}

/// What is there of a node, and of the name that it wants.
struct Found {
    node: Option<KeyValue>,
    name: Option<KeyValue>,
}

impl Core {
    pub(super) async fn enrol(&self, enrolment: &Enrolment) -> Result<Enrolled, CatalogError> {
        let mut lease = 0;
        for _ in 0..ATTEMPTS_MAX {
            let found = self.enrolled(enrolment).await?;
            if let Some(refused) = self.refusal(enrolment, &found).await? {
                if lease != 0 {
                    self.client.revoke(lease).await?;
                }
                return Ok(refused);
            }
            if let Some(known) = &found.node
                && lease != 0
                && known.lease == lease
            {
                // It was written before, and the answer was lost.
                return Ok(Enrolled::Done { lease, revision: revision(known.mod_revision) });
            }
            if lease == 0 {
                lease = self.client.grant(NODE_LEASE_S).await?;
            }
            match self.client.txn(self.enrolling(enrolment, &found, lease)).await {
                Ok(answer) if answer.response.succeeded => {
                    self.end_earlier(&found, lease).await?;
                    return Ok(Enrolled::Done { lease, revision: header_revision(&answer.response) });
                }
                Ok(_) => {}
                // It took so long that the lease is over.
                Err(CallError::Refused(status)) if status.code() == tonic::Code::NotFound => lease = 0,
                Err(error) => return Err(error.into()),
            }
        }
        let reason = format!("node '{}' was registered and ended again and again", enrolment.name);
        Err(CallError::late(reason).into())
    }

    async fn enrolled(&self, enrolment: &Enrolment) -> Result<Found, CallError> {
        let wanted = [self.layout.node(enrolment.node), self.layout.node_name(&enrolment.name)];
        let request = TxnRequest { success: wanted.map(get).into(), ..TxnRequest::default() };
        let mut found = ranges(self.client.txn(request).await?.response.responses);
        let mut next = || found.next().unwrap_or_default().into_iter().next();
        Ok(Found { node: next(), name: next() })
    }

    async fn refusal(&self, enrolment: &Enrolment, found: &Found) -> Result<Option<Enrolled>, CallError> {
        let known = found.node.as_ref().and_then(|kv| Stored::read(&kv.value));
        if let Some(Stored { incarnation, .. }) =
            known.filter(|known| known.incarnation > enrolment.incarnation)
        {
            return Ok(Some(Enrolled::Superseded { incarnation }));
        }
        let holder = found.name.as_ref().map(|kv| super::follow::number(&kv.value).unwrap_or_default());
        let Some(holder) = holder.filter(|&holder| holder != enrolment.node) else { return Ok(None) };
        let request = TxnRequest { success: vec![get(self.layout.node(holder))], ..TxnRequest::default() };
        let kvs = ranges(self.client.txn(request).await?.response.responses).next().unwrap_or_default();
        let record = kvs.first().and_then(|kv| Stored::read(&kv.value)).map(|it| it.record.to_vec());
        Ok(Some(Enrolled::NameTaken { record }))
    }

    /// Writes all of a node, if what is there is still what was found.
    fn enrolling(&self, enrolment: &Enrolment, found: &Found, lease: i64) -> TxnRequest {
        let Enrolment { node, incarnation, name, record, draining } = enrolment;
        let (place, name) = (self.layout.node(*node), self.layout.node_name(name));
        let mark = self.layout.draining(*node);
        let stored = Stored { incarnation: *incarnation, record }.bytes();
        let mark = match draining {
            true => put(mark, Vec::new(), lease),
            false => delete(mark),
        };
        TxnRequest {
            compare: vec![unchanged(place.clone(), &found.node), unchanged(name.clone(), &found.name)],
            success: vec![put(place, stored, lease), put(name, node.to_be_bytes().into(), lease), mark],
            failure: Vec::new(),
        }
    }

    /// Ends the lease that the node had before, and with it a name that it had then.
    async fn end_earlier(&self, found: &Found, lease: i64) -> Result<(), CallError> {
        match found.node.as_ref().map(|kv| kv.lease).filter(|&earlier| earlier != 0 && earlier != lease) {
            Some(earlier) => self.client.revoke(earlier).await,
            None => Ok(()),
        }
    }

    pub(super) async fn drain(&self, node: u64) -> Result<Option<u64>, CatalogError> {
        for _ in 0..ATTEMPTS_MAX {
            let (place, mark) = (self.layout.node(node), self.layout.draining(node));
            let request = TxnRequest { success: vec![get(place.clone())], ..TxnRequest::default() };
            let found = self.client.txn(request).await?.response.responses;
            let Some(kv) = ranges(found).next().unwrap_or_default().into_iter().next() else {
                return Ok(None);
            };
            let request = TxnRequest {
                compare: vec![written_by(place, revision(kv.mod_revision))],
                success: vec![put(mark, Vec::new(), kv.lease)],
                failure: Vec::new(),
            };
            match self.client.txn(request).await {
                Ok(answer) if answer.response.succeeded => {
                    return Ok(Some(header_revision(&answer.response)));
                }
                Ok(_) => {}
                // Its lease has just ended.
                Err(CallError::Refused(status)) if status.code() == tonic::Code::NotFound => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(CallError::late("the node was registered and ended again and again").into())
    }
}

/// That a name is still what was found.
fn unchanged(name: Vec<u8>, found: &Option<KeyValue>) -> Compare {
    match found {
        Some(kv) => written_by(name, revision(kv.mod_revision)),
        None => created_by(name, 0),
    }
}

fn delete(key: Vec<u8>) -> RequestOp {
    RequestOp { request: Some(Request::Delete(DeleteRangeRequest { key, range_end: Vec::new() })) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_of_another_format_is_not_read() {
        let stored = Stored { incarnation: 9, record: b"x" }.bytes();
        let read = Stored::read(&stored).unwrap();
        assert_eq!((read.incarnation, read.record), (9, &b"x"[..]));
        assert!(Stored::read(&[&[2], &stored[1..]].concat()).is_none());
        assert!(Stored::read(&stored[..8]).is_none() && Stored::read(&[]).is_none());
    }
}
