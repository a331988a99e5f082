//! Time on the wall and on the processors.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use crate::failure::Failure;

/// What one run cost.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cost {
    /// From the beginning to the end.
    pub wall: Duration,
    /// Of all processors, over all processes that took part.
    pub processors: Duration,
}

/// Measures what happens between [`Meter::start`] and [`Meter::stop`] in this process and in others. A thread of
/// another process counts with what it had used when it was last seen: one that ends in between is not seen at the end.
pub struct Meter {
    others: Vec<u32>,
    tasks: Tasks,
    own: Duration,
    begin: Instant,
}

/// Nanoseconds on a processor by process and thread.
type Tasks = HashMap<(u32, u32), u64>;

impl Meter {
    /// Begins to measure this process and others, which are named by their numbers.
    pub fn start(others: &[u32]) -> Result<Self, Failure> {
        let tasks = tasks(others)?;
        Ok(Self { others: others.to_vec(), tasks, own: own(), begin: Instant::now() })
    }

    /// What was used since. A process that has ended meanwhile is not an error: who asked something of it will know.
    pub fn stop(mut self) -> Result<Cost, Failure> {
        let wall = self.begin.elapsed();
        self.others.retain(|process| Path::new(&format!("/proc/{process}")).exists());
        let own = own().saturating_sub(self.own);
        let used = used_between(&self.tasks, &tasks(&self.others)?);
        Ok(Cost { wall, processors: own + used })
    }
}

/// What threads used from one look to the next.
fn used_between(before: &Tasks, after: &Tasks) -> Duration {
    let used =
        |(task, after): (&(u32, u32), &u64)| after.saturating_sub(before.get(task).copied().unwrap_or(0));
    Duration::from_nanos(after.iter().map(used).sum())
}

/// What all threads of this process have used, those that have ended included.
fn own() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}

fn tasks(processes: &[u32]) -> Result<Tasks, Failure> {
    let mut tasks = Tasks::new();
    for &process in processes {
        look_at(process, &mut tasks)
            .map_err(Failure::system(format!("see how much processor time process {process} has used")))?;
    }
    Ok(tasks)
}

fn look_at(process: u32, tasks: &mut Tasks) -> io::Result<()> {
    for entry in fs::read_dir(format!("/proc/{process}/task"))? {
        let entry = entry?;
        let Some(thread) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let used = match fs::read_to_string(entry.path().join("schedstat")) {
            Ok(text) => nanoseconds_of(&text),
            // The thread has ended since it was listed.
            Err(_) if !entry.path().exists() => continue,
            Err(error) => return Err(error),
        };
        let used =
            used.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "schedstat has no numbers"))?;
        tasks.insert((process, thread), used);
    }
    Ok(())
}

/// The first number of a thread's `schedstat`: nanoseconds on a processor.
fn nanoseconds_of(schedstat: &str) -> Option<u64> {
    schedstat.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_counted_once() {
        let meter = Meter::start(&[]).unwrap();
        let mut number = 1u64;
        while meter.begin.elapsed() < Duration::from_millis(5) {
            number = std::hint::black_box(number.wrapping_mul(3));
        }
        let cost = meter.stop().unwrap();
        assert!(cost.wall >= Duration::from_millis(5) && cost.processors > Duration::ZERO);
    }

    #[test]
    fn threads_count_from_when_they_were_first_seen() {
        let before = Tasks::from([((1, 1), 100), ((1, 2), 50)]);
        let after = Tasks::from([((1, 1), 150), ((2, 7), 30)]);
        assert_eq!(used_between(&before, &after), Duration::from_nanos(80));
        assert_eq!(nanoseconds_of("12345 678 9\n"), Some(12345));
        assert_eq!(nanoseconds_of(""), None);
    }

    #[test]
    fn a_process_that_is_gone_is_named() {
        let error = Meter::start(&[u32::MAX]).err().unwrap();
        assert!(error.to_string().contains(&u32::MAX.to_string()), "{error}");
    }
}
