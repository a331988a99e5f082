//! The engine in one process.

use std::sync::Arc;

use catalog::{Embedded, Settings};
use suites::catalog::{Bed, Hands};

suites::conformance! { crate::embedded::open }

async fn open() -> Bed {
    let directory = tempfile::tempdir().unwrap();
    let hands = Arc::new(Hands::default());
    let settings = Settings { clock: hands.clone(), ..Settings::default() };
    let catalog = Embedded::open_with(directory.path(), settings).unwrap();
    Bed { catalog: Arc::new(catalog), hands: Some(hands), real_services: false, keep: Box::new(directory) }
}
