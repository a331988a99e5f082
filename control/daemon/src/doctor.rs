//! What the machine offers.

use std::path::Path;

pub use engine::Finding;

/// Looks at the machine, without a running node and without changing anything: which fast paths there are, which are
/// not taken, and why. `data_dir` need not exist.
pub fn report(data_dir: &Path) -> Vec<Finding> {
    engine::probe(data_dir)
}
