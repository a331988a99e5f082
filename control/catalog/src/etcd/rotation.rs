//! Which endpoint is asked: one, until it fails; then the one whose last failure is longest ago.
//!
//! Callers share it, and many fail at the same moment when a member dies. So a failure moves on only from the endpoint
//! that has failed, whoever comes first. An endpoint that failed is tried again when the others have failed since.

/// The endpoints, by their numbers. Time is milliseconds of any clock that does not go back.
#[derive(Debug)]
pub(super) struct Rotation {
    current: usize,
    /// When each failed last.
    failed_ms: Vec<Option<u64>>,
}

impl Rotation {
    /// For `count` endpoints, beginning with `first`.
    pub(super) fn new(count: usize, first: usize) -> Self {
        Self { current: first % count.max(1), failed_ms: vec![None; count.max(1)] }
    }

    /// The endpoint to ask.
    pub(super) fn current(&self) -> usize {
        self.current
    }

    /// It answered: nothing that it did before counts.
    pub(super) fn answered(&mut self, endpoint: usize) {
        self.failed_ms[endpoint] = None;
    }

    /// It did not answer.
    pub(super) fn failed(&mut self, endpoint: usize, now_ms: u64) {
        self.failed_ms[endpoint] = Some(now_ms);
        if endpoint != self.current {
            return;
        }
        let count = self.failed_ms.len();
        let after = (1..=count).map(|step| (endpoint + step) % count);
        // Of those that failed equally long ago it is the next one in the circle; `None` comes before all times.
        self.current = after.min_by_key(|&endpoint| self.failed_ms[endpoint]).unwrap_or(endpoint);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_is_kept_until_it_fails() {
        let mut rotation = Rotation::new(3, 1);
        rotation.answered(1);
        assert_eq!(rotation.current(), 1);
        rotation.failed(1, 10);
        assert_eq!(rotation.current(), 2);
        rotation.failed(1, 11);
        assert_eq!(rotation.current(), 2, "a second caller that asked the same one does not move on");
        rotation.failed(2, 20);
        assert_eq!(rotation.current(), 0);
        rotation.failed(0, 30);
        assert_eq!(rotation.current(), 1, "the one whose failure is longest ago");
        rotation.answered(1);
        rotation.failed(1, 40);
        assert_eq!(rotation.current(), 2);
    }

    proptest! {
        #[test]
        fn every_endpoint_is_asked_when_all_fail(count in 1_usize..6, first in 0_usize..9, dead in 0_u64..1000) {
            let mut rotation = Rotation::new(count, first);
            let mut asked = vec![false; count];
            for step in 0..count as u64 {
                asked[rotation.current()] = true;
                rotation.failed(rotation.current(), dead + step);
            }
            prop_assert!(asked.into_iter().all(|asked| asked));
        }

        #[test]
        fn one_that_answers_is_found_and_kept(count in 1_usize..6, first in 0_usize..9, alive in 0_usize..6) {
            let (alive, mut rotation) = (alive % count, Rotation::new(count, first));
            for now_ms in 0..count as u64 {
                match rotation.current() {
                    current if current == alive => rotation.answered(current),
                    current => rotation.failed(current, now_ms),
                }
            }
            prop_assert_eq!(rotation.current(), alive);
        }
    }
}
