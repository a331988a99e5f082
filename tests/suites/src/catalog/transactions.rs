//! What each isolation allows and forbids.

use std::time::Duration;

use catalog::{
    CatalogError, Content, Entry, Expiry, Isolation, OPERATIONS_MAX, Operation, Put, Scan, Transaction,
    Written,
};

use super::{Bed, delete, text, value};

const LEVELS: [Isolation; 3] = [Isolation::ReadCommitted, Isolation::Snapshot, Isolation::Serializable];
const TIMEOUT_MS: u64 = 60_000;

async fn begin(bed: &Bed, isolation: Isolation) -> Transaction {
    Transaction::begin(bed.catalog.clone(), isolation, TIMEOUT_MS).await.unwrap()
}

async fn get(transaction: &mut Transaction, key: &str) -> Option<String> {
    let found: Vec<Option<Entry>> = transaction.get(&[key.into()]).await.unwrap();
    found[0].as_ref().map(text)
}

async fn keys(transaction: &mut Transaction, prefix: &str, limit: usize) -> Vec<String> {
    let scan = Scan { prefix: prefix.into(), after: None, limit, contents: false };
    let page = transaction.scan(&scan).await.unwrap();
    page.entries.into_iter().map(|entry| entry.key).collect()
}

fn is_refused(outcome: Result<Written, CatalogError>) -> bool {
    match outcome {
        Ok(_) => false,
        Err(CatalogError::Changed { .. }) => true,
        Err(error) => panic!("{error}"),
    }
}

/// Dirty reads: forbidden by all.
pub async fn nobody_sees_what_is_not_committed(bed: Bed) {
    bed.put("k", "old").await;
    for level in LEVELS {
        let mut writer = begin(&bed, level).await;
        writer.put(value("k", "new")).unwrap();
        writer.put(value("l", "new")).unwrap();
        let mut reader = begin(&bed, level).await;
        assert_eq!(get(&mut reader, "k").await.as_deref(), Some("old"));
        assert_eq!(keys(&mut reader, "", 10).await, ["k"]);
        assert_eq!(text(&bed.get("k").await.unwrap()), "old");
        drop(writer);
        assert_eq!((bed.keys("").await, bed.version("k").await), (vec!["k".into()], 1));
    }
}

/// Puts, deletes and expiries, in gets and scans.
pub async fn reads_see_own_writes(bed: Bed) {
    for key in ["a", "b", "c"] {
        bed.put(key, "old").await;
    }
    for level in LEVELS {
        let mut own = begin(&bed, level).await;
        own.put(value("a", "new")).unwrap();
        own.put(value("bb", "new")).unwrap();
        own.delete("c").unwrap();
        own.expire("b", Expiry::In(60_000)).unwrap();
        let asked = ["a", "b", "bb", "c", "d"].map(String::from);
        let found = own.get(&asked).await.unwrap();
        let texts: Vec<_> = found.iter().map(|entry| entry.as_ref().map(text)).collect();
        let expected = [Some("new"), Some("old"), Some("new"), None, None];
        assert_eq!(texts, expected.map(|text| text.map(String::from)));
        assert!(found[1].as_ref().unwrap().expires_ms.is_some());
        assert_eq!(keys(&mut own, "", 10).await, ["a", "b", "bb"]);
        // Page by page as well.
        let (mut paged, mut after) = (Vec::new(), None);
        loop {
            let scan = Scan { prefix: String::new(), after, limit: 1, contents: true };
            let page = own.scan(&scan).await.unwrap();
            paged.extend(page.entries.iter().map(text));
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(paged, ["new", "old", "new"]);
        own.delete("a").unwrap();
        own.delete("b").unwrap();
        assert_eq!((keys(&mut own, "", 1).await, get(&mut own, "a").await), (vec!["bb".into()], None));
        assert!(matches!(own.expire("a", Expiry::Never), Err(CatalogError::NoKey { .. })));
    }
    assert_eq!(bed.keys("").await, ["a", "b", "c"]);
}

/// Non-repeatable reads: allowed by read committed, forbidden from snapshot on.
pub async fn reads_repeat_from_snapshot_on(bed: Bed) {
    for level in LEVELS {
        bed.put("k", "before").await;
        let mut reader = begin(&bed, level).await;
        assert_eq!(get(&mut reader, "k").await.as_deref(), Some("before"));
        bed.put("k", "after").await;
        let expected = if level == Isolation::ReadCommitted { "after" } else { "before" };
        assert_eq!(get(&mut reader, "k").await.as_deref(), Some(expected));
        // Who only reads has run at one revision, and is not refused.
        reader.commit().await.unwrap();
    }
}

/// Lost updates: allowed by read committed; from snapshot on who commits first wins.
pub async fn updates_are_lost_only_in_read_committed(bed: Bed) {
    for level in LEVELS {
        bed.put("n", "10").await;
        let mut one = begin(&bed, level).await;
        let mut other = begin(&bed, level).await;
        for (transaction, more) in [(&mut one, 1), (&mut other, 2)] {
            let number: u64 = get(transaction, "n").await.unwrap().parse().unwrap();
            transaction.put(value("n", &(number + more).to_string())).unwrap();
        }
        one.commit().await.unwrap();
        let refused = is_refused(other.commit().await);
        let (expected, number) = if level == Isolation::ReadCommitted { (false, "12") } else { (true, "11") };
        assert_eq!((refused, text(&bed.get("n").await.unwrap()).as_str()), (expected, number));
    }
}

/// Phantoms: allowed by read committed; later ones do not see them.
pub async fn phantoms_are_seen_only_in_read_committed(bed: Bed) {
    for level in LEVELS {
        bed.catalog.remove("p", true).await.unwrap();
        bed.put("p/1", "x").await;
        let mut reader = begin(&bed, level).await;
        assert_eq!(keys(&mut reader, "p/", 10).await, ["p/1"]);
        bed.write(vec![super::put("p/2", "x"), delete("p/1")]).await;
        let expected = if level == Isolation::ReadCommitted { "p/2" } else { "p/1" };
        assert_eq!(keys(&mut reader, "p/", 10).await, [expected]);
    }
}

/// Write skew: two read both keys and each writes one. Allowed up to snapshot, forbidden by serializable.
pub async fn write_skew_is_forbidden_by_serializable(bed: Bed) {
    for level in LEVELS {
        bed.write(vec![super::put("x", "on"), super::put("y", "on")]).await;
        let mut one = begin(&bed, level).await;
        let mut other = begin(&bed, level).await;
        for (transaction, off) in [(&mut one, "x"), (&mut other, "y")] {
            let both = transaction.get(&["x".into(), "y".into()]).await.unwrap();
            assert!(both.iter().flatten().all(|entry| text(entry) == "on"));
            transaction.put(value(off, "off")).unwrap();
        }
        one.commit().await.unwrap();
        assert_eq!(is_refused(other.commit().await), level == Isolation::Serializable);
        let left = [bed.get("x").await, bed.get("y").await].map(|entry| text(&entry.unwrap()));
        let expected = if level == Isolation::Serializable { ["off", "on"] } else { ["off", "off"] };
        assert_eq!(left, expected);
    }
}

/// Write skew by phantoms: two count what is under a prefix and each adds to it.
pub async fn a_scan_is_a_dependency(bed: Bed) {
    for level in LEVELS {
        bed.catalog.remove("q", true).await.unwrap();
        let mut one = begin(&bed, level).await;
        let mut other = begin(&bed, level).await;
        for (transaction, key) in [(&mut one, "q/1"), (&mut other, "q/2")] {
            assert!(keys(transaction, "q/", 10).await.is_empty());
            transaction.put(value(key, "x")).unwrap();
        }
        one.commit().await.unwrap();
        assert_eq!(is_refused(other.commit().await), level == Isolation::Serializable);
        assert_eq!(bed.keys("q/").await.len(), if level == Isolation::Serializable { 1 } else { 2 });
    }
    // What is written elsewhere does not matter.
    let mut transaction = begin(&bed, Isolation::Serializable).await;
    keys(&mut transaction, "q/", 10).await;
    transaction.put(value("q/3", "x")).unwrap();
    bed.put("r", "x").await;
    transaction.commit().await.unwrap();
}

/// A key that was read, or is written, and has gone meanwhile; also one that was not there.
pub async fn deletions_are_noticed(bed: Bed) {
    for level in [Isolation::Snapshot, Isolation::Serializable] {
        bed.write(vec![super::put("k", "x"), super::put("l", "x")]).await;
        let mut writer = begin(&bed, level).await;
        writer.put(value("k", "new")).unwrap();
        let mut reader = begin(&bed, level).await;
        assert_eq!(get(&mut reader, "k").await.as_deref(), Some("x"));
        reader.put(value("l", "new")).unwrap();
        bed.write(vec![delete("k")]).await;
        assert!(is_refused(writer.commit().await));
        assert_eq!(is_refused(reader.commit().await), level == Isolation::Serializable);
        let mut absent = begin(&bed, level).await;
        absent.put(value("k", "new")).unwrap();
        bed.put("k", "theirs").await;
        assert!(is_refused(absent.commit().await));
    }
}

/// In time, or not at all.
pub async fn transactions_end(bed: Bed) {
    bed.put("k", "old").await;
    for level in LEVELS {
        let mut late = Transaction::begin(bed.catalog.clone(), level, 1).await.unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
        assert!(matches!(
            late.get(&["k".into()]).await,
            Err(CatalogError::TransactionTimeout { timeout_ms: 1 })
        ));
        assert!(matches!(late.put(value("k", "new")), Err(CatalogError::TransactionTimeout { .. })));
        assert!(matches!(late.commit().await, Err(CatalogError::TransactionTimeout { .. })));
        for timeout_ms in [0, u64::MAX] {
            let refused = Transaction::begin(bed.catalog.clone(), level, timeout_ms).await.map(drop);
            assert!(matches!(refused, Err(CatalogError::Invalid { .. })));
        }
    }
    assert_eq!(bed.version("k").await, 1);
}

/// Nor of one that is refused, and all of one that commits, at one revision.
pub async fn nothing_of_a_rollback_stays(bed: Bed) {
    for level in LEVELS {
        let before = bed.put("k", "old").await.revision;
        let mut gone = begin(&bed, level).await;
        gone.put(value("k", "never")).unwrap();
        gone.rollback();
        assert_eq!(bed.get("k").await.unwrap().revision, before);
        let mut all = begin(&bed, level).await;
        for key in ["k", "l", "m"] {
            all.put(value(key, "new")).unwrap();
        }
        all.expire("m", Expiry::In(60_000)).unwrap();
        all.delete("l").unwrap();
        all.put(value("l", "newer")).unwrap();
        let written = all.commit().await.unwrap();
        let page = bed.page("", None, 10).await;
        assert!(page.entries.iter().all(|entry| entry.revision == written.revision));
        let texts: Vec<_> = page.entries.iter().map(text).collect();
        assert_eq!((texts, written.versions.len()), (vec!["new".into(), "newer".into(), "new".into()], 3));
        assert!(page.entries[2].expires_ms.is_some());
    }
}

/// What is too much is refused at once, and leaves the transaction as it was.
pub async fn transactions_are_bounded(bed: Bed) {
    let mut large = begin(&bed, Isolation::Snapshot).await;
    for at in 0..OPERATIONS_MAX {
        large.put(value(&format!("k/{at}"), "x")).unwrap();
    }
    assert!(matches!(large.put(value("more", "x")), Err(CatalogError::TooLarge { .. })));
    large.put(value("k/0", "again")).unwrap();
    large.commit().await.unwrap();
    assert_eq!(bed.keys("").await.len(), OPERATIONS_MAX);
    let mut heavy = begin(&bed, Isolation::ReadCommitted).await;
    let filled = (0..OPERATIONS_MAX).find_map(|at| {
        let put = Put::new(format!("h/{at}"), Content::Value(vec![0; 60 << 10]));
        heavy.write(Operation::Put(put)).err()
    });
    assert!(matches!(filled, Some(CatalogError::TooLarge { what: "bytes", .. })));
    let mut curious = begin(&bed, Isolation::Serializable).await;
    let names: Vec<String> = (0..=OPERATIONS_MAX).map(|at| format!("r/{at}")).collect();
    assert!(matches!(curious.get(&names).await, Err(CatalogError::TooLarge { .. })));
    curious.get(&names[1..]).await.unwrap();
    assert!(matches!(curious.get(&names[..1]).await, Err(CatalogError::TooLarge { .. })));
    // One prefix stands for all below it.
    assert!(keys(&mut curious, "r/", 10).await.is_empty());
    curious.get(&names).await.unwrap();
    assert!(matches!(curious.put(value("bad\0", "x")), Err(CatalogError::Key(_))));
}
