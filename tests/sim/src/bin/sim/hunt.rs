//! Random clusters, until one of them breaks a promise.

use sim::Scenario;
use sim::trial::{Knob, draw, flags, judge, plain, shrink};

use crate::order::{parse, value};

/// What is wanted.
pub enum Order {
    /// Random clusters of so many seeds.
    Many {
        /// How many.
        count: u64,
        /// The seed of the first one.
        first_seed: u64,
    },
    /// One cluster, as flags say it.
    One(Box<Scenario>),
}

impl Order {
    /// Reads the flags.
    pub fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let (mut count, mut first_seed, mut one) = (1000, 0, None);
        while let Some(argument) = arguments.next() {
            let flag = argument.as_str();
            match (flag, flag.strip_prefix("--").and_then(Knob::named)) {
                ("--first-seed", _) => first_seed = value(flag, &mut arguments)?,
                ("--seed", _) => one = Some(plain(value(flag, &mut arguments)?)),
                (_, Some(knob)) => {
                    let scenario =
                        one.ok_or_else(|| format!("--seed comes before {flag}\n\n{}", crate::USAGE))?;
                    one = Some(knob.turn(&scenario, value(flag, &mut arguments)?));
                }
                (text, None) => count = parse("COUNT", text)?,
            }
        }
        Ok(one.map_or(Self::Many { count, first_seed }, |scenario| Self::One(Box::new(scenario))))
    }

    /// Hunts, and prints what was found.
    pub fn print(self) -> Result<(), String> {
        match self {
            Self::One(scenario) => {
                scenario.check().map_err(|refused| refused.to_string())?;
                judge(&scenario).map_or(Ok(()), Err)?;
                println!("every promise was kept");
            }
            Self::Many { count, first_seed } => {
                for seed in first_seed..first_seed.saturating_add(count) {
                    if let Some(why) = judge(&draw(seed)) {
                        return Err(report(seed, &why));
                    }
                }
                println!("{count} random clusters from seed {first_seed}: every promise was kept");
            }
        }
        Ok(())
    }
}

/// What to say of a random cluster in which something goes wrong.
fn report(seed: u64, why: &str) -> String {
    let drawn = draw(seed);
    eprintln!("{why}: hunt {}\nlooking for something simpler", flags(&drawn));
    let shrunk = shrink(drawn, |scenario| judge(scenario).is_some());
    let why = judge(&shrunk).unwrap_or_else(|| why.to_owned());
    format!("{why}\n\ncargo run --release -p sim -- hunt {}", flags(&shrunk))
}
