//! Values in the memory of a server.

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::program::{self, Running};
use super::wrk::Request;
use crate::conditions::Conditions;
use crate::cost::{Cost, Meter};
use crate::failure::Failure;
use crate::interrupt;
use crate::scenario::Contender;

/// How long a run shall take, unless runs are shrunk.
const RUN: Duration = Duration::from_secs(4);
/// Requests by which it is found how many those are.
const TRIAL: u64 = 2_000;
/// Keys that are written at random, as many as wrk puts in turn.
const KEYS: u32 = 10_000;
/// How long the server may take to answer first.
const START_LIMIT: Duration = Duration::from_secs(20);
/// Time between two looks at whether it does.
const TICK: Duration = Duration::from_millis(10);

/// Redis, asked over its own protocol by its own `redis-benchmark`.
pub struct Redis {
    request: Request,
    connections: u32,
    /// Requests that costs are told of.
    told: u64,
    /// Requests of a run, once it is known how fast they go.
    count: Option<u64>,
    run: Duration,
    port: u16,
    server: Running,
    _folder: TempDir,
}

impl Redis {
    /// Starts a server. Where the request is durable it syncs its log before it answers; else it keeps nothing on disk.
    pub fn start(
        request: Request,
        connections: u32,
        told: u64,
        conditions: &Conditions,
    ) -> Result<Self, Failure> {
        let missing = |program| Failure::Missing {
            program,
            remedy: "install it, on Debian with `apt-get install redis-server redis-tools`",
        };
        for program in ["redis-server", "redis-benchmark"] {
            program::run(Command::new(program).arg("--version")).map_err(|_| missing(program))?;
        }
        let folder = tempfile::Builder::new().prefix("shoal-bench-").tempdir_in(&conditions.folder);
        let folder = folder.map_err(Failure::system("make a folder for redis"))?;
        let failed = || Failure::system("find a free port for redis");
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(failed())?;
        let port = listener.local_addr().map_err(failed())?.port();
        drop(listener);
        let mut command = Command::new("redis-server");
        command
            .args(["--bind", "127.0.0.1", "--save", "", "--daemonize", "no", "--port"])
            .arg(port.to_string());
        command.arg("--dir").arg(folder.path());
        if request.is_durable() {
            command.args(["--appendonly", "yes", "--appendfsync", "always"]);
        }
        let server = program::start(&mut command)?;
        let begin = Instant::now();
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            interrupt::check()?;
            if begin.elapsed() > START_LIMIT {
                let what = format!("did not answer within {} s", START_LIMIT.as_secs());
                return Err(Failure::Peer { program: "redis-server".into(), what, output: String::new() });
            }
            thread::sleep(TICK);
        }
        let run = RUN / u32::try_from(conditions.shrink.max(1)).unwrap_or(u32::MAX);
        Ok(Self { request, connections, told, count: None, run, port, server, _folder: folder })
    }

    /// What it is called among those that answer such requests.
    pub fn name_for(request: Request) -> &'static str {
        if request.is_durable() { "redis-synced" } else { "redis" }
    }

    /// Sends so many requests, and tells their rate per second.
    fn ask(&self, request: &str, count: u64) -> Result<f64, Failure> {
        let mut command = Command::new("redis-benchmark");
        command.args(["-h", "127.0.0.1", "-t", request, "--csv", "-p"]).arg(self.port.to_string());
        command.arg("-c").arg(self.connections.to_string()).arg("-n").arg(count.to_string());
        command.arg("-d").arg(Request::VALUE.to_string()).arg("-r").arg(KEYS.to_string());
        rate(&program::run(&mut command)?)
    }

    fn request(&self) -> &'static str {
        if self.request.reads() { "get" } else { "set" }
    }
}

impl Contender for Redis {
    fn name(&self) -> String {
        Self::name_for(self.request).into()
    }

    fn ready(&mut self, _round: u32) -> Result<(), Failure> {
        if self.count.is_none() {
            if self.request.reads() {
                // So many writes at random leave next to no key without a value.
                self.ask("set", u64::from(KEYS) * 10)?;
            }
            let rate = self.ask(self.request(), TRIAL)?;
            self.count = Some(((rate * self.run.as_secs_f64()) as u64).max(TRIAL));
        }
        Ok(())
    }

    fn run(&mut self) -> Result<Cost, Failure> {
        let count = self.count.unwrap_or(TRIAL);
        let meter = Meter::start(&[self.server.process()])?;
        let rate = self.ask(self.request(), count)?;
        let Cost { processors, .. } = meter.stop()?;
        // The time is that between the first and the last request, without the start of the program.
        let wall = Duration::from_secs_f64(self.told as f64 / rate);
        Ok(Cost { wall, processors: processors.mul_f64(self.told as f64 / count as f64) })
    }

    fn verify(&mut self) -> Result<(), Failure> {
        Ok(())
    }
}

/// The rate in the table that `redis-benchmark --csv` prints.
fn rate(text: &str) -> Result<f64, Failure> {
    let line = text.lines().rfind(|line| line.starts_with("\"SET\"") || line.starts_with("\"GET\""));
    let rate = line.and_then(|line| line.split(',').nth(1)?.trim_matches('"').parse().ok());
    rate.filter(|&rate: &f64| rate > 0.0).ok_or_else(|| Failure::Peer {
        program: "redis-benchmark".into(),
        what: "does not say how fast it was".into(),
        output: program::tail(text),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_redis_says_is_read() {
        let table = "\"test\",\"rps\",\"avg_latency_ms\"\n\"SET\",\"51546.39\",\"0.500\"\n";
        assert_eq!(rate(table).unwrap(), 51_546.39);
        assert!(rate("Could not connect").is_err());
    }
}
