//! Conditions and operations, all or nothing.

use catalog::{
    CatalogError, Content, Expiry, MANIFEST_SIZE_MAX, OPERATIONS_MAX, Operation, Put, VALUE_SIZE_MAX, Write,
};

use super::{Bed, delete, expire, put, text, unchanged, unchanged_key, value, version};

/// Puts and deletes together; none when one cannot be.
pub async fn a_batch_is_all_or_nothing(bed: Bed) {
    bed.put("old", "1").await;
    let written = bed.write(vec![put("a", "1"), delete("old"), put("b", "2"), delete("none")]).await;
    assert_eq!(written.versions, [1, 1, 1, 0]);
    assert_eq!(bed.keys("").await, ["a", "b"]);
    let operations = vec![put("a", "changed"), delete("b"), expire("none", Expiry::Never)];
    let refused = bed.write_if(Vec::new(), operations).await;
    assert!(matches!(refused, Err(CatalogError::NoKey { key }) if key == "none"));
    let conditions = vec![version("a", 1), version("b", 9)];
    let refused = bed.write_if(conditions, vec![put("a", "changed"), put("c", "1")]).await;
    assert!(matches!(refused, Err(CatalogError::Conflict { key, expected: 9, found: 1 }) if key == "b"));
    assert_eq!(
        (bed.keys("").await, text(&bed.get("a").await.unwrap())),
        (vec!["a".into(), "b".into()], "1".into())
    );
}

/// Also of keys that are not written; 0 is absent.
pub async fn versions_are_compared(bed: Bed) {
    let conflict = |outcome: Result<_, CatalogError>, expected, found| match outcome {
        Err(CatalogError::Conflict { expected: e, found: f, .. }) => assert_eq!((e, f), (expected, found)),
        other => panic!("{other:?}"),
    };
    conflict(bed.write_if(vec![version("k", 1)], vec![put("k", "x")]).await, 1, 0);
    assert_eq!(bed.write_if(vec![version("k", 0)], vec![put("k", "1")]).await.unwrap().versions, [1]);
    conflict(bed.write_if(vec![version("k", 0)], vec![put("k", "x")]).await, 0, 1);
    assert_eq!(bed.write_if(vec![version("k", 1)], vec![put("k", "2")]).await.unwrap().versions, [2]);
    conflict(bed.write_if(vec![version("k", 1)], vec![put("other", "x")]).await, 1, 2);
    bed.write(vec![delete("k")]).await;
    conflict(bed.write_if(vec![version("k", 2)], vec![put("k", "x")]).await, 2, 0);
    assert_eq!(bed.write_if(vec![version("k", 0)], vec![put("k", "3")]).await.unwrap().versions, [3]);
    assert_eq!(bed.keys("").await, ["k"]);
}

/// Delete if the version is the expected one.
pub async fn a_delete_is_of_one_version(bed: Bed) {
    bed.put("k", "1").await;
    assert!(bed.write_if(vec![version("k", 2)], vec![delete("k")]).await.is_err());
    assert_eq!(bed.version("k").await, 1);
    assert_eq!(bed.write_if(vec![version("k", 1)], vec![delete("k")]).await.unwrap().versions, [1]);
    assert_eq!(bed.version("k").await, 0);
    assert_eq!(
        (bed.catalog.remove("k", false).await.unwrap(), bed.put("k", "2").await.versions),
        (0, vec![2])
    );
    assert_eq!(bed.catalog.remove("k", false).await.unwrap(), 1);
}

/// Nothing at all, and a delete of what is absent.
pub async fn writes_that_change_nothing_say_so(bed: Bed) {
    let before = bed.put("k", "1").await.revision;
    let nothing = bed.write(Vec::new()).await;
    assert!(nothing.versions.is_empty() && nothing.revision >= before);
    let absent = bed.write(vec![delete("none")]).await;
    assert!(absent.versions == [0] && absent.revision >= before);
    assert!(bed.write_if(vec![version("k", 1)], Vec::new()).await.is_ok());
    assert!(bed.write_if(vec![version("k", 2)], Vec::new()).await.is_err());
    assert!(bed.put("k", "2").await.revision > absent.revision);
}

type IsTold = fn(&CatalogError) -> bool;

/// Each limit is told, and the catalog is as it was.
pub async fn bad_writes_change_nothing(bed: Bed) {
    bed.put("k", "1").await;
    let many = (0..=OPERATIONS_MAX).map(|at| put(&format!("m/{at}"), "x")).collect();
    let large = |size| Operation::Put(Put::new("large", Content::Value(vec![0; size])));
    let root = Operation::Put(Put::new("root", Content::Manifest(vec![0; MANIFEST_SIZE_MAX + 1])));
    let wrong = Operation::Put(Put::new("root", Content::Manifest(b"no manifest".to_vec())));
    let heavy =
        (0..32).map(|at| Operation::Put(Put::new(format!("h/{at}"), Content::Value(vec![0; 60 << 10]))));
    let zero = Operation::Put(Put { ttl_ms: Some(0), ..value("ttl", "x") });
    let endless = Operation::Put(Put { ttl_ms: Some(u64::MAX), ..value("ttl", "x") });
    let label = Operation::Put(Put { labels: [(String::new(), "x".into())].into(), ..value("label", "x") });
    let owner = Operation::Put(Put { owner: Some("nobody".into()), ..value("owned", "x") });
    let bad: Vec<(Vec<Operation>, IsTold)> = vec![
        (many, |error| matches!(error, CatalogError::TooLarge { found: 129, most: 128, .. })),
        (vec![large(VALUE_SIZE_MAX + 1)], |error| matches!(error, CatalogError::ValueSize { .. })),
        (vec![root], |error| matches!(error, CatalogError::ManifestSize { .. })),
        (vec![wrong], |error| matches!(error, CatalogError::Manifest { .. })),
        (heavy.collect(), |error| matches!(error, CatalogError::TooLarge { .. })),
        (vec![put("a", "1"), put("a", "2")], |error| matches!(error, CatalogError::Twice { .. })),
        (vec![put("a\0b", "1")], |error| matches!(error, CatalogError::Key(_))),
        (vec![put("", "1")], |error| matches!(error, CatalogError::Key(_))),
        (vec![put(&"x".repeat(1025), "1")], |error| matches!(error, CatalogError::Key(_))),
        (vec![zero], |error| matches!(error, CatalogError::Invalid { .. })),
        (vec![endless], |error| matches!(error, CatalogError::Invalid { .. })),
        (vec![label], |error| matches!(error, CatalogError::Invalid { .. })),
        (vec![owner], |error| matches!(error, CatalogError::NoService { .. })),
        (vec![expire("k", Expiry::Later(5))], |error| matches!(error, CatalogError::NoExpiry { .. })),
        (vec![expire("none", Expiry::In(5))], |error| matches!(error, CatalogError::NoKey { .. })),
    ];
    for (operations, is_told) in bad {
        let with_a_good_one = [vec![put("good", "x")], operations.clone()].concat();
        for operations in [operations, with_a_good_one] {
            let Err(error) = bed.write_if(Vec::new(), operations).await else { panic!("it was carried out") };
            assert!(is_told(&error) || matches!(error, CatalogError::TooLarge { .. }), "{error}");
        }
    }
    let conditions = vec![version("k", 1); OPERATIONS_MAX + 1];
    assert!(matches!(bed.write_if(conditions, Vec::new()).await, Err(CatalogError::TooLarge { .. })));
    assert!(matches!(bed.catalog.remove("a/", true).await, Err(CatalogError::Key(_))));
    let left = bed.page("", None, 10).await.entries;
    assert_eq!(left.iter().map(|entry| (entry.key.as_str(), entry.version)).collect::<Vec<_>>(), [("k", 1)]);
}

/// As many operations and conditions as may be, at one revision.
pub async fn the_largest_write_fits(bed: Bed) {
    let keys: Vec<String> = (0..OPERATIONS_MAX).map(|at| format!("m/{at:03}")).collect();
    let write = |text: &str, expected| Write {
        conditions: keys.iter().map(|key| version(key, expected)).collect(),
        operations: keys.iter().map(|key| put(key, text)).collect(),
    };
    assert_eq!(bed.catalog.write(write("1", 0)).await.unwrap().versions, [1; OPERATIONS_MAX]);
    let second = bed.catalog.write(write("2", 1)).await.unwrap();
    let page = bed.page("m/", None, 1000).await;
    assert!(page.entries.iter().all(|entry| entry.revision == second.revision && text(entry) == "2"));
    assert_eq!(
        page.entries.iter().map(|entry| &entry.key).collect::<Vec<_>>(),
        keys.iter().collect::<Vec<_>>()
    );
    assert_eq!(bed.write(keys.iter().map(|key| delete(key)).collect()).await.versions, [2; OPERATIONS_MAX]);
}

/// Of one key, of a prefix; by a put, a delete, anything new.
pub async fn nothing_may_have_changed_since(bed: Bed) {
    let first = bed.put("a/1", "1").await.revision;
    let second = bed.put("a/2", "1").await.revision;
    let holds = async |condition| match bed.write_if(vec![condition], Vec::new()).await {
        Ok(_) => true,
        Err(CatalogError::Changed { .. }) => false,
        Err(error) => panic!("{error}"),
    };
    assert!(holds(unchanged_key("a/1", first)).await && !holds(unchanged_key("a/2", first)).await);
    assert!(holds(unchanged("a/", second)).await && !holds(unchanged("a/", first)).await);
    assert!(holds(unchanged("b", 0)).await && holds(unchanged_key("a", 0)).await);
    let third = bed.put("b", "1").await.revision;
    assert!(holds(unchanged("a/", second)).await && !holds(unchanged("", second)).await);
    let gone = bed.write(vec![delete("a/1")]).await.revision;
    assert!(!holds(unchanged("a/", third)).await && !holds(unchanged_key("a/1", third)).await);
    assert!(holds(unchanged("a/", gone)).await && holds(unchanged_key("a/1", gone)).await);
    bed.put("a/new", "1").await;
    assert!(!holds(unchanged("a/", gone)).await && holds(unchanged_key("a/2", gone)).await);
    let refused = bed.write_if(vec![unchanged_key("b", 0)], vec![put("b", "2")]).await;
    assert!(matches!(refused, Err(CatalogError::Changed { .. })));
    assert_eq!(bed.version("b").await, 1);
}

/// Many writers that compare and set one key each win as often as they are told.
pub async fn concurrent_counters_lose_nothing(bed: Bed) {
    const WRITERS: u64 = 8;
    const ROUNDS: u64 = 10;
    let count = async || {
        let mut won = 0;
        while won < ROUNDS {
            let found = bed.get("n").await;
            let (seen, number) =
                found.map_or((0, 0), |entry| (entry.version, text(&entry).parse::<u64>().unwrap()));
            let write = bed.write_if(vec![version("n", seen)], vec![put("n", &(number + 1).to_string())]);
            match write.await {
                Ok(_) => won += 1,
                Err(CatalogError::Conflict { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
    };
    let mut writers: Vec<_> = (0..WRITERS).map(|_| Box::pin(count())).collect();
    // All at once, in one task.
    std::future::poll_fn(|context| {
        writers.retain_mut(|writer| writer.as_mut().poll(context).is_pending());
        if writers.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    let entry = bed.get("n").await.unwrap();
    assert_eq!((entry.version, text(&entry)), (WRITERS * ROUNDS, (WRITERS * ROUNDS).to_string()));
}

/// A key and all below it, and no neighbour; also more than one write takes.
pub async fn trees_are_removed_whole(bed: Bed) {
    for key in ["a", "a/1", "a/2/x", "a-x", "a0", "b"] {
        bed.put(key, "x").await;
    }
    assert_eq!(bed.catalog.remove("z", true).await.unwrap(), 0);
    assert_eq!(bed.catalog.remove("a/2", false).await.unwrap(), 0);
    assert_eq!(bed.catalog.remove("a", true).await.unwrap(), 3);
    assert_eq!(bed.keys("").await, ["a-x", "a0", "b"]);
    for step in 0..3 {
        let puts = (0..OPERATIONS_MAX).map(|at| put(&format!("t/{step}/{at}"), "x"));
        bed.write(puts.collect()).await;
    }
    assert_eq!(bed.catalog.remove("t", true).await.unwrap(), 3 * OPERATIONS_MAX as u64);
    assert_eq!(bed.keys("").await, ["a-x", "a0", "b"]);
}
