use proptest::prelude::*;

use super::*;

fn call(begin: u64, end: u64, act: Act, answer: Answer) -> Call {
    Call { key: 0, act, begin, ending: Some(Ending { at: end, answer, revision: None }) }
}

fn open(begin: u64, act: Act) -> Call {
    Call { key: 0, act, begin, ending: None }
}

fn found(version: u64, value: u64) -> Answer {
    Answer::Found(Some((version, value)))
}

#[test]
fn calls_one_after_another_are_taken_in_their_order() {
    let put = call(1, 2, Act::Put(7), Answer::Put(1));
    check(&[put, call(3, 4, Act::Get, found(1, 7))]).unwrap();
    assert!(check(&[put, call(3, 4, Act::Get, Answer::Found(None))]).is_err());
    assert!(check(&[put, call(3, 4, Act::Put(8), Answer::Put(1))]).is_err());
    check(&[put, call(3, 4, Act::Delete, Answer::Deleted(1)), call(5, 6, Act::Put(8), Answer::Put(2))])
        .unwrap();
    check(&[]).unwrap();
}

#[test]
fn calls_at_the_same_time_are_taken_in_any_order() {
    let put = call(1, 6, Act::Put(7), Answer::Put(1));
    check(&[put, call(2, 3, Act::Get, Answer::Found(None)), call(4, 5, Act::Get, found(1, 7))]).unwrap();
    let back = check(&[put, call(2, 3, Act::Get, found(1, 7)), call(4, 5, Act::Get, Answer::Found(None))]);
    let Err(Violation::NoOrder { order, stuck }) = back else { panic!("what was seen cannot be unseen") };
    assert_eq!((order.len(), stuck.begin), (2, 4));
}

#[test]
fn one_of_two_conditional_puts_fails() {
    let put = |begin, value, answer| call(begin, begin + 10, Act::PutIf { version: 0, value }, answer);
    check(&[put(1, 7, Answer::Put(1)), put(2, 8, Answer::Conflict(1))]).unwrap();
    assert!(check(&[put(1, 7, Answer::Put(1)), put(2, 8, Answer::Put(2))]).is_err());
    assert!(check(&[put(1, 7, Answer::Conflict(1)), put(2, 8, Answer::Conflict(1))]).is_err());
}

#[test]
fn what_nobody_knows_may_happen_late_or_never() {
    let lost = open(1, Act::Put(7));
    let absent = |begin| call(begin, begin + 1, Act::Get, Answer::Found(None));
    let there = |begin| call(begin, begin + 1, Act::Get, found(1, 7));
    check(&[lost, absent(2), absent(4)]).unwrap();
    check(&[lost, absent(2), there(4), there(6)]).unwrap();
    assert!(check(&[lost, there(2), absent(4)]).is_err());
    assert!(check(&[open(4, Act::Put(7)), there(2)]).is_err());
    check(&[lost, open(3, Act::Get)]).unwrap();
}

#[test]
fn revisions_do_not_go_back() {
    let told = |key, begin, revision, answer| Call {
        key,
        act: Act::Put(1),
        begin,
        ending: Some(Ending { at: begin + 1, answer, revision: Some(revision) }),
    };
    let put = |key, begin, revision| told(key, begin, revision, Answer::Put(1));
    let history = |calls: &[Call]| History { calls: calls.to_vec() }.check();
    history(&[put(0, 1, 5), put(1, 3, 6)]).unwrap();
    assert!(matches!(history(&[put(0, 1, 6), put(1, 3, 5)]), Err(Violation::Revisions { .. })));
    assert!(matches!(history(&[put(0, 1, 6), put(1, 3, 6)]), Err(Violation::Revisions { .. })));
}

/// A few calls with the answers of some order of them, moved about a little in time, and perhaps one answer changed.
fn calls() -> impl Strategy<Value = Vec<Call>> {
    let act = prop_oneof![
        Just(Act::Get),
        Just(Act::Delete),
        (0..9u64).prop_map(Act::Put),
        (0..3u64, 0..9u64).prop_map(|(version, value)| Act::PutIf { version, value }),
    ];
    let one = (act, 0..30u64, 0..30u64, prop::bool::weighted(0.8));
    let lie = prop::option::weighted(0.4, (0..6usize, 0..3u64));
    (prop::collection::vec(one, 1..7), lie).prop_map(|(acts, lie)| {
        let mut key = Key::default();
        let mut calls = Vec::new();
        for (at, (act, before, after, is_known)) in (0..).zip(acts) {
            let (next, answer) = key.after(act);
            key = next;
            // Moments are all different: each call has its own remainder.
            let at = 40 + at * 10;
            let moment = |time: u64, side| time * 16 + (at / 10 - 4) * 2 + side;
            let ending = Ending { at: moment(at + after, 1), answer, revision: None };
            calls.push(Call {
                key: 0,
                act,
                begin: moment(at - before, 0),
                ending: is_known.then_some(ending),
            });
        }
        if let Some((which, by)) = lie
            && let Some(ending) = calls.get_mut(which).and_then(|call| call.ending.as_mut())
        {
            ending.answer = match ending.answer {
                Answer::Put(version) => Answer::Put(version + by),
                Answer::Deleted(version) => Answer::Deleted(version + by),
                Answer::Conflict(version) => Answer::Conflict(version + by),
                Answer::Found(_) => Answer::Found((by > 0).then_some((by, by))),
            };
        }
        calls
    })
}

/// Tries every order of every choice of the calls that may be left out.
fn some_order_fits(key: Key, left: &[Call]) -> bool {
    if left.iter().all(|call| call.ending.is_none()) {
        return true;
    }
    let first_end = left.iter().filter_map(|call| call.ending).map(|ending| ending.at).min();
    (0..left.len()).any(|next| {
        let call = left[next];
        let (after, answer) = key.after(call.act);
        let may_come = first_end.is_none_or(|end| call.begin < end);
        let fits = call.ending.is_none_or(|ending| ending.answer == answer);
        let others: Vec<Call> =
            left.iter().enumerate().filter(|(at, _)| *at != next).map(|(_, call)| *call).collect();
        may_come && fits && some_order_fits(after, &others)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]
    #[test]
    fn the_search_finds_what_trying_everything_finds(calls in calls()) {
        prop_assert_eq!(check(&calls).is_ok(), some_order_fits(Key::default(), &calls));
    }
}
