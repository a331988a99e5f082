//! A region that was taken from the device has no segments.

use std::sync::Arc;

use verbs::MemoryRegion;

fn late(region: Arc<MemoryRegion>) {
    let _ = region.revoke();
    let _ = region.segment(0, 1);
}

fn main() {}
