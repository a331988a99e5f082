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

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// The value of one key.
    Get,
    /// A put of a value, to one key after another.
    Put,
}

impl Method {
    /// As HTTP spells it.
    pub fn name(self) -> &'static str {
        match self {
            Method::Get => "GET",
            Method::Put => "PUT",
        }
    }
}

/// `wrk`, which asks as often as it is answered.
#[derive(Clone)]
pub struct Wrk {
    connections: u32,
    seconds: u64,
    /// With the script, `requests.lua`.
    folder: Arc<TempDir>,
}

impl Wrk {
    /// The key that is read.
    pub const PATH: &str = "/v1/kv/bench/0";
    /// Bytes of a value.
    pub const VALUE: usize = 100;

    /// Finds wrk.
    pub fn find(method: Method, connections: u32, conditions: &Conditions) -> Result<Self, Failure> {
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
        let script = match method {
            Method::Get => String::new(),
            Method::Put => format!(
                "wrk.body = string.rep('v', {})\nlocal count = -1\nrequest = function()\n  count = (count + 1) % {KEYS}\n  \
                 return wrk.format('PUT', '/v1/kv/bench/' .. count)\nend\n",
                Self::VALUE
            ),
        };
        let path = folder.path().join("requests.lua");
        std::fs::write(path, script).map_err(Failure::system("write a script for wrk"))?;
        let seconds = (SECONDS / conditions.shrink.max(1)).max(1);
        Ok(Self { connections, seconds, folder: Arc::new(folder) })
    }

    /// Asks; how many requests were answered, all of which must have been carried out.
    pub fn run(&self, address: &str) -> Result<u64, Failure> {
        let mut command = Command::new("wrk");
        command.current_dir(self.folder.path());
        command.args(["--threads", "1", "--timeout", "10s", "--script", "requests.lua"]);
        command.arg("--connections").arg(self.connections.to_string());
        command.arg("--duration").arg(format!("{}s", self.seconds));
        command.arg(format!("http://{address}{}", Self::PATH));
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
