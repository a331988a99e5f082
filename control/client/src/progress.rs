//! How far a put or get has come.

/// Is told how far an operation has come; called from several threads.
pub trait Progress: Sync {
    /// The operation begins to move bytes: this many, holes not counted, or an unknown number.
    fn start(&self, total_bytes: Option<u64>);
    /// So many bytes more are done.
    fn advance(&self, bytes: u64);
    /// The operation is over and has succeeded.
    fn finish(&self);
}

/// Tells nobody.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn start(&self, _total_bytes: Option<u64>) {}
    fn advance(&self, _bytes: u64) {}
    fn finish(&self) {}
}
