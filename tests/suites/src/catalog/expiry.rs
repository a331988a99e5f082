//! Gone at the moment, swept soon after.

use catalog::{CatalogError, ChangeKind, Consistency, Expiry, Operation, Put, Selector, Start};

use super::{Bed, expire, next, put, text, unchanged, unchanged_key, value, version};

/// What expires soon, in milliseconds. On engines in real time it must outlast the calls in between.
const SOON_MS: u64 = 4_000;
const LONG_MS: u64 = 3_600_000;

/// For reads, counts, scans and snapshots, before any sweep.
pub async fn keys_are_gone_at_the_moment(bed: Bed) {
    bed.put_for("short", "1", SOON_MS).await;
    bed.put_for("long", "1", LONG_MS).await;
    bed.put("ever", "1").await;
    let entry = bed.get("short").await.unwrap();
    assert_eq!(entry.expires_ms, Some(entry.updated_ms + SOON_MS));
    let before = bed.catalog.snapshot().await.unwrap();
    bed.pass(SOON_MS).await;
    assert_eq!((bed.version("short").await, bed.version("long").await), (0, 1));
    assert_eq!(bed.keys("").await, ["ever", "long"]);
    assert_eq!(bed.catalog.count("", Consistency::Quorum).await.unwrap(), 2);
    let after = bed.catalog.snapshot().await.unwrap();
    assert_eq!(after.get(&["short".into()]).await.unwrap(), [None]);
    // A snapshot is of the time at which it was taken.
    assert_eq!(before.get(&["short".into()]).await.unwrap()[0].as_ref().map(text), Some("1".into()));
    let written = bed.put("short", "2").await;
    let entry = bed.get("short").await.unwrap();
    assert_eq!(
        (written.versions, entry.expires_ms, entry.created_ms == entry.updated_ms),
        (vec![2], None, true)
    );
}

/// Set, made longer, taken away; each is a write, and changes nothing else.
pub async fn expiries_can_be_changed(bed: Bed) {
    let labels = [("a".into(), "b".into())].into();
    bed.write(vec![Operation::Put(Put { labels, ..value("k", "1") })]).await;
    let change = async |when| bed.write(vec![expire("k", when)]).await.versions;
    assert_eq!(change(Expiry::In(SOON_MS)).await, [2]);
    let first = bed.get("k").await.unwrap();
    assert_eq!((first.expires_ms, text(&first).as_str()), (Some(first.updated_ms + SOON_MS), "1"));
    assert_eq!((first.labels.len(), first.created_ms <= first.updated_ms), (1, true));
    assert_eq!(change(Expiry::Later(LONG_MS)).await, [3]);
    assert_eq!(bed.get("k").await.unwrap().expires_ms, first.expires_ms.map(|at_ms| at_ms + LONG_MS));
    bed.pass(SOON_MS).await;
    assert_eq!(change(Expiry::Never).await, [4]);
    assert_eq!(bed.get("k").await.unwrap().expires_ms, None);
    let refused = bed.write_if(Vec::new(), vec![expire("k", Expiry::Later(5))]).await;
    assert!(matches!(refused, Err(CatalogError::NoExpiry { .. })));
    assert_eq!(change(Expiry::In(SOON_MS)).await, [5]);
    bed.put("k", "2").await;
    bed.pass(SOON_MS).await;
    assert_eq!(text(&bed.get("k").await.unwrap()), "2");
}

/// Each expiry is a change; what was put again meanwhile is none.
pub async fn a_sweep_ends_what_has_expired(bed: Bed) {
    let mut stream = bed.catalog.changes(Start::Now, Selector::Prefix("e/".into())).await.unwrap();
    bed.put_for("e/1", "1", SOON_MS).await;
    bed.put_for("e/2", "1", SOON_MS).await;
    bed.write(vec![expire("e/2", Expiry::In(LONG_MS))]).await;
    bed.pass(SOON_MS).await;
    let swept = bed.catalog.sweep().await.unwrap();
    assert!(swept.expired <= 1);
    assert_eq!(bed.catalog.sweep().await.unwrap().expired, 0);
    let mut kinds = Vec::new();
    while kinds.len() < 4 {
        kinds.extend(next(&mut stream).await.into_iter().map(|change| (change.key, change.kind)));
    }
    let puts = kinds.iter().filter(|(_, kind)| matches!(kind, ChangeKind::Put(_))).count();
    assert_eq!((puts, kinds.contains(&("e/1".into(), ChangeKind::Expire { version: 1 }))), (3, true));
    assert_eq!((bed.version("e/1").await, bed.version("e/2").await), (0, 2));
    assert_eq!(bed.put("e/1", "2").await.versions, [2]);
}

/// What has expired is absent, version 0, and has changed.
pub async fn conditions_see_expiries(bed: Bed) {
    bed.put_for("a/k", "1", SOON_MS).await;
    bed.put_for("a/l", "1", SOON_MS).await;
    let revision = bed.put("other", "1").await.revision;
    assert!(bed.write_if(vec![unchanged("a/", revision)], Vec::new()).await.is_ok());
    bed.pass(SOON_MS).await;
    let conflict = bed.write_if(vec![version("a/k", 1)], vec![put("a/k", "x")]).await;
    assert!(matches!(conflict, Err(CatalogError::Conflict { expected: 1, found: 0, .. })));
    for condition in [unchanged_key("a/l", revision), unchanged("a/", revision), unchanged("", revision)] {
        let refused = bed.write_if(vec![condition], vec![put("b", "x")]).await;
        assert!(matches!(refused, Err(CatalogError::Changed { .. })), "{refused:?}");
    }
    assert!(bed.write_if(vec![unchanged_key("other", revision)], Vec::new()).await.is_ok());
    let gone = bed.write_if(Vec::new(), vec![expire("a/k", Expiry::Never)]).await;
    assert!(matches!(gone, Err(CatalogError::NoKey { .. })));
    assert_eq!(bed.write(vec![super::delete("a/k")]).await.versions, [0]);
    assert_eq!(bed.write_if(vec![version("a/k", 0)], vec![put("a/k", "2")]).await.unwrap().versions, [2]);
}

/// More than one step of a sweep, and each once.
pub async fn many_expire_at_once(bed: Bed) {
    const BATCHES: usize = 24;
    let start = bed.put("first", "1").await.revision;
    for batch in 0..BATCHES {
        let short =
            |at| Operation::Put(Put { ttl_ms: Some(SOON_MS), ..value(&format!("m/{batch}/{at}"), "") });
        bed.write((0..100).map(short).collect()).await;
    }
    bed.put("last", "1").await;
    bed.pass(SOON_MS).await;
    bed.catalog.sweep().await.unwrap();
    assert_eq!(bed.keys("").await, ["first", "last"]);
    let mut stream = bed.catalog.changes(Start::After(start), Selector::Prefix("m/".into())).await.unwrap();
    let mut ended = std::collections::BTreeSet::new();
    let mut revision = start;
    while ended.len() < BATCHES * 100 {
        for change in next(&mut stream).await {
            assert!(change.revision >= revision);
            revision = change.revision;
            if change.kind == (ChangeKind::Expire { version: 1 }) {
                assert!(ended.insert(change.key), "a key has expired twice");
            }
        }
    }
}
