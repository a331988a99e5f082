//! Keys of files, as those who put and get ask for them.

use std::sync::Arc;

use catalog::{Catalog, CatalogError, Consistency, Content, Entry, Page, Scan};
use flow::chunk::ChunkId;
use flow::limits::LIST_ENTRIES_MAX;
use flow::wire::Message;
use flow::wire::session::*;

use crate::failure;
use crate::node::Node;

/// Bytes of keys in one listing, so that it fits into a frame.
const LISTING_BYTES_MAX: usize = 4 << 20;
/// Chunks that one question for references may name.
pub(crate) const REFERENCES_MAX: usize = 4096;

/// Answers a message about keys.
pub(crate) async fn answer(node: &Node, message: Message) -> Result<Message, Failure> {
    check(&message)?;
    look_up(&*node.catalog, message).await
}

/// Which of `chunks` are still part of some key's version.
pub(crate) async fn references(node: &Node, chunks: &[ChunkId]) -> Result<Vec<bool>, Failure> {
    let chunks: Vec<[u8; 32]> = chunks.iter().map(|chunk| chunk.0).collect();
    node.catalog.references(&chunks).await.map_err(|error| failure::of_catalog(&error))
}

/// Gives a lease back; when the head is away it expires by itself.
pub(crate) async fn release(node: Arc<Node>, lease: u64) {
    node.leases.remove(lease);
    let _ = answer(&node, LeaseRelease { lease }.into()).await;
}

/// Refuses what the head would refuse, before it crosses the network.
fn check(message: &Message) -> Result<(), Failure> {
    match message {
        Message::ChunkReferences(question) if question.chunks.len() > REFERENCES_MAX => {
            let text =
                format!("{} chunks are asked about, at most {REFERENCES_MAX} may be", question.chunks.len());
            Err(failure::invalid(text, "ask in several messages"))
        }
        _ => Ok(()),
    }
}

async fn look_up(catalog: &dyn Catalog, message: Message) -> Result<Message, Failure> {
    let refused = |error: CatalogError| failure::of_catalog(&error);
    match message {
        Message::KeyRemove(KeyRemove { key, recursive }) => {
            let removed = catalog.remove(&key, recursive).await.map_err(refused)?;
            if removed == 0 { Err(no_key(&key)) } else { Ok(KeyRemoved { count: removed }.into()) }
        }
        Message::KeyOpen(KeyOpen { key, lease: true }) => {
            let (entry, lease) = lease_files(catalog, &key).await?;
            Ok(entry_message(entry, lease)?.into())
        }
        Message::KeyOpen(KeyOpen { key, lease: false }) => {
            let found =
                catalog.get(std::slice::from_ref(&key), Consistency::Quorum).await.map_err(refused)?;
            let entry = found.entries.into_iter().next().flatten().ok_or_else(|| no_key(&key))?;
            Ok(entry_message(entry, 0)?.into())
        }
        Message::LeaseRelease(LeaseRelease { lease }) => {
            catalog.release(lease).await.map_err(refused)?;
            Ok(Done {}.into())
        }
        Message::KeyList(KeyList { prefix, after, limit }) => {
            let limit = limit.clamp(1, LIST_ENTRIES_MAX) as usize;
            let after = Some(after).filter(|after| !after.is_empty());
            let scan = Scan { prefix, after, limit, contents: false };
            Ok(listing(catalog.scan(&scan, Consistency::Quorum).await.map_err(refused)?).into())
        }
        Message::ChunkReferences(ChunkReferences { chunks }) => {
            let chunks: Vec<[u8; 32]> = chunks.into_iter().map(|chunk| chunk.0).collect();
            Ok(ChunkReferenced { referenced: catalog.references(&chunks).await.map_err(refused)? }.into())
        }
        other => Err(failure::unexpected("a message about keys", other.name())),
    }
}

/// The current version of a key of files, and a lease on it.
pub(crate) async fn open_leased(node: &Node, key: &str) -> Result<(Entry, u64), Failure> {
    lease_files(&*node.catalog, key).await
}

async fn lease_files(catalog: &dyn Catalog, key: &str) -> Result<(Entry, u64), Failure> {
    let refused = |error: CatalogError| failure::of_catalog(&error);
    let found = catalog.open_leased(key).await.map_err(refused)?;
    let (entry, lease) = found.ok_or_else(|| no_key(key))?;
    if !matches!(entry.content, Some(Content::Manifest(_))) {
        catalog.release(lease).await.map_err(refused)?;
        return Err(no_files(key));
    }
    Ok((entry, lease))
}

fn no_files(key: &str) -> Failure {
    failure::invalid(format!("key '{key}' holds a value, not files"), "`shoal kv get` reads values")
}

fn entry_message(entry: Entry, lease: u64) -> Result<KeyEntry, Failure> {
    let Entry { key, version, revision, updated_ms, content, .. } = entry;
    match content {
        Some(Content::Manifest(manifest)) => {
            Ok(KeyEntry { key, version, revision, created_ms: updated_ms, manifest, lease })
        }
        _ => Err(no_files(&key)),
    }
}

fn listing(page: Page) -> KeyListing {
    let mut room = LISTING_BYTES_MAX;
    let count = page.entries.len();
    let fits = |entry: &Entry| {
        let size = entry.key.len() + size_of::<KeySummary>();
        let fits = size <= room;
        room = room.saturating_sub(size);
        fits
    };
    let shown = |entry: Entry| {
        let Entry { key, version, updated_ms, size, files, .. } = entry;
        KeySummary { key, version, created_ms: updated_ms, size, files }
    };
    let keys: Vec<KeySummary> = page.entries.into_iter().take_while(fits).map(shown).collect();
    KeyListing { more: page.next.is_some() || keys.len() < count, keys }
}

fn no_key(key: &str) -> Failure {
    let key: String = key.chars().take(200).collect();
    failure::not_found(format!("there is no key '{key}'"), "`shoal ls` lists the keys")
}

#[cfg(test)]
mod tests {
    use catalog::{Operation, Put, Write};

    use super::*;

    fn run<T>(test: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test)
    }

    fn manifest() -> Vec<u8> {
        let files = plan::manifest::Files::Inline(Vec::new());
        let shape = plan::manifest::Shape::Tree;
        plan::manifest::Manifest { shape, size: 0, file_count: 0, chunks: Vec::new(), files }.encode()
    }

    #[test]
    fn keys_are_opened_listed_and_removed() {
        let directory = tempfile::tempdir().unwrap();
        let catalog = catalog::Embedded::open(directory.path()).unwrap();
        run(async {
            let ask = |message: Message| look_up(&catalog, message);
            let put = Operation::Put(Put::new("a/b", Content::Manifest(manifest())));
            catalog.write(Write { conditions: Vec::new(), operations: vec![put] }).await.unwrap();
            let open = KeyOpen { key: "a/b".into(), lease: true };
            let Ok(Message::KeyEntry(entry)) = ask(open.into()).await else { panic!("no entry") };
            assert!(entry.lease != 0 && entry.manifest == manifest());
            assert_eq!(ask(LeaseRelease { lease: entry.lease }.into()).await, Ok(Done {}.into()));
            let list = KeyList { prefix: String::new(), after: String::new(), limit: u32::MAX };
            let Ok(Message::KeyListing(listing)) = ask(list.into()).await else { panic!("no listing") };
            assert_eq!((listing.keys.len(), listing.more), (1, false));
            let remove = KeyRemove { key: "a".into(), recursive: true };
            assert_eq!(ask(remove.clone().into()).await, Ok(KeyRemoved { count: 1 }.into()));
            assert_eq!(ask(remove.into()).await.unwrap_err().code, FailureCode::NotFound);
        });
    }

    #[test]
    fn a_listing_fits_into_a_frame() {
        let entry = |at: usize| Entry {
            key: format!("{at:01000}"),
            version: 1,
            revision: 1,
            created_ms: 0,
            updated_ms: 0,
            expires_ms: None,
            owner: None,
            labels: Default::default(),
            size: 0,
            files: 0,
            content: None,
        };
        let entries = (0..10_000).map(entry).collect();
        let cut = listing(Page { revision: 1, entries, next: None });
        assert!(cut.more && cut.keys.len() > 1000);
        assert!(crate::frames::fits(&Message::from(cut).encode(0, 1)));
    }
}
