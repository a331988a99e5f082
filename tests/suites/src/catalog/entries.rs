//! What a key has.

use std::collections::BTreeMap;

use catalog::{Content, Put, VALUE_SIZE_MAX};

use super::{Bed, delete, put, text, value};

/// From 1, by one for each write, also across a deletion.
pub async fn versions_count_the_writes_of_a_key(bed: Bed) {
    for expected in 1..=3 {
        assert_eq!(bed.put("a", "x").await.versions, [expected]);
        assert_eq!(bed.version("a").await, expected);
    }
    assert_eq!(bed.write(vec![delete("a")]).await.versions, [3]);
    assert_eq!((bed.version("a").await, bed.put("a", "y").await.versions), (0, vec![4]));
    assert_eq!(bed.put("b", "x").await.versions, [1]);
}

/// Also of different keys; all operations of one write have the same.
pub async fn revisions_order_all_writes(bed: Bed) {
    let mut last = bed.put("a", "0").await.revision;
    assert!(last > 0);
    for key in ["b", "a", "c"] {
        let written = bed.put(key, "1").await;
        assert!(written.revision > last);
        last = written.revision;
        assert_eq!(bed.get(key).await.unwrap().revision, last);
    }
    let both = bed.write(vec![put("d", "1"), put("e", "1")]).await;
    assert!(both.revision > last);
    for key in ["d", "e"] {
        assert_eq!(bed.get(key).await.unwrap().revision, both.revision);
    }
}

/// Times, expiry, labels, size.
pub async fn an_entry_says_all_about_it(bed: Bed) {
    let labels: BTreeMap<_, _> = [("stage".into(), "test".into()), ("empty".into(), String::new())].into();
    let full = Put { ttl_ms: Some(60_000), labels: labels.clone(), ..value("a/b", "hello") };
    bed.write(vec![catalog::Operation::Put(full)]).await;
    let first = bed.get("a/b").await.unwrap();
    assert_eq!((first.key.as_str(), first.version, text(&first).as_str()), ("a/b", 1, "hello"));
    assert_eq!((first.size, first.files, first.labels.clone(), first.owner.clone()), (5, 0, labels, None));
    assert_eq!(first.expires_ms, Some(first.updated_ms + 60_000));
    assert_eq!(first.created_ms, first.updated_ms);
    bed.pass(20).await;
    bed.put("a/b", "again").await;
    let second = bed.get("a/b").await.unwrap();
    assert_eq!((second.created_ms, second.updated_ms > first.updated_ms), (first.created_ms, true));
    bed.write(vec![delete("a/b")]).await;
    bed.pass(20).await;
    bed.put("a/b", "anew").await;
    let third = bed.get("a/b").await.unwrap();
    assert!(third.created_ms > second.updated_ms && third.created_ms == third.updated_ms);
}

/// Expiry, owner and labels.
pub async fn a_plain_put_clears_what_is_not_named(bed: Bed) {
    bed.catalog.keep_service("s", 60_000).await.unwrap();
    let labels = [("a".into(), "b".into())].into();
    let full = Put { ttl_ms: Some(60_000), owner: Some("s".into()), labels, ..value("k", "1") };
    bed.write(vec![catalog::Operation::Put(full)]).await;
    let entry = bed.get("k").await.unwrap();
    assert!(entry.expires_ms.is_some() && entry.owner.as_deref() == Some("s") && entry.labels.len() == 1);
    bed.put("k", "2").await;
    let entry = bed.get("k").await.unwrap();
    assert_eq!((entry.expires_ms, entry.owner, entry.labels.len()), (None, None, 0));
    assert_eq!(bed.catalog.end_service("s").await.unwrap(), 0);
    assert_eq!(bed.version("k").await, 2);
}

/// Their root as it was given, size and files.
pub async fn manifests_say_what_they_hold(bed: Bed) {
    let root = super::leases::manifest(&[1, 2]);
    bed.write(vec![catalog::Operation::Put(Put::new("m", Content::Manifest(root.clone())))]).await;
    let entry = bed.get("m").await.unwrap();
    assert_eq!((entry.size, entry.files, entry.content), (7, 1, Some(Content::Manifest(root))));
    bed.put("m", "now a value").await;
    assert_eq!(text(&bed.get("m").await.unwrap()), "now a value");
}

/// None at all, NUL bytes, as many as fit.
pub async fn values_of_any_bytes_fit(bed: Bed) {
    let values = [vec![], vec![0, 255, 0], vec![7; 1024], vec![8; 1025], vec![9; VALUE_SIZE_MAX]];
    for value in values {
        let content = Content::Value(value);
        bed.write(vec![catalog::Operation::Put(Put::new("k", content.clone()))]).await;
        assert_eq!(bed.get("k").await.unwrap().content, Some(content));
    }
}
