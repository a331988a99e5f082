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
