//! Whatever a program makes of the OpenAPI document is answered as it says.

use std::process::Command;

use suites::Node;

/// What is checked of each answer: that the node did not fail, and that status, type and body are those of the document.
const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,unsupported_method";

#[test]
fn the_document_holds_for_requests_that_are_made_from_it() {
    let program = std::env::var_os("SCHEMATHESIS").unwrap_or_else(|| "schemathesis".into());
    if Command::new(&program).arg("--version").output().is_err() {
        println!("skipped: there is no schemathesis; `pip install schemathesis`, or name it in SCHEMATHESIS");
        return;
    }
    // Where the limit of memory is low, a write is answered with 507, as it should be.
    let limit = ["--include-operation-id", "gswarmSetMaxMemory"];
    let others = ["--include-tag", "gswarm", "--exclude-operation-id", "gswarmSetMaxMemory"];
    for chosen in [&limit[..], &others] {
        let node = Node::start();
        let mut run = Command::new(&program);
        run.args(["run", &format!("http://{}/openapi.json", node.address())]);
        run.args(chosen).args(["--checks", CHECKS, "--max-examples", "20", "--seed", "1"]);
        run.args(["--phases", "examples,coverage,fuzzing", "--warnings", "off", "--continue-on-failure"]);
        // It leaves folders where it runs.
        let output =
            run.args(["--suppress-health-check", "all"]).current_dir(node.folder()).output().unwrap();
        let told = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{told}\n{}", String::from_utf8_lossy(&output.stderr));
    }
}
