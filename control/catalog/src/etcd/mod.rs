//! The engine on etcd: any node takes any write, and any node may die.
//!
//! Every key is one name in etcd, below a prefix, and every change of it one put, a deletion too. A write is one transaction,
//! conditional on what it replaces. docs/catalog-etcd.md says what that means for those who use it.

mod address; // where etcd is
mod proto; // its messages
mod rotation; // which endpoint is asked
mod client; // calls
mod watch; // what is written, as it is written
mod layout; // what is called what
mod record; // what a key's value is
mod mirror; // what a node remembers
mod cache; // the latest that is known of keys
mod core; // what all parts share
mod follow; // how the mirror goes on
mod plan; // what a write comes to
mod commit; // how it is carried out
mod read; // keys, pages, counts
mod snapshot; // the catalog as it was
mod changes; // the change stream
mod readers; // who reads which version
mod services; // who owns keys
mod registry; // which nodes there are
mod roster; // how they come and go
mod sweep; // what one node does for all
mod runtime; // the thread that speaks to etcd

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::task::AbortHandle;
use tokio::time::timeout;

pub use self::address::{EtcdAddress, EtcdTls};
use self::changes::Changes;
use self::core::Core;
pub use self::registry::{Enrolled, Enrolment};
pub use self::roster::{Change as RosterChange, News as RosterNews, Roster};
use self::runtime::Runtime;
use self::snapshot::EtcdSnapshot;
use crate::catalog::{Catalog, Service, Snapshot, Swept};
use crate::change::{ChangeStream, Selector, Start};
use crate::check::at_most;
use crate::embedded::{Clock, SystemClock};
use crate::entry::Entry;
use crate::error::CatalogError;
use crate::read::{Consistency, Found, Page, Scan};
use crate::write::{Write, Written};

/// What the lease of a node that registers lasts, in seconds: so long it may be silent.
pub const NODE_LEASE_S: u64 = 3;
/// How long it may take to give back what is held in etcd. What is not given back ends with its lease.
const END: Duration = Duration::from_millis(400);
/// Most chunks that are asked about at once.
const CHUNKS_MAX: usize = 1 << 20;

/// A catalog on etcd. Its calls may be made from any executor; a thread of its own carries them out, also when nobody waits
/// for them any more.
pub struct Etcd {
    core: Arc<Core>,
    runtime: Arc<Runtime>,
    /// What runs as long as the catalog is open.
    background: Vec<AbortHandle>,
}

/// What can be set.
#[derive(Clone)]
pub struct EtcdSettings {
    /// How long changes are kept, in milliseconds. The node that sweeps has etcd forget older history.
    pub retention_ms: u64,
    /// Memory for the latest that is known of keys, in bytes.
    pub cache_size: usize,
    /// What time it is for keys and versions. The time of services and nodes is etcd's own.
    pub clock: Arc<dyn Clock>,
}

impl Default for EtcdSettings {
    /// An hour, 64 MiB, and the machine's calendar.
    fn default() -> Self {
        Self { retention_ms: 3_600_000, cache_size: 64 << 20, clock: Arc::new(SystemClock) }
    }
}

impl Etcd {
    /// Connects to etcd, which must answer, since it says which cluster this is.
    pub async fn open(address: &EtcdAddress, settings: EtcdSettings) -> Result<Self, CatalogError> {
        let runtime = Arc::new(Runtime::start()?);
        let address = address.clone();
        let core = runtime.run(async move { Core::open(&address, settings).await }).await?;
        let core = Arc::new(core);
        let background = vec![runtime.keep(core.clone().follow()), runtime.keep(core.clone().keep_readers())];
        Ok(Self { core, runtime, background })
    }

    /// Registers a node under a lease of [`NODE_LEASE_S`], in place of an older process of the same node. Its name must
    /// not be that of another.
    pub async fn enrol(&self, enrolment: Enrolment) -> Result<Enrolled, CatalogError> {
        self.run(|core| async move { core.enrol(&enrolment).await }).await
    }

    /// Keeps a node registered for another [`NODE_LEASE_S`]; whether it was still.
    pub async fn stay(&self, lease: i64) -> Result<bool, CatalogError> {
        self.run(|core| async move { Ok(core.client.keep_alive(lease).await?) }).await
    }

    /// Ends the registration of a node.
    pub async fn leave(&self, lease: i64) -> Result<(), CatalogError> {
        self.run(|core| async move { Ok(core.client.revoke(lease).await?) }).await
    }

    /// Notes for all that a node gives its chunks away, until its process ends; by which revision. `None` when it is not
    /// registered.
    pub async fn drain(&self, node: u64) -> Result<Option<u64>, CatalogError> {
        self.run(|core| async move { core.drain(node).await }).await
    }

    /// Which nodes there are, and how they come and go.
    pub fn roster(&self) -> Roster {
        Roster::begin(self.core.clone(), &self.runtime)
    }

    /// The last revision of the catalog that this node has seen.
    pub fn revision_seen(&self) -> u64 {
        *self.core.reached.borrow()
    }

    async fn run<T, F>(&self, work: impl FnOnce(Arc<Core>) -> F) -> Result<T, CatalogError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, CatalogError>> + Send + 'static,
    {
        self.runtime.run(work(self.core.clone())).await
    }
}

#[async_trait]
impl Catalog for Etcd {
    fn cluster_id(&self) -> u64 {
        self.core.cluster_id
    }

    async fn get(&self, keys: &[String], consistency: Consistency) -> Result<Found, CatalogError> {
        let keys = keys.to_vec();
        self.run(|core| async move { core.get(&keys, consistency).await }).await
    }

    async fn scan(&self, scan: &Scan, consistency: Consistency) -> Result<Page, CatalogError> {
        let scan = scan.clone();
        self.run(|core| async move { core.scan(&scan, consistency).await }).await
    }

    async fn count(&self, prefix: &str, _consistency: Consistency) -> Result<u64, CatalogError> {
        let prefix = prefix.to_owned();
        self.run(|core| async move { core.count(&prefix).await }).await
    }

    async fn snapshot(&self) -> Result<Box<dyn Snapshot>, CatalogError> {
        let at_ms = self.core.now_ms();
        let revision = self.run(|core| async move { Ok(core.revision().await?) }).await?;
        Ok(Box::new(EtcdSnapshot { core: self.core.clone(), runtime: self.runtime.clone(), revision, at_ms }))
    }

    async fn write(&self, write: Write) -> Result<Written, CatalogError> {
        self.run(|core| async move { core.write(write).await }).await
    }

    async fn remove(&self, key: &str, recursive: bool) -> Result<u64, CatalogError> {
        let key = key.to_owned();
        self.run(|core| async move { core.remove(&key, recursive).await }).await
    }

    async fn changes(&self, start: Start, selector: Selector) -> Result<Box<dyn ChangeStream>, CatalogError> {
        let runtime = self.runtime.clone();
        let changes = self.run(|core| Changes::begin(core, runtime, start, selector)).await?;
        Ok(Box::new(changes))
    }

    async fn open_leased(&self, key: &str) -> Result<Option<(Entry, u64)>, CatalogError> {
        let key = key.to_owned();
        self.run(|core| async move { core.open_leased(&key).await }).await
    }

    async fn renew(&self, leases: &[u64]) -> Result<Vec<u64>, CatalogError> {
        Ok(self.core.renew(leases))
    }

    async fn release(&self, lease: u64) -> Result<(), CatalogError> {
        self.core.release(lease);
        Ok(())
    }

    async fn references(&self, chunks: &[[u8; 32]]) -> Result<Vec<bool>, CatalogError> {
        at_most("chunks", chunks.len(), CHUNKS_MAX)?;
        let chunks = chunks.to_vec();
        self.run(|core| async move {
            core.seen_all().await?;
            let now_ms = core.now_ms();
            core.reflected(|mirror| chunks.iter().map(|chunk| mirror.references(chunk, now_ms)).collect())
        })
        .await
    }

    async fn sweep(&self) -> Result<Swept, CatalogError> {
        self.run(|core| async move { core.sweep().await }).await
    }

    async fn keep_service(&self, name: &str, ttl_ms: u64) -> Result<(), CatalogError> {
        let name = name.to_owned();
        self.run(|core| async move { core.keep_service(&name, ttl_ms).await }).await
    }

    async fn end_service(&self, name: &str) -> Result<u64, CatalogError> {
        let name = name.to_owned();
        self.run(|core| async move { core.end_service(&name).await }).await
    }

    async fn services(&self) -> Result<Vec<Service>, CatalogError> {
        self.run(|core| async move { core.services().await }).await
    }
}

impl fmt::Debug for Etcd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Etcd({:016x})", self.core.cluster_id)
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.background.iter().for_each(AbortHandle::abort);
        // Streams and snapshots keep the thread for as long as they are held, and putting things in order does.
        let (core, runtime) = (self.core.clone(), self.runtime.clone());
        self.runtime.keep(async move {
            let _ = timeout(END, core.close()).await;
            drop(runtime);
        });
    }
}
