//! What a thread looks at while it waits for a node.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

/// What is done every now and then; it says how long to wait before the next time.
type Look = Rc<dyn Fn() -> Duration>;

thread_local! {
    static LOOK: RefCell<Option<(Duration, Look)>> = const { RefCell::new(None) };
}

/// Does `work` on this thread, which calls `look` every now and then while it waits for a node there: when a signal came, and
/// after `first` at most, and from then on after as long as it says. To end the wait, `look` may cancel the client.
///
/// What `work` leaves to other threads does not look.
pub fn looking<T>(first: Duration, look: Rc<dyn Fn() -> Duration>, work: impl FnOnce() -> T) -> T {
    let _before = Before(LOOK.replace(Some((first, look))));
    work()
}

/// What the thread looked at before, until this is dropped.
struct Before(Option<(Duration, Look)>);

impl Drop for Before {
    fn drop(&mut self) {
        LOOK.replace(self.0.take());
    }
}

/// How long this thread may wait before it looks; for ever when absent.
pub(crate) fn look_every() -> Option<Duration> {
    LOOK.with_borrow(|look| look.as_ref().map(|(every, _)| *every))
}

/// Looks.
pub(crate) fn look() {
    let Some(look) = LOOK.with_borrow(|look| look.as_ref().map(|(_, look)| look.clone())) else { return };
    // It may wait for a node itself, and look at something else meanwhile.
    let next = look();
    LOOK.set(Some((next, look)));
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn the_innermost_is_looked_at() {
        let counts = Rc::new([Cell::new(0), Cell::new(0)]);
        let every = Duration::from_secs;
        let looks = |at: usize| -> Rc<dyn Fn() -> Duration> {
            let counts = counts.clone();
            Rc::new(move || {
                counts[at].set(counts[at].get() + 1);
                every(9)
            })
        };
        look();
        looking(every(1), looks(0), || {
            looking(every(2), looks(1), || {
                assert_eq!(look_every(), Some(every(2)));
                look();
                assert_eq!(look_every(), Some(every(9)));
            });
            assert_eq!(look_every(), Some(every(1)));
            look();
            look();
        });
        assert_eq!(look_every(), None);
        assert_eq!(counts.each_ref().map(Cell::get), [2, 1]);
    }
}
