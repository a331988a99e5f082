//! Chunks are read from servers and from S3, as far as they may be.

use serde_json::json;
use suites::{Answer, Http, Node, Setup, noise};

use super::origin::{Asked, Gives, serve, serve_securely};
use super::signature::Signer;

const SIZE: usize = (2 << 20) + 123;

fn bytes() -> Vec<u8> {
    noise(9, SIZE)
}

fn node(root: &str) -> Node {
    Setup::named("n1").flag("--allow-source", root).start()
}

fn create(node: &Node, source: &str) -> Answer {
    Http::at(node).json("POST", "/api/v1/data", &json!({"source": source, "device": "nvme"}))
}

/// Creates a chunk, which has all of the bytes.
#[track_caller]
fn has_all(node: &Node, source: &str) {
    let created = create(node, source).is(200).value();
    assert_eq!(created["size"], json!(SIZE));
    let path = format!("/api/v1/data/{}", created["chunk_id"].as_str().unwrap());
    let shown = Http::at(node).get(&path).is(200).value();
    assert_eq!(shown["metadata"]["checksum"], format!("blake3:{}", blake3::hash(&bytes())));
}

/// Why a source was refused.
#[track_caller]
fn refused(node: &Node, source: &str, status: u16) -> String {
    let told = create(node, source).is(status).value()["detail"].as_str().unwrap().to_owned();
    assert_eq!(Http::at(node).get("/api/v1/data").is(200).value(), json!({"chunks": []}));
    told
}

#[test]
fn chunks_come_over_http() {
    let whole = serve(|asked| match asked.path.as_str() {
        "/data/set.bin?x=1" => Gives::All(bytes()),
        "/data/chunked" => Gives::Chunked(bytes()),
        "/data/cut" => Gives::Cut(bytes(), SIZE + 1),
        "/data/cut-chunked" => Gives::CutChunked(bytes()),
        "/data/unmarked" => Gives::Unmarked(bytes()),
        _ => Gives::Status(404),
    });
    let node = node(&format!("http://{whole}/data/"));
    for (rest, told) in [
        ("data/cut", "broke off"),
        ("data/cut-chunked", "broke off"),
        ("data/unmarked", "where they end"),
        ("data/none", "404"),
    ] {
        let refused = refused(&node, &format!("http://{whole}/{rest}"), 400);
        assert!(refused.contains(told), "{refused}");
    }
    for rest in ["other", "data/../other", "data/%2e%2e/other", "data/..%2fother"] {
        refused(&node, &format!("http://{whole}/{rest}"), 403);
    }
    has_all(&node, &format!("http://{whole}/data/set.bin?x=1"));
    has_all(&node, &format!("http://{whole}/data/chunked"));
    assert!(!node.data_dir().read_dir().unwrap().any(|file| file.unwrap().file_name() == "chunked"));
}

#[test]
fn servers_send_on_only_to_what_may_be_read() {
    let other = serve(|_| Gives::All(bytes()));
    let first = {
        let other = other.clone();
        serve(move |asked| match asked.path.as_str() {
            "/data/relative" => Gives::Elsewhere("sub/set.bin".into()),
            "/data/sub/set.bin" => Gives::All(bytes()),
            "/data/far" => Gives::Elsewhere(format!("http://{other}/sets/a")),
            "/data/too-far" => Gives::Elsewhere(format!("http://{other}/secrets?token=x")),
            "/data/up" => Gives::Elsewhere("/etc/passwd".into()),
            "/data/file" => Gives::Elsewhere("file:///etc/passwd".into()),
            "/data/round" => Gives::Elsewhere("/data/round".into()),
            _ => Gives::Status(404),
        })
    };
    let roots = ["--allow-source", &format!("http://{first}/data/"), &format!("http://{other}/sets")]
        .map(String::from);
    let node = Setup::named("n1").env("SHOAL_ALLOW_SOURCE", roots[1..].join(",")).start();
    let source = |name: &str| format!("http://{first}/data/{name}");
    for name in ["too-far", "up", "file"] {
        let told = refused(&node, &source(name), 403);
        assert!(!told.contains("token"), "{told}");
    }
    assert!(refused(&node, &source("round"), 400).contains("5 times"));
    has_all(&node, &source("relative"));
    has_all(&node, &source("far"));
}

#[test]
fn chunks_come_within_tls() {
    let folder = tempfile::tempdir().unwrap();
    let certificate = folder.path().join("ca.pem");
    let address = serve_securely(&certificate, |asked| match asked.path.as_str() {
        "/data/chunked" => Gives::Chunked(bytes()),
        _ => Gives::All(bytes()),
    });
    let root = format!("https://{address}/data/");
    let setup = Setup::named("n1").flag("--allow-source", &root);
    let node = setup.clone().flag("--source-ca", &certificate).start();
    refused(&node, &format!("http://{address}/data/a"), 403);
    has_all(&node, &format!("{root}a"));
    has_all(&node, &format!("{root}chunked"));
    // Nobody vouches for this certificate, and none is taken on trust.
    let told = refused(&setup.clone().start(), &format!("{root}a"), 400);
    assert!(told.contains("certificate"), "{told}");
    let (code, log) = setup.clone().flag("--source-ca", folder.path().join("none")).fails();
    assert!(code == Some(2) && log.contains("none"), "{code:?} {log}");
    std::fs::write(&certificate, "no certificate").unwrap();
    let (_, log) = setup.flag("--source-ca", &certificate).fails();
    assert!(log.contains("--source-ca") && log.contains("PEM"), "{log}");
}

#[test]
fn chunks_come_from_s3() {
    let signer = || Signer { key: "AKIDEXAMPLE", secret: "wJalrXUtnFEMI/K7MDENG", region: "eu-west-7" };
    let store = |token: Option<&'static str>| {
        serve(move |asked: &Asked| match asked.path.split('?').next().unwrap() {
            _ if !signer().has_signed(&asked.path, &asked.host, token) => Gives::Status(403),
            "/bucket/sets/a%20b%2B%C3%A9.bin" => Gives::All(bytes()),
            "/bucket/sets/moved" => Gives::Elsewhere("/bucket/sets/a%20b%2B%C3%A9.bin".into()),
            _ => Gives::Status(404),
        })
    };
    let object = "s3://bucket/sets/a b+é.bin";
    let setup = |address: &str| {
        let setup = Setup::named("n1").flag("--allow-source", "s3://bucket/sets");
        setup.env("AWS_ENDPOINT_URL", format!("http://{address}")).env("AWS_REGION", "eu-west-7")
    };
    let with_key = |setup: Setup, secret: &str| {
        setup.env("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE").env("AWS_SECRET_ACCESS_KEY", secret)
    };
    let address = store(None);
    let known = with_key(setup(&address), signer().secret).start();
    for (source, status) in [
        ("s3://bucket/other", 403),
        ("s3://bucket/setsx", 403),
        ("s3://elsewhere/sets/a", 403),
        ("s3://bucket/sets/../other", 400),
        ("s3://b/x", 400),
        ("s3://bucket/sets/none", 400),
        ("s3://bucket/sets/moved", 400),
    ] {
        refused(&known, source, status);
    }
    has_all(&known, object);
    let wrong = with_key(setup(&address), "wrong").start();
    let told = refused(&wrong, object, 400);
    assert!(told.contains("403") && !told.contains("Signature"), "{told}");
    refused(&setup(&address).start(), object, 400);
    let address = store(Some("a/token=="));
    has_all(
        &with_key(setup(&address), signer().secret).env("AWS_SESSION_TOKEN", "a/token==").start(),
        object,
    );
    let (_, log) = setup(&address).env("AWS_ACCESS_KEY_ID", "x").fails();
    assert!(log.contains("AWS_SECRET_ACCESS_KEY"), "{log}");
    // Without a key nothing is signed, which is enough for what is public.
    let public = serve(|asked| match asked.path.as_str() {
        "/bucket/sets/a" => Gives::All(bytes()),
        _ => Gives::Status(403),
    });
    has_all(&setup(&public).start(), "s3://bucket/sets/a");
}
