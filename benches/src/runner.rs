//! Rounds.

use std::io::Write;

use crate::conditions::Conditions;
use crate::cost::Cost;
use crate::failure::Failure;
use crate::interrupt;
use crate::machine;
use crate::report::{Outcome, Track};
use crate::scenario::{Contender, Contenders, Scenario};

/// Runs one round that does not count and then `rounds` that do. In each, Shoal runs once and then each peer once. A
/// failure of Shoal ends the scenario and is part of its outcome; a peer that fails is left out of it, and so is a
/// scenario where the system denies or lacks what it takes. Only a signal is an error.
pub fn run(scenario: &dyn Scenario, conditions: &Conditions, rounds: u32) -> Result<Outcome, Failure> {
    let mut outcome = Outcome::new(scenario, conditions, machine::load());
    match play(scenario, conditions, rounds, &mut outcome) {
        Ok(()) => {}
        Err(_) if interrupt::signal().is_some() => return Err(Failure::Interrupted),
        Err(failure @ (Failure::Network(_) | Failure::Missing { .. })) => {
            outcome.not_run = Some(failure.to_string())
        }
        Err(failure) => outcome.failed = Some(failure.to_string()),
    }
    Ok(outcome)
}

fn play(
    scenario: &dyn Scenario,
    conditions: &Conditions,
    rounds: u32,
    outcome: &mut Outcome,
) -> Result<(), Failure> {
    interrupt::check()?;
    check_memory(scenario.memory_bytes(conditions))?;
    say(format_args!("{}: starting", outcome.name));
    let Contenders { mut ours, peers, missing, ideal } = scenario.prepare(conditions)?;
    outcome.ideal = ideal;
    for (name, failure) in missing {
        outcome.leave_out(name, &failure);
    }
    let peers = if conditions.alone { Vec::new() } else { peers };
    outcome.ours = Some(Track::new(ours.name()));
    let mut peers: Vec<_> = peers.into_iter().map(|peer| (Track::new(peer.name()), peer)).collect();
    // Who comes in turn warms up in each of its turns.
    for round in u32::from(conditions.in_turn)..=rounds {
        let counts = round > 0;
        let cost = turn(&mut *ours, round)?;
        let mut line = rate(&ours.name(), outcome, cost);
        if let Some(track) = outcome.ours.as_mut().filter(|_| counts) {
            track.costs.push(cost);
        }
        let mut failed = Vec::new();
        for (at, (track, peer)) in peers.iter_mut().enumerate() {
            match turn(&mut **peer, round) {
                Ok(cost) => {
                    line += &rate(&track.name, outcome, cost);
                    track.costs.extend(counts.then_some(cost));
                }
                Err(failure) => {
                    interrupt::check()?;
                    failed.push((at, failure));
                }
            }
        }
        for (at, failure) in failed.into_iter().rev() {
            let (track, _) = peers.remove(at);
            outcome.leave_out(track.name, &failure);
        }
        let round = if counts { format!("round {round} of {rounds}") } else { "warm-up".into() };
        say(format_args!("{}: {round}{line}", outcome.name));
    }
    let remark = |name: &str, contender: &dyn Contender| Some(format!("{name}: {}", contender.remark()?));
    outcome.remarks.extend(remark(&ours.name(), &*ours));
    outcome.remarks.extend(peers.iter().filter_map(|(track, peer)| remark(&track.name, &**peer)));
    outcome.peers = peers.into_iter().map(|(track, _)| track).collect();
    Ok(())
}

/// One run, with what belongs before and after it.
fn turn(contender: &mut dyn Contender, round: u32) -> Result<Cost, Failure> {
    interrupt::check()?;
    contender.ready(round)?;
    interrupt::check()?;
    let cost = contender.run()?;
    interrupt::check()?;
    contender.verify()?;
    Ok(cost)
}

fn rate(name: &str, outcome: &Outcome, cost: Cost) -> String {
    let amount = outcome.amount as f64 / outcome.unit.scale();
    format!("  {name} {:.2} {}/s", amount / cost.wall.as_secs_f64(), outcome.unit.name())
}

fn check_memory(needed_bytes: u64) -> Result<(), Failure> {
    match machine::available_memory_bytes() {
        Some(available_bytes) if available_bytes < needed_bytes => {
            Err(Failure::Memory { needed_bytes, available_bytes })
        }
        _ => Ok(()),
    }
}

/// Tells people how far it is; programs read standard output.
fn say(line: std::fmt::Arguments<'_>) {
    // Nobody has to listen.
    let _ = writeln!(std::io::stderr(), "{line}");
}
