//! Each write once, in the order of revisions.

use std::time::Duration;

use catalog::{CatalogError, Change, ChangeKind, Expiry, Selector, Start};

use super::{Bed, delete, expire, next, put, text, value, version};

fn all() -> Selector {
    Selector::Prefix(String::new())
}

fn shown(change: &Change) -> String {
    match &change.kind {
        ChangeKind::Put(entry) => format!("{}={}@{}", change.key, text(entry), entry.version),
        ChangeKind::Delete { version } => format!("{} deleted@{version}", change.key),
        ChangeKind::Expire { version } => format!("{} expired@{version}", change.key),
        ChangeKind::OwnerEnded { version } => format!("{} abandoned@{version}", change.key),
    }
}

/// With its content, or a tombstone; what was refused or changed nothing does not come.
pub async fn every_kind_of_write_comes_once(bed: Bed) {
    let mut stream = bed.catalog.changes(Start::Now, all()).await.unwrap();
    bed.catalog.keep_service("s", 60_000).await.unwrap();
    let owned = catalog::Put { owner: Some("s".into()), ..value("owned", "o") };
    bed.put("a", "1").await;
    bed.write(vec![put("b", "1"), put("c", "1"), delete("none")]).await;
    assert!(bed.write_if(vec![version("a", 9)], vec![put("a", "never")]).await.is_err());
    bed.write_if(vec![version("a", 1)], vec![put("a", "2"), delete("b")]).await.unwrap();
    bed.write(vec![delete("none")]).await;
    bed.write(vec![expire("c", Expiry::In(1_500))]).await;
    bed.write(vec![catalog::Operation::Put(owned)]).await;
    bed.catalog.remove("a", true).await.unwrap();
    bed.catalog.end_service("s").await.unwrap();
    bed.pass(1_500).await;
    bed.catalog.sweep().await.unwrap();
    let expected: [&[&str]; 8] = [
        &["a=1@1"],
        &["b=1@1", "c=1@1"],
        &["a=2@2", "b deleted@1"],
        &["c=1@2"],
        &["owned=o@1"],
        &["a deleted@2"],
        &["owned abandoned@1"],
        &["c expired@2"],
    ];
    let (mut last, mut at_ms) = (0, 0);
    for expected in expected {
        let changes = next(&mut stream).await;
        let mut found: Vec<_> = changes.iter().map(shown).collect();
        found.sort();
        assert_eq!(found, expected);
        let revision = changes[0].revision;
        assert!(revision > last && changes.iter().all(|change| change.revision == revision));
        assert!(changes[0].at_ms >= at_ms && stream.position() >= revision);
        (last, at_ms) = (revision, changes[0].at_ms);
        for change in changes {
            if let ChangeKind::Put(entry) = change.kind {
                assert_eq!((entry.revision, entry.updated_ms), (revision, change.at_ms));
            }
        }
    }
}

/// After a revision, at a time, or now.
pub async fn streams_begin_where_they_are_asked_to(bed: Bed) {
    let before = bed.put("k", "0").await.revision;
    let mut revisions = Vec::new();
    for number in 1..=5 {
        bed.pass(20).await;
        revisions.push(bed.put("k", &number.to_string()).await.revision);
    }
    let first = async |start| {
        let mut stream = bed.catalog.changes(start, all()).await.unwrap();
        shown(&next(&mut stream).await[0])
    };
    assert_eq!(first(Start::After(before)).await, "k=1@2");
    assert_eq!(first(Start::After(revisions[2])).await, "k=4@5");
    let mut stream = bed.catalog.changes(Start::After(before), all()).await.unwrap();
    let mut times = Vec::new();
    for _ in 0..5 {
        times.push(next(&mut stream).await[0].at_ms);
    }
    assert!(times.is_sorted());
    for (at, time) in times.iter().enumerate() {
        assert_eq!(first(Start::At(*time)).await, format!("k={}@{}", at + 1, at + 2));
    }
    assert_eq!(first(Start::At(times[1] + 1)).await, "k=3@4");
    let mut live = bed.catalog.changes(Start::Now, all()).await.unwrap();
    bed.put("k", "live").await;
    assert_eq!(shown(&next(&mut live).await[0]), "k=live@7");
}

/// By key, prefix and glob; of a batch only those selected.
pub async fn keys_are_selected(bed: Bed) {
    let start = bed.put("first", "1").await.revision;
    let keys = ["a", "a/b", "a/b/c.bin", "ab", "step-7", "step-77", "b"];
    bed.write(keys.iter().map(|key| put(key, "1")).collect()).await;
    bed.put("last", "1").await;
    let selected = async |selector: Selector| {
        let mut stream = bed.catalog.changes(Start::After(start), selector).await.unwrap();
        let mut found: Vec<_> = next(&mut stream).await.into_iter().map(|change| change.key).collect();
        found.sort();
        found
    };
    assert_eq!(selected(Selector::Key("a/b".into())).await, ["a/b"]);
    assert_eq!(selected(Selector::Prefix("a/".into())).await, ["a/b", "a/b/c.bin"]);
    assert_eq!(selected(Selector::Glob("a/*.bin".into())).await, ["a/b/c.bin"]);
    assert_eq!(selected(Selector::Glob("step-[0-9]".into())).await, ["step-7"]);
    assert_eq!(selected(Selector::Glob("a?".into())).await, ["ab"]);
    assert_eq!(selected(Selector::Key("last".into())).await, ["last"]);
    for wrong in
        [Selector::Glob("[".into()), Selector::Prefix("a\0".into()), Selector::Glob("x".repeat(5000))]
    {
        let refused = bed.catalog.changes(Start::Now, wrong).await.map(drop);
        assert!(matches!(refused, Err(CatalogError::Invalid { .. })));
    }
    let refused = bed.catalog.changes(Start::Now, Selector::Key("/".into())).await.map(drop);
    assert!(matches!(refused, Err(CatalogError::Key(_))));
}

/// They come while somebody waits.
pub async fn streams_wait_for_news(bed: Bed) {
    let mut stream = bed.catalog.changes(Start::Now, Selector::Key("k".into())).await.unwrap();
    let catalog = bed.catalog.clone();
    let writing = tokio::spawn(async move {
        for number in 0..50 {
            let write = |key| {
                catalog.write(catalog::Write {
                    conditions: Vec::new(),
                    operations: vec![put(key, &format!("{number}"))],
                })
            };
            write("other").await.unwrap();
            write("k").await.unwrap();
        }
    });
    for number in 0..50 {
        assert_eq!(shown(&next(&mut stream).await[0]), format!("k={number}@{}", number + 1));
    }
    writing.await.unwrap();
}

/// A wait that is given up may be begun again.
pub async fn a_dropped_wait_loses_nothing(bed: Bed) {
    let mut stream = bed.catalog.changes(Start::Now, all()).await.unwrap();
    for number in 1..=10 {
        let given_up = tokio::time::timeout(Duration::from_millis(3), stream.next()).await;
        assert!(given_up.is_err(), "there was nothing to come");
        bed.put("k", "x").await;
        bed.put("l", "x").await;
        assert_eq!(shown(&next(&mut stream).await[0]), format!("k=x@{number}"));
        assert_eq!(shown(&next(&mut stream).await[0]), format!("l=x@{number}"));
    }
}

/// Also while nothing selected is written; a stream that begins there misses nothing.
pub async fn positions_go_on(bed: Bed) {
    let mut stream = bed.catalog.changes(Start::Now, Selector::Key("k".into())).await.unwrap();
    let mut last = 0;
    for _ in 0..20 {
        last = bed.put("other", "x").await.revision;
    }
    for _ in 0..1_000 {
        let _ = tokio::time::timeout(Duration::from_millis(10), stream.next()).await;
        if stream.position() >= last {
            break;
        }
    }
    assert!(stream.position() >= last);
    bed.put("k", "1").await;
    let mut resumed =
        bed.catalog.changes(Start::After(stream.position()), Selector::Key("k".into())).await.unwrap();
    assert_eq!(shown(&next(&mut resumed).await[0]), "k=1@1");
}

/// A revision that nobody has been told.
pub async fn the_future_cannot_be_followed(bed: Bed) {
    let last = bed.put("k", "1").await.revision;
    let refused = bed.catalog.changes(Start::After(last + 1_000_000), all()).await.map(drop);
    assert!(matches!(refused, Err(CatalogError::Invalid { .. })));
}
