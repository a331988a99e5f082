//! A cluster of etcd members on this machine's loopback interface.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::wait::until;

/// How often other ports are tried when etcd does not start on those that were free a moment before.
const STARTS_MAX: usize = 3;
/// How long a member may take to say how it is.
const PATIENCE: Duration = Duration::from_millis(500);

/// Whether there is an `etcd` to run. Where there is none it says so; with `SHOAL_REQUIRE_ETCD` set that is a failure.
pub fn has_etcd() -> bool {
    let version = Command::new("etcd").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if let Err(error) = &version {
        assert!(
            std::env::var_os("SHOAL_REQUIRE_ETCD").is_none(),
            "the program etcd is required here and does not run: {error}"
        );
        println!("skipped: the program etcd is not there ({error}); Debian has it as etcd-server");
    }
    version.is_ok()
}

/// The members. All end, and their folders go, when this is dropped.
pub struct Etcds {
    members: Vec<Member>,
    /// Files for TLS: the authority, a certificate, its key.
    tls: Option<[PathBuf; 3]>,
    directory: TempDir,
}

struct Member {
    client: u16,
    peer: u16,
    child: Option<Child>,
}

impl Etcds {
    /// Starts so many members and waits until they have a leader. Where there is no `etcd` it says so and gives nothing; with
    /// `SHOAL_REQUIRE_ETCD` set that is a failure.
    pub fn start(count: usize) -> Option<Self> {
        Self::start_with(count, None)
    }

    /// As [`Etcds::start`], with clients that must speak TLS and show a certificate of the same authority: files of the
    /// authority, of the members' certificate and its key. It does not wait.
    pub fn start_secured(count: usize, tls: [PathBuf; 3]) -> Option<Self> {
        Self::start_with(count, Some(tls))
    }

    fn start_with(count: usize, tls: Option<[PathBuf; 3]>) -> Option<Self> {
        if !has_etcd() {
            return None;
        }
        for _ in 0..STARTS_MAX {
            let mut etcds = Self {
                members: free_members(count),
                tls: None,
                directory: tempfile::tempdir().expect("a folder"),
            };
            etcds.tls.clone_from(&tls);
            (0..count).for_each(|member| etcds.spawn(member));
            if tls.is_some() || etcds.is_ready() {
                return Some(etcds);
            }
        }
        panic!("etcd does not start; another process may take its ports again and again");
    }

    /// Where the members are, as `--catalog` takes it.
    pub fn address(&self) -> String {
        let hosts: Vec<String> =
            self.members.iter().map(|member| format!("127.0.0.1:{}", member.client)).collect();
        format!("etcd://{}", hosts.join(","))
    }

    /// Lets in only who has the password of the user root.
    pub fn require_password(&self, password: &str) {
        let root = format!(r#"{{"name":"root","password":"{password}"}}"#);
        let steps = [
            ("/v3/auth/user/add", &*root),
            ("/v3/auth/role/add", r#"{"name":"root"}"#),
            ("/v3/auth/user/grant", r#"{"user":"root","role":"root"}"#),
            ("/v3/auth/enable", "{}"),
        ];
        for (path, body) in steps {
            let answer = ask(self.members[0].client, path, body).expect("an answer");
            assert!(answer.get("error").is_none(), "{path}: {answer}");
        }
    }

    /// The member that leads, by its number.
    pub fn leader(&self) -> usize {
        until("a leader of etcd", || (0..self.members.len()).find(|&member| self.leads(member) == Some(true)))
    }

    /// Ends a member with SIGKILL.
    pub fn kill(&mut self, member: usize) {
        if let Some(mut child) = self.members[member].child.take() {
            child.kill().expect("a member that runs");
            child.wait().expect("a child of ours");
        }
    }

    /// Starts a member that was ended, with what it has stored.
    pub fn restart(&mut self, member: usize) {
        self.spawn(member);
        until("a member that is back", || self.leads(member));
    }

    /// Ends all members with SIGKILL.
    pub fn kill_all(&mut self) {
        (0..self.members.len()).for_each(|member| self.kill(member));
    }

    /// Starts all members that were ended, with what they have stored.
    pub fn restart_all(&mut self) {
        (0..self.members.len()).for_each(|member| self.spawn(member));
        self.leader();
    }

    /// Stops a member's execution: its connections stay, and nothing answers.
    pub fn freeze(&self, member: usize) {
        self.signal(member, Signal::STOP);
    }

    /// Lets a frozen member go on.
    pub fn thaw(&self, member: usize) {
        self.signal(member, Signal::CONT);
    }

    fn signal(&self, member: usize, signal: Signal) {
        let child = self.members[member].child.as_ref().expect("a member that runs");
        kill_process(Pid::from_child(child), signal).expect("a child of ours");
    }

    fn is_ready(&mut self) -> bool {
        until("etcd that has started, or has ended", || {
            let has_ended = |member: &mut Member| {
                member
                    .child
                    .as_mut()
                    .is_some_and(|child| child.try_wait().is_ok_and(|status| status.is_some()))
            };
            if self.members.iter_mut().any(has_ended) {
                return Some(false);
            }
            (0..self.members.len()).all(|member| self.leads(member).is_some()).then_some(true)
        })
    }

    /// Whether a member is the leader; nothing when it does not answer or knows no leader.
    fn leads(&self, member: usize) -> Option<bool> {
        let status = ask(self.members[member].client, "/v3/maintenance/status", "{}").ok()?;
        let leader = status.get("leader")?.as_str()?;
        Some(leader != "0" && leader == status.get("header")?.get("member_id")?.as_str()?)
    }

    fn spawn(&mut self, number: usize) {
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let client_url = format!("{scheme}://127.0.0.1:{}", self.members[number].client);
        let all =
            self.members.iter().enumerate().map(|(number, member)| format!("m{number}={}", url(member.peer)));
        let cluster = all.collect::<Vec<_>>().join(",");
        let member = &mut self.members[number];
        let log = self.directory.path().join(format!("m{number}.log"));
        let log = File::options().append(true).create(true).open(log).expect("a log");
        let mut command = Command::new("etcd");
        if let Some([ca, certificate, key]) = &self.tls {
            command.arg("--client-cert-auth").arg("--trusted-ca-file").arg(ca);
            command.arg("--cert-file").arg(certificate).arg("--key-file").arg(key);
        }
        let child = command
            .args(["--name", &format!("m{number}")])
            .args(["--initial-cluster", &cluster, "--initial-cluster-state", "new"])
            .args(["--listen-client-urls", &client_url, "--advertise-client-urls", &client_url])
            .args([
                "--listen-peer-urls",
                &url(member.peer),
                "--initial-advertise-peer-urls",
                &url(member.peer),
            ])
            .arg("--data-dir")
            .arg(self.directory.path().join(format!("m{number}")))
            .args(["--logger", "zap", "--log-level", "warn"])
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log"))
            .stderr(log)
            .spawn()
            .expect("etcd was found a moment before");
        member.child = Some(child);
    }
}

impl Drop for Etcds {
    fn drop(&mut self) {
        (0..self.members.len()).for_each(|member| self.kill(member));
    }
}

/// Members with ports that are free. They are all taken at once, so that no two are the same.
fn free_members(count: usize) -> Vec<Member> {
    let listeners: Vec<TcpListener> =
        (0..2 * count).map(|_| TcpListener::bind("127.0.0.1:0").expect("a free port")).collect();
    let port = |listener: &TcpListener| listener.local_addr().expect("an address").port();
    let pair = |pair: &[TcpListener]| Member { client: port(&pair[0]), peer: port(&pair[1]), child: None };
    listeners.chunks(2).map(pair).collect()
}

/// Asks a member through its gateway for JSON.
fn ask(port: u16, path: &str, body: &str) -> io::Result<Value> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "POST {path} HTTP/1.0\r\nHost: etcd\r\nContent-Length: {}\r\n\r\n{body}", body.len())?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    Ok(serde_json::from_str(body)?)
}
