//! Chunks of the pool: real bytes from real places, moved for real.

use std::path::Path;

use serde_json::{Value, json};
use suites::{Cluster, Http, Node, Setup, noise};

const SIZE: usize = (5 << 20) + 123;

/// A folder with a file of noise in it, and the BLAKE3 digest of that.
fn folder() -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let bytes = noise(7, SIZE);
    std::fs::write(folder.path().join("data.bin"), &bytes).unwrap();
    (folder, format!("blake3:{}", blake3::hash(&bytes)))
}

fn allowed(setup: Setup, root: &Path) -> Setup {
    setup.flag("--allow-source", root)
}

fn create(http: &Http, source: &str, device: &str) -> String {
    let body = json!({"source": source, "device": device, "type": "input", "format": "tensor"});
    let done = http.json("POST", "/api/v1/data", &body).is(200).value();
    assert_eq!((&done["status"], &done["size"]), (&json!("success"), &json!(SIZE)));
    done["chunk_id"].as_str().unwrap().to_owned()
}

fn devices(http: &Http, id: &str) -> Vec<String> {
    let shown = http.get(&format!("/api/v1/data/{id}")).is(200).value();
    let places = shown["locations"].as_array().unwrap().iter();
    let whole = places.filter(|place| place["status"] == "available");
    whole.map(|place| place["device"].as_str().unwrap().to_owned()).collect()
}

/// Waits until a task has ended; how.
fn ended(http: &Http, begun: &Value) -> Value {
    let id = begun["task_id"].as_str().unwrap();
    suites::until("the task ends", || {
        let task = http.get(&format!("/api/v1/tasks/{id}")).is(200).value();
        (!matches!(task["status"].as_str(), Some("pending" | "running"))).then_some(task)
    })
}

#[test]
fn chunks_are_read_described_moved_and_deleted() {
    let (folder, checksum) = folder();
    let mut node = allowed(Setup::named("n1"), folder.path()).start();
    let http = Http::at(&node);
    let path = folder.path().join("data.bin");
    let path = path.to_str().unwrap();
    let id = create(&http, path, "dram");
    assert_eq!(id, "chunk-00000001");
    let shown = http.get("/api/v1/data/chunk-00000001").is(200).value();
    assert_eq!(
        (&shown["chunk_type"], &shown["format"], &shown["size"]),
        (&json!("input"), &json!("tensor"), &json!(SIZE))
    );
    assert_eq!(shown["locations"], json!([{"device": "dram", "status": "available"}]));
    let metadata = &shown["metadata"];
    assert_eq!((&metadata["checksum"], &metadata["created_by"]), (&json!(checksum), &json!("n1")));
    assert_eq!(metadata["access_count"], 1);
    let again = http.get("/api/v1/data/chunk-00000001").is(200).value();
    assert_eq!(again["metadata"]["access_count"], 2);
    assert_eq!(create(&http, &format!("file://{path}"), "nvme"), "chunk-00000002");
    for (query, count) in [
        ("", 2),
        ("?device=nvme", 2),
        ("?type=output", 0),
        ("?type=input&device=disk", 2),
        ("?device=gpu", 0),
    ] {
        let listed = http.get(&format!("/api/v1/data{query}")).is(200).value();
        assert_eq!(listed["chunks"].as_array().unwrap().len(), count, "{query}: {listed}");
    }
    let begun = http.json(
        "POST",
        "/api/v1/data/chunk-00000001/move",
        &json!({"target_device": "nvme", "priority": "high"}),
    );
    let begun = begun.is(200).value();
    assert_eq!((&begun["status"], &begun["target_device"]), (&json!("success"), &json!("nvme")));
    let task = ended(&http, &begun);
    assert_eq!(
        (&task["status"], &task["progress"], &task["priority"]),
        (&json!("completed"), &json!(1.0), &json!("high")),
        "{task}"
    );
    assert_eq!(devices(&http, &id), ["nvme"]);
    // What is on NVMe outlives the node, what is in memory alone does not, and both are told as they are.
    node.kill();
    node.restart();
    let http = Http::at(&node);
    assert_eq!(devices(&http, &id), ["nvme"]);
    let begun = http
        .json("POST", "/api/v1/data/chunk-00000001/move", &json!({"target_device": "dram"}))
        .is(200)
        .value();
    assert_eq!(ended(&http, &begun)["status"], "completed");
    assert_eq!(devices(&http, &id), ["dram"]);
    http.json("POST", &format!("/api/v1/tasks/{}/cancel", begun["task_id"].as_str().unwrap()), &json!({}))
        .is(400);
    assert!(!http.get("/api/v1/tasks").is(200).value()["tasks"].as_array().unwrap().is_empty());
    // What is needed is deleted with force alone.
    http.ask("PUT", "/api/v1/data/chunk-00000001/references/model-a", None).is(200);
    let refused = http.delete("/api/v1/data/chunk-00000001").is(400).value();
    assert!(refused["detail"].as_str().unwrap().contains("still referenced by model-a"), "{refused}");
    http.delete("/api/v1/data/chunk-00000001?force=perhaps").is(422);
    let twice = http.delete("/api/v1/data/chunk-00000001?force=true&force=true").is(422).value();
    assert_eq!(twice["detail"][0]["loc"], json!(["query"]));
    let done = http.delete("/api/v1/data/chunk-00000001?force=true").is(200).value();
    assert_eq!(
        done,
        json!({"status": "success", "message": "Data chunk 'chunk-00000001' deleted successfully"})
    );
    http.get("/api/v1/data/chunk-00000001").is(404);
    assert_eq!(devices(&http, "chunk-00000002"), ["dram"], "the same bytes are there under another number");
    http.ask("PUT", "/api/v1/data/chunk-00000002/references/x", None).is(200);
    http.delete("/api/v1/data/chunk-00000002/references/x").is(200);
    http.delete("/api/v1/data/chunk-00000002").is(200);
}

#[test]
fn the_bytes_of_a_deleted_chunk_go() {
    let (folder, _) = folder();
    let node = allowed(Setup::named("n1"), folder.path()).start();
    let http = Http::at(&node);
    let id = create(&http, folder.path().join("data.bin").to_str().unwrap(), "dram");
    let used = || http.get("/v1/status").is(200).value()["memory_used"].as_u64().unwrap();
    assert!(used() >= SIZE as u64);
    http.delete(&format!("/api/v1/data/{id}")).is(200);
    suites::holds("the bytes are gone", || used() < SIZE as u64);
}

#[test]
fn nothing_is_read_that_is_not_allowed() {
    let (folder, _) = folder();
    let inside = folder.path().join("in");
    std::fs::create_dir(&inside).unwrap();
    std::fs::write(inside.join("empty"), b"").unwrap();
    std::os::unix::fs::symlink("../data.bin", inside.join("out")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", inside.join("passwd")).unwrap();
    let node = allowed(Setup::named("n1"), &inside).start();
    let http = Http::at(&node);
    let place = |rest: &str| format!("{}/{rest}", inside.display());
    let asked = |source: &str| http.json("POST", "/api/v1/data", &json!({"source": source})).status;
    for source in [
        "/etc/passwd",
        "file:///etc/passwd",
        &place("out"),
        &place("passwd"),
        &place("../data.bin"),
        "http://127.0.0.1:1/x",
        "http://169.254.169.254/latest/meta-data",
        "https://host/x",
        "s3://bucket/key",
    ] {
        assert_eq!(asked(source), 403, "{source}");
    }
    for source in [
        "",
        "data.bin",
        &place("none"),
        &place("."),
        "s3://b/key",
        "http://user:password@host/x",
        "http://",
        "gopher://x",
    ] {
        assert_eq!(asked(source), 400, "{source}");
    }
    assert_eq!(
        Http::at(&Node::start()).json("POST", "/api/v1/data", &json!({"source": "/etc/passwd"})).status,
        403
    );
    let source = place("none");
    for device in ["gpu", "gpu:0", "cuda", ""] {
        let refused =
            http.json("POST", "/api/v1/data", &json!({"source": source, "device": device})).is(400).value();
        assert!(
            refused["detail"].as_str().unwrap().contains("those that there are: dram, nvme"),
            "{refused}"
        );
    }
    http.json("POST", "/api/v1/data", &json!({"device": "dram"})).is(422);
    for id in ["chunk-00000009", "chunk_abc123", "..%2Fx", "%00"] {
        http.get(&format!("/api/v1/data/{id}")).is(404);
        http.json("POST", &format!("/api/v1/data/{id}/move"), &json!({"target_device": "dram"})).is(404);
    }
    assert_eq!(http.get("/api/v1/data").is(200).value(), json!({"chunks": []}));
    http.get("/api/v1/tasks/none").is(404);
}

#[test]
fn chunks_may_be_without_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("empty");
    std::fs::write(&path, b"").unwrap();
    let mut cluster = Cluster::start_with(2, |setup| allowed(setup, folder.path()));
    let [first, second] = [0, 1].map(|at| Http::at(&cluster.nodes[at]));
    let body = json!({"source": path, "device": "dram"});
    let done = first.json("POST", "/api/v1/data", &body).is(200).value();
    assert_eq!(done, json!({"status": "success", "chunk_id": "chunk-00000001", "size": 0}));
    let shown = first.get("/api/v1/data/chunk-00000001").is(200).value();
    assert_eq!((&shown["size"], &shown["locations"][0]["device"]), (&json!(0), &json!("dram")));
    assert_eq!(shown["metadata"]["checksum"], format!("blake3:{}", blake3::hash(b"")));
    assert_eq!(devices(&second, "chunk-00000001"), ["n1:dram"]);
    let go = |http: &Http, verb: &str, body: Value| {
        let begun = http.json("POST", &format!("/api/v1/data/chunk-00000001/{verb}"), &body).is(200).value();
        let task = ended(http, &begun);
        assert_eq!((&task["status"], &task["progress"]), (&json!("completed"), &json!(1.0)), "{task}");
    };
    go(&second, "move", json!({"target_device": "nvme"}));
    go(&first, "transfer", json!({"target_node": "n2", "target_device": "dram"}));
    assert_eq!(devices(&first, "chunk-00000001"), ["nvme", "n2:dram"].map(String::from).as_slice());
    go(&first, "transfer", json!({"target_node": "n2", "target_device": "nvme", "delete_source": true}));
    assert_eq!(devices(&second, "chunk-00000001"), ["nvme"]);
    cluster.nodes[0].kill();
    cluster.nodes[0].restart();
    let first = Http::at(&cluster.nodes[0]);
    assert_eq!(devices(&first, "chunk-00000001"), ["n2:nvme"]);
    first.delete("/api/v1/data/chunk-00000001").is(200);
    first.get("/api/v1/data/chunk-00000001").is(404);
}

#[test]
fn what_is_said_about_a_chunk_is_kept() {
    let (folder, checksum) = folder();
    let mut node = allowed(Setup::named("n1"), folder.path()).start();
    let source = folder.path().join("data.bin");
    let create = |http: &Http, metadata: Value| {
        http.json("POST", "/api/v1/data", &json!({"source": source, "device": "nvme", "metadata": metadata}))
    };
    let http = Http::at(&node);
    let said = json!({"model": "seven", "shape": [2, 3], "checksum": "mine", "note": {"é": null}});
    create(&http, said).is(200);
    create(&http, Value::Null).is(200);
    for wrong in [json!("text"), json!([1]), json!({"long": "x".repeat(17_000)})] {
        create(&http, wrong).is(422);
    }
    node.kill();
    node.restart();
    let http = Http::at(&node);
    let metadata = http.get("/api/v1/data/chunk-00000001").is(200).value()["metadata"].clone();
    assert_eq!((&metadata["model"], &metadata["shape"]), (&json!("seven"), &json!([2, 3])));
    assert_eq!((&metadata["note"], &metadata["checksum"]), (&json!({"é": null}), &json!(checksum)));
    let listed = http.get("/api/v1/data").is(200).value();
    let models = listed["chunks"].as_array().unwrap().iter().map(|chunk| chunk["metadata"]["model"].clone());
    assert_eq!(models.collect::<Vec<_>>(), [json!("seven"), Value::Null]);
    http.delete("/api/v1/data/chunk-00000001").is(200);
    assert_eq!(create(&http, Value::Null).is(200).value()["chunk_id"], "chunk-00000003");
    assert_eq!(http.get("/api/v1/data/chunk-00000003").is(200).value()["metadata"]["model"], Value::Null);
}

#[test]
fn chunks_are_transferred_to_other_nodes() {
    let (folder, checksum) = folder();
    let cluster = Cluster::start_with(3, |setup| allowed(setup, folder.path()));
    let [first, second, third] = [0, 1, 2].map(|at| Http::at(&cluster.nodes[at]));
    let id = create(&first, folder.path().join("data.bin").to_str().unwrap(), "dram");
    let transfer = |http: &Http, node: &str, device: &str, delete: bool| {
        let body = json!({"target_node": node, "target_device": device, "delete_source": delete});
        http.json("POST", &format!("/api/v1/data/{id}/transfer"), &body)
    };
    let begun = transfer(&first, "n2", "dram", false).is(200).value();
    assert_eq!((&begun["target"], &begun["chunk_id"]), (&json!("n2:dram"), &json!(id)));
    assert_eq!(ended(&first, &begun)["status"], "completed");
    let mut places = devices(&first, &id);
    places.sort();
    assert_eq!(places, ["dram", "n2:dram"]);
    // Any node is asked, and the source goes only when it shall.
    let begun = transfer(&second, "n3", "nvme", true).is(200).value();
    let task = ended(&second, &begun);
    assert_eq!(task["status"], "completed", "{task}");
    assert!(devices(&third, &id).contains(&"nvme".to_owned()));
    assert!(!devices(&first, &id).iter().any(|place| place == "dram" || place.starts_with("n2")));
    assert_eq!(second.get(&format!("/api/v1/data/{id}")).is(200).value()["metadata"]["checksum"], checksum);
    let refused = transfer(&first, "n9", "dram", false).is(400).value();
    assert!(refused["detail"].as_str().unwrap().contains("n1, n2, n3"), "{refused}");
    transfer(&first, "n2", "gpu", false).is(400);
    // A transfer that nobody answers is ended by those who asked for it.
    cluster.nodes[1].signal(suites::Signal::STOP);
    let begun = transfer(&first, "n2", "nvme", false).is(200).value();
    let path = format!("/api/v1/tasks/{}", begun["task_id"].as_str().unwrap());
    first.json("POST", &format!("{path}/cancel"), &json!({})).is(200);
    assert_eq!(first.get(&path).is(200).value()["status"], "cancelled");
    first.json("POST", &format!("{path}/cancel"), &json!({})).is(400);
    cluster.nodes[1].signal(suites::Signal::CONT);
    third.delete(&format!("/api/v1/data/{id}")).is(200);
    first.get(&format!("/api/v1/data/{id}")).is(404);
}

#[test]
fn a_cancelled_transfer_leaves_nothing() {
    const ROUNDS: u64 = 8;
    let folder = tempfile::tempdir().unwrap();
    let cluster = Cluster::start_with(2, |setup| allowed(setup, folder.path()));
    let [first, second] = [0, 1].map(|at| Http::at(&cluster.nodes[at]));
    for round in 0..ROUNDS {
        let path = folder.path().join("data.bin");
        suites::write_noise(&path, round, 40 << 20);
        let source = path.to_str().unwrap();
        let created = first.json("POST", "/api/v1/data", &json!({"source": source})).is(200).value();
        let id = created["chunk_id"].as_str().unwrap();
        let (device, moves) = (if round % 2 == 0 { "dram" } else { "nvme" }, round % 4 < 2);
        let transfer = || {
            let body = json!({"target_node": "n2", "target_device": device, "delete_source": moves});
            first.json("POST", &format!("/api/v1/data/{id}/transfer"), &body).is(200).value()
        };
        let begun = transfer();
        // Not a condition, only a while: how far it has come is a matter of chance.
        std::thread::sleep(std::time::Duration::from_millis(round * 9));
        let path = format!("/api/v1/tasks/{}/cancel", begun["task_id"].as_str().unwrap());
        let cancelled = first.json("POST", &path, &json!({})).status == 200;
        let task = ended(&first, &begun);
        assert_eq!(task["status"], if cancelled { "cancelled" } else { "completed" }, "{task}");
        let there = format!("n2:{device}");
        if cancelled {
            suites::holds("what has come is gone", || {
                let shown = first.get(&format!("/api/v1/data/{id}")).is(200).value();
                shown["locations"] == json!([{"device": "dram", "status": "available"}])
            });
            // The same transfer waits until all is gone, and is none that goes on from it.
            let again = ended(&first, &transfer());
            assert_eq!(again["status"], "completed", "{again}");
        }
        assert!(devices(&first, id).contains(&there));
        assert_eq!(devices(&first, id).contains(&"dram".to_owned()), !moves);
        assert!(devices(&second, id).contains(&device.to_owned()));
        first.delete(&format!("/api/v1/data/{id}")).is(200);
    }
}
