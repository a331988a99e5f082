//! Start, stop, settings.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};

use suites::{Node, Noise, Ordinary, Setup, Shoal, Signal, noise, shoal};

use crate::corner::{get_bytes, put_bytes};

fn folder() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("shoal-suite-").tempdir().unwrap()
}

#[test]
fn a_node_stops_on_a_signal_and_takes_its_traces_away() {
    let mut node = Node::start();
    for signal in [Signal::TERM, Signal::INT] {
        let socket = fs::metadata(node.socket()).unwrap();
        assert!(socket.file_type().is_socket());
        assert_eq!(socket.permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(node.data_dir()).unwrap().permissions().mode() & 0o777, 0o700);
        let address = fs::read_to_string(node.data_dir().join("address")).unwrap();
        assert_eq!(address.trim(), node.address());
        node.signal(signal);
        assert!(node.wait().success());
        assert!(!node.socket().exists() && !node.data_dir().join("address").exists());
        shoal(&node, ["ls"]).exits(4).tells("hint: ");
        node.restart();
    }
    // What a node that was killed left behind stops nobody.
    node.kill();
    assert!(node.socket().exists());
    shoal(&node, ["ls"]).exits(4);
    node.restart();
    shoal(&node, ["ls"]).success();
}

#[test]
fn a_node_says_what_it_found() {
    let node = Node::start();
    let log = node.log();
    let topics =
        ["io_uring: ", "locked memory: ", "arena: ", "nvme: ", "device dram: 512 MiB", "listening on "];
    for topic in topics {
        assert!(log.contains(topic), "'{topic}' is missing:\n{log}");
    }
    let status = shoal(&node, ["status", "--json"]).success().json();
    assert_eq!(status["node"]["name"], "n1");
    assert!(!status["findings"].as_object().unwrap().is_empty(), "{status}");
}

#[test]
fn the_doctor_says_what_is_there_and_what_is_made_of_it() {
    let folder = folder();
    let doctor = || Shoal::alone().arg("doctor").arg("--data-dir").arg(folder.path());
    let findings = doctor().arg("--json").run().success().json();
    let findings = findings.as_array().unwrap();
    let topics = ["io_uring", "hugepages", "locked memory", "O_DIRECT", "cores", "RDMA library", "GPUs"];
    for topic in topics {
        let finding = findings.iter().find(|finding| finding["topic"] == topic);
        let finding = finding.unwrap_or_else(|| panic!("nothing is said of {topic}"));
        assert!(
            ["found", "taken"].iter().all(|field| !finding[field].as_str().unwrap().is_empty()),
            "{finding}"
        );
    }
    let text = doctor().run().success().text();
    assert!(topics.iter().all(|topic| text.contains(topic)), "{text}");
    // Whatever could be better is on the list at the end.
    let remedies = findings.iter().filter_map(|finding| finding["remedy"].as_str());
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    remedies
        .for_each(|remedy| assert!(words(&text).contains(&words(remedy)), "'{remedy}' is not in\n{text}"));
    assert!(fs::read_dir(folder.path()).unwrap().next().is_none(), "it leaves files behind");
}

#[test]
fn what_is_under_way_may_end_before_a_node_stops() {
    let mut node = Node::start();
    let (reader, mut writer) = std::io::pipe().unwrap();
    let put = Shoal::at(&node).args(["put", "k", "--src", "-"]).input(reader).start();
    let bytes = noise(1, 8 << 20);
    let (before, after) = bytes.split_at(6 << 20);
    writer.write_all(before).unwrap();
    suites::holds("the put is under way", || busy(&node));
    node.signal(Signal::TERM);
    suites::holds("the node is stopping", || node.log().contains("stopping"));
    writer.write_all(after).unwrap();
    drop(writer);
    put.wait().success();
    assert!(node.wait().success());
    node.restart();
    assert!(get_bytes(&node, "k").success().stdout == bytes);
}

#[test]
fn a_second_signal_ends_at_once() {
    let mut node = Node::start();
    // A client in the middle of a put keeps the node from stopping.
    let (reader, writer) = std::io::pipe().unwrap();
    let put = Shoal::at(&node).args(["put", "k", "--src", "-"]).input(reader).start();
    let feeding = std::thread::spawn(move || {
        let mut writer = writer;
        let _ = std::io::copy(&mut Noise::new(1, 8 << 20), &mut writer);
        writer
    });
    let open = feeding.join().unwrap();
    suites::holds("the put is under way", || busy(&node));
    node.signal(Signal::TERM);
    suites::holds("the node is stopping", || node.log().contains("stopping"));
    node.signal(Signal::TERM);
    assert_eq!(node.wait().code(), Some(143));
    drop(open);
    put.wait().exits(4);
}

#[test]
fn a_node_that_still_joins_ends_with_the_process_that_started_it() {
    // A head that takes connections and says nothing.
    let head = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let folder = folder();
    let serve = Shoal::alone().args(["serve", "--listen", "127.0.0.1:0", "--max-memory", "64MB"]);
    let serve = serve.arg("--join").arg(head.local_addr().unwrap().to_string());
    // No process has this number, so that the one that started the node counts as gone.
    let serve = serve.arg("--exit-with-parent=4294967295").arg("--data-dir").arg(folder.path().join("data"));
    let ended = serve.run().success().tells("the process that started this node is gone");
    assert!(!ended.error().contains("the head does not answer"), "it joined first:\n{}", ended.error());
}

/// Whether some chunk is being written.
fn busy(node: &Node) -> bool {
    !crate::corner::files_below(&node.data_dir().join("chunks/tmp")).is_empty()
}

#[test]
fn a_data_directory_has_one_node() {
    let node = Node::start();
    let data = node.data_dir();
    let second =
        Shoal::alone().args(["serve", "--listen", "127.0.0.1:0", "--max-memory", "64MB", "--data-dir"]);
    second.arg(&data).run().exits(1).tells("is used by another running daemon");
    // Nor do two listen on one port.
    let (code, log) = Setup::named("n2").listen(node.address()).fails();
    assert!(code == Some(1) && log.contains("cannot listen on"), "{code:?} {log}");
    shoal(&node, ["ls"]).success();
}

/// The settings of a cloud machine's ordinary user: one core, no capabilities, 8 MB of locked memory.
#[test]
fn a_node_needs_no_privileges() {
    let Some(user) = Ordinary::find() else { return };
    let folder = folder();
    user.give(folder.path());
    let limits = ["sh", "-c", "ulimit -l 8192 && exec taskset -c 0 \"$0\" \"$@\""];
    let mut node = Setup::named("n1").through(&limits).by(&user).start_in(folder);
    let status = fs::read_to_string(format!("/proc/{}/status", node.process())).unwrap();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim().to_owned()
    };
    assert_eq!(u64::from_str_radix(&field("CapEff:"), 16), Ok(0));
    assert_eq!(field("Cpus_allowed_list:"), "0");
    let limits = fs::read_to_string(format!("/proc/{}/limits", node.process())).unwrap();
    let locked = limits.lines().find(|line| line.starts_with("Max locked memory")).unwrap();
    assert!(locked.contains("8388608"), "{locked}");
    let bytes = noise(1, 20 << 20);
    put_bytes(&node, "k", &bytes, &[]).success();
    node.stop();
    node.restart();
    assert!(get_bytes(&node, "k").success().stdout == bytes);
    node.stop();
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    let refused = |setup: Setup, text: &str| {
        let (code, log) = setup.fails();
        assert!(code == Some(2) && log.contains(text), "'{text}' is not told, {code:?}:\n{log}");
    };
    let setup = || Setup::named("n1");
    refused(setup().flag("--max-memory", "much"), "is not a size");
    refused(setup().flag("--max-memory", "1MB"), "at least 64 MiB");
    refused(setup().flag("--cores", "0"), "--cores");
    refused(setup().flag("--cores", "many"), "--cores");
    refused(setup().listen("nowhere"), "HOST:PORT");
    refused(setup().listen("0.0.0.0:0"), "--token-file");
    refused(setup().flag("--join", "head"), "HOST:PORT");
    refused(Setup::named("a b"), "--name");
    refused(setup().flag("--no-such-flag", "1"), "--no-such-flag");
    refused(setup().flag("--token-file", "/nonexistent"), "/nonexistent");
    refused(setup().flag("--congestion-control", "pigeon"), "pigeon");
    refused(setup().flag("--config", "/nonexistent.toml"), "/nonexistent.toml");
    refused(setup().env("SHOAL_INSECURE", "perhaps"), "SHOAL_INSECURE");
    let misspelt = setup().env("SHOAL_MAX_MEMRY", "1GB").start();
    assert!(misspelt.log().contains("SHOAL_MAX_MEMRY is no setting"), "{}", misspelt.log());
}

#[test]
fn configuration_files_are_checked() {
    let folder = folder();
    let path = folder.path().join("shoal.toml");
    let cases = [
        ("cores = ", "TOML"),
        ("cores = 'two'", "cores"),
        ("max-memroy = '1GB'", "max-memroy"),
        ("name = 'a b'", "name"),
    ];
    for (text, told) in cases {
        fs::write(&path, text).unwrap();
        let serve = Shoal::alone().args(["serve", "--listen", "127.0.0.1:0", "--config"]).arg(&path);
        let outcome = serve.arg("--data-dir").arg(folder.path().join("data")).run().exits(2);
        assert!(outcome.error().contains(told) || told == "TOML", "{text}: {}", outcome.error());
        assert!(told == "name" || outcome.error().contains("shoal.toml"), "{text}: {}", outcome.error());
    }
    let token = folder.path().join("token");
    fs::write(&token, "a token that is long enough").unwrap();
    for (mode, text, told) in
        [(0o644, "a token that is long enough", "chmod 600"), (0o600, "short", "fewer than 16")]
    {
        fs::write(&token, text).unwrap();
        fs::set_permissions(&token, fs::Permissions::from_mode(mode)).unwrap();
        let (code, log) = Setup::named("n1").flag("--token-file", &token).fails();
        assert!(code == Some(2) && log.contains(told), "{code:?} {log}");
    }
}

#[test]
fn flags_go_before_the_environment_and_that_before_the_file() {
    let folder = folder();
    let path = folder.path().join("shoal.toml");
    fs::write(&path, "max-memory = '80MB'\nrack = 'of the file'\n").unwrap();
    let setup = || Setup::named("n1").without("--max-memory").flag("--config", &path);
    let limit_and_rack = |setup: Setup| {
        let node = setup.start();
        let status = shoal(&node, ["status", "--json"]).success().json();
        let node = &status["node"];
        (node["memory_limit"].as_u64().unwrap() >> 20, node["rack"].as_str().unwrap().to_owned())
    };
    assert_eq!(limit_and_rack(setup()), (80, "of the file".into()));
    let environment = || setup().env("SHOAL_MAX_MEMORY", "96MB").env("SHOAL_RACK", "around");
    assert_eq!(limit_and_rack(environment()), (96, "around".into()));
    assert_eq!(limit_and_rack(environment().flag("--max-memory", "112MB")), (112, "around".into()));
}

#[test]
fn memory_is_capped_at_what_the_machine_has() {
    let node = Setup::named("n1").memory("900TB").start();
    let status = shoal(&node, ["status", "--json"]).success().json();
    let machine = fs::read_to_string("/proc/meminfo").unwrap();
    let total = machine.lines().find_map(|line| line.strip_prefix("MemTotal:")).unwrap();
    let total = total.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10;
    // The arena is rounded up to a whole slot.
    assert!(status["node"]["memory_limit"].as_u64().unwrap() <= total + (16 << 20), "{status}");
    assert!(node.log().contains("is more than this machine has"), "{}", node.log());
}
