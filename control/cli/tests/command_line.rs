//! The command line without a cluster: help, completions, usage errors, exit codes.

use std::process::{Command, Output, Stdio};

const COMMANDS: [&[&str]; 41] = [
    &["serve"],
    &["put"],
    &["get"],
    &["ls"],
    &["rm"],
    &["info"],
    &["chunk"],
    &["chunk", "ls"],
    &["chunk", "info"],
    &["chunk", "move"],
    &["chunk", "copy"],
    &["chunk", "pin"],
    &["chunk", "unpin"],
    &["chunk", "rm"],
    &["kv"],
    &["kv", "get"],
    &["kv", "put"],
    &["kv", "cas"],
    &["kv", "rm"],
    &["kv", "scan"],
    &["kv", "count"],
    &["kv", "watch"],
    &["kv", "ttl"],
    &["kv", "txn"],
    &["service"],
    &["service", "add"],
    &["service", "ls"],
    &["service", "rm"],
    &["service", "keep"],
    &["node"],
    &["node", "ls"],
    &["node", "drain"],
    &["status"],
    &["doctor"],
    &["demo"],
    &["cluster"],
    &["cluster", "up"],
    &["bench"],
    &["bench", "p2p"],
    &["bench", "broadcast"],
    &["completions"],
];

/// Runs `shoal` in a directory of its own and without settings from outside.
fn shoal(arguments: &[&str]) -> Output {
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    let mut command = Command::new(env!("CARGO_BIN_EXE_shoal"));
    for (variable, _) in std::env::vars_os() {
        if variable.to_string_lossy().starts_with("SHOAL_") {
            command.env_remove(variable);
        }
    }
    command.env("SHOAL_DATA_DIR", directory.path());
    command.args(arguments).current_dir(directory.path()).stdin(Stdio::null()).output().expect("shoal starts")
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("shoal writes UTF-8")
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("shoal writes UTF-8")
}

#[test]
fn help_names_all_commands_and_the_exit_codes() {
    let output = shoal(&["--help"]);
    assert_eq!(output.status.code(), Some(0));
    let text = stdout(&output);
    for command in COMMANDS {
        assert!(text.contains(&format!("\n  {}", command[0])), "{command:?} is missing:\n{text}");
    }
    for words in
        ["Examples:", "Exit codes:", "130  interrupted", "--node", "SHOAL_NODE", "--token-file", "--json"]
    {
        assert!(text.contains(words), "{words:?} is missing:\n{text}");
    }
}

#[test]
fn every_command_has_help() {
    for command in COMMANDS {
        let output = shoal(&[command, &["--help"]].concat());
        assert_eq!(output.status.code(), Some(0), "{command:?}");
        let text = stdout(&output);
        assert!(text.contains("Usage: shoal"), "{command:?}:\n{text}");
        let is_group =
            ["chunk", "cluster", "node", "bench", "kv", "service"].contains(command.last().unwrap());
        assert!(is_group || text.contains("Examples:"), "{command:?} has no examples:\n{text}");
    }
}

#[test]
fn the_version_is_told() {
    let output = shoal(&["--version"]);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(stdout(&output), concat!("shoal ", env!("CARGO_PKG_VERSION"), "\n"));
}

#[test]
fn completions_are_printed() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = shoal(&["completions", shell]);
        assert_eq!(output.status.code(), Some(0), "{shell}");
        assert!(stdout(&output).contains("broadcast"), "{shell}");
    }
}

#[test]
fn wrong_usage_exits_with_2() {
    let wrong: [&[&str]; 16] = [
        &[],
        &["swim"],
        &["put"],
        &["put", "key"],
        &["put", "a//b", "--src", "x"],
        &["put", "key", "--src", "-", "x"],
        &["get", "../key"],
        &["rm"],
        &["chunk", "move", "ab"],
        &["chunk", "move", "ab", "--to", "n1:tape"],
        &["demo", "--nodes", "1"],
        &["demo", "--size", "0"],
        &["bench", "p2p", "--rounds", "0"],
        &["completions", "cmd"],
        &["status", "--node", "nowhere"],
        &["serve", "--max-memory", "lots"],
    ];
    for arguments in wrong {
        let output = shoal(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", stderr(&output));
        assert!(stdout(&output).is_empty(), "{arguments:?}");
        assert!(!stderr(&output).is_empty(), "{arguments:?}");
    }
}

#[test]
fn wrong_usage_is_json_when_asked() {
    for arguments in [&["--json", "swim"][..], &["put", "key", "--src", "-", "x", "--json"]] {
        let output = shoal(arguments);
        assert_eq!(output.status.code(), Some(2));
        let report: serde_json::Value = serde_json::from_str(&stderr(&output)).unwrap();
        assert_eq!(report["code"], "usage");
    }
}

#[test]
fn no_node_exits_with_4_and_a_hint() {
    let commands: [&[&str]; 8] = [
        &["put", "key", "--src", "."],
        &["get", "key"],
        &["ls"],
        &["rm", "key"],
        &["info", "key"],
        &["chunk", "ls"],
        &["node", "ls"],
        &["status"],
    ];
    for arguments in commands {
        let output = shoal(arguments);
        assert_eq!(output.status.code(), Some(4), "{arguments:?}: {}", stderr(&output));
        let text = stderr(&output);
        assert!(text.starts_with("error: cannot connect"), "{text}");
        assert!(text.contains("\nhint: "), "{text}");
    }
    let output = shoal(&["ls", "--json", "--node", "/nowhere/shoal.sock"]);
    assert_eq!(output.status.code(), Some(4));
    let report: serde_json::Value = serde_json::from_str(&stderr(&output)).unwrap();
    assert_eq!(report["code"], "unavailable");
    assert!(report["message"].as_str().unwrap().contains("/nowhere/shoal.sock"));
    assert!(!report["hint"].as_str().unwrap().is_empty());
}

#[test]
fn empty_variables_count_as_none() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_shoal"));
    for variable in ["SHOAL_NODE", "SHOAL_TOKEN_FILE"] {
        command.env(variable, "");
    }
    let output = command.env("SHOAL_DATA_DIR", "/nowhere").arg("ls").output().unwrap();
    assert_eq!(output.status.code(), Some(4));
    assert!(stderr(&output).contains("/nowhere/shoal.sock"), "{}", stderr(&output));
}

#[test]
fn a_missing_token_file_is_told() {
    let output = shoal(&["ls", "--token-file", "missing"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("cannot read the token file missing"), "{}", stderr(&output));
}

#[test]
fn a_demonstration_that_does_not_fit_is_refused() {
    let output = shoal(&["demo", "--nodes", "256", "--size", "1024TB"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("256 nodes with 1.0 PiB each need"), "{}", stderr(&output));
}

#[test]
fn a_closed_pipe_is_quiet() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_shoal"))
        .args(["completions", "bash"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(stderr(&output), "");
}
