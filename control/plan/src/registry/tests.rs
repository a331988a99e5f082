use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::membership::Figures;

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

fn states(registry: &Registry) -> Vec<(u64, State)> {
    registry.snapshot().members.iter().map(|member| (member.node, member.state)).collect()
}

#[test]
fn nodes_come_drain_and_go() {
    let mut registry = Registry::new(8);
    registry.here(5, node(1, "a", 1)).unwrap();
    registry.here(6, node(2, "b", 1)).unwrap();
    registry.draining(7, 2, true);
    assert_eq!(states(&registry), [(1, State::Alive), (2, State::Draining)]);
    registry.gone(8, 1, 100);
    assert_eq!((states(&registry)[0], registry.snapshot().epoch), ((1, State::Dead), 8));
    registry.draining(9, 1, false);
    assert_eq!(states(&registry)[0], (1, State::Dead), "the mark of a node that is gone says nothing");
    registry.here(10, node(2, "b", 2)).unwrap();
    assert_eq!(states(&registry)[1], (2, State::Alive), "a later process is not draining");
    assert!(!registry.forget(100 + FORGOTTEN_AFTER_MS - 1));
    assert!(registry.forget(100 + FORGOTTEN_AFTER_MS));
    assert_eq!((states(&registry), registry.live_count()), (vec![(2, State::Alive)], 1));
}

#[test]
fn those_who_are_not_told_anew_are_dead() {
    let mut registry = Registry::new(8);
    registry.here(1, node(1, "a", 1)).unwrap();
    registry.here(2, node(2, "b", 1)).unwrap();
    registry.begin_anew(9, 0);
    registry.here(9, node(2, "b", 1)).unwrap();
    assert_eq!(states(&registry), [(1, State::Dead), (2, State::Alive)]);
    assert_eq!(registry.snapshot().epoch, 9);
}

#[test]
fn a_name_passes_on_and_the_dead_make_room() {
    let mut registry = Registry::new(2);
    registry.here(1, node(1, "a", 1)).unwrap();
    registry.gone(2, 1, 0);
    registry.here(3, node(2, "a", 1)).unwrap();
    assert_eq!(states(&registry), [(2, State::Alive)]);
    registry.gone(4, 2, 0);
    registry.here(5, node(3, "b", 1)).unwrap();
    registry.here(6, node(4, "c", 1)).unwrap();
    assert_eq!(states(&registry), [(3, State::Alive), (4, State::Alive)]);
    assert!(registry.here(7, node(5, "d e", 1)).is_err(), "what cannot be a name");
}

#[test]
fn a_node_knows_where_it_stands() {
    let mut registry = Registry::new(8);
    assert_eq!(registry.standing(1, 5, 3), Standing::Unknown);
    registry.here(3, node(1, "a", 5)).unwrap();
    assert_eq!(registry.standing(1, 5, 3), Standing::Registered { draining: false });
    assert_eq!(registry.standing(1, 6, 3), Standing::Absent, "what is there is an older process");
    assert_eq!(registry.standing(1, 6, 4), Standing::Unknown);
    assert_eq!(registry.standing(1, 4, 3), Standing::Superseded { by: 5 });
    registry.gone(4, 1, 0);
    assert_eq!(registry.standing(1, 5, 3), Standing::Absent);
}

#[test]
fn a_registration_is_renewed_and_made_anew_when_it_is_lost() {
    let (mut registration, here) = (Registration::new(), Standing::Registered { draining: false });
    assert_eq!(registration.step(0, Standing::Unknown), Step::Register { draining: false });
    registration.done(0, 10, Outcome::Unreachable);
    assert_eq!(registration.step(10, Standing::Absent), Step::Wait(RETRY_MS));
    registration.done(210, 300, Outcome::Registered { revision: 4 });
    assert_eq!(registration.step(300, Standing::Unknown), Step::Wait(210 + RENEWAL_MS - 300));
    assert_eq!(registration.step(210 + RENEWAL_MS, here), Step::Renew);
    registration.done(1_010, 1_020, Outcome::Renewed);
    assert_eq!(registration.step(1_500, Standing::Registered { draining: true }), Step::Wait(310));
    registration.done(1_810, 1_820, Outcome::Lost);
    assert_eq!(registration.step(1_820, Standing::Absent), Step::Register { draining: true });
    registration.done(1_820, 1_830, Outcome::Registered { revision: 9 });
    assert_eq!(
        registration.step(1_840, Standing::Absent),
        Step::Register { draining: true },
        "it was removed"
    );
    assert_eq!(registration.step(1_850, Standing::Superseded { by: 7 }), Step::Stop { by: 7 });
    assert_eq!(registration.step(9_999, here), Step::Stop { by: 7 }, "for good");
}

/// One event of what is registered.
#[derive(Debug, Clone)]
enum Event {
    Here(u64, u64),
    Gone(u64),
    Draining(u64, bool),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        (1_u64..6, 0_u64..4).prop_map(|(node, name)| Event::Here(node, name)),
        (1_u64..6).prop_map(Event::Gone),
        (1_u64..6, any::<bool>()).prop_map(|(node, draining)| Event::Draining(node, draining)),
    ]
}

proptest! {
    /// Whoever sees every change and whoever reads what there is in the end agree on who lives.
    #[test]
    fn all_nodes_come_to_the_same_members(events in prop::collection::vec(event(), 0..40)) {
        let (mut registry, mut truth) = (Registry::new(4), BTreeMap::<u64, (u64, bool)>::new());
        let member = |at: u64, name: u64| node(at, &format!("n{name}"), 1);
        let mut epoch = 0;
        for (revision, event) in (1..).zip(&events) {
            match *event {
                // etcd lets nobody register a name that another node has.
                Event::Here(at, name) if truth.iter().any(|(&other, known)| other != at && known.0 == name) => {}
                Event::Here(at, name) => {
                    truth.insert(at, (name, false));
                    registry.here(revision, member(at, name)).unwrap();
                }
                Event::Gone(at) => {
                    truth.remove(&at);
                    registry.gone(revision, at, revision);
                }
                Event::Draining(at, draining) => {
                    if let Some(known) = truth.get_mut(&at) {
                        known.1 = draining;
                        registry.draining(revision, at, draining);
                    }
                }
            }
            let snapshot = registry.snapshot();
            prop_assert!(snapshot.epoch >= epoch);
            epoch = snapshot.epoch;
            let names: BTreeSet<&str> = snapshot.members.iter().map(|member| &*member.name).collect();
            prop_assert_eq!(names.len(), snapshot.members.len());
            prop_assert!(snapshot.members.len() <= 4.max(registry.live_count()));
        }
        let mut late = Registry::new(4);
        late.begin_anew(99, 0);
        for (&at, &(name, draining)) in &truth {
            late.here(99, member(at, name)).unwrap();
            late.draining(99, at, draining);
        }
        let live = |registry: &Registry| {
            let members = registry.snapshot().members.into_iter();
            members.filter(|member| member.state != State::Dead).collect::<Vec<_>>()
        };
        prop_assert_eq!(live(&registry), live(&late));
    }

    /// As long as somebody answers within a second, the lease never runs out; and whatever happens, a node that was lost
    /// registers again as soon as somebody answers.
    #[test]
    fn a_node_stays_registered(answers in prop::collection::vec((0_u64..1000, 0_u8..5), 1..60)) {
        let mut registration = Registration::new();
        let (mut now_ms, mut lease_until_ms) = (0, None::<u64>);
        for (revision, (takes_ms, fate)) in (1..).zip(answers) {
            let step = registration.step(now_ms, Standing::Unknown);
            let begun_ms = now_ms;
            let outcome = match step {
                Step::Stop { .. } => unreachable!("nobody supersedes it"),
                Step::Wait(wait_ms) => {
                    prop_assert!(wait_ms <= RENEWAL_MS);
                    now_ms += wait_ms;
                    continue;
                }
                _ if fate == 0 => Outcome::Unreachable,
                Step::Register { .. } => Outcome::Registered { revision },
                Step::Renew if lease_until_ms.is_some_and(|until_ms| begun_ms < until_ms) => Outcome::Renewed,
                Step::Renew => Outcome::Lost,
            };
            now_ms += takes_ms;
            match outcome {
                Outcome::Registered { .. } | Outcome::Renewed => lease_until_ms = Some(begun_ms + 3_000),
                Outcome::Lost | Outcome::Unreachable => {}
            }
            registration.done(begun_ms, now_ms, outcome);
            if outcome == Outcome::Lost {
                prop_assert_eq!(registration.step(now_ms, Standing::Absent), Step::Register { draining: false });
            }
            if matches!(outcome, Outcome::Registered { .. } | Outcome::Renewed) {
                let next_ms = begun_ms.max(now_ms) + RENEWAL_MS;
                prop_assert!(lease_until_ms.is_some_and(|until_ms| next_ms < until_ms));
            }
        }
    }
}

#[test]
fn silence_for_as_long_as_makes_a_member_dead_is_told_once_and_so_is_its_end() {
    let mut reach = Reach::new(100);
    assert_eq!((reach.look(99 + DEAD_AFTER_MS), reach.is_reached()), (None, true));
    assert_eq!((reach.look(100 + DEAD_AFTER_MS), reach.is_reached()), (Some(false), false));
    assert_eq!(reach.look(200 + DEAD_AFTER_MS), None);
    reach.hear(200 + DEAD_AFTER_MS);
    reach.hear(50);
    assert_eq!((reach.look(201 + DEAD_AFTER_MS), reach.is_reached()), (Some(true), true));
}
