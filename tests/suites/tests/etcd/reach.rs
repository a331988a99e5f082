//! Nobody answers, and what is remembered.

use std::time::{Duration, Instant};

use catalog::{Catalog, CatalogError, Consistency, Write};
use futures_lite::future::block_on;
use suites::{Etcds, holds};

use super::{open, put, text, write};

#[test]
fn out_of_reach_writes_fail_soon_and_what_was_read_is_remembered() {
    let Some(mut etcds) = Etcds::start(1) else { return };
    let node = open(&etcds);
    write(&node, vec![put("known", "x")]);
    assert_eq!(text(&node, "known").as_deref(), Some("x"));
    etcds.kill(0);
    // Until the connection is known to have gone, a write may be sent by it, and nobody could tell what became of it.
    let read = |key: &str, consistency| block_on(node.get(&[key.into()], consistency));
    holds("reads fail", || read("known", Consistency::Quorum).is_err());
    let begin = Instant::now();
    let outcome = block_on(node.write(Write { conditions: Vec::new(), operations: vec![put("k", "x")] }));
    // The machine may be slow; that it does not hang is what counts.
    assert!(begin.elapsed() < Duration::from_secs(30));
    let Err(CatalogError::Unreachable { retry_ms, maybe_done, .. }) = outcome else { panic!("{outcome:?}") };
    assert!(retry_ms > 0 && !maybe_done, "nothing was ever sent");
    let one = read("known", Consistency::One).unwrap();
    assert!(one.stale && one.entries[0].is_some());
    assert!(matches!(read("known", Consistency::Quorum), Err(CatalogError::Unreachable { .. })));
    assert!(matches!(read("unknown", Consistency::One), Err(CatalogError::Unreachable { .. })));
    etcds.restart(0);
    holds("a write after etcd is back", || {
        block_on(node.write(Write { conditions: Vec::new(), operations: vec![put("k", "y")] })).is_ok()
    });
    assert!(!read("known", Consistency::One).unwrap().stale);
}
