//! What every engine of the catalog must do.

use std::sync::Arc;

use catalog::{Catalog, EtcdSettings};
use suites::Etcds;
use suites::catalog::{Bed, Hands};

suites::conformance! { crate::conformance::open }

/// The time of keys stands still until it is moved; that of services is etcd's.
async fn open() -> Option<Bed> {
    let etcds = Etcds::start(1)?;
    let hands = Arc::new(Hands::default());
    let settings = EtcdSettings { clock: hands.clone(), ..EtcdSettings::default() };
    let catalog = Arc::new(super::open_with(&etcds, settings));
    see_all(&*catalog).await;
    Some(Bed { catalog, hands: Some(hands), real_services: true, keep: Box::new(etcds) })
}

/// Waits until the engine has seen that there is nothing. Where it begins to follow later than the first write, it cannot
/// know what was retired before, and all chunks count as referenced for a grace.
async fn see_all(catalog: &impl Catalog) {
    let mut seen = catalog.references(&[]).await;
    for _ in 0..8 {
        if seen.is_err() {
            seen = catalog.references(&[]).await;
        }
    }
    seen.expect("etcd is followed");
}
