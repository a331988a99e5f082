//! Bars on standard error while bytes move.

use std::thread;
use std::time::Duration;

use client::Progress;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How often a bar is drawn without news, so that a stall is seen as one.
const TICK: Duration = Duration::from_millis(250);

/// Bytes so far, the rate and the time left.
pub struct Bar {
    bar: ProgressBar,
}

impl Bar {
    /// A bar that has not begun. `verb` says what happens: `put`, `get`.
    pub fn new(visible: bool, verb: &'static str) -> Self {
        let bar = ProgressBar::with_draw_target(None, target(visible));
        bar.set_style(style("{prefix} {bytes} at {binary_bytes_per_sec} {spinner}"));
        bar.set_prefix(verb);
        Self { bar }
    }
}

impl Progress for Bar {
    fn start(&self, total_bytes: Option<u64>) {
        if let Some(total) = total_bytes {
            self.bar.set_length(total);
            self.bar.set_style(style(
                "{prefix} {wide_bar} {bytes}/{total_bytes} at {binary_bytes_per_sec}, {eta} left",
            ));
        }
        self.bar.enable_steady_tick(TICK);
    }

    fn advance(&self, bytes: u64) {
        self.bar.inc(bytes);
    }

    fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// Draws how many of `total` bytes have arrived somewhere else, as `arrived` finds out, while `task` runs.
pub fn watch<T>(
    visible: bool,
    verb: &'static str,
    total: u64,
    arrived: impl Fn() -> Option<u64> + Sync,
    task: impl FnOnce() -> T,
) -> T {
    if !visible {
        return task();
    }
    let bar = Bar::new(visible, verb);
    bar.start(Some(total));
    thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            while !bar.bar.is_finished() {
                // The bar is an ornament: when nobody answers, it stands still.
                if let Some(bytes) = arrived() {
                    bar.bar.set_position(bytes);
                }
                thread::park_timeout(TICK);
            }
        });
        let result = task();
        bar.finish();
        watcher.thread().unpark();
        result
    })
}

/// Shows that something goes on while `task` runs, and for how long.
pub fn spin<T>(visible: bool, text: String, task: impl FnOnce() -> T) -> T {
    let bar = ProgressBar::with_draw_target(None, target(visible));
    bar.set_style(style("{spinner} {msg}, {elapsed}"));
    bar.set_message(text);
    bar.enable_steady_tick(TICK);
    let result = task();
    bar.finish_and_clear();
    result
}

/// Where bars are drawn, if they are.
pub fn target(visible: bool) -> ProgressDrawTarget {
    if visible { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() }
}

/// What a bar looks like.
pub fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}
