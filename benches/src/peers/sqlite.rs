//! Rows in a database, each committed by itself: SQLite with a write-ahead log that every commit syncs.

use std::process::Command;
use std::time::Duration;

use serde::Deserialize;

use super::program;
use crate::conditions::Conditions;
use crate::cost::Cost;
use crate::failure::Failure;
use crate::scenario::Contender;

const SCRIPT: &str = include_str!("../../peers/sqlite.py");

/// SQLite in a process of its own, driven by Python.
pub struct Sqlite {
    name: &'static str,
    threads: u64,
    each: u64,
    conditions: Conditions,
}

#[derive(Deserialize)]
struct Said {
    wall_s: f64,
    processors_s: f64,
}

impl Sqlite {
    /// Finds it, for so many threads of which each commits so many rows.
    pub fn find(
        name: &'static str,
        threads: u64,
        each: u64,
        conditions: &Conditions,
    ) -> Result<Self, Failure> {
        let missing = Failure::Missing {
            program: "python3",
            remedy: "install it with its module sqlite3, on Debian `python3`",
        };
        program::run(Command::new("python3").args(["-c", "import sqlite3"])).map_err(|_| missing)?;
        Ok(Self { name, threads, each, conditions: conditions.clone() })
    }
}

impl Contender for Sqlite {
    fn name(&self) -> String {
        self.name.into()
    }

    fn ready(&mut self, _round: u32) -> Result<(), Failure> {
        Ok(())
    }

    /// Its own account is taken: start and connecting are left out, and it checks that all rows are there.
    fn run(&mut self) -> Result<Cost, Failure> {
        let folder = tempfile::Builder::new().prefix("shoal-bench-").tempdir_in(&self.conditions.folder);
        let folder = folder.map_err(Failure::system("make a folder for SQLite"))?;
        let mut command = Command::new("python3");
        command.args(["-c", SCRIPT]).arg(folder.path());
        command.args([self.threads.to_string(), self.each.to_string()]);
        let text = program::run(&mut command)?;
        let said: Said = serde_json::from_str(&text).map_err(|error| Failure::Peer {
            program: "python3".into(),
            what: format!("says something unexpected: {error}"),
            output: program::tail(&text),
        })?;
        let seconds = |number: f64| Duration::try_from_secs_f64(number).unwrap_or_default();
        Ok(Cost { wall: seconds(said.wall_s), processors: seconds(said.processors_s) })
    }

    fn verify(&mut self) -> Result<(), Failure> {
        Ok(())
    }
}
