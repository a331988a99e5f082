//! What all parts of the engine share, and the small operations on etcd that they are made of.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::EtcdSettings;
use super::address::EtcdAddress;
use super::cache::Cache;
use super::client::{CallError, Client};
use super::layout::Layout;
use super::mirror::Mirror;
use super::proto::{
    Compare, Operand, PutRequest, RangeRequest, Request, RequestOp, Response, ResponseOp, TxnRequest,
    TxnResponse, result, target,
};
use super::readers::Readers;
use super::record::revision;
use super::sweep::Sweeper;
use crate::error::CatalogError;

/// Most operations, and most comparisons, that etcd takes in one transaction by default.
pub(super) const OPS_MAX: usize = 128;
/// Locks by which writers of the same keys on this node wait for each other.
const TURNS: usize = 256;

/// The engine.
pub(super) struct Core {
    pub(super) client: Arc<Client>,
    pub(super) layout: Layout,
    pub(super) settings: EtcdSettings,
    /// This process among all that use the catalog, random.
    pub(super) node: u64,
    pub(super) cluster_id: u64,
    mirror: Mutex<Option<Mirror>>,
    cache: Mutex<Cache>,
    /// The mirror's revision.
    pub(super) reached: watch::Sender<u64>,
    pub(super) readers: Readers,
    pub(super) sweeper: tokio::sync::Mutex<Sweeper>,
    pub(super) turns: Vec<tokio::sync::Mutex<()>>,
}

impl Core {
    /// Connects, and finds out which cluster this is.
    pub(super) async fn open(address: &EtcdAddress, settings: EtcdSettings) -> Result<Self, CatalogError> {
        let client = Arc::new(Client::new(address)?);
        let layout = Layout::new(&address.prefix);
        let cluster_id = cluster_id(&client, &layout).await?;
        Ok(Self {
            client,
            layout,
            node: random()?,
            cluster_id,
            mirror: Mutex::new(None),
            cache: Mutex::new(Cache::new(settings.cache_size)),
            reached: watch::Sender::new(0),
            readers: Readers::new(random()?),
            sweeper: tokio::sync::Mutex::default(),
            turns: (0..TURNS).map(|_| tokio::sync::Mutex::default()).collect(),
            settings,
        })
    }

    /// Milliseconds since 1970.
    pub(super) fn now_ms(&self) -> u64 {
        self.settings.clock.now_ms()
    }

    /// The mirror, once it has been built.
    pub(super) fn mirror(&self) -> MutexGuard<'_, Option<Mirror>> {
        self.mirror.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the mirror says; an error as long as there is none.
    pub(super) fn reflected<T>(&self, ask: impl FnOnce(&mut Mirror) -> T) -> Result<T, CatalogError> {
        let absent = || CallError::late("what the catalog in etcd holds has not been read yet").into();
        self.mirror().as_mut().map(ask).ok_or_else(absent)
    }

    /// What is known of keys.
    pub(super) fn cache(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The last revision that was acknowledged before this was called, or a later one.
    pub(super) async fn revision(&self) -> Result<u64, CallError> {
        let request = RangeRequest { key: self.layout.id(), count_only: true, ..RangeRequest::default() };
        let response = self.client.range(request).await?;
        Ok(revision(response.header.unwrap_or_default().revision))
    }

    /// Writes a name, whatever it had.
    pub(super) async fn put_unconditionally(&self, key: Vec<u8>, value: Vec<u8>) -> Result<u64, CallError> {
        let request = TxnRequest { success: vec![put(key, value, 0)], ..TxnRequest::default() };
        Ok(header_revision(&self.client.txn(request).await?.response))
    }
}

/// The cluster's number: that which is there, or else a random one. The floor is made with it.
async fn cluster_id(client: &Client, layout: &Layout) -> Result<u64, CatalogError> {
    let chosen = random()?.max(1);
    let request = TxnRequest {
        compare: vec![created_by(layout.id(), 0)],
        success: vec![
            put(layout.id(), chosen.to_be_bytes().into(), 0),
            put(layout.floor(), 0_u64.to_be_bytes().into(), 0),
        ],
        failure: vec![get(layout.id())],
    };
    let response = client.txn(request).await?.response;
    if response.succeeded {
        return Ok(chosen);
    }
    let known = ranges(response.responses).next().and_then(|kvs| super::follow::number(&kvs.first()?.value));
    known.filter(|id| *id != 0).ok_or_else(|| CatalogError::Damaged { subject: "the cluster in etcd".into() })
}

/// The revision of a transaction.
pub(super) fn header_revision(response: &TxnResponse) -> u64 {
    response.header.as_ref().map_or(0, |header| revision(header.revision))
}

/// What the ranges of a transaction found, in their order.
pub(super) fn ranges(responses: Vec<ResponseOp>) -> impl Iterator<Item = Vec<super::proto::KeyValue>> {
    responses.into_iter().map(|response| match response.response {
        Some(Response::Range(range)) => range.kvs,
        _ => Vec::new(),
    })
}

/// Reads a name, within a transaction.
pub(super) fn get(key: Vec<u8>) -> RequestOp {
    range(RangeRequest { key, ..RangeRequest::default() })
}

/// Reads a range, within a transaction.
pub(super) fn range(request: RangeRequest) -> RequestOp {
    RequestOp { request: Some(Request::Range(request)) }
}

/// Writes a name, within a transaction, under a lease or (0) without.
pub(super) fn put(key: Vec<u8>, value: Vec<u8>, lease: i64) -> RequestOp {
    RequestOp { request: Some(Request::Put(PutRequest { key, value, lease })) }
}

/// That a name was written last by a revision; 0 means that it is not there.
pub(super) fn written_by(key: Vec<u8>, revision: u64) -> Compare {
    Compare {
        result: result::EQUAL,
        target: target::MOD,
        key,
        operand: Some(Operand::ModRevision(revision as i64)),
        range_end: Vec::new(),
    }
}

/// That a name came to be by a revision; 0 means that it is not there.
pub(super) fn created_by(key: Vec<u8>, revision: u64) -> Compare {
    let operand = Some(Operand::CreateRevision(revision as i64));
    Compare { result: result::EQUAL, target: target::CREATE, key, operand, range_end: Vec::new() }
}

/// That nothing in a range was written after a revision.
pub(super) fn unwritten_since(key: Vec<u8>, range_end: Vec<u8>, revision: u64) -> Compare {
    let operand = Some(Operand::ModRevision(revision as i64 + 1));
    Compare { result: result::LESS, target: target::MOD, key, operand, range_end }
}

/// That a name holds a number below another; not when it is not there.
pub(super) fn holds_less(key: Vec<u8>, number: u64) -> Compare {
    let operand = Some(Operand::Value(number.to_be_bytes().into()));
    Compare { result: result::LESS, target: target::VALUE, key, operand, range_end: Vec::new() }
}

/// A random number.
pub(super) fn random() -> Result<u64, CatalogError> {
    getrandom::u64().map_err(CatalogError::Random)
}
