//! All strategies beside each other in the same worlds, as they are published.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;

use sim::statistics::estimate;
use sim::{Scenario, Strategy, simulate};

use crate::order::{parse, unknown, value};
use crate::results::{Results, Run, Times};
use crate::worlds::World;

/// Strategies in the order of their rows.
const ROWS: [Strategy; 8] = [
    Strategy::Swarm,
    Strategy::DoubleTree,
    Strategy::Chain,
    Strategy::ScatterAllgather,
    Strategy::Tree,
    Strategy::Binomial,
    Strategy::Doubling,
    Strategy::Star,
];

/// What a row is called, and what stands in it.
type Row = (&'static str, fn(&Times) -> f64);

/// The rows of each strategy.
const TIMES: [Row; 2] = [("median", |times| times.median), ("last", |times| times.last)];

/// What is wanted.
pub struct Order {
    results: PathBuf,
    sizes: Vec<(usize, u32)>,
    worlds: Vec<World>,
    seeds: u64,
    jobs: usize,
}

impl Order {
    /// Reads the flags.
    pub fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut results = None;
        let mut order = Self {
            results: PathBuf::new(),
            sizes: vec![(64, 512), (256, 512), (1024, 512)],
            worlds: World::all().to_vec(),
            seeds: 20,
            jobs: 1,
        };
        while let Some(flag) = arguments.next() {
            let list = |text: String| text.split(',').map(str::to_owned).collect::<Vec<_>>();
            match flag.as_str() {
                "--results" => results = Some(value(&flag, &mut arguments)?),
                "--sizes" => {
                    let sizes = list(value(&flag, &mut arguments)?);
                    order.sizes = sizes.iter().map(|text| size(text)).collect::<Result<_, _>>()?;
                }
                "--worlds" => {
                    let worlds = list(value(&flag, &mut arguments)?);
                    order.worlds = worlds.iter().map(|name| World::named(name)).collect::<Result<_, _>>()?;
                }
                "--seeds" => order.seeds = value(&flag, &mut arguments)?,
                "--jobs" => order.jobs = value(&flag, &mut arguments)?,
                _ => return Err(crate::USAGE.to_owned()),
            }
        }
        order.results = results.ok_or_else(|| format!("--results is needed\n\n{}", crate::USAGE))?;
        Ok(order)
    }

    /// Simulates what is missing, and prints everything.
    pub fn print(&self) -> Result<(), String> {
        let mut results = Results::open(&self.results)?;
        let missing: Vec<Run> = self.runs().filter(|run| !results.known.contains_key(run)).collect();
        let next = AtomicUsize::new(0);
        let (sender, ended) = mpsc::channel();
        thread::scope(|scope| {
            for _ in 0..self.jobs.clamp(1, missing.len().max(1)) {
                let (sender, missing, next) = (sender.clone(), &missing, &next);
                scope.spawn(move || {
                    while let Some(run) = missing.get(next.fetch_add(1, Ordering::Relaxed)) {
                        if sender.send((run.clone(), simulate_run(run))).is_err() {
                            return;
                        }
                    }
                });
            }
            drop(sender);
            for (done, (run, times)) in ended.into_iter().enumerate() {
                eprintln!("{} of {}: {run:?}", done + 1, missing.len());
                results.add(run, times?)?;
            }
            Ok::<(), String>(())
        })?;
        print!("{}", markdown(&results.known));
        Ok(())
    }

    /// Every run, those of the small sizes first, and of one size seed by seed, so that what there is after an
    /// interruption goes together.
    fn runs(&self) -> impl Iterator<Item = Run> + '_ {
        let of_size = move |&(receivers, pieces): &(usize, u32)| {
            let of_seed = move |seed| {
                let of_world = move |world: &World| {
                    // What is fixed in advance comes out the same where nothing is left to chance.
                    let is_needed = {
                        let certain = world.is_certain() && seed > 1;
                        move |strategy: &Strategy| *strategy == Strategy::Swarm || !certain
                    };
                    let world = world.name.to_owned();
                    let strategies = ROWS.into_iter().filter(is_needed);
                    strategies.map(move |strategy| Run {
                        receivers,
                        pieces,
                        world: world.clone(),
                        strategy,
                        seed,
                    })
                };
                self.worlds.iter().flat_map(of_world)
            };
            (1..=self.seeds).flat_map(of_seed)
        };
        self.sizes.iter().flat_map(of_size)
    }
}

/// Reads a size, such as 1024x512.
fn size(text: &str) -> Result<(usize, u32), String> {
    let (receivers, pieces) = text.split_once('x').ok_or_else(|| unknown("--sizes", text))?;
    Ok((parse("--sizes", receivers)?, parse("--sizes", pieces)?))
}

fn simulate_run(run: &Run) -> Result<Times, String> {
    let plain = Scenario::of_pieces(run.seed, run.receivers, run.pieces);
    let faults = World::named(&run.world)?.faults;
    let outcome = simulate(&Scenario { strategy: run.strategy, faults, ..plain });
    outcome.map(|outcome| Times::of(&outcome)).map_err(|failure| format!("{run:?}: {failure}"))
}

/// A table for each size: two rows for each strategy, a column for each world.
fn markdown(known: &BTreeMap<Run, Times>) -> String {
    let mut text = String::new();
    let sizes: BTreeSet<(usize, u32)> = known.keys().map(|run| (run.receivers, run.pieces)).collect();
    for (receivers, pieces) in sizes {
        let of_size = || known.iter().filter(|(run, _)| (run.receivers, run.pieces) == (receivers, pieces));
        let seeds = |world: &World| {
            let is_swarm = |run: &Run| run.world == world.name && run.strategy == Strategy::Swarm;
            of_size().filter(|(run, _)| is_swarm(run)).count()
        };
        let worlds: Vec<World> = World::all().into_iter().filter(|world| seeds(world) > 0).collect();
        let bound = of_size().next().map_or(1.0, |(_, times)| times.bound);
        text += &format!("**{receivers} receivers, {pieces} pieces of 4 MiB; the bound is {bound:.3}**\n\n");
        let titles = worlds.iter().map(|world| format!("{}, {} seeds", world.title, seeds(world)));
        text += &format!("| simulated | | {} |\n", titles.collect::<Vec<_>>().join(" | "));
        text += &format!("|---|---|{}\n", "---|".repeat(worlds.len()));
        for strategy in ROWS {
            for (what, value) in TIMES {
                let cell = |world: &World| {
                    let runs =
                        of_size().filter(|(run, _)| run.strategy == strategy && run.world == world.name);
                    let values: Vec<f64> = runs.map(|(_, times)| value(times)).collect();
                    match values.is_empty() {
                        true => "-".to_owned(),
                        false => estimate(&values).to_string(),
                    }
                };
                let name = if what == "median" { strategy.name() } else { "" };
                let cells: Vec<String> = worlds.iter().map(cell).collect();
                text += &format!("| {name} | {what} | {} |\n", cells.join(" | "));
            }
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_interrupted_goes_on_where_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let results = folder.path().join("results");
        let order = |seeds| Order {
            results: results.clone(),
            sizes: vec![(8, 4)],
            worlds: World::all()[..2].to_vec(),
            seeds,
            jobs: 2,
        };
        order(1).print().unwrap();
        let first = std::fs::read_to_string(&results).unwrap();
        assert_eq!(first.lines().count(), 2 * ROWS.len());
        order(2).print().unwrap();
        let second = std::fs::read_to_string(&results).unwrap();
        assert!(second.starts_with(&first));
        // Where all are equal, only the swarm is run again.
        assert_eq!(second.lines().count(), first.lines().count() + 1 + ROWS.len());
        let text = markdown(&Results::open(&results).unwrap().known);
        assert!(text.starts_with("**8 receivers, 4 pieces of 4 MiB; the bound is"), "{text}");
        assert_eq!(text.lines().filter(|line| line.starts_with('|')).count(), 2 + 2 * ROWS.len());
    }
}
