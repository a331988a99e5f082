//! What owns keys and takes them along.

use catalog::{CatalogError, ChangeKind, Operation, Put, Selector, Start};

use super::{Bed, next, value};

/// In real time it must outlast the calls in between.
const TTL_MS: u64 = 6_000;

async fn own(bed: &Bed, owner: &str, key: &str) -> Result<(), CatalogError> {
    let put = Put { owner: Some(owner.into()), ..value(key, "x") };
    bed.write_if(Vec::new(), vec![Operation::Put(put)]).await.map(drop)
}

/// Which are registered.
pub async fn only_services_own_keys(bed: Bed) {
    assert!(matches!(own(&bed, "s", "k").await, Err(CatalogError::NoService { name }) if name == "s"));
    bed.catalog.keep_service("s", TTL_MS * 100).await.unwrap();
    own(&bed, "s", "k").await.unwrap();
    assert_eq!(bed.get("k").await.unwrap().owner.as_deref(), Some("s"));
    for (name, ttl_ms) in
        [("", TTL_MS), ("a\nb", TTL_MS), (&"x".repeat(300), TTL_MS), ("s", 0), ("s", u64::MAX)]
    {
        let refused = bed.catalog.keep_service(name, ttl_ms).await;
        assert!(matches!(refused, Err(CatalogError::Invalid { .. })), "{name}");
    }
    assert!(matches!(bed.catalog.end_service("none").await, Err(CatalogError::NoService { .. })));
}

/// All of it and nothing else; more than one write takes.
pub async fn what_a_service_owns_ends_with_it(bed: Bed) {
    bed.catalog.keep_service("s", TTL_MS * 100).await.unwrap();
    bed.catalog.keep_service("st", TTL_MS * 100).await.unwrap();
    bed.put("mine", "x").await;
    own(&bed, "st", "theirs").await.unwrap();
    own(&bed, "s", "given-away").await.unwrap();
    own(&bed, "st", "given-away").await.unwrap();
    for batch in 0..3 {
        let owned =
            |at| Operation::Put(Put { owner: Some("s".into()), ..value(&format!("o/{batch}/{at}"), "x") });
        bed.write((0..100).map(owned).collect()).await;
    }
    let start = bed.put("mine", "y").await.revision;
    assert_eq!(bed.catalog.end_service("s").await.unwrap(), 300);
    assert_eq!(bed.keys("").await, ["given-away", "mine", "theirs"]);
    let mut stream = bed.catalog.changes(Start::After(start), Selector::Prefix("o/".into())).await.unwrap();
    let mut ended = 0;
    while ended < 300 {
        let changes = next(&mut stream).await;
        assert!(changes.iter().all(|change| change.kind == ChangeKind::OwnerEnded { version: 1 }));
        ended += changes.len();
    }
    assert!(matches!(own(&bed, "s", "k").await, Err(CatalogError::NoService { .. })));
    bed.catalog.keep_service("s", TTL_MS * 100).await.unwrap();
    own(&bed, "s", "k").await.unwrap();
    assert_eq!(bed.catalog.end_service("s").await.unwrap(), 1);
}

/// When nobody keeps them alive; what they own goes with the next sweep.
pub async fn lost_services_end(bed: Bed) {
    bed.catalog.keep_service("s", TTL_MS).await.unwrap();
    own(&bed, "s", "k").await.unwrap();
    bed.put("mine", "x").await;
    bed.pass_for_services(TTL_MS + 100).await;
    assert!(bed.catalog.services().await.unwrap().is_empty());
    assert!(matches!(own(&bed, "s", "late").await, Err(CatalogError::NoService { .. })));
    bed.catalog.sweep().await.unwrap();
    assert_eq!(bed.keys("").await, ["mine"]);
    // One that comes back begins anew.
    bed.catalog.keep_service("s", TTL_MS).await.unwrap();
    own(&bed, "s", "k").await.unwrap();
    bed.catalog.sweep().await.unwrap();
    assert_eq!(bed.version("k").await, 2);
    bed.pass_for_services(TTL_MS + 100).await;
    bed.catalog.keep_service("s", TTL_MS).await.unwrap();
    bed.catalog.sweep().await.unwrap();
    assert_eq!((bed.version("k").await, bed.catalog.services().await.unwrap()[0].keys), (0, 0));
}

/// By being registered again, in time.
pub async fn services_are_kept_alive(bed: Bed) {
    bed.catalog.keep_service("s", TTL_MS).await.unwrap();
    own(&bed, "s", "k").await.unwrap();
    for _ in 0..4 {
        bed.pass_for_services(TTL_MS / 3).await;
        bed.catalog.keep_service("s", TTL_MS).await.unwrap();
        bed.catalog.sweep().await.unwrap();
    }
    assert_eq!(bed.version("k").await, 1);
    bed.catalog.keep_service("s", TTL_MS * 100).await.unwrap();
    bed.pass_for_services(TTL_MS + 100).await;
    bed.catalog.sweep().await.unwrap();
    assert_eq!((bed.version("k").await, bed.catalog.services().await.unwrap()[0].ttl_ms), (1, TTL_MS * 100));
}

/// With what is left of their time, and how many keys they own.
pub async fn services_are_listed(bed: Bed) {
    assert!(bed.catalog.services().await.unwrap().is_empty());
    bed.catalog.keep_service("b", TTL_MS * 100).await.unwrap();
    bed.catalog.keep_service("a", TTL_MS * 10).await.unwrap();
    for key in ["k/1", "k/2"] {
        own(&bed, "b", key).await.unwrap();
    }
    let mut services = bed.catalog.services().await.unwrap();
    services.sort_by(|one, other| one.name.cmp(&other.name));
    let found: Vec<_> = services.iter().map(|one| (one.name.as_str(), one.ttl_ms, one.keys)).collect();
    assert_eq!(found, [("a", TTL_MS * 10, 0), ("b", TTL_MS * 100, 2)]);
    assert!(services.iter().all(|one| one.left_ms > 0 && one.left_ms <= one.ttl_ms));
}
