use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

fn node(node: u64, name: &str, incarnation: u64) -> Member {
    Member {
        node,
        name: name.into(),
        address: format!("10.0.0.{node}:9015"),
        rack: String::new(),
        shards: 1,
        incarnation,
        state: State::Alive,
        head: false,
        figures: Figures::default(),
    }
}

fn state(membership: &Membership, node: u64) -> Option<State> {
    membership.member(node).map(|member| member.state)
}

#[test]
fn silence_kills_and_a_heartbeat_revives() {
    let mut members = Membership::new(10, 8);
    members.join(node(1, "a", 5), 0).unwrap();
    assert_eq!(members.tick(DEAD_AFTER_MS - 1), []);
    assert_eq!(members.tick(DEAD_AFTER_MS), [Change::Died { node: 1, name: "a".into() }]);
    assert_eq!((state(&members, 1), members.live_nodes().count()), (Some(State::Dead), 0));
    let epoch = members.epoch();
    members.heartbeat(1, 5, Figures::default(), DEAD_AFTER_MS + 1).unwrap();
    assert_eq!(state(&members, 1), Some(State::Alive));
    assert!(members.epoch() > epoch);
}

#[test]
fn a_head_that_stood_still_does_not_take_its_members_for_dead() {
    let mut members = Membership::new(0, 8);
    members.join(node(1, "a", 5), 0).unwrap();
    members.join(node(2, "b", 5), 0).unwrap();
    assert_eq!(members.tick(250), []);
    let thawed_ms = 250 + 10 * DEAD_AFTER_MS;
    assert_eq!(members.tick(thawed_ms), [], "what they sent meanwhile is still to be read");
    members.heartbeat(1, 5, Figures::default(), thawed_ms + 1).unwrap();
    let ticks = (0..).map(|count| thawed_ms + count * 250).take_while(|now| *now < thawed_ms + DEAD_AFTER_MS);
    let died: Vec<Change> = ticks.flat_map(|now_ms| members.tick(now_ms)).collect();
    assert_eq!(died, [Change::Died { node: 2, name: "b".into() }], "who is silent from then on is dead");
}

#[test]
fn an_hour_of_silence_is_forgotten() {
    let mut members = Membership::new(0, 8);
    members.join(node(1, "a", 5), 0).unwrap();
    let (died, forgotten) = (members.tick(DEAD_AFTER_MS), members.tick(FORGOTTEN_AFTER_MS));
    assert_eq!((died.len(), forgotten), (1, vec![Change::Forgotten { node: 1, name: "a".into() }]));
    let late = members.heartbeat(1, 5, Figures::default(), FORGOTTEN_AFTER_MS);
    assert_eq!(late, Err(HeartbeatError::Unknown { node: 1 }));
}

#[test]
fn a_live_name_is_kept_and_a_dead_one_passes_on() {
    let mut members = Membership::new(0, 8);
    members.join(node(1, "a", 5), 0).unwrap();
    assert!(matches!(members.join(node(2, "a", 9), 1), Err(JoinError::NameTaken { .. })));
    members.tick(DEAD_AFTER_MS);
    members.join(node(2, "a", 9), DEAD_AFTER_MS).unwrap();
    assert_eq!((state(&members, 1), state(&members, 2)), (None, Some(State::Alive)));
}

#[test]
fn a_newer_incarnation_replaces_and_an_older_is_refused() {
    let mut members = Membership::new(0, 8);
    members.join(node(1, "a", 5), 0).unwrap();
    members.drain("a").unwrap();
    members.join(node(1, "a", 5), 1).unwrap();
    assert_eq!(state(&members, 1), Some(State::Draining));
    members.join(node(1, "b", 6), 2).unwrap();
    assert_eq!(state(&members, 1), Some(State::Alive));
    assert!(matches!(members.join(node(1, "a", 5), 3), Err(JoinError::Superseded { .. })));
    let older = members.heartbeat(1, 5, Figures::default(), 3);
    assert!(matches!(older, Err(HeartbeatError::Superseded { .. })));
    let newer = members.heartbeat(1, 7, Figures::default(), 3);
    assert!(matches!(newer, Err(HeartbeatError::Unknown { .. })));
}

#[test]
fn a_full_cluster_takes_another_only_for_a_dead_one() {
    let mut members = Membership::new(0, 2);
    members.join(node(1, "a", 1), 0).unwrap();
    members.join(node(2, "b", 1), 1_000).unwrap();
    assert_eq!(members.join(node(3, "c", 1), 1_000), Err(JoinError::Full { nodes_max: 2 }));
    members.tick(DEAD_AFTER_MS);
    members.join(node(3, "c", 1), DEAD_AFTER_MS).unwrap();
    assert_eq!(members.members().map(|member| member.node).collect::<Vec<_>>(), [2, 3]);
}

#[test]
fn draining_outlives_death_and_unknown_names_are_told() {
    let mut members = Membership::new(0, 2);
    members.join(node(1, "a", 1), 0).unwrap();
    assert_eq!((members.drain("a"), members.drain("a")), (Ok(1), Ok(1)));
    members.tick(DEAD_AFTER_MS);
    members.heartbeat(1, 1, Figures::default(), DEAD_AFTER_MS).unwrap();
    assert_eq!(state(&members, 1), Some(State::Draining));
    assert_eq!(members.drain("z"), Err(UnknownName { name: "z".into() }));
}

#[test]
fn figures_do_not_change_the_epoch() {
    let mut members = Membership::new(0, 2);
    members.join(node(1, "a", 1), 0).unwrap();
    let epoch = members.epoch();
    let figures = Figures { memory_used: 7, ..Figures::default() };
    members.heartbeat(1, 1, figures, 1).unwrap();
    members.join(Member { figures, ..node(1, "a", 1) }, 2).unwrap();
    assert_eq!((members.epoch(), members.member(1).unwrap().figures), (epoch, figures));
}

#[test]
fn who_has_missed_more_than_is_remembered_is_told_so() {
    let mut members = Membership::new(7, 1);
    members.join(node(1, "a", 1), 0).unwrap();
    assert_eq!(members.changes_since(6), None, "an earlier head's");
    assert_eq!(members.changes_since(members.epoch() + 1), None, "a later head's");
    let told = members.changes_since(7).unwrap();
    assert_eq!((told.epoch, told.members.len(), told.gone.len()), (members.epoch(), 1, 0));
    let (early, mut now_ms) = (members.epoch(), 0);
    for number in 2..=GONE_MAX as u64 + 2 {
        for _ in 0..DEAD_AFTER_MS / 250 {
            now_ms += 250;
            members.tick(now_ms);
        }
        members.join(node(number, "a", 1), now_ms).unwrap();
    }
    assert_eq!(members.changes_since(early), None);
    let told = members.changes_since(members.epoch() - 2).unwrap();
    assert_eq!((told.members.len(), told.gone), (1, vec![GONE_MAX as u64 + 1]));
}

#[test]
fn what_cannot_be_a_node_is_refused() {
    let good = node(1, "a", 1);
    for bad in [
        node(0, "a", 1),
        node(1, "", 1),
        node(1, "a b", 1),
        node(1, "a:b", 1),
        node(1, &"n".repeat(65), 1),
        Member { address: "x".repeat(257), ..good.clone() },
        Member { address: String::new(), ..good.clone() },
        Member { rack: "r\n".into(), ..good.clone() },
        Member { shards: 0, ..good },
    ] {
        assert!(matches!(Membership::new(0, 2).join(bad, 0), Err(JoinError::Unusable { .. })));
    }
}

#[derive(Debug, Clone)]
enum Step {
    Join(u64, u8, u64),
    Heartbeat(u64, u64),
    Drain(u8),
    /// The head looks again and again.
    Wait(u64),
    /// The head stands still.
    Freeze(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (1..6_u64, 0..4_u8, 1..4_u64).prop_map(|(node, name, incarnation)| Step::Join(
            node,
            name,
            incarnation
        )),
        (1..6_u64, 1..4_u64).prop_map(|(node, incarnation)| Step::Heartbeat(node, incarnation)),
        (0..4_u8).prop_map(Step::Drain),
        (0..4_000_u64).prop_map(Step::Wait),
        prop_oneof![0..4_000_u64, Just(FORGOTTEN_AFTER_MS)].prop_map(Step::Freeze),
    ]
}

/// What others must know of the members: all but their figures.
fn visible(members: &Membership) -> Vec<Member> {
    members.members().map(|member| Member { figures: Figures::default(), ..member.clone() }).collect()
}

proptest! {
    #[test]
    fn any_history_keeps_the_promises(steps in prop::collection::vec((step(), any::<bool>()), 1..60)) {
        let mut members = Membership::new(1, 4);
        let (mut told, mut told_epoch) = (BTreeMap::new(), 1);
        let mut now_ms = 0;
        for (step, asks) in steps {
            let (epoch, before) = (members.epoch(), visible(&members));
            match step {
                Step::Join(number, name, incarnation) => {
                    let _ = members.join(node(number, &format!("n{name}"), incarnation), now_ms);
                }
                Step::Heartbeat(number, incarnation) => {
                    let known = members.member(number).is_some_and(|known| known.incarnation == incarnation);
                    let heard = members.heartbeat(number, incarnation, Figures::default(), now_ms);
                    prop_assert_eq!(heard.is_ok(), known);
                    prop_assert!(heard.is_err() || state(&members, number) != Some(State::Dead));
                }
                Step::Drain(name) => {
                    let _ = members.drain(&format!("n{name}"));
                }
                Step::Wait(ms) => {
                    let end_ms = now_ms + ms;
                    while now_ms < end_ms {
                        now_ms = (now_ms + 250).min(end_ms);
                        members.tick(now_ms);
                    }
                }
                Step::Freeze(ms) => {
                    now_ms += ms;
                    let live: Vec<_> = members.live_nodes().collect();
                    members.tick(now_ms);
                    prop_assert!(ms < 1_000 || members.live_nodes().eq(live));
                }
            }
            members.tick(now_ms);
            prop_assert!(members.epoch() >= epoch);
            prop_assert_eq!(members.epoch() == epoch, visible(&members) == before);
            let names: BTreeSet<_> = members.members().map(|member| &member.name).collect();
            prop_assert_eq!(names.len(), members.members().count());
            prop_assert!(names.len() <= 4);
            if asks {
                let Changes { epoch, members: came, gone } = members.changes_since(told_epoch).unwrap();
                told_epoch = epoch;
                told.extend(came.into_iter().map(|member| (member.node, member)));
                gone.iter().for_each(|gone| drop(told.remove(gone)));
                let seen = told.values().map(|member| Member { figures: Figures::default(), ..member.clone() });
                prop_assert_eq!(seen.collect::<Vec<_>>(), visible(&members));
            }
        }
    }
}
