//! How often a member says that it lives, and how long it waits for the head to hear it.

use crate::membership::DEAD_AFTER_MS;

/// Time between two heartbeats, in milliseconds.
const PAUSE_MS: u64 = 500;
/// The same in a cluster of many, where the head hears thousands of them in a second otherwise.
const PAUSE_AMONG_MANY_MS: u64 = 1_000;
/// More members are many.
const FEW: usize = 256;
/// Time that is left of [`DEAD_AFTER_MS`] for one more heartbeat when nobody has answered the last one.
const SECOND_TRY_MS: u64 = 500;

/// How long a member of a cluster of so many waits after the head has heard it, in milliseconds.
pub fn pause_ms(members: usize) -> u64 {
    if members > FEW { PAUSE_AMONG_MANY_MS } else { PAUSE_MS }
}

/// How long the head may take to answer before the member tries again, in milliseconds: the member is not dead by then.
pub fn answer_within_ms(members: usize) -> u64 {
    DEAD_AFTER_MS - SECOND_TRY_MS - pause_ms(members)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::membership::{Figures, Member, Membership, State};

    #[test]
    fn many_members_beat_less_often() {
        assert_eq!([0, 1, FEW].map(pause_ms), [500; 3]);
        assert_eq!([FEW + 1, 16_384, usize::MAX].map(pause_ms), [1_000; 3]);
    }

    /// What a member waits after a heartbeat that nobody answered.
    const RETRY_MS: u64 = 200;

    fn member(node: u64) -> Member {
        Member {
            node,
            name: format!("n{node}"),
            address: "10.0.0.1:9015".into(),
            rack: String::new(),
            shards: 1,
            incarnation: 1,
            state: State::Alive,
            head: false,
            figures: Figures::default(),
        }
    }

    proptest! {
        /// A heartbeat that gets lost on its way, or whose answer does, costs no member its life as long as the next one
        /// arrives.
        #[test]
        fn one_lost_heartbeat_kills_nobody(
            members in prop_oneof![1..9_usize, FEW - 1..FEW + 2],
            way_ms in 0..250_u64,
            losses in prop::collection::vec(any::<bool>(), 1..20),
        ) {
            let mut membership = Membership::new(0, members);
            (1..=members as u64).for_each(|node| membership.join(member(node), 0).unwrap());
            let (mut now_ms, mut was_lost) = (0, false);
            for is_lost in losses {
                let is_lost = is_lost && !was_lost;
                let begin_ms = now_ms;
                now_ms += if was_lost { RETRY_MS } else { pause_ms(members) };
                now_ms += if is_lost { answer_within_ms(members) } else { way_ms };
                for tick_ms in (begin_ms..=now_ms).step_by(250) {
                    prop_assert_eq!(membership.tick(tick_ms), []);
                }
                if !is_lost {
                    for node in 1..=members as u64 {
                        membership.heartbeat(node, 1, Figures::default(), now_ms).unwrap();
                    }
                }
                was_lost = is_lost;
            }
        }
    }
}
