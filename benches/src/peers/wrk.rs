//! A load of HTTP requests.

use std::process::Command;
use std::sync::Arc;

use tempfile::TempDir;

use super::program;
use crate::conditions::Conditions;
use crate::failure::Failure;

/// How long it asks, in seconds, unless runs are shrunk.
const SECONDS: u64 = 4;
/// Keys that are put in turn.
const KEYS: u32 = 10_000;

/// What is asked of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// The value of one key.
    Get,
    /// A durable put of a value, to one key after another.
    Put,
    /// The value of one key, by gswarm's interface.
    Read,
    /// A write into memory, to one key after another, by gswarm's interface.
    Write,
    /// A durable write, to one key after another, by gswarm's interface.
    Persist,
}

impl Request {
    /// Bytes of a value.
    pub const VALUE: usize = 100;

    /// What scenarios of it are called, but for the number of connections.
    pub fn name(self) -> &'static str {
        match self {
            Request::Get => "http-get",
            Request::Put => "http-put",
            Request::Read => "gswarm-read",
            Request::Write => "gswarm-write",
            Request::Persist => "gswarm-persist",
        }
    }

    /// Whether a value is read, which must be there.
    pub fn reads(self) -> bool {
        matches!(self, Request::Get | Request::Read)
    }

    /// Whether what is asked is answered when it is on disk.
    pub fn is_durable(self) -> bool {
        matches!(self, Request::Put | Request::Persist)
    }

    /// The path that is asked first. What is read is always there.
    fn path(self) -> &'static str {
        match self {
            Request::Get | Request::Put => "/v1/kv/bench/0",
            Request::Read => "/read/bench/0",
            Request::Write | Request::Persist => "/write",
        }
    }

    /// What wrk shall do for each request, unless it is to ask for the path.
    fn script(self) -> String {
        let value = "v".repeat(Self::VALUE);
        let persist = self.is_durable();
        let request = match self {
            Request::Get | Request::Read => return String::new(),
            Request::Put => "'PUT', '/v1/kv/bench/' .. count, nil, value".to_owned(),
            Request::Write | Request::Persist => format!(
                "'POST', '/write', json, '{{\"key\":\"bench/' .. count .. '\",\"persist\":{persist},\"value\":\"' .. value .. '\"}}'"
            ),
        };
        format!(
            "local value = '{value}'\nlocal json = {{ ['Content-Type'] = 'application/json' }}\nlocal count = -1\nrequest = function()\n  \
             count = (count + 1) % {KEYS}\n  return wrk.format({request})\nend\n"
        )
    }
}

/// `wrk`, which asks as often as it is answered.
#[derive(Clone)]
pub struct Wrk {
    request: Request,
    connections: u32,
    seconds: u64,
    /// With the script, `requests.lua`.
    folder: Arc<TempDir>,
}

impl Wrk {
    /// Finds wrk.
    pub fn find(request: Request, connections: u32, conditions: &Conditions) -> Result<Self, Failure> {
        // It tells its version with a status of failure.
        let is_there = Command::new("wrk").arg("--version").output().is_ok();
        if !is_there {
            return Err(Failure::Missing {
                program: "wrk",
                remedy: "install it, on Debian with `apt-get install wrk`",
            });
        }
        let folder = tempfile::Builder::new().prefix("shoal-bench-").tempdir_in(&conditions.folder);
        let folder = folder.map_err(Failure::system("make a folder for wrk"))?;
        let path = folder.path().join("requests.lua");
        std::fs::write(path, request.script()).map_err(Failure::system("write a script for wrk"))?;
        let seconds = (SECONDS / conditions.shrink.max(1)).max(1);
        Ok(Self { request, connections, seconds, folder: Arc::new(folder) })
    }

    /// Asks; how many requests were answered, all of which must have been carried out.
    pub fn run(&self, address: &str) -> Result<u64, Failure> {
        let mut command = Command::new("wrk");
        command.current_dir(self.folder.path());
        command.args(["--threads", "1", "--timeout", "10s", "--script", "requests.lua"]);
        command.arg("--connections").arg(self.connections.to_string());
        command.arg("--duration").arg(format!("{}s", self.seconds));
        command.arg(format!("http://{address}{}", self.request.path()));
        answered(&program::run(&mut command)?)
    }
}

/// How many requests were answered well, from what wrk says.
fn answered(text: &str) -> Result<u64, Failure> {
    let failed =
        |what: &str| Failure::Peer { program: "wrk".into(), what: what.into(), output: program::tail(text) };
    if text.contains("Non-2xx") || text.contains("Socket errors") {
        return Err(failed("was refused"));
    }
    let (count, _) = text.split_once(" requests in ").ok_or_else(|| failed("does not say how many"))?;
    let count = count.split_ascii_whitespace().next_back().and_then(|count| count.parse().ok());
    count.filter(|&count| count > 0).ok_or_else(|| failed("was not answered"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "Running 4s test @ http://127.0.0.1:9015/\n  1 threads and 1 connections\n  Thread Stats   Avg\n  \
                        81234 requests in 4.00s, 12.94MB read\nRequests/sec:  20308.31\n";

    #[test]
    fn what_it_says_is_read() {
        assert_eq!(answered(SAID).unwrap(), 81_234);
        assert!(answered(&format!("{SAID}  Non-2xx or 3xx responses: 1\n")).is_err());
        assert!(answered("unable to connect").is_err());
    }
}
