//! Members of etcd.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::layout::Layout;
use crate::failure::Failure;
use crate::processes::{Process, ProcessError};

/// How long a member may take to say how it is.
const PATIENCE: Duration = Duration::from_millis(500);
/// Most bytes of what it says.
const ANSWER_MAX: u64 = 4 << 10;

/// Fails where etcd is not installed.
pub fn find() -> Result<(), Failure> {
    let mut command = Command::new("etcd");
    command.arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    match command.status() {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let remedy = "install it: on Debian and Ubuntu with `apt install etcd-server`";
            Err(ProcessError::Missing { program: "etcd", remedy }.into())
        }
        Err(error) => Err(ProcessError::machine("run etcd")(error)),
    }
}

/// Starts all members, with what they have stored in the folder.
pub fn start(folder: &Path, layout: &Layout) -> Result<Vec<Process>, Failure> {
    let url = |port: &u16| format!("http://127.0.0.1:{port}");
    let peers = layout.peers.iter().zip(1..).map(|(port, number)| format!("{}={}", name(number), url(port)));
    let all = peers.collect::<Vec<_>>().join(",");
    let ports = layout.clients.iter().zip(&layout.peers).zip(1..);
    let start = |((client, peer), number): ((&u16, &u16), usize)| {
        let (name, client, peer) = (name(number), url(client), url(peer));
        let mut command = tethered("etcd")?;
        command.args(["--name", &name, "--initial-cluster", &all, "--initial-cluster-state", "new"]);
        command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        command.args(["--logger", "zap", "--log-level", "warn"]);
        let folder = folder.join(&name);
        command.arg("--data-dir").arg(folder.join("data"));
        Process::start(&name, &folder, command)
    };
    ports.map(start).collect()
}

/// Waits until every member knows a leader.
pub fn wait(members: &mut [Process], layout: &Layout, deadline: Instant) -> Result<(), Failure> {
    let mut members = members.iter_mut().zip(&layout.clients);
    members.try_for_each(|(member, &port)| {
        member
            .wait(deadline, "knows no leader", || is_healthy(port).ok().filter(|&healthy| healthy).map(drop))
    })
}

fn name(number: usize) -> String {
    format!("etcd-{number}")
}

/// A program that the kernel ends when this process ends.
fn tethered(program: &str) -> Result<Command, Failure> {
    let own = std::env::current_exe().map_err(ProcessError::machine("find this program"))?;
    let mut command = Command::new(own);
    // It takes its settings from variables too, and those of the user's own members are not for these.
    for (variable, _) in std::env::vars_os() {
        if variable.to_string_lossy().starts_with("ETCD_") {
            command.env_remove(variable);
        }
    }
    command.args(["cluster", "tether", &std::process::id().to_string(), program]);
    Ok(command)
}

/// What `/health` says, for which a member asks the leader.
fn is_healthy(port: u16) -> io::Result<bool> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET /health HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(ANSWER_MAX).read_to_string(&mut answer)?;
    Ok(answer.contains("\"health\":\"true\""))
}
