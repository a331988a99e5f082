//! What every engine of the catalog must do.

use std::sync::Arc;

use catalog::EtcdSettings;
use suites::Etcds;
use suites::catalog::{Bed, Hands};

suites::conformance! { crate::conformance::open, crate::conformance::open_with_hands }

async fn open() -> Option<Bed> {
    let etcds = Etcds::start(1)?;
    let catalog = Arc::new(super::open(&etcds));
    Some(Bed { catalog, hands: None, keep: Box::new(etcds) })
}

/// The time of keys stands still until it is moved; that of services is etcd's.
async fn open_with_hands() -> Option<Bed> {
    let etcds = Etcds::start(1)?;
    let hands = Arc::new(Hands::default());
    let settings = EtcdSettings { clock: hands.clone(), ..EtcdSettings::default() };
    let catalog = Arc::new(super::open_with(&etcds, settings));
    Some(Bed { catalog, hands: Some(hands), keep: Box::new(etcds) })
}
