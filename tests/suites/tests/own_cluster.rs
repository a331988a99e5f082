//! `shoal bench broadcast` in a cluster of its own: many receivers in a process, in several, and under launchers.
#![allow(clippy::unwrap_used)]

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use suites::{holds, processes_below, program, until};
use tempfile::TempDir;

/// A folder for temporary files, and one for the report.
struct World {
    folder: TempDir,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("scratch")).unwrap();
        fs::create_dir(folder.path().join("shared")).unwrap();
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn report(&self) -> PathBuf {
        self.path("shared/report.json")
    }

    /// A program without the settings and the launcher that the test itself was started with.
    fn command(&self, program: PathBuf) -> Command {
        let mut command = Command::new(program);
        for (variable, _) in std::env::vars_os() {
            let name = variable.to_string_lossy();
            if ["SHOAL_", "SLURM_", "OMPI_", "PMI_", "PMIX_"].iter().any(|prefix| name.starts_with(prefix)) {
                command.env_remove(&variable);
            }
        }
        command.env("TMPDIR", self.path("scratch")).stdin(Stdio::null());
        command
    }

    /// Runs receivers on this machine, and gives the report.
    fn receivers(&self, count: &str, more: &[&str]) -> Value {
        let mut command = self.command(program());
        command.args([
            "--json",
            "bench",
            "broadcast",
            "--receivers",
            count,
            "--size",
            "2MiB",
            "--rounds",
            "2",
        ]);
        let output = command.args(more).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        self.assert_clean(&said);
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// A task as Slurm would start it. What it says goes to a file.
    fn task(&self, rank: u32, tasks: u32, rounds: &str) -> Child {
        let mut command = self.command(program());
        command.args(["bench", "broadcast", "--launched", "--interface", "lo", "--transports", "tcp"]);
        command.args(["--size", "2MiB", "--rounds", rounds]).arg("--report").arg(self.report());
        command.env("SLURM_PROCID", rank.to_string()).env("SLURM_NTASKS", tasks.to_string());
        command.env("SLURM_JOB_ID", "77").env("SLURM_STEP_ID", "0").env("SHOAL_CORES", "1");
        let said = File::create(self.said(rank)).unwrap();
        command.stdout(said.try_clone().unwrap()).stderr(said).spawn().unwrap()
    }

    fn said(&self, rank: u32) -> PathBuf {
        self.path(&format!("said-{rank}"))
    }

    fn all_said(&self) -> String {
        (0..4).filter_map(|rank| fs::read_to_string(self.said(rank)).ok()).collect()
    }

    fn assert_clean(&self, said: &str) {
        let left: Vec<_> = fs::read_dir(self.path("scratch")).unwrap().collect();
        assert!(left.is_empty(), "{left:?} {said}");
        holds("no process is left", || processes_below(self.folder.path()).is_empty());
    }
}

fn assert_right(report: &Value, receivers: u64, rounds: usize) {
    assert_eq!(report["format"], "shoal-broadcast 1", "{report:#}");
    assert_eq!(report["receivers"], receivers);
    assert_eq!(report["verified"], receivers);
    let times = report["receiver_times"].as_array().unwrap();
    assert_eq!(times.len() as u64, receivers);
    assert!(times.iter().all(|receiver| receiver["times_us"].as_array().unwrap().len() == rounds));
    let cost = &report["cost"];
    let pieces = cost["pieces_from_origin"].as_u64().unwrap() + cost["pieces_from_peers"].as_u64().unwrap();
    assert!(pieces >= receivers * 2 * rounds as u64, "{report:#}");
    let received = report["bytes_received"]["tcp"].as_u64().unwrap();
    assert!(received >= receivers * (2 << 20) * rounds as u64, "{report:#}");
}

#[test]
fn many_receivers_share_a_process() {
    let report = World::new().receivers("64", &["--processes", "1"]);
    assert_right(&report, 64, 2);
    assert!(report["cost"]["pieces_from_peers"].as_u64().unwrap() > 0, "no receiver became a source");
    assert_eq!(report["tasks"].as_array().unwrap().len(), 1);
    let cost = |name: &str| report["cost"][name].as_u64().unwrap();
    assert!(cost("threads") < 64, "{report:#}");
    // A fetch has 8 peers at the most on one host, and 32 connections are kept; only who has everything may serve more, and on a
    // busy machine that is many for a while.
    let connections = report["cost"]["connections_mean"].as_f64().unwrap();
    assert!(connections <= 56.0, "{report:#}");
    assert!(cost("memory_per_receiver") < 4 << 20, "{report:#}");
}

#[test]
fn receivers_share_several_processes() {
    let report = World::new().receivers("12", &["--processes", "3"]);
    assert_right(&report, 12, 2);
    let hosted: Vec<_> =
        report["tasks"].as_array().unwrap().iter().map(|task| task["receivers"].clone()).collect();
    assert_eq!(hosted, [0, 6, 6]);
}

#[test]
fn an_interrupt_ends_all_processes() {
    for begun in ["starting", "are in the cluster"] {
        let world = World::new();
        let mut command = world.command(program());
        command.args(["bench", "broadcast", "--receivers", "12", "--processes", "3", "--size", "2MiB"]);
        command.args(["--rounds", "1000000"]).stdout(Stdio::null());
        let mut leader = command.stderr(File::create(world.said(0)).unwrap()).spawn().unwrap();
        until("it has begun", || {
            assert!(leader.try_wait().unwrap().is_none(), "{}", world.all_said());
            world.all_said().contains(begun).then_some(())
        });
        kill_process(Pid::from_child(&leader), Signal::INT).unwrap();
        let status = until("it has ended", || leader.try_wait().unwrap());
        assert_eq!(status.code(), Some(130), "{}", world.all_said());
        world.assert_clean(&world.all_said());
    }
}

#[test]
fn tasks_of_a_launcher_measure_together() {
    let world = World::new();
    // A file that an earlier run has left leads to nobody.
    let left = "{\"format\": \"shoal-rendezvous 1\", \"address\": \"127.0.0.1:9\", \"token\": \"of an earlier run\"}";
    fs::write(world.path("shared/.shoal-rendezvous-77.0"), left).unwrap();
    // The first one comes last.
    let tasks: Vec<Child> = [2, 1, 0].map(|rank| world.task(rank, 3, "2")).into();
    for mut task in tasks {
        let status = task.wait().unwrap();
        assert!(status.success(), "{}", world.all_said());
    }
    let report: Value = serde_json::from_slice(&fs::read(world.report()).unwrap()).unwrap();
    assert_right(&report, 2, 2);
    assert_eq!(report["launcher"], "Slurm");
    let task = &report["tasks"][2];
    assert_eq!(task["address"], "127.0.0.1");
    assert!(task["host"]["doctor"].is_array() && task["host"]["kernel"].is_string());
    assert_eq!(task["rounds"].as_array().unwrap().len(), 2);
    assert!(task["rounds"][0]["gigabit_per_s"]["lo"].is_array(), "{task:#}");
    assert_eq!(report["environment"]["SHOAL_CORES"], "1");
    assert_eq!(fs::read_dir(world.path("shared")).unwrap().count(), 1, "only the report is left");
    world.assert_clean(&world.all_said());
}

#[test]
fn all_tasks_end_when_one_dies() {
    let world = World::new();
    let mut tasks: Vec<Child> = (0..3).map(|rank| world.task(rank, 3, "1000000")).collect();
    let has_begun = || fs::read_to_string(world.said(0)).unwrap().contains("are in the cluster");
    until("the rounds have begun", || {
        let ended = tasks.iter_mut().any(|task| task.try_wait().unwrap().is_some());
        assert!(!ended, "{}", world.all_said());
        has_begun().then_some(())
    });
    tasks[2].kill().unwrap();
    for (rank, task) in tasks.iter_mut().enumerate() {
        let status = until("every task has ended", || task.try_wait().unwrap());
        assert!(!status.success(), "task {rank}: {}", world.all_said());
    }
    assert!(!world.report().exists());
    assert_eq!(fs::read_dir(world.path("shared")).unwrap().count(), 0);
}

#[test]
fn open_mpi_launches_it() {
    let world = World::new();
    let words = ["--allow-run-as-root", "--oversubscribe", "-n", "4"];
    let mut command = world.command("mpirun".into());
    command.args(words).arg(program()).args(["bench", "broadcast", "--launched", "--interface", "lo"]);
    command
        .args(["--transports", "tcp", "--size", "2MiB", "--rounds", "2"])
        .arg("--report")
        .arg(world.report());
    let Ok(output) = command.output() else {
        eprintln!("skipped: there is no mpirun");
        return;
    };
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let report: Value = serde_json::from_slice(&fs::read(world.report()).unwrap()).unwrap();
    assert_right(&report, 3, 2);
    assert_eq!(report["launcher"], "Open MPI");
}

#[test]
fn what_cannot_run_is_told() {
    let world = World::new();
    let refused = |words: &[&str]| {
        let mut command = world.command(program());
        let output = command.args(["bench", "broadcast"]).args(words).output().unwrap();
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(refused(&["--launched"]).contains("--launched is for what srun"));
    assert!(refused(&["--receivers", "16000", "--size", "1TiB"]).contains("of memory, and"));
    let said = refused(&["--receivers", "1", "--interface", "nosuch0"]);
    assert!(said.contains("there is no IPv4 address on nosuch0"), "{said}");
    assert!(refused(&["--receivers", "1", "--processes", "4"]).contains("too few for 4 tasks"));
    world.assert_clean("");
}
