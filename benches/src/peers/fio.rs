//! Writing a file as fast as the disk takes it.

use std::fs::File;
use std::process::Command;
use std::time::Duration;

use flow::chunk::Geometry;
use serde::Deserialize;
use tempfile::TempDir;

use super::program;
use crate::conditions::Conditions;
use crate::cost::Cost;
use crate::failure::Failure;
use crate::scenario::Contender;

/// Writes under way at once: as many as a client of Shoal hands over before it waits.
const DEPTH: u32 = 32;

/// `fio`, which writes a file the way a node writes a chunk.
pub struct Fio {
    bytes: u64,
    block_bytes: u32,
    folder: TempDir,
}

/// What fio says of its job, as far as it is used.
#[derive(Deserialize)]
struct Said {
    jobs: Vec<Job>,
}

#[derive(Deserialize)]
struct Job {
    error: i64,
    job_runtime: f64,
    usr_cpu: f64,
    sys_cpu: f64,
    write: Written,
}

#[derive(Deserialize)]
struct Written {
    io_bytes: u64,
    runtime: f64,
}

impl Fio {
    /// Finds fio, to write so many bytes in the conditions' folder.
    pub fn find(bytes: u64, conditions: &Conditions) -> Result<Self, Failure> {
        let missing =
            Failure::Missing { program: "fio", remedy: "install it, on Debian with `apt-get install fio`" };
        program::run(Command::new("fio").arg("--version")).map_err(|_| missing)?;
        let folder = tempfile::Builder::new().prefix("shoal-bench-").tempdir_in(&conditions.folder);
        let folder = folder.map_err(Failure::system("make a folder for fio"))?;
        let geometry = Geometry::of(bytes);
        let geometry =
            geometry.map_err(|error| Failure::system("cut the file")(std::io::Error::other(error)))?;
        Ok(Self { bytes, block_bytes: geometry.piece_size(), folder })
    }
}

impl Contender for Fio {
    fn name(&self) -> String {
        "fio".into()
    }

    fn ready(&mut self, _round: u32) -> Result<(), Failure> {
        Ok(())
    }

    fn run(&mut self) -> Result<Cost, Failure> {
        let mut command = Command::new("fio");
        command.current_dir(self.folder.path());
        command.args(["--name=put", "--filename=written", "--rw=write", "--direct=1", "--ioengine=io_uring"]);
        command.args(["--fallocate=native", "--end_fsync=1", "--output-format=json"]);
        command.arg(format!("--size={}", self.bytes)).arg(format!("--bs={}", self.block_bytes));
        command.arg(format!("--iodepth={DEPTH}"));
        cost_of(&program::run(&mut command)?, self.bytes)
    }

    fn verify(&mut self) -> Result<(), Failure> {
        let path = self.folder.path().join("written");
        let length = std::fs::metadata(&path).map_err(Failure::system("look at what fio wrote"))?.len();
        if length != self.bytes {
            return Err(Failure::Wrong { place: "in the file that fio wrote".into() });
        }
        std::fs::remove_file(&path).map_err(Failure::system("remove what fio wrote"))?;
        let folder = File::open(self.folder.path()).map_err(Failure::system("open a folder"))?;
        rustix::fs::syncfs(&folder).map_err(Failure::system("wait for the disk"))
    }
}

/// Reads fio's own account. Its time of writing ends with the sync; start, laying the file out and end are left out
/// in its favour.
fn cost_of(text: &str, bytes: u64) -> Result<Cost, Failure> {
    let odd = |what: String| Failure::Peer { program: "fio".into(), what, output: program::tail(text) };
    // Warnings may stand before the JSON.
    let json = text.find('{').map_or(text, |at| &text[at..]);
    let said: Said =
        serde_json::from_str(json).map_err(|error| odd(format!("says something unexpected: {error}")))?;
    let [job] = &said.jobs[..] else { return Err(odd("speaks of more than one job".into())) };
    if job.error != 0 || job.write.io_bytes != bytes || job.write.runtime <= 0.0 {
        return Err(odd(format!("wrote {} bytes of {bytes}, with error {}", job.write.io_bytes, job.error)));
    }
    let milliseconds = |number: f64| Duration::try_from_secs_f64(number / 1e3).unwrap_or_default();
    let processors = job.job_runtime * (job.usr_cpu + job.sys_cpu) / 100.0;
    Ok(Cost { wall: milliseconds(job.write.runtime), processors: milliseconds(processors) })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = r#"note: both iodepth >= 1 and synchronous I/O engine are selected
{"fio version": "fio-3.33", "jobs": [{"error": 0, "job_runtime": 370, "usr_cpu": 8.0, "sys_cpu": 12.0,
  "write": {"io_bytes": 1048576, "runtime": 250, "iops": 4.0}}]}"#;

    #[test]
    fn its_account_is_read() {
        let cost = cost_of(SAID, 1 << 20).unwrap();
        assert_eq!((cost.wall.as_millis(), cost.processors.as_millis()), (250, 74));
    }

    #[test]
    fn less_than_was_asked_for_is_refused() {
        assert!(cost_of(SAID, 1 << 21).is_err());
        assert!(cost_of("fio: killed", 1 << 20).is_err());
    }
}
