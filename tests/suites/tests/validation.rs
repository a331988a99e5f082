//! The validation kit for clusters (hw-ci/cluster), on one machine: three tasks by a stand-in for srun, each with an
//! address of its own on the loopback interface.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

/// The kit, with folders for its report and for the data of its nodes.
struct Kit {
    folder: TempDir,
    /// Keeps the addresses of tests apart that run at the same time.
    number: u8,
}

impl Kit {
    fn new(number: u8) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("scratch")).unwrap();
        Self { folder, number }
    }

    /// Starts it on three hosts.
    fn start(&self, shoal: &Path) -> Child {
        let kit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../hw-ci/cluster");
        let mut command = Command::new(kit.join("tests/srun"));
        command.arg("3").arg(kit.join("validate"));
        command.arg("--report").arg(self.report()).arg("--scratch").arg(self.scratch());
        command.arg("--shoal").arg(shoal).args(["--addresses", &self.addresses()]);
        command
            .args(["--tree", "2", "--size", "4MiB", "--rounds", "2", "--memory", "256MiB", "--cores", "1"]);
        command.args(["--pairs", "1", "--peer-seconds", "1", "--time-limit", "150"]);
        for (variable, _) in std::env::vars_os() {
            if variable.to_string_lossy().starts_with("SHOAL_") {
                command.env_remove(variable);
            }
        }
        command.stdin(Stdio::null()).stderr(fs::File::create(self.folder.path().join("said")).unwrap());
        command.spawn().unwrap()
    }

    fn addresses(&self) -> String {
        let process = std::process::id();
        let host = |rank| {
            let third = 1 + process / 250 % 250;
            format!("127.{}.{third}.{}", 100 + 3 * self.number + rank, 1 + process % 250)
        };
        [host(0), host(1), host(2)].join(",")
    }

    fn report(&self) -> PathBuf {
        self.folder.path().join("report")
    }

    fn scratch(&self) -> PathBuf {
        self.folder.path().join("scratch")
    }

    /// The report, after a run that ended with a status and left nothing else behind.
    fn ended(&self, status: ExitStatus, code: i32) -> Value {
        let said = fs::read_to_string(self.folder.path().join("said")).unwrap();
        assert_eq!(status.code(), Some(code), "{said}");
        assert_eq!(fs::read_dir(self.scratch()).unwrap().count(), 0, "{said}");
        let mut left: Vec<_> =
            fs::read_dir(self.report()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["log", "report.json", "report.md"], "{said}");
        serde_json::from_slice(&fs::read(self.report().join("report.json")).unwrap()).unwrap()
    }
}

fn result_of<'a>(report: &'a Value, name: &str) -> &'a str {
    let checks = report["checks"].as_array().unwrap();
    let check = checks.iter().find(|check| check["name"] == name);
    check.unwrap_or_else(|| panic!("{name} is not in {report:#}"))["result"].as_str().unwrap()
}

#[test]
fn a_cluster_that_works_passes() {
    let kit = Kit::new(0);
    let status = kit.start(&suites::program()).wait().unwrap();
    let report = kit.ended(status, 0);
    assert_eq!(report["result"], "passed", "{report:#}");
    assert_eq!(result_of(&report, "a broadcast comes whole to every node"), "passed");
    assert_eq!(result_of(&report, "the others get everything when a node is killed on the way"), "passed");
    assert_eq!(report["nodes"].as_array().unwrap().len(), 3);
    assert!(report["nodes"][2]["description"]["doctor"].is_array());
    assert!(report["nodes"][1]["status"]["counters"].is_object());
    assert_eq!(report["broadcast"]["receivers"], 2);
    assert_eq!(report["point_to_point"][0]["shoal"]["rounds"], 2);
    let text = fs::read_to_string(kit.report().join("report.md")).unwrap();
    assert!(text.starts_with("# Validation of Shoal on 3 hosts: passed\n"), "{text}");
    assert!(text.contains("| n0 to all | 2 |"), "{text}");
}

#[test]
fn damaged_files_fail_the_run() {
    let kit = Kit::new(1);
    // Adds a byte to what `get` wrote, after the program itself found it whole. For all else it becomes the program, as
    // the kit stops and kills what it started.
    let script = format!(
        "#!/bin/sh\ncase \"$*\" in *' get '*--verify*) ;; *) exec {0} \"$@\" ;; esac\n\
         {0} \"$@\" && printf x >>\"$8/large\"\n",
        suites::program().display()
    );
    let wrapper = kit.folder.path().join("damages");
    fs::write(&wrapper, script).unwrap();
    fs::set_permissions(&wrapper, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let report = kit.ended(kit.start(&wrapper).wait().unwrap(), 1);
    assert_eq!(report["result"], "failed", "{report:#}");
    assert_eq!(result_of(&report, "every node starts and knows all others"), "passed");
    assert_eq!(result_of(&report, "trees put on each node come whole to the next"), "failed");
}

#[test]
fn a_signal_ends_it_with_nothing_left_behind() {
    let kit = Kit::new(2);
    let mut run = kit.start(&suites::program());
    while !kit.report().join("log/node-2.log").exists() && run.try_wait().unwrap().is_none() {
        thread::sleep(Duration::from_millis(20));
    }
    let process = Pid::from_raw(run.id().try_into().unwrap()).unwrap();
    kill_process(process, Signal::TERM).unwrap();
    let report = kit.ended(run.wait().unwrap(), 143);
    assert_eq!(report["result"], "failed");
    assert_eq!(result_of(&report, "the run as a whole"), "failed");
}
