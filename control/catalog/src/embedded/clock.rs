//! What time it is.

use std::time::{SystemTime, UNIX_EPOCH};

/// Tells the time to an engine that runs in this process.
pub trait Clock: Send + Sync {
    /// Milliseconds since 1970. When it goes back, the catalog stands still until it has caught up.
    fn now_ms(&self) -> u64;
}

/// The machine's calendar.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now_ms(&self) -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
    }
}
