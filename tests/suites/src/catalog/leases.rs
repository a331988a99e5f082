//! Chunks stay while they may be needed.

use catalog::{Content, GRACE_MS, Operation, Put};
use plan::manifest::{ChunkEntry, FileEntry, FileKind, Files, Manifest, Shape};

use super::Bed;

/// How often, and how long after each other, it is looked whether something has become known.
const LOOKS: u32 = 600;
const LOOK: std::time::Duration = std::time::Duration::from_millis(50);

/// The root of a manifest of one file that refers to these chunks.
pub fn manifest(chunks: &[u8]) -> Vec<u8> {
    let entry = |&number: &u8| ChunkEntry {
        id: [number; 32],
        size: 10,
        piece_size: 1 << 20,
        descriptor_digest: [0; 32],
    };
    let kind = FileKind::Regular { size: 7, digest: [0; 32], extents: vec![] };
    let file = FileEntry { path: vec![], kind, mode: 0o644, mtime_ns: 0 };
    let chunks = chunks.iter().map(entry).collect();
    Manifest { shape: Shape::Stream, size: 7, file_count: 1, chunks, files: Files::Inline(vec![file]) }
        .encode()
}

async fn put(bed: &Bed, key: &str, chunks: &[u8]) {
    bed.write(vec![Operation::Put(Put::new(key, Content::Manifest(manifest(chunks))))]).await;
}

async fn referenced(bed: &Bed, chunks: &[u8]) -> Vec<bool> {
    let chunks: Vec<_> = chunks.iter().map(|&number| [number; 32]).collect();
    bed.catalog.references(&chunks).await.unwrap()
}

/// While their version is current, and for a grace afterwards.
pub async fn chunks_are_referenced_for_a_while(bed: Bed) {
    put(&bed, "a", &[1, 2]).await;
    put(&bed, "b", &[2, 3]).await;
    assert_eq!(referenced(&bed, &[1, 2, 3, 4]).await, [true, true, true, false]);
    put(&bed, "a", &[4]).await;
    bed.catalog.remove("b", false).await.unwrap();
    bed.catalog.sweep().await.unwrap();
    assert_eq!(referenced(&bed, &[1, 2, 3, 4]).await, [true; 4]);
    bed.pass(GRACE_MS + 100).await;
    assert_eq!(bed.catalog.sweep().await.unwrap().forgotten, 2);
    assert_eq!(referenced(&bed, &[1, 2, 3, 4]).await, [false, false, false, true]);
}

/// Also after the grace, until it is given back.
pub async fn leases_keep_chunks(bed: Bed) {
    put(&bed, "a", &[1]).await;
    assert_eq!(bed.catalog.open_leased("none").await.unwrap(), None);
    let (entry, lease) = bed.catalog.open_leased("a").await.unwrap().unwrap();
    let (_, second) = bed.catalog.open_leased("a").await.unwrap().unwrap();
    assert!((entry.version, lease != 0, second != lease) == (1, true, true));
    assert_eq!(entry.content, Some(Content::Manifest(manifest(&[1]))));
    bed.catalog.remove("a", false).await.unwrap();
    bed.pass(GRACE_MS + 100).await;
    assert_eq!(bed.catalog.renew(&[lease, second]).await.unwrap(), [0; 0]);
    bed.catalog.release(second).await.unwrap();
    assert_eq!(bed.catalog.renew(&[second, lease]).await.unwrap(), [second]);
    assert_eq!((bed.catalog.sweep().await.unwrap().forgotten, referenced(&bed, &[1]).await), (0, vec![true]));
    bed.catalog.release(lease).await.unwrap();
    bed.catalog.release(lease).await.unwrap();
    // An engine may learn a moment later that a lease was given back, from when on the grace counts.
    let mut forgotten = 0;
    for _ in 0..LOOKS {
        forgotten += bed.catalog.sweep().await.unwrap().forgotten;
        if forgotten > 0 {
            break;
        }
        std::thread::sleep(LOOK);
        bed.pass(GRACE_MS + 100).await;
    }
    assert_eq!((forgotten, referenced(&bed, &[1]).await), (1, vec![false]));
}
