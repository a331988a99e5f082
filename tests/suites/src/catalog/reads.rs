//! Keys, pages, counts, snapshots.

use catalog::{
    CatalogError, Consistency, Content, GET_KEYS_MAX, Operation, Put, SCAN_SIZE_MAX, Scan, VALUE_SIZE_MAX,
};

use super::{Bed, delete, put, text};

/// In the order asked, with what is absent; each consistency sees what was acknowledged.
pub async fn many_keys_are_read_at_one_revision(bed: Bed) {
    let keys: Vec<String> = (0..300).map(|at| format!("k/{at:03}")).collect();
    for some in keys.chunks(100) {
        bed.write(some.iter().map(|key| put(key, key)).collect()).await;
    }
    let last = bed.write(vec![delete("k/007")]).await.revision;
    let asked = ["k/299".to_string(), "k/007".into(), "none".into(), "k/000".into(), "k/299".into()];
    for consistency in [Consistency::Quorum, Consistency::Serial, Consistency::All] {
        let found = bed.catalog.get(&asked, consistency).await.unwrap();
        let texts: Vec<_> = found.entries.iter().map(|entry| entry.as_ref().map(text)).collect();
        let expected = [Some("k/299"), None, None, Some("k/000"), Some("k/299")];
        assert_eq!(texts, expected.map(|text| text.map(String::from)));
        assert!(found.revision >= last && !found.stale);
    }
    let found = bed.catalog.get(&keys, Consistency::Quorum).await.unwrap();
    assert_eq!(found.entries.iter().flatten().count(), 299);
    assert_eq!(bed.catalog.get(&[], Consistency::Quorum).await.unwrap().entries, []);
}

/// Ascending by the bytes of the keys; a page goes on where the last one ended, whatever was written between.
pub async fn pages_follow_each_other(bed: Bed) {
    for key in ["b", "a/2", "a", "a-x", "a/1/x", "c", "ä"] {
        bed.put(key, key).await;
    }
    bed.write(vec![delete("c")]).await;
    assert_eq!(bed.keys("").await, ["a", "a-x", "a/1/x", "a/2", "b", "ä"]);
    assert_eq!(bed.keys("a/").await, ["a/1/x", "a/2"]);
    assert_eq!(bed.keys("zz").await, [""; 0]);
    let first = bed.page("a", None, 2).await;
    assert_eq!((first.entries.len(), first.next.as_deref()), (2, Some("a-x")));
    bed.write(vec![delete("a-x"), put("a-y", "new"), put("a-a", "before")]).await;
    let second = bed.page("a", first.next.as_deref(), 2).await;
    let keys = |page: &catalog::Page| page.entries.iter().map(|entry| entry.key.clone()).collect::<Vec<_>>();
    assert_eq!((keys(&second), second.next.as_deref()), (vec!["a-y".into(), "a/1/x".into()], Some("a/1/x")));
    let third = bed.page("a", second.next.as_deref(), 2).await;
    assert_eq!((keys(&third), third.next), (vec!["a/2".to_string()], None));
    assert_eq!(keys(&bed.page("b", Some("a"), 2).await), ["b"]);
    assert_eq!(keys(&bed.page("a", Some("b"), 2).await), [""; 0]);
    let exact = bed.page("a", None, 5).await;
    assert_eq!((exact.entries.len(), exact.next), (5, None));
}

/// Everything else is said.
pub async fn names_come_without_contents(bed: Bed) {
    bed.put("a", "hello").await;
    let scan = Scan { prefix: String::new(), after: None, limit: 5, contents: false };
    let page = bed.catalog.scan(&scan, Consistency::Quorum).await.unwrap();
    assert_eq!(
        (page.entries[0].content.as_ref(), page.entries[0].size, page.entries[0].version),
        (None, 5, 1)
    );
    assert!(page.revision >= page.entries[0].revision);
}

/// Of a prefix, without what was deleted.
pub async fn counts_are_exact(bed: Bed) {
    let count = async |prefix: &str| bed.catalog.count(prefix, Consistency::Quorum).await.unwrap();
    assert_eq!(count("").await, 0);
    for step in 0..3 {
        bed.write((0..100).map(|at| put(&format!("c/{step}/{at}"), "")).collect()).await;
    }
    bed.write(vec![delete("c/1/1"), put("d", "")]).await;
    assert_eq!((count("").await, count("c/").await, count("c/1/").await), (300, 299, 99));
    assert_eq!((count("c/1/1").await, count("e").await), (10, 0));
}

/// Whatever is written, deleted or expires meanwhile.
pub async fn snapshots_stand_still(bed: Bed) {
    bed.write(vec![put("a", "1"), put("b", "1")]).await;
    bed.put_for("short", "1", 60_000).await;
    let snapshot = bed.catalog.snapshot().await.unwrap();
    let last = bed.write(vec![put("a", "2"), delete("b"), put("c", "1")]).await.revision;
    let keys = ["a".to_string(), "b".into(), "c".into(), "short".into()];
    let found = snapshot.get(&keys).await.unwrap();
    let versions: Vec<_> = found.iter().map(|entry| entry.as_ref().map(|entry| entry.version)).collect();
    assert_eq!(versions, [Some(1), Some(1), None, Some(1)]);
    assert!(snapshot.revision() > 0 && snapshot.revision() < last);
    let scan = Scan { prefix: String::new(), after: None, limit: 2, contents: true };
    let page = snapshot.scan(&scan).await.unwrap();
    assert_eq!(
        (page.entries.iter().map(text).collect::<Vec<_>>(), page.revision),
        (vec!["1".into(); 2], snapshot.revision())
    );
    let rest = snapshot.scan(&Scan { after: page.next, ..scan }).await.unwrap();
    assert_eq!((rest.entries[0].key.as_str(), rest.next), ("short", None));
    let later = bed.catalog.snapshot().await.unwrap();
    assert!(later.revision() >= last);
    assert_eq!(later.get(&keys[1..2]).await.unwrap(), [None]);
}

/// Too many keys, no keys, a page of nothing, impossible prefixes.
pub async fn bad_reads_are_refused(bed: Bed) {
    let get = async |keys: &[String]| bed.catalog.get(keys, Consistency::Quorum).await.map(drop);
    assert!(matches!(get(&vec!["a".into(); GET_KEYS_MAX + 1]).await, Err(CatalogError::TooLarge { .. })));
    assert!(matches!(get(&["a//b".into()]).await, Err(CatalogError::Key(_))));
    let scan = async |prefix: &str, limit| {
        let scan = Scan { prefix: prefix.into(), after: None, limit, contents: false };
        bed.catalog.scan(&scan, Consistency::Quorum).await.map(drop)
    };
    assert!(matches!(scan("", 0).await, Err(CatalogError::Invalid { .. })));
    assert!(matches!(scan("a\0", 1).await, Err(CatalogError::Invalid { .. })));
    assert!(scan("", usize::MAX).await.is_ok());
    let count = bed.catalog.count(&"x".repeat(1025), Consistency::Quorum).await;
    assert!(matches!(count, Err(CatalogError::Invalid { .. })));
}

/// Large contents end a page early, never before its first entry.
pub async fn pages_are_bounded(bed: Bed) {
    const STEP: usize = 16;
    for step in 0..6 {
        let large = |at| {
            Operation::Put(Put::new(format!("l/{step}/{at:02}"), Content::Value(vec![0; VALUE_SIZE_MAX])))
        };
        bed.write((0..STEP).map(large).collect()).await;
    }
    let (mut after, mut count, mut pages) = (None, 0, 0);
    loop {
        let page = bed.page("l/", after.as_deref(), 1000).await;
        assert!(!page.entries.is_empty() && page.entries.len() * VALUE_SIZE_MAX <= 2 * SCAN_SIZE_MAX);
        (count, pages, after) = (count + page.entries.len(), pages + 1, page.next);
        if after.is_none() {
            break;
        }
    }
    assert_eq!((count, pages > 1), (6 * STEP, true));
}
