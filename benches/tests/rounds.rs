//! Every scenario runs with real nodes, few bytes and whatever peers are installed, and leaves nothing behind.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

fn scenarios(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_scenarios"));
    command.env("TMPDIR", folder).stdin(Stdio::null());
    command
}

fn assert_empty(folder: &Path) {
    let left: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(left.is_empty(), "left behind: {left:?}");
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn every_scenario_is_played() {
    let (folder, results) = (tempfile::tempdir().unwrap(), tempfile::NamedTempFile::new().unwrap());
    let mut command = scenarios(folder.path());
    command.args([
        "stream",
        "broadcast-4",
        "put",
        "get",
        "catalog",
        "http",
        "gswarm",
        "--rounds",
        "2",
        "--shrink",
        "256",
        "--json",
    ]);
    let output = command.arg(results.path()).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let report: Value = serde_json::from_slice(&fs::read(results.path()).unwrap()).unwrap();
    assert!(report["machine"]["processors"].as_u64().unwrap() > 0);
    let names = |scenario: &Value, list: &str| -> Vec<String> {
        let list = scenario[list].as_array().unwrap().iter();
        list.map(|contender| contender["name"].as_str().unwrap().to_owned()).collect()
    };
    let mut played = Vec::new();
    for scenario in report["scenarios"].as_array().unwrap() {
        assert_eq!(scenario["failed"], Value::Null, "{}", said(&output));
        for contender in scenario["contenders"].as_array().unwrap() {
            assert_eq!(contender["rounds"].as_array().unwrap().len(), 2);
            assert!(contender["rate"]["median"].as_f64().unwrap() > 0.0);
        }
        // A peer that is not installed is named; one that is installed takes part.
        let mut all = names(scenario, "contenders");
        all.extend(names(scenario, "left_out"));
        // Without wrk there is nothing to ask with.
        if scenario["not_run"].as_str().is_some_and(|reason| reason.contains("wrk")) {
            let name = scenario["name"].as_str().unwrap();
            let redis = name.starts_with("gswarm").then_some(if name.contains("persist") {
                "redis-synced"
            } else {
                "redis"
            });
            all = ["hello", "shoal"].into_iter().chain(redis).map(str::to_owned).collect();
        }
        all.sort();
        played.push((scenario["name"].as_str().unwrap().to_owned(), all.join(" ")));
    }
    let expected = [
        ("stream", "shoal tcp-discard tcp-keep"),
        ("broadcast-4", "gloo libtorrent mooncake-store mpi-bcast mpi-pipeline mpi-shm ray shoal tcp-star"),
        ("put", "fio shoal"),
        ("get", "memcpy shoal"),
        ("catalog-put-1", "fdatasync shoal sqlite"),
        ("catalog-put-64", "fdatasync shoal sqlite sqlite-one"),
        ("catalog-get", "btreemap shoal"),
        ("catalog-scan", "btreemap shoal"),
        ("catalog-watch", "shoal unwatched"),
        ("catalog-ttl", "for-ever shoal"),
        ("http-get-1", "hello shoal"),
        ("http-get-50", "hello shoal"),
        ("http-put-1", "hello shoal"),
        ("http-put-50", "hello shoal"),
        ("gswarm-read-1", "hello redis shoal"),
        ("gswarm-read-50", "hello redis shoal"),
        ("gswarm-write-1", "hello redis shoal"),
        ("gswarm-write-50", "hello redis shoal"),
        ("gswarm-persist-1", "hello redis-synced shoal"),
        ("gswarm-persist-50", "hello redis-synced shoal"),
    ];
    assert_eq!(played, expected.map(|(name, contenders)| (name.to_owned(), contenders.to_owned())));
    assert_empty(folder.path());
}

#[test]
fn links_limit_everybody() {
    let (folder, results) = (tempfile::tempdir().unwrap(), tempfile::NamedTempFile::new().unwrap());
    let mut command = scenarios(folder.path());
    command.args(["broadcast-links-4", "--rounds", "1", "--shrink", "64", "--json"]).arg(results.path());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let report: Value = serde_json::from_slice(&fs::read(results.path()).unwrap()).unwrap();
    let scenario = &report["scenarios"][0];
    assert_empty(folder.path());
    if let Some(reason) = scenario["not_run"].as_str() {
        eprintln!("skipped: {reason}");
        return;
    }
    // 4 MiB at 1 Gbit/s, but for what the links may be ahead of their rate.
    assert!(scenario["ideal_s"].as_f64().unwrap() > 0.03, "{scenario}");
    let contenders = scenario["contenders"].as_array().unwrap();
    assert!(contenders.len() >= 2, "{}", said(&output));
    for contender in contenders {
        let run = &contender["rounds"][0];
        assert!(run["wall_s"].as_f64().unwrap() > 0.03, "faster than the links allow: {contender}");
        assert!(contender["efficiency"]["median"].as_f64().unwrap() > 0.0);
    }
}

#[test]
fn a_signal_ends_everything_that_was_started() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = scenarios(folder.path());
    command.args(["stream", "--rounds", "10000", "--shrink", "256"]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let begun = lines.by_ref().map_while(Result::ok).any(|line| line.contains("round 1"));
    let _ = kill_process(Pid::from_child(&child), Signal::TERM);
    // Receivers hold the other end of this pipe too: it ends when all of them have.
    let rest: Vec<_> = lines.map_while(Result::ok).collect();
    let status = child.wait().unwrap();
    assert!(begun, "no round was played: {rest:?}");
    assert_eq!(status.code(), Some(128 + 15), "{rest:?}");
    assert_empty(folder.path());
}

#[test]
fn wrong_usage_is_told() {
    let folder = tempfile::tempdir().unwrap();
    for words in [&["steam"][..], &["get", "--congestion-control", "no-such-control"]] {
        let output = scenarios(folder.path()).args(words).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{}", said(&output));
        assert!(
            said(&output).contains("there is no scenario 'steam'") || said(&output).contains("it offers")
        );
    }
    let output = scenarios(folder.path()).args(["get", "--json", "/no/such/folder/file"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
}
