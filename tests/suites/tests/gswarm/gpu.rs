//! GPUs, which are stand-ins here: what the document does with `gpu`, on the command line and over HTTP.

use serde_json::{Value, json};
use suites::{Cluster, Http, Node, Setup, Shoal, noise};

const SIZE: usize = (5 << 20) + 123;

/// A folder with a file of noise in it, its path, and the BLAKE3 digest of that.
fn folder() -> (tempfile::TempDir, String, String) {
    let folder = tempfile::tempdir().unwrap();
    let (bytes, path) = (noise(11, SIZE), folder.path().join("data.bin"));
    std::fs::write(&path, &bytes).unwrap();
    (folder, path.to_str().unwrap().to_owned(), format!("blake3:{}", blake3::hash(&bytes)))
}

fn setup(folder: &tempfile::TempDir, gpus: &str) -> Setup {
    Setup::named("n1").flag("--allow-source", folder.path()).flag("--emulate-gpus", gpus)
}

fn line(node: &Node, words: &str) -> suites::Outcome {
    let words = words.split(' ').map(|word| word.trim_matches('"'));
    Shoal::alone().arg("data").args(words).args(["--host", node.address()]).run()
}

fn create(http: &Http, source: &str, device: &str) -> String {
    let body = json!({"source": source, "device": device, "type": "input", "format": "tensor"});
    let done = http.json("POST", "/api/v1/data", &body).is(200).value();
    done["chunk_id"].as_str().unwrap().to_owned()
}

fn devices(http: &Http, id: &str) -> Vec<String> {
    let shown = http.get(&format!("/api/v1/data/{id}")).is(200).value();
    let places = shown["locations"].as_array().unwrap().iter();
    places.map(|place| format!("{} {}", place["device"], place["status"]).replace('"', "")).collect()
}

/// Bytes taken on each GPU.
fn used(http: &Http) -> Vec<u64> {
    let status = http.get("/v1/status").is(200).value();
    let gpus = status["gpus"].as_array().unwrap().iter();
    gpus.map(|gpu| gpu["used_bytes"].as_u64().unwrap()).collect()
}

/// Waits until a task has ended, which must go well.
fn completed(http: &Http, begun: &Value) {
    let id = begun["task_id"].as_str().unwrap();
    let task = suites::until("the task ends", || {
        let task = http.get(&format!("/api/v1/tasks/{id}")).is(200).value();
        (!matches!(task["status"].as_str(), Some("pending" | "running"))).then_some(task)
    });
    assert_eq!(task["status"], "completed", "{task}");
}

fn move_to(http: &Http, id: &str, device: &str) {
    let body = json!({"target_device": device, "priority": "high"});
    let begun = http.json("POST", &format!("/api/v1/data/{id}/move"), &body).is(200).value();
    assert_eq!(begun["target_device"], device);
    completed(http, &begun);
}

#[test]
fn the_lines_of_the_document_run_on_gpus() {
    let (folder, path, checksum) = folder();
    let cluster = Cluster::start_with(2, |setup| {
        setup.flag("--allow-source", folder.path()).flag("--emulate-gpus", "1:64MB")
    });
    let (node, other) = (cluster.head(), &cluster.nodes[1]);
    let told = line(node, &format!(r#"create --source "{path}" --device gpu --type input --format tensor"#));
    let told = told.success().text();
    assert!(told.contains("chunk-00000001 on gpu"), "{told}");
    let listed = line(node, "list --device gpu --type input").success().text();
    assert!(listed.contains("chunk-00000001") && listed.contains("gpu:0"), "{listed}");
    assert!(!line(node, "list --device dram").success().text().contains("chunk-"));
    let shown = line(node, r#"info "chunk-00000001""#).success().text();
    assert!(shown.contains("locations      gpu:0\n") && shown.contains(&checksum), "{shown}");
    line(node, r#"move "chunk-00000001" --to dram --priority high"#).success();
    suites::holds("the chunk is in memory", || {
        devices(&Http::at(node), "chunk-00000001") == ["dram available"]
    });
    line(node, r#"move "chunk-00000001" --to gpu --priority high"#).success();
    suites::holds("the chunk is back", || devices(&Http::at(node), "chunk-00000001") == ["gpu:0 available"]);
    line(node, r#"transfer "chunk-00000001" --to "n2:gpu" --delete-source"#).success();
    suites::holds("the chunk is on the other node", || {
        devices(&Http::at(node), "chunk-00000001") == ["n2:gpu:0 available"]
    });
    let listed = line(other, "list --device gpu").success().text();
    assert!(listed.contains(" gpu:0"), "{listed}");
    line(node, r#"delete "chunk-00000001" --force"#).success();
    suites::holds("its memory is free", || used(&Http::at(other)) == [0] && used(&Http::at(node)) == [0]);
}

#[test]
fn chunks_move_between_all_devices() {
    let (folder, path, checksum) = folder();
    let mut node = setup(&folder, "2:64MB").memory("64MB").start();
    let http = Http::at(&node);
    let id = create(&http, &path, "cuda:1");
    assert_eq!(devices(&http, &id), ["gpu:1 available"]);
    for (query, count) in [("gpu", 1), ("gpu:1", 1), ("device:1", 1), ("gpu:0", 0), ("dram", 0), ("tape", 0)]
    {
        let listed = http.get(&format!("/api/v1/data?device={query}")).is(200).value();
        assert_eq!(listed["chunks"].as_array().unwrap().len(), count, "{query}: {listed}");
    }
    for (device, place) in [
        ("gpu:0", "gpu:0"),
        ("nvme", "nvme"),
        ("cuda", "gpu:0"),
        ("dram", "dram"),
        ("device:0", "gpu:0"),
        ("gpu", "gpu:0"),
    ] {
        move_to(&http, &id, device);
        assert_eq!(devices(&http, &id), [format!("{place} available")], "moved to {device}");
    }
    assert_eq!(used(&http), [SIZE as u64, 0]);
    let shown = http.get(&format!("/api/v1/data/{id}")).is(200).value();
    assert_eq!(shown["metadata"]["checksum"], checksum);
    // What is on a GPU is gone after a crash, as what is in memory.
    let (kept, path) = (create(&http, &path, "nvme"), format!("/api/v1/data/{id}/move"));
    assert_eq!(devices(&http, &kept).len(), 3, "the same bytes are on the GPU, and on their way in memory");
    node.kill();
    node.restart();
    let http = Http::at(&node);
    assert_eq!((devices(&http, &id), used(&http)), (vec!["nvme available".to_owned()], vec![0, 0]));
    http.json("POST", &path, &json!({"target_device": "gpu"})).is(200);
}

#[test]
fn what_does_not_fit_or_is_not_there_is_refused() {
    let (folder, path, _) = folder();
    let node = setup(&folder, "1:8MB").start();
    let http = Http::at(&node);
    let id = create(&http, &path, "gpu");
    std::fs::write(folder.path().join("more.bin"), noise(12, SIZE)).unwrap();
    let more = path.replace("data.bin", "more.bin");
    let refused =
        http.json("POST", "/api/v1/data", &json!({"source": more, "device": "gpu:0"})).is(507).value();
    assert!(refused["detail"].as_str().unwrap().contains("on gpu:0"), "{refused}");
    for device in ["gpu:1", "cuda:7", "tape", ""] {
        let refused = http.json("POST", "/api/v1/data", &json!({"source": path, "device": device}));
        let refused = refused.is(400).value();
        assert!(refused["detail"].as_str().unwrap().contains("dram, nvme, gpu:0 (emulated)"), "{refused}");
    }
    http.json("POST", &format!("/api/v1/data/{id}/move"), &json!({"target_device": "gpu:1"})).is(400);
    http.delete(&format!("/api/v1/data/{id}")).is(200);
    suites::holds("the memory of the GPU is free", || used(&http) == [0]);
    create(&http, &more, "gpu:0");
}

#[test]
fn status_and_start_tell_of_gpus() {
    let node = Setup::named("n1").flag("--emulate-gpus", "2:64MB").flag("--gpu-memory", "25%").start();
    let status = Http::at(&node).get("/v1/status").is(200).value();
    let gpu = json!({
        "device": "gpu:1", "name": "emulated", "uuid": "", "bus": "", "memory_bytes": 64 << 20,
        "limit_bytes": 16 << 20, "used_bytes": 0, "emulated": true,
    });
    assert_eq!(status["gpus"][1], gpu);
    let told = suites::shoal(&node, ["status"]).success().text();
    assert!(told.contains("gpu:1") && told.contains("emulated") && told.contains("16.0 MiB"), "{told}");
    for (flag, value) in [("--emulate-gpus", "17"), ("--gpu-memory", "101%")] {
        let (code, log) = Setup::named("n1").flag(flag, value).fails();
        assert!(code == Some(2) && log.contains(flag), "{code:?}: {log}");
    }
}

#[test]
fn values_live_on_gpus() {
    let mut node = Setup::named("n1").flag("--emulate-gpus", "1:8MB").start();
    let http = Http::at(&node);
    let write = |key: &str, value: &Value, location: &str| {
        http.json("POST", "/write", &json!({"key": key, "value": value, "location": location}))
    };
    let read = |key: &str| http.get(&format!("/read/{key}")).is(200).value()["value"].clone();
    let location = |key: &str| http.get(&format!("/location/{key}")).is(200).value()["location"].clone();
    let (small, large) = (json!({"layers": 32}), json!("w".repeat(3 << 20)));
    assert_eq!(write("small", &small, "device:0").is(200).value()["location"], "device:0");
    write("large", &large, "cuda").is(200);
    assert!(used(&http)[0] > 3 << 20);
    assert_eq!((read("small"), read("large")), (small.clone(), large.clone()));
    let shown = http.get("/locations").is(200).value();
    let place = &shown["locations"]["large"][0];
    assert_eq!((&place["location"], &place["size"]), (&json!("device:0"), &json!((3 << 20) + 2)));
    // What does not fit leaves what is there.
    write("large", &json!("v".repeat(9 << 20)), "device:0").is(507);
    assert_eq!(read("large"), large);
    let refused = write("small", &large, "device:1").is(400).value();
    assert!(refused["detail"].as_str().unwrap().contains("disk, device:0"), "{refused}");
    for destination in ["dram", "device:0", "disk", "gpu"] {
        let moved = http.json("POST", "/move", &json!({"key": "large", "destination": destination})).is(200);
        let there = if destination == "gpu" { "device:0" } else { destination };
        assert_eq!((&moved.value()["destination"], location("large")), (&json!(there), json!(there)));
        assert_eq!(read("large"), large);
        assert_eq!(used(&http)[0] > 3 << 20, there == "device:0", "moved to {destination}");
    }
    http.delete("/release/large").is(200);
    write("small", &json!(7), "dram").is(200);
    suites::holds("the memory of the GPU is free", || used(&http) == [0]);
    write("gone", &small, "device:0").is(200);
    node.kill();
    node.restart();
    assert_eq!(Http::at(&node).get("/read/gone").is(200).value()["found"], false);
}
