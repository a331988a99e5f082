//! What is written in etcd, as it is written, revision by revision: a watch that survives its endpoint.
//!
//! Each watch has a connection of its own, so that neither other watches nor large reads hold it up, and it holds up none
//! when its reader is slow.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{sleep, timeout};
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::metadata::MetadataValue;
use tonic::{Code, Status, Streaming};
use tonic_prost::ProstCodec;

use super::client::{ATTEMPT, Client};
use super::proto::{
    Event, Nothing, RangeRequest, WatchCreateRequest, WatchRequest, WatchResponse, WatchUnion,
};
use super::record::revision;

const WATCH: &str = "/etcdserverpb.Watch/Watch";
/// After so much silence etcd is asked for a sign of life.
const SILENCE: Duration = Duration::from_millis(1000);
/// How long it may take to give one.
const PATIENCE: Duration = Duration::from_millis(1500);
/// Pause before another endpoint is tried.
const PAUSE: Duration = Duration::from_millis(50);
/// Largest message, in bytes. etcd splits what is larger than a request may be, except single events.
const MESSAGE_SIZE_MAX: usize = 16 << 20;

/// A watch over a range of names.
pub(super) struct Watch {
    client: Arc<Client>,
    range: RangeRequest,
    /// Events of this revision and later are wanted.
    from: u64,
    open: Option<Open>,
    /// Events that came, whose revision may not be complete.
    pending: VecDeque<Event>,
    /// Whether more events of the last pending revision may come.
    incomplete: bool,
}

struct Open {
    endpoint: usize,
    requests: flume::Sender<WatchRequest>,
    responses: Streaming<WatchResponse>,
}

/// What a watch has to say.
#[derive(Debug)]
pub(super) enum Told {
    /// All events of one revision.
    Events(u64, Vec<Event>),
    /// Nothing for a while, from an etcd that answers.
    Silence,
    /// etcd is not reached for the time being; it will be tried on.
    Away,
    /// What is wanted is not kept: only revisions from this one on.
    Compacted(u64),
}

impl Watch {
    /// Of all in `range` that is written by revision `from` or later.
    pub(super) fn new(client: Arc<Client>, range: RangeRequest, from: u64) -> Self {
        Self { client, range, from, open: None, pending: VecDeque::new(), incomplete: false }
    }

    /// Waits for what comes next. Dropping the future loses nothing.
    pub(super) async fn next(&mut self) -> Told {
        loop {
            if let Some(told) = self.complete() {
                return told;
            }
            let Some(open) = &mut self.open else {
                match timeout(ATTEMPT, open(&self.client, &self.range, self.from)).await {
                    Ok(Ok(open)) => self.open = Some(open),
                    Ok(Err((endpoint, status))) => {
                        if status.code() == Code::Unauthenticated || status.message().contains("auth token") {
                            self.client.forget_token();
                        }
                        self.client.failed(endpoint);
                        sleep(PAUSE).await;
                        return Told::Away;
                    }
                    Err(_) => {
                        self.client.failed(self.client.current());
                        return Told::Away;
                    }
                }
                continue;
            };
            let response = match timeout(SILENCE, open.responses.message()).await {
                Ok(response) => response,
                Err(_) => {
                    let ask = WatchRequest { request: Some(WatchUnion::Progress(Nothing {})) };
                    // A queue that is full has such a request in it.
                    let _ = open.requests.try_send(ask);
                    match timeout(PATIENCE, open.responses.message()).await {
                        Ok(Ok(Some(response))) if response.events.is_empty() && !response.canceled => {
                            return Told::Silence;
                        }
                        Ok(response) => response,
                        Err(_) => Err(Status::unavailable("no sign of life")),
                    }
                }
            };
            match response {
                Ok(Some(response)) => {
                    if response.canceled {
                        self.reopen();
                        if response.compact_revision > 0 {
                            return Told::Compacted(revision(response.compact_revision));
                        }
                        sleep(PAUSE).await;
                        return Told::Away;
                    }
                    self.incomplete = response.fragment;
                    self.pending.extend(response.events);
                }
                Ok(None) | Err(_) => {
                    let endpoint = open.endpoint;
                    self.reopen();
                    self.client.failed(endpoint);
                    sleep(PAUSE).await;
                    return Told::Away;
                }
            }
        }
    }

    /// It is known from elsewhere that nothing before `revision` is still to come.
    pub(super) fn skip_to(&mut self, revision: u64) {
        self.from = self.from.max(revision);
    }

    /// Begins again after the last complete revision.
    fn reopen(&mut self) {
        self.open = None;
        self.pending.clear();
        self.incomplete = false;
    }

    /// The next revision whose events have all come.
    fn complete(&mut self) -> Option<Told> {
        let of = |event: &Event| event.kv.as_ref().map_or(0, |kv| revision(kv.mod_revision));
        let first = of(self.pending.front()?);
        let count = self.pending.iter().take_while(|event| of(event) == first).count();
        if count == self.pending.len() && self.incomplete {
            return None;
        }
        self.from = self.from.max(first + 1);
        Some(Told::Events(first, self.pending.drain(..count).collect()))
    }
}

async fn open(client: &Client, range: &RangeRequest, from: u64) -> Result<Open, (usize, Status)> {
    let (endpoint, channel) = client.apart();
    let create = WatchCreateRequest {
        key: range.key.clone(),
        range_end: range.range_end.clone(),
        start_revision: from as i64,
        fragment: true,
    };
    let (requests, outgoing) = flume::bounded(2);
    // The queue is empty, so that there is room.
    let _ = requests.try_send(WatchRequest { request: Some(WatchUnion::Create(create)) });
    let opened = async {
        let mut request = client.authenticated(outgoing.into_stream(), &channel).await?;
        // A member that has lost its leader ends the watch, rather than keep silent.
        request.metadata_mut().insert("hasleader", MetadataValue::from_static("true"));
        let mut grpc = Grpc::new(channel).max_decoding_message_size(MESSAGE_SIZE_MAX);
        grpc.ready().await.map_err(|error| Status::from_error(Box::new(error)))?;
        let codec = ProstCodec::<WatchRequest, WatchResponse>::default();
        Ok(grpc.streaming(request, PathAndQuery::from_static(WATCH), codec).await?.into_inner())
    };
    let responses = opened.await.map_err(|status| (endpoint, status))?;
    Ok(Open { endpoint, requests, responses })
}
