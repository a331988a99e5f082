//! Services: a name each, under a lease of etcd's own, so that one that is not kept alive ends by itself.
//!
//! The name's value says how long it lives and under which lease, so that any node can keep it alive.

use super::client::CallError;
use super::core::{Core, OPS_MAX, created_by, get, header_revision, put, ranges, written_by};
use super::layout::Place;
use super::proto::{DeleteRangeRequest, KeyValue, Request, RequestOp, TxnRequest};
use super::record::{Kind, revision};
use crate::catalog::Service;
use crate::check;
use crate::error::CatalogError;

/// How often a service is tried to be kept that others register and end meanwhile.
const ATTEMPTS_MAX: usize = 8;

/// What is written of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Registered {
    ttl_ms: u64,
    lease: i64,
}

impl Registered {
    fn bytes(self) -> Vec<u8> {
        [self.ttl_ms.to_be_bytes(), self.lease.to_be_bytes()].concat()
    }

    fn read(kv: &KeyValue) -> Option<Self> {
        let (ttl_ms, lease) = kv.value.split_first_chunk::<8>()?;
        Some(Self { ttl_ms: u64::from_be_bytes(*ttl_ms), lease: i64::from_be_bytes(lease.try_into().ok()?) })
    }
}

impl Core {
    pub(super) async fn keep_service(&self, name: &str, ttl_ms: u64) -> Result<(), CatalogError> {
        check::service(name)?;
        check::ttl(ttl_ms)?;
        for _ in 0..ATTEMPTS_MAX {
            let kv = self.service(name).await?;
            let known = kv.as_ref().and_then(Registered::read);
            if let Some(known) = known.filter(|known| known.ttl_ms == ttl_ms)
                && self.client.keep_alive(known.lease).await?
            {
                return Ok(());
            }
            if self.register(name, ttl_ms, kv.as_ref()).await? {
                if let Some(known) = known {
                    self.client.revoke(known.lease).await?;
                }
                return Ok(());
            }
        }
        Err(CallError::late(format!("service '{name}' was registered and ended again and again")).into())
    }

    async fn service(&self, name: &str) -> Result<Option<KeyValue>, CatalogError> {
        let request = TxnRequest { success: vec![get(self.layout.service(name))], ..TxnRequest::default() };
        let responses = self.client.txn(request).await?.response.responses;
        Ok(ranges(responses).next().unwrap_or_default().into_iter().next())
    }

    /// Writes the service under a lease of its own, if it is still as it was.
    async fn register(
        &self,
        name: &str,
        ttl_ms: u64,
        before: Option<&KeyValue>,
    ) -> Result<bool, CatalogError> {
        let lease = self.client.grant(ttl_ms.div_ceil(1000)).await?;
        let key = self.layout.service(name);
        let compare = match before {
            Some(kv) => written_by(key.clone(), revision(kv.mod_revision)),
            None => created_by(key.clone(), 0),
        };
        let request = TxnRequest {
            compare: vec![compare],
            success: vec![put(key, Registered { ttl_ms, lease }.bytes(), lease)],
            failure: Vec::new(),
        };
        let answer = self.client.txn(request).await?;
        if answer.response.succeeded {
            return Ok(true);
        }
        let then = self.service(name).await?.as_ref().and_then(Registered::read);
        if then.is_some_and(|then| then.lease == lease) {
            // It was this one, whose answer was lost.
            return Ok(true);
        }
        self.client.revoke(lease).await?;
        Ok(false)
    }

    pub(super) async fn end_service(&self, name: &str) -> Result<u64, CatalogError> {
        check::service(name)?;
        let Some(kv) = self.service(name).await? else {
            return Err(CatalogError::NoService { name: name.into() });
        };
        let key = self.layout.service(name);
        let delete = DeleteRangeRequest { key: key.clone(), range_end: Vec::new() };
        let request = TxnRequest {
            // One that was registered anew meanwhile is another.
            compare: vec![created_by(key, revision(kv.create_revision))],
            success: vec![RequestOp { request: Some(Request::Delete(delete)) }],
            failure: Vec::new(),
        };
        let answer = self.client.txn(request).await?;
        self.seen(header_revision(&answer.response)).await?;
        let mut ended = 0;
        loop {
            let victims =
                self.reflected(|mirror| mirror.abandoned_by(name).take(8 * OPS_MAX).collect::<Vec<_>>())?;
            if victims.is_empty() {
                break;
            }
            ended += self.end(&victims, Kind::OwnerEnded).await?;
            self.seen_all().await?;
        }
        if let Some(known) = Registered::read(&kv) {
            self.client.revoke(known.lease).await?;
        }
        Ok(ended)
    }

    pub(super) async fn services(&self) -> Result<Vec<Service>, CatalogError> {
        self.seen_all().await?;
        let mut services = Vec::new();
        let mut pages = self.pages(self.layout.services(), 0);
        while let Some(kvs) = pages.next(&self.client).await? {
            for kv in kvs {
                let (Place::Service(name), Some(known)) = (self.layout.place(&kv.key), Registered::read(&kv))
                else {
                    continue;
                };
                let Some(left_s) = self.client.time_to_live(known.lease).await? else { continue };
                let left_ms = left_s.saturating_mul(1000).min(known.ttl_ms);
                let keys = self.reflected(|mirror| mirror.owned_count(name))?;
                services.push(Service { name: name.into(), ttl_ms: known.ttl_ms, left_ms, keys });
            }
        }
        Ok(services)
    }
}
