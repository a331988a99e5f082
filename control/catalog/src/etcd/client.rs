//! Calls to etcd: one endpoint at a time, and on to the next when it does not answer.
//!
//! A channel over all endpoints goes on sending to a member that is dead or frozen (measured: a quarter of all calls fail,
//! or take for ever). So each endpoint has a connection of its own, all calls go to one of them, and the
//! [`Rotation`](super::rotation::Rotation) moves on when it fails or keeps a call waiting for [`ATTEMPT`].

use std::error::Error;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use prost::Message;
use tokio::time::{sleep, timeout};
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, ConnectError, Request, Status};
use tonic_prost::ProstCodec;

use super::address::{EtcdAddress, EtcdTls};
use super::proto::{
    AuthenticateRequest, AuthenticateResponse, CompactionRequest, LeaseGrantRequest, LeaseGrantResponse,
    LeaseKeepAliveResponse, LeaseRequest, LeaseTimeToLiveResponse, Nothing, RangeRequest, RangeResponse,
    TxnRequest, TxnResponse,
};
use super::rotation::Rotation;
use crate::error::CatalogError;

/// How long one endpoint may take to answer.
pub(super) const ATTEMPT: Duration = Duration::from_millis(400);
/// How long all endpoints together may take, after which the catalog is out of reach.
const PATIENCE: Duration = Duration::from_millis(2400);
/// How long they may take where what is remembered will do.
const PATIENCE_SHORT: Duration = Duration::from_millis(900);
/// How long a page of a long read may take.
const PAGE_ATTEMPT: Duration = Duration::from_secs(5);
/// Pause after each endpoint has failed once.
const PAUSE: Duration = Duration::from_millis(50);
/// When it makes sense to ask again, in milliseconds.
const RETRY_MS: u64 = 500;
/// Largest message that is taken from etcd, in bytes: a page of a scan.
const MESSAGE_SIZE_MAX: usize = 64 << 20;
/// What etcd takes in one request by default is 1.5 MiB, less a little for what frames it.
pub(super) const REQUEST_SIZE_MAX: usize = (3 << 19) - 1024;

const KV_RANGE: &str = "/etcdserverpb.KV/Range";
const KV_TXN: &str = "/etcdserverpb.KV/Txn";
const KV_COMPACT: &str = "/etcdserverpb.KV/Compact";
const LEASE_GRANT: &str = "/etcdserverpb.Lease/LeaseGrant";
const LEASE_REVOKE: &str = "/etcdserverpb.Lease/LeaseRevoke";
const LEASE_KEEP_ALIVE: &str = "/etcdserverpb.Lease/LeaseKeepAlive";
const LEASE_TIME_TO_LIVE: &str = "/etcdserverpb.Lease/LeaseTimeToLive";
const AUTHENTICATE: &str = "/etcdserverpb.Auth/Authenticate";

/// The connections to an etcd cluster.
pub(super) struct Client {
    endpoints: Vec<Endpoint>,
    channels: Vec<Channel>,
    rotation: Mutex<Rotation>,
    user: Option<(String, String)>,
    token: Mutex<Option<Token>>,
    begun: Instant,
    /// Whether the last call was answered by nobody.
    away: AtomicBool,
}

type Token = MetadataValue<Ascii>;

/// An answer.
pub(super) struct Answer<T> {
    pub(super) response: T,
    /// Whether the same request was sent before to an endpoint that did not say what became of it.
    pub(super) repeated: bool,
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum CallError {
    /// No endpoint has answered.
    Unreachable {
        reason: String,
        /// Whether the request may have been carried out.
        maybe_done: bool,
    },
    /// etcd does not do it.
    Refused(Status),
}

impl From<CallError> for CatalogError {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Unreachable { reason, maybe_done } => {
                CatalogError::Unreachable { reason, retry_ms: RETRY_MS, maybe_done }
            }
            CallError::Refused(status) => CatalogError::Refused { reason: status.message().into() },
        }
    }
}

impl CallError {
    /// That something did not happen in time, of which nothing was asked.
    pub(super) fn late(reason: impl Into<String>) -> Self {
        CallError::Unreachable { reason: reason.into(), maybe_done: false }
    }

    /// Whether etcd does not keep the revision that was asked for.
    pub(super) fn is_compacted(&self) -> bool {
        matches!(self, CallError::Refused(status) if status.code() == Code::OutOfRange
            && status.message().contains("compacted"))
    }
}

impl Client {
    /// Connects to nothing yet. Must be called where tokio runs.
    pub(super) fn new(address: &EtcdAddress) -> Result<Self, CatalogError> {
        let endpoints = address.endpoints.iter().map(|host| endpoint(host, address.tls.as_ref()));
        let endpoints = endpoints.collect::<Result<Vec<_>, _>>()?;
        // Nodes begin with different endpoints.
        let first = getrandom::u32().map_err(CatalogError::Random)? as usize;
        Ok(Self {
            channels: endpoints.iter().map(Endpoint::connect_lazy).collect(),
            rotation: Mutex::new(Rotation::new(endpoints.len(), first)),
            endpoints,
            user: address.user.clone(),
            token: Mutex::new(None),
            begun: Instant::now(),
            away: AtomicBool::new(false),
        })
    }

    pub(super) async fn range(&self, request: RangeRequest) -> Result<RangeResponse, CallError> {
        Ok(self.call(KV_RANGE, request, ATTEMPT).await?.response)
    }

    /// A range or reads that are not worth a long wait.
    pub(super) async fn txn_soon(&self, request: TxnRequest) -> Result<TxnResponse, CallError> {
        Ok(self.call_within(KV_TXN, request, ATTEMPT, PATIENCE_SHORT).await?.response)
    }

    /// A range whose answer may be long.
    pub(super) async fn page(&self, request: RangeRequest) -> Result<RangeResponse, CallError> {
        Ok(self.call(KV_RANGE, request, PAGE_ATTEMPT).await?.response)
    }

    /// A transaction, which may be sent more than once: its comparisons must see to it that it happens once.
    pub(super) async fn txn(&self, request: TxnRequest) -> Result<Answer<TxnResponse>, CallError> {
        self.call(KV_TXN, request, ATTEMPT).await
    }

    /// Forgets what was superseded up to a revision.
    pub(super) async fn compact(&self, revision: u64) -> Result<(), CallError> {
        let request = CompactionRequest { revision: revision as i64 };
        match self.call::<_, Nothing>(KV_COMPACT, request, PAGE_ATTEMPT).await {
            Err(error) if error.is_compacted() => Ok(()),
            answer => answer.map(drop),
        }
    }

    /// A lease of so many seconds.
    pub(super) async fn grant(&self, ttl_s: u64) -> Result<i64, CallError> {
        let request = LeaseGrantRequest { ttl_s: ttl_s as i64 };
        Ok(self.call::<_, LeaseGrantResponse>(LEASE_GRANT, request, ATTEMPT).await?.response.id)
    }

    /// Ends a lease; one that is over already is no error.
    pub(super) async fn revoke(&self, id: i64) -> Result<(), CallError> {
        match self.call::<_, Nothing>(LEASE_REVOKE, LeaseRequest { id }, ATTEMPT).await {
            Err(CallError::Refused(status)) if status.code() == Code::NotFound => Ok(()),
            answer => answer.map(drop),
        }
    }

    /// Whether the lease was still there, and lives on for its whole time.
    pub(super) async fn keep_alive(&self, id: i64) -> Result<bool, CallError> {
        // The method takes a stream of requests; one is what is sent here, and a unary call is just that.
        let answer =
            self.call::<_, LeaseKeepAliveResponse>(LEASE_KEEP_ALIVE, LeaseRequest { id }, ATTEMPT).await?;
        Ok(answer.response.ttl_s > 0)
    }

    /// Seconds that a lease has left; `None` when it is over.
    pub(super) async fn time_to_live(&self, id: i64) -> Result<Option<u64>, CallError> {
        let request = LeaseRequest { id };
        let answer = self.call::<_, LeaseTimeToLiveResponse>(LEASE_TIME_TO_LIVE, request, ATTEMPT).await?;
        Ok(u64::try_from(answer.response.ttl_s).ok())
    }

    /// A connection of its own to the endpoint that is asked at present, and its number for [`Client::failed`].
    pub(super) fn apart(&self) -> (usize, Channel) {
        let current = self.current();
        (current, self.endpoints[current].connect_lazy())
    }

    /// The endpoint that is asked at present.
    pub(super) fn current(&self) -> usize {
        self.rotation().current()
    }

    /// Tells that an endpoint failed.
    pub(super) fn failed(&self, endpoint: usize) {
        let now_ms = self.begun.elapsed().as_millis() as u64;
        self.rotation().failed(endpoint, now_ms);
    }

    /// What is sent along with each request.
    pub(super) async fn authenticated<T>(&self, message: T, channel: &Channel) -> Result<Request<T>, Status> {
        let mut request = Request::new(message);
        if let Some((name, password)) = &self.user {
            let known = self.token().clone();
            let token = match known {
                Some(token) => token,
                None => {
                    let wanted = AuthenticateRequest { name: name.clone(), password: password.clone() };
                    let answer: AuthenticateResponse =
                        unary(channel.clone(), AUTHENTICATE, Request::new(wanted)).await?;
                    let token = Token::try_from(answer.token)
                        .map_err(|_| Status::internal("etcd gave a token that is no ASCII"))?;
                    self.token().insert(token).clone()
                }
            };
            request.metadata_mut().insert("token", token);
        }
        Ok(request)
    }

    /// Forgets the token, so that the next request asks for another; whether there was one.
    pub(super) fn forget_token(&self) -> bool {
        self.token().take().is_some()
    }

    /// Whether the last call was answered by nobody, so that the next will hardly be.
    pub(super) fn is_away(&self) -> bool {
        self.away.load(Ordering::Relaxed)
    }

    async fn call<Q, A>(
        &self,
        path: &'static str,
        message: Q,
        attempt: Duration,
    ) -> Result<Answer<A>, CallError>
    where
        Q: Message + Clone + 'static,
        A: Message + Default + 'static,
    {
        self.call_within(path, message, attempt, PATIENCE).await
    }

    async fn call_within<Q, A>(
        &self,
        path: &'static str,
        message: Q,
        attempt: Duration,
        patience: Duration,
    ) -> Result<Answer<A>, CallError>
    where
        Q: Message + Clone + 'static,
        A: Message + Default + 'static,
    {
        let begin = Instant::now();
        let (mut repeated, mut failures, mut renewed) = (false, 0, false);
        loop {
            let endpoint = self.current();
            let channel = &self.channels[endpoint];
            let one = async {
                let request = self.authenticated(message.clone(), channel).await?;
                unary(channel.clone(), path, request).await
            };
            let status = match timeout(attempt, one).await {
                Ok(Ok(response)) => {
                    self.rotation().answered(endpoint);
                    self.away.store(false, Ordering::Relaxed);
                    return Ok(Answer { response, repeated });
                }
                Ok(Err(status)) if is_old_token(&status) && !renewed && self.forget_token() => {
                    renewed = true;
                    continue;
                }
                Ok(Err(status)) if !is_elsewhere_better(&status) => return Err(CallError::Refused(status)),
                Ok(Err(status)) => status,
                Err(_) => Status::unavailable(format!("no answer within {} ms", attempt.as_millis())),
            };
            repeated |= !was_never_sent(&status);
            failures += 1;
            self.failed(endpoint);
            if begin.elapsed() + PAUSE >= patience {
                self.away.store(true, Ordering::Relaxed);
                let uri = self.endpoints[endpoint].uri();
                let reason = format!("etcd at {uri}: {}", status.message());
                return Err(CallError::Unreachable { reason, maybe_done: repeated });
            }
            if failures % self.channels.len() == 0 {
                sleep(PAUSE).await;
            }
        }
    }

    fn rotation(&self) -> MutexGuard<'_, Rotation> {
        self.rotation.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn token(&self) -> MutexGuard<'_, Option<Token>> {
        self.token.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn unary<Q, A>(channel: Channel, path: &'static str, request: Request<Q>) -> Result<A, Status>
where
    Q: Message + 'static,
    A: Message + Default + 'static,
{
    let mut grpc = Grpc::new(channel).max_decoding_message_size(MESSAGE_SIZE_MAX);
    grpc.ready().await.map_err(|error| Status::from_error(Box::new(error)))?;
    let codec = ProstCodec::<Q, A>::default();
    Ok(grpc.unary(request, PathAndQuery::from_static(path), codec).await?.into_inner())
}

fn endpoint(host: &str, tls: Option<&EtcdTls>) -> Result<Endpoint, CatalogError> {
    let invalid = |reason| CatalogError::Invalid { what: "an etcd address", found: host.into(), reason };
    let scheme = if tls.is_some() { "https" } else { "http" };
    let endpoint = Endpoint::from_shared(format!("{scheme}://{host}"))
        .map_err(|_| invalid("it is not a host and a port"))?
        .connect_timeout(ATTEMPT)
        .tcp_nodelay(true)
        // etcd takes pings oftener than every 5 s for an attack.
        .http2_keep_alive_interval(Duration::from_secs(10))
        .keep_alive_timeout(Duration::from_secs(2))
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(8 << 20);
    let Some(tls) = tls else { return Ok(endpoint) };
    let mut config = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read(&tls.ca)?));
    if let Some((certificate, key)) = &tls.client {
        config = config.identity(Identity::from_pem(read(certificate)?, read(key)?));
    }
    endpoint
        .tls_config(config)
        .map_err(|_| invalid("the files named by ca, cert and key are not PEM of that kind"))
}

fn read(path: &Path) -> Result<Vec<u8>, CatalogError> {
    fs::read(path).map_err(CatalogError::file("reading", path))
}

/// Whether another endpoint, or this one a little later, may do what this one did not.
fn is_elsewhere_better(status: &Status) -> bool {
    match status.code() {
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Aborted => true,
        // What breaks connections arrives under these. etcd itself answers with them as well, but never with a transport
        // error as their cause; and a member whose disk is full or damaged says so with its own.
        Code::Unknown | Code::Internal => status.source().is_some(),
        // "Too many requests": the member is behind.
        Code::ResourceExhausted => status.message().contains("too many requests"),
        _ => false,
    }
}

/// Whether a request that failed so cannot have been carried out.
fn was_never_sent(status: &Status) -> bool {
    let mut source = status.source();
    while let Some(error) = source {
        if error.is::<ConnectError>() {
            return true;
        }
        source = error.source();
    }
    false
}

/// Whether a request was refused for its token. It was not carried out then.
fn is_old_token(status: &Status) -> bool {
    let message = status.message();
    status.code() == Code::Unauthenticated
        || ["invalid auth token", "user name is empty", "revision in header is old"]
            .iter()
            .any(|text| message.contains(text))
}
