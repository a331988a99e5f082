//! Keys, chunks and nodes: one method for each thing a user can ask.

use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use flow::chunk::ChunkId;
use flow::swarm::Priority;
use flow::wire::handshake::Token;
use flow::wire::session::{
    ChunkFetch, ChunkFetched, ChunkList, ChunkListing, ChunkPin, ChunkPlace, ChunkReference, ChunkRemove,
    ChunkVerified, ChunkVerify, Device, Done, KeyEntry, KeyList, KeyListing, KeyRemove, KeyRemoved,
    NodeDrain, NodeList, NodeListing, Status, StatusQuery,
};
use plan::manifest::{FileEntry, Manifest};

use crate::chunk_reader::reference;
use crate::connection::Connection;
use crate::key::OpenKey;
use crate::kv::Consistency;
use crate::memory_output::MemoryOutput;
use crate::open_file::OpenFile;
use crate::{
    Address, ClientError, GetOptions, GetReport, Progress, PutOptions, PutReport, Source, get, put,
    upload_memory,
};

/// Matches of an ambiguous prefix that its error names.
const EXAMPLES: usize = 4;
/// Time between two looks at whether a client that rests was cancelled.
const CANCEL_LOOK: Duration = Duration::from_millis(50);

/// A connection to a node, and through it to its cluster. Methods may be called from several threads at once; what a
/// method began is given up when it fails and when the client is dropped.
pub struct Client {
    connection: Connection,
    address: Address,
    token: Token,
    cancelled: AtomicBool,
    /// Connections besides, of what waits for long.
    others: Mutex<Vec<Weak<Connection>>>,
}

/// All there is to know of a key's current version.
#[derive(Debug, Clone)]
pub struct KeyInfo {
    /// Version, revision and time.
    pub entry: KeyEntry,
    /// Shape, size and chunks. Its list of files is empty or the chunk it is in.
    pub manifest: Manifest,
    /// The files, wherever their list is kept.
    pub files: Vec<FileEntry>,
    /// What its writer said of it, ascending by name.
    pub labels: Vec<(String, String)>,
    /// When it expires, milliseconds since 1970; never when absent.
    pub expires_ms: Option<u64>,
}

impl KeyInfo {
    /// What a node must know to fetch the chunks that hold the files' bytes, in the manifest's order.
    pub fn references(&self) -> Result<Vec<ChunkReference>, ClientError> {
        let references = self.manifest.all_chunks().map(reference).collect::<Result<_, _>>();
        references.map_err(|source| ClientError::Manifest { key: self.entry.key.clone(), source })
    }
}

impl Client {
    /// Connects to a node; `token` is that of its cluster, if it has one. A local socket, which only its owner can open,
    /// asks for none.
    pub fn connect(address: &Address, token: Option<&Token>) -> Result<Self, ClientError> {
        let empty = Token::new("");
        let token = match address {
            Address::Local(_) => &empty,
            Address::Tcp(_) => token.unwrap_or(&empty),
        };
        Ok(Self {
            connection: Connection::open(address, token)?,
            address: address.clone(),
            token: token.clone(),
            cancelled: AtomicBool::new(false),
            others: Mutex::default(),
        })
    }

    /// Name of the node.
    pub fn node(&self) -> &str {
        self.connection.node()
    }

    /// How much what this client reads matters beside what is fetched for others, from here on: chunks that must come from
    /// other nodes come sooner or later. What is on its way keeps its priority.
    pub fn set_priority(&self, priority: Priority) {
        self.connection.set_priority(priority);
    }

    /// Whether the connection lives and was not cancelled, as far as is known.
    pub fn is_open(&self) -> bool {
        self.connection.ensure_open().is_ok()
    }

    /// Lets everything under way, and everything begun later, fail with [`ClientError::Cancelled`]. A get removes its
    /// temporary files before it returns; a put that reads a stream returns when the stream does.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::SeqCst);
        self.connection.cancel();
        self.others().drain(..).filter_map(|other| other.upgrade()).for_each(|other| other.cancel());
    }

    pub(crate) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Another connection to the same node, which is cancelled with this client.
    pub(crate) fn connect_again(&self) -> Result<Arc<Connection>, ClientError> {
        let connection = Arc::new(Connection::open(&self.address, &self.token)?);
        let mut others = self.others();
        others.retain(|other| other.strong_count() > 0);
        others.push(Arc::downgrade(&connection));
        drop(others);
        // Who cancelled between two looks has seen an older list.
        self.check_cancelled()?;
        Ok(connection)
    }

    /// Waits so long, or until the client is cancelled.
    pub(crate) fn rest(&self, time: Duration) -> Result<(), ClientError> {
        let until = Instant::now() + time;
        while Instant::now() < until {
            self.check_cancelled()?;
            thread::sleep(CANCEL_LOOK.min(time));
        }
        self.check_cancelled()
    }

    fn check_cancelled(&self) -> Result<(), ClientError> {
        if self.cancelled.load(Ordering::SeqCst) { Err(ClientError::Cancelled) } else { Ok(()) }
    }

    fn others(&self) -> MutexGuard<'_, Vec<Weak<Connection>>> {
        self.others.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a file, a directory or a stream as the next version of `key`. When it fails, the key is as it was.
    pub fn put(
        &self,
        key: &str,
        source: Source,
        options: &PutOptions,
        progress: &dyn Progress,
    ) -> Result<PutReport, ClientError> {
        put::put(&self.connection, key, source, options, progress)
    }

    /// Whether a put of so many bytes of memory waits for the node on the calling thread alone, which then looks at what
    /// [`crate::looking`] says.
    pub fn is_brief_put(&self, size: u64) -> bool {
        upload_memory::is_brief(&self.connection, size)
    }

    /// Writes the current version of `key` to `destination`, as `cp -r` would:
    ///
    /// - one file, or a stream, into `destination` when that is a directory, else as `destination`, in place of a file
    ///   that is there;
    /// - a tree as the directory `destination`; when that exists, file by file among what is in it, in place of files
    ///   of the same paths. Modes and times of directories that were there are left alone.
    ///
    /// Files appear at their places when all bytes have arrived, each at once; when anything fails before, nothing is
    /// there. Missing directories above `destination` are created. No link at the destination or in the key is followed
    /// below `destination`. Permissions, times, links and holes are restored; bits that let a file run as its owner
    /// are not.
    pub fn get(
        &self,
        key: &str,
        destination: &Path,
        options: &GetOptions,
        progress: &dyn Progress,
    ) -> Result<GetReport, ClientError> {
        get::get(&self.connection, key, destination, options, progress)
    }

    /// Opens the current version of a key that is one file or a stream, to be read in parts or seen in place.
    pub fn open(self: &Arc<Self>, key: &str, consistency: Consistency) -> Result<OpenFile, ClientError> {
        OpenFile::open(self, key, consistency)
    }

    /// As [`Client::open`], for who wants [`OpenFile::view`] of all of it, or all bytes: what is not in the memory of the node is
    /// brought there before this returns, if it can be seen there.
    pub fn open_whole(
        self: &Arc<Self>,
        key: &str,
        consistency: Consistency,
    ) -> Result<OpenFile, ClientError> {
        OpenFile::open_whole(self, key, consistency)
    }

    /// Writes the bytes of a key that is one file or a stream to `output`, in order. With `verify`, a digest that
    /// differs is reported after the bytes were written.
    pub fn get_to_writer(
        &self,
        key: &str,
        output: &mut dyn Write,
        options: &GetOptions,
        progress: &dyn Progress,
    ) -> Result<GetReport, ClientError> {
        get::get_to_writer(&self.connection, key, output, options, progress)
    }

    /// Copies the bytes of a key that is one file or a stream to the beginning of `memory`, which must have room for
    /// [`GetReport::size`] bytes. When it fails, `memory` may hold some of them.
    pub fn get_to_memory(
        &self,
        key: &str,
        memory: &mut [u8],
        options: &GetOptions,
        progress: &dyn Progress,
    ) -> Result<GetReport, ClientError> {
        self.get_to_writer(key, &mut MemoryOutput::new(memory), options, progress)
    }

    /// All there is to know of a key.
    pub fn info(&self, key: &str) -> Result<KeyInfo, ClientError> {
        loop {
            let mut open = OpenKey::open(&self.connection, key, Consistency::Quorum)?;
            let Some(entry) = self.kv().get(key)?.filter(|entry| entry.version == open.entry.version) else {
                // It was written in between.
                continue;
            };
            let files = std::mem::take(&mut open.files);
            let (labels, expires_ms) = (entry.labels, entry.expires_ms);
            let (entry, manifest) = (open.entry.clone(), open.manifest.clone());
            return Ok(KeyInfo { entry, manifest, files, labels, expires_ms });
        }
    }

    /// Up to `limit` keys that begin with `prefix`, those after the key `after`, in order. `after` is empty for the
    /// first page.
    pub fn list(&self, prefix: &str, after: &str, limit: u32) -> Result<KeyListing, ClientError> {
        self.connection.call(KeyList { prefix: prefix.into(), after: after.into(), limit })
    }

    /// Removes a key, and with `recursive` every key below it; returns how many.
    pub fn remove(&self, key: &str, recursive: bool) -> Result<u64, ClientError> {
        let KeyRemoved { count } = self.connection.call(KeyRemove { key: key.into(), recursive })?;
        Ok(count)
    }

    /// The replicas of a chunk, or of all, on all nodes, by chunk and node. Nodes that did not answer once, be it for one
    /// page of several, are named as silent.
    pub fn replicas(&self, chunk: Option<ChunkId>) -> Result<ChunkListing, ClientError> {
        let wrong = || self.connection.protocol("it lists chunks out of order");
        all_pages(|after| self.connection.call(ChunkList { chunk, after }), wrong)
    }

    /// The chunk whose id begins with `prefix`, up to 64 hexadecimal digits, when there is exactly one.
    pub fn resolve_chunk_prefix(&self, prefix: &str) -> Result<ChunkId, ClientError> {
        let wrong = || ClientError::ChunkPrefix(prefix.into());
        if prefix.is_empty() || prefix.len() > 64 || !prefix.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(wrong());
        }
        if prefix.len() == 64 {
            return prefix.parse().map_err(|_| wrong());
        }
        choose(prefix, self.replicas(None)?.replicas.into_iter().map(|replica| replica.chunk).collect())
    }

    /// Sets or clears the pin of a chunk.
    pub fn pin(&self, pin: ChunkPin) -> Result<(), ClientError> {
        self.done(pin)
    }

    /// Copies or moves a chunk to a node and a device; returns when it is there and verified.
    pub fn place(&self, place: ChunkPlace) -> Result<ChunkFetched, ClientError> {
        self.connection.call(place)
    }

    /// Drops replicas of a chunk.
    pub fn remove_chunk(&self, remove: ChunkRemove) -> Result<(), ClientError> {
        self.done(remove)
    }

    /// Brings a replica of a chunk to the node of this connection; returns when it is there and verified.
    pub fn fetch(&self, chunk: ChunkReference, device: Device) -> Result<ChunkFetched, ClientError> {
        self.connection.call(ChunkFetch { chunk, device, priority: self.connection.priority() })
    }

    /// Lets the node read a chunk that it has; returns the BLAKE3 digest that the bytes have. Of a chunk whose name is no digest it
    /// returns that name, if all pieces have their checksums.
    pub fn verify(&self, id: ChunkId) -> Result<ChunkId, ClientError> {
        let ChunkVerified { digest } = self.connection.call(ChunkVerify { id })?;
        Ok(digest)
    }

    /// The members of the cluster.
    pub fn nodes(&self) -> Result<NodeListing, ClientError> {
        self.connection.call(NodeList {})
    }

    /// Moves every chunk that only this node has to others; returns when it is done.
    pub fn drain(&self, node: &str) -> Result<(), ClientError> {
        self.done(NodeDrain { node: node.into() })
    }

    /// The node's own counters and findings.
    pub fn status(&self) -> Result<Status, ClientError> {
        self.connection.call(StatusQuery {})
    }

    fn done(&self, request: impl Into<flow::wire::Message>) -> Result<(), ClientError> {
        self.connection.call::<Done>(request).map(drop)
    }
}

/// Reads page after page; each must go on behind the last.
fn all_pages(
    read: impl Fn(Option<ChunkId>) -> Result<ChunkListing, ClientError>,
    wrong: impl Fn() -> ClientError,
) -> Result<ChunkListing, ClientError> {
    let mut all = read(None)?;
    while all.more {
        let last = all.replicas.last().map(|replica| replica.chunk);
        let page = read(Some(last.ok_or_else(&wrong)?))?;
        let goes_on = page.replicas.first().map_or(!page.more, |first| Some(first.chunk) > last);
        if !goes_on || !page.replicas.is_sorted_by_key(|replica| replica.chunk) {
            return Err(wrong());
        }
        all.replicas.extend(page.replicas);
        all.silent.extend(page.silent);
        all.more = page.more;
    }
    all.silent.sort();
    all.silent.dedup();
    Ok(all)
}

/// The only one of `ids` that begins with `prefix`.
fn choose(prefix: &str, mut ids: Vec<ChunkId>) -> Result<ChunkId, ClientError> {
    let digits = prefix.to_ascii_lowercase();
    ids.retain(|id| id.to_string().starts_with(&digits));
    ids.sort_unstable();
    ids.dedup();
    match ids.as_slice() {
        [id] => Ok(*id),
        [] => Err(ClientError::UnknownChunk(prefix.into())),
        several => {
            let examples: Vec<_> =
                several.iter().take(EXAMPLES).map(|id| id.to_string()[..16].to_string()).collect();
            let examples = examples.join(", ");
            Err(ClientError::AmbiguousChunk { prefix: prefix.into(), count: several.len(), examples })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_read_to_the_end_and_must_go_on() {
        let page = |chunks: &[u8], silent: &[&str], more| ChunkListing {
            replicas: chunks.iter().map(|&chunk| record(chunk)).collect(),
            silent: silent.iter().map(|name| name.to_string()).collect(),
            more,
        };
        let wrong = || ClientError::UnknownChunk("out of order".into());
        let read = |pages: &[ChunkListing]| {
            let at = std::cell::Cell::new(0);
            let listing = all_pages(|_| Ok(pages[at.replace(at.get() + 1)].clone()), wrong)?;
            Ok::<_, ClientError>((listing, at.get()))
        };
        let (all, count) =
            read(&[page(&[1, 1], &["b"], true), page(&[2, 5], &["a", "b"], true), page(&[], &[], false)])
                .unwrap();
        assert_eq!((all, count), (page(&[1, 1, 2, 5], &["a", "b"], false), 3));
        assert!(read(&[page(&[], &[], true)]).is_err());
        assert!(read(&[page(&[3], &[], true), page(&[3], &[], false)]).is_err());
        assert!(read(&[page(&[3], &[], true), page(&[5, 4], &[], false)]).is_err());
        assert!(read(&[page(&[3], &[], true), page(&[], &[], true)]).is_err());
    }

    fn record(chunk: u8) -> flow::wire::control::ReplicaRecord {
        flow::wire::control::ReplicaRecord {
            chunk: ChunkId([chunk; 32]),
            geometry: flow::chunk::Geometry::of(1).unwrap(),
            descriptor_digest: [0; 32],
            node: 1,
            dram_pieces: 1,
            nvme_pieces: 0,
            gpus: Vec::new(),
            pinned: false,
            fetching: false,
        }
    }

    #[test]
    fn a_prefix_must_fit_one_chunk() {
        let id = |head: u8, next: u8| {
            let mut id = [0; 32];
            (id[0], id[1]) = (head, next);
            ChunkId(id)
        };
        let ids = vec![id(0xab, 0x12), id(0xab, 0x34), id(0xcd, 0), id(0xcd, 0)];
        assert_eq!(choose("AB1", ids.clone()).unwrap(), id(0xab, 0x12));
        assert_eq!(choose("c", ids.clone()).unwrap(), id(0xcd, 0));
        assert!(matches!(choose("ab", ids.clone()), Err(ClientError::AmbiguousChunk { count: 2, .. })));
        assert!(matches!(choose("f", ids), Err(ClientError::UnknownChunk(_))));
    }
}
