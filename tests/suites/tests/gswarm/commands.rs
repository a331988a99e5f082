//! `shoal data …`, as the document spells it, and under the name of gswarm.

use std::process::{Command, Stdio};

use serde_json::{Value, json};
use suites::{Node, Shoal};

/// The words of a line of the document, for a node at another address than the default.
fn line(node: &Node, words: &str) -> suites::Outcome {
    let words = words.split(' ').map(|word| word.trim_matches('"'));
    Shoal::alone().arg("data").args(words).args(["--host", node.address()]).run()
}

#[test]
fn the_lines_of_the_document_run() {
    let (node, other) = (Node::start(), Node::start());
    line(&node, r#"write "user:123" "john_doe" --persist"#).success();
    assert_eq!(line(&node, r#"read "user:123""#).success().stdout, b"john_doe\n");
    line(&node, "write temp/cache text --volatile").success();
    let shown: Value = serde_json::from_slice(&line(&node, "stats --json").success().stdout).unwrap();
    let stats = &shown["stats"];
    assert_eq!((&stats["persistent_keys"], &stats["volatile_keys"]), (&json!(1), &json!(1)));
    let told = String::from_utf8(line(&node, "stats").success().stdout).unwrap();
    assert!(
        told.contains("keys     2 (1 persistent, 1 volatile)") && told.contains(" of 512.0 MiB "),
        "{told}"
    );
    line(&node, &format!(r#"send "user:123" "{}""#, other.address())).success();
    assert_eq!(line(&other, r#"read "user:123""#).success().stdout, b"john_doe\n");
    line(&node, r#"release "user:123""#).success();
    assert_eq!(line(&node, r#"read "user:123""#).code, Some(3));
    assert_eq!(line(&node, r#"release "user:123""#).code, Some(3));
    line(&node, "write pinned x --location pinned_dram").success();
    let refused = line(&node, "write gpu x -l device:0");
    refused.exits(1).tells("pinned_dram");
    assert_eq!(Shoal::alone().args(["data", "stats", "--host", "127.0.0.1:1"]).run().code, Some(4));
}

#[test]
fn the_lines_about_chunks_run() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data.bin");
    std::fs::write(&path, suites::noise(3, 2_000_000)).unwrap();
    let cluster = suites::Cluster::start_with(2, |setup| setup.flag("--allow-source", folder.path()));
    let node = cluster.head();
    let create =
        format!(r#"create --source "{}" --device dram --type input --format tensor"#, path.display());
    let told = line(node, &create).success().text();
    assert!(told.contains("chunk-00000001") && told.contains("1.9 MiB"), "{told}");
    let listed = line(node, "list --device dram --type input").success().text();
    assert!(listed.contains("chunk-00000001"), "{listed}");
    assert!(!line(node, "list -d dram -t output").success().text().contains("chunk-"));
    let told = line(node, r#"info "chunk-00000001""#).success().text();
    assert!(told.contains("checksum       blake3:") && told.contains("locations      dram"), "{told}");
    line(node, "info chunk_abc123").exits(3);
    let settle = |begun: Value| {
        suites::holds("the task has ended", || {
            let http = suites::Http::at(node);
            let task = http.get(&format!("/api/v1/tasks/{}", begun["task_id"].as_str().unwrap()));
            task.is(200).value()["status"] == json!("completed")
        });
    };
    settle(line(node, r#"move "chunk-00000001" --to nvme --priority high --json"#).success().json());
    settle(line(node, r#"transfer "chunk-00000001" --to "n2:dram" --delete-source --json"#).success().json());
    let told = line(node, r#"info "chunk-00000001""#).success().text();
    assert!(told.contains("locations      n2:dram"), "{told}");
    line(node, "move chunk-00000001 --to gpu").exits(1).tells("dram, nvme");
    line(node, "transfer chunk-00000001 --to n2").exits(2);
    line(node, r#"delete "chunk-00000001" --force"#).success();
    line(node, "delete chunk-00000001").exits(3);
}

/// The commands of the document, with the flags and arguments of each, and their defaults.
const GRAMMAR: [(&str, &[(&str, &str)]); 12] = [
    ("start", &[("--host", "0.0.0.0"), ("--port", "9015"), ("--max-memory", "16GB")]),
    ("write", &[("<KEY>", ""), ("<VALUE>", ""), ("--persist", "default"), ("--volatile", ""), HOST]),
    ("read", &[("<KEY>", ""), HOST]),
    ("release", &[("<KEY>", ""), HOST]),
    ("send", &[("<KEY>", ""), ("<TARGET>", ""), HOST]),
    ("stats", &[HOST]),
    ("list", &[("-d, --device", ""), ("-t, --type", ""), HOST]),
    (
        "create",
        &[
            ("-s, --source", ""),
            ("-d, --device", "dram"),
            ("-t, --type", "input"),
            ("-f, --format", "tensor"),
            HOST,
        ],
    ),
    ("info", &[("<CHUNK_ID>", ""), HOST]),
    ("move", &[("<CHUNK_ID>", ""), ("-t, --to", ""), ("-p, --priority", "normal"), HOST]),
    ("transfer", &[("<CHUNK_ID>", ""), ("-t, --to", ""), ("--delete-source", ""), HOST]),
    ("delete", &[("<CHUNK_ID>", ""), ("-f, --force", ""), HOST]),
];
const HOST: (&str, &str) = ("--host", "localhost:9015");

#[test]
fn every_flag_of_the_document_is_there_with_its_default() {
    for (command, flags) in GRAMMAR {
        let help = Shoal::alone().args(["data", command, "--help"]).run().success().text();
        // Each option begins a paragraph or a line of its own, and ends before the next.
        let told: Vec<&str> = help.split("\n  ").flat_map(|part| part.split("\n\n")).collect();
        for (flag, default) in flags {
            let at = told.iter().position(|part| {
                let part = part.trim_start();
                part.strip_prefix(flag)
                    .is_some_and(|rest| !rest.starts_with(|next: char| next.is_alphanumeric() || next == '-'))
            });
            let at = at.unwrap_or_else(|| panic!("`data {command}` has no {flag}:\n{help}"));
            let until = told[at + 1..].iter().position(|part| part.trim_start().starts_with('-'));
            let about = told[at..until.map_or(told.len(), |until| at + 1 + until)].join(" ");
            assert!(about.contains(default), "{flag} of `data {command}` does not have {default}: {about}");
        }
    }
}

#[test]
fn short_flags_are_those_of_the_document() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data.bin");
    std::fs::write(&path, b"bytes").unwrap();
    let cluster = suites::Cluster::start_with(2, |setup| setup.flag("--allow-source", folder.path()));
    let node = cluster.head();
    line(node, &format!("create -s {} -d nvme -t output -f raw", path.display())).success();
    line(node, &format!("create --source {}", path.display())).success();
    let listed = line(node, "list -d nvme -t output --json").success().json();
    assert_eq!(listed["chunks"][0]["chunk_id"], "chunk-00000001");
    let by_default = line(node, "info chunk-00000002 --json").success().json();
    assert_eq!((&by_default["chunk_type"], &by_default["format"]), (&json!("input"), &json!("tensor")));
    assert_eq!(by_default["locations"][0]["device"], "dram");
    line(node, "move chunk-00000001 -t dram -p critical").success();
    line(node, "transfer chunk-00000002 -t n2:nvme").success();
    line(node, "delete chunk-00000001 -f").success();
}

#[test]
fn start_runs_a_node() {
    let folder = tempfile::tempdir().unwrap();
    let mut start = Shoal::alone();
    for word in
        ["data", "start", "--host", "localhost", "--port", "0", "--max-memory", "64MB", "--cores", "1"]
    {
        start = start.arg(word);
    }
    let running = start.arg("--data-dir").arg(folder.path().join("data")).start();
    let address = suites::until("the node tells its address", || {
        std::fs::read_to_string(folder.path().join("data/address")).ok()
    });
    let host = address.trim();
    let write = ["data", "write", "test", "Hello, World!", "--host", host];
    suites::holds("the node answers", || Shoal::alone().args(write).run().code == Some(0));
    let read = Shoal::alone().args(["data", "read", "test", "--host", host]).run().success();
    assert_eq!(read.stdout, b"Hello, World!\n");
    running.signal(suites::Signal::TERM);
    running.wait().success();
}

#[test]
fn the_program_answers_to_the_name_of_gswarm() {
    let node = Node::start();
    let link = node.folder().join("gswarm");
    std::os::unix::fs::symlink(suites::program(), &link).unwrap();
    let run = |words: &[&str]| Command::new(&link).args(words).stdin(Stdio::null()).output().unwrap();
    let help = run(&["data", "--help"]);
    assert!(String::from_utf8_lossy(&help.stdout).contains("gswarm data"), "{help:?}");
    assert!(run(&["data", "write", "k", "v", "--host", node.address()]).status.success());
    assert_eq!(run(&["data", "read", "k", "--host", node.address()]).stdout, b"v\n");
    // It starts a node as well, which here has no address to listen on.
    let data_dir = node.folder().join("other");
    let words = ["data", "start", "--host", "192.0.2.1", "--port", "9", "--max-memory", "64MB", "--data-dir"];
    let failed = Command::new(&link).args(words).arg(&data_dir).output().unwrap();
    let told = String::from_utf8_lossy(&failed.stderr).into_owned();
    assert!(!failed.status.success() && told.contains("--listen 192.0.2.1:9"), "{told}");
}
