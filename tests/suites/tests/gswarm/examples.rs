//! The examples of the manual run.

use std::process::Command;

use suites::Node;

const MANUAL: &str = include_str!("../../../../docs/gswarm.md");

#[test]
fn the_examples_of_the_manual_run() {
    if Command::new("curl").arg("--version").output().is_err() {
        println!("skipped: there is no curl");
        return;
    }
    let node = Node::start();
    let mut script = String::from("curl() { command curl -sS --fail-with-body \"$@\" && echo; }\n");
    let blocks = MANUAL.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    blocks.for_each(|block| script += block);
    let script = script.replace("127.0.0.1:9015", node.address());
    let done = Command::new("sh").args(["-e", "-c", &script]).output().unwrap();
    let (said, failed) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success(), "{said}\n{failed}");
    assert!(said.contains(r#""found":true"#) && said.contains(r#""found":false"#), "{said}");
}
