//! One `shoal serve`.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};

use client::{Address, Client};
use tempfile::TempDir;

pub use rustix::process::Signal;

use crate::binary;
use crate::etcd::Etcds;
use crate::ordinary::Ordinary;
use crate::wait::until;

/// Bytes from the end of the log that are shown when a test fails.
const LOG_SHOWN: usize = 16 << 10;

/// How pieces come from node to node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Over TCP in any case.
    Tcp,
    /// Over RDMA, and over TCP while there is no lane.
    Rdma,
    /// Through UCX, and over TCP while there is no lane.
    Ucx,
    /// By whatever the nodes find: on one host, memory that they share.
    Found,
}

impl Way {
    /// Whether this machine has what it takes; says so if not. RDMA takes a device, which must be there when
    /// `VERBS_REQUIRE_DEVICE` is set, and UCX its library, which must be there when `UCX_REQUIRE` is.
    pub fn is_there(self) -> bool {
        match self {
            Way::Rdma => Self::has_device(),
            Way::Ucx => Self::has_ucx(),
            Way::Tcp | Way::Found => true,
        }
    }

    fn has_ucx() -> bool {
        let loaded = ucx::Library::get().inspect_err(|error| println!("skipped: {error}"));
        assert!(loaded.is_ok() || std::env::var_os("UCX_REQUIRE").is_none(), "there is no UCX");
        loaded.is_ok()
    }

    fn has_device() -> bool {
        let devices = std::fs::read_dir("/sys/class/infiniband");
        let has_device = devices.is_ok_and(|mut devices| devices.next().is_some());
        assert!(has_device || std::env::var_os("VERBS_REQUIRE_DEVICE").is_none(), "there is no RDMA device");
        if !has_device {
            println!("skipped: there is no RDMA device");
        }
        has_device
    }
}

/// How a node is started.
#[derive(Debug, Clone)]
pub struct Setup {
    name: String,
    listen: String,
    flags: Vec<OsString>,
    environment: Vec<(String, OsString)>,
    wrapper: Vec<String>,
    program: PathBuf,
    has_own_mounts: bool,
}

impl Setup {
    /// A node of one core and 512 MiB that listens on a free port of the loopback interface, and talks to others as if
    /// they were on other hosts.
    pub fn named(name: &str) -> Self {
        let setup = Self {
            name: name.into(),
            listen: "127.0.0.1:0".into(),
            flags: Vec::new(),
            environment: Vec::new(),
            wrapper: Vec::new(),
            program: binary::path(),
            has_own_mounts: false,
        };
        setup.flag("--cores", "1").flag("--max-memory", "512MB").over(Way::Tcp)
    }

    /// Adds a flag with a value, in place of one that was there.
    pub fn flag(self, name: &str, value: impl AsRef<OsStr>) -> Self {
        let mut setup = self.without(name);
        setup.flags.extend([OsString::from(name), value.as_ref().into()]);
        setup
    }

    /// Takes a flag and its value away.
    pub fn without(mut self, name: &str) -> Self {
        if let Some(at) = self.flags.iter().position(|word| word == name) {
            self.flags.drain(at..at + 2);
        }
        self
    }

    /// Adds a flag without a value.
    pub fn switch(mut self, name: &str) -> Self {
        self.flags.push(name.into());
        self
    }

    /// Most memory for chunks, such as `64MB`.
    pub fn memory(self, size: &str) -> Self {
        self.flag("--max-memory", size)
    }

    /// Lets pieces come and go so.
    pub fn over(self, way: Way) -> Self {
        match way {
            Way::Tcp => self.flag("--transports", "tcp"),
            Way::Rdma => self.flag("--transports", "rdma,tcp"),
            Way::Ucx => self.flag("--transports", "ucx,tcp"),
            Way::Found => self.without("--transports"),
        }
    }

    /// Joins the cluster of this head.
    pub fn join(self, head: &Node) -> Self {
        let address = head.address();
        self.flag("--join", address)
    }

    /// Has its catalog on etcd.
    pub fn on(self, etcds: &Etcds) -> Self {
        self.flag("--catalog", etcds.address())
    }

    /// Listens elsewhere than on a free port of the loopback interface.
    pub fn listen(mut self, address: &str) -> Self {
        self.listen = address.into();
        self
    }

    /// Sets an environment variable.
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.environment.push((name.into(), value.as_ref().into()));
        self
    }

    /// Runs the node through a program that takes it as its last words and becomes it, such as `setpriv`.
    pub fn through(mut self, words: &[&str]) -> Self {
        self.wrapper.extend(words.iter().map(|&word| word.into()));
        self
    }

    /// Runs the node as an ordinary user, to whom its folder must be given before it starts.
    pub fn by(mut self, user: &Ordinary) -> Self {
        self.wrapper.extend_from_slice(user.becomes());
        self.program = user.program();
        self
    }

    /// Says that what the node runs through gives it mounts of its own, so that its files are looked for there.
    pub fn with_own_mounts(mut self) -> Self {
        self.has_own_mounts = true;
        self
    }

    /// Starts it and waits until it answers.
    pub fn start(self) -> Node {
        let folder = tempfile::Builder::new().prefix("shoal-suite-").tempdir();
        self.start_in(folder.expect("a temporary folder can be made"))
    }

    /// Starts it in this folder, which may be prepared, and waits until it answers. Its data directory is `data`
    /// there.
    pub fn start_in(self, folder: TempDir) -> Node {
        let mut node = Node { setup: self, folder, child: None, address: String::new() };
        node.launch();
        node.wait_until_ready();
        node
    }

    /// Starts it where it shall fail, and gives its exit code and its log.
    pub fn fails(self) -> (Option<i32>, String) {
        let folder = tempfile::Builder::new().prefix("shoal-suite-").tempdir();
        let folder = folder.expect("a temporary folder can be made");
        let mut node = Node { setup: self, folder, child: None, address: String::new() };
        node.launch();
        let status = node.wait();
        (status.code(), node.log())
    }
}

/// A node that runs in a process of its own. Dropping it kills the process and removes its files; when a test fails,
/// the end of its log is shown.
pub struct Node {
    setup: Setup,
    folder: TempDir,
    child: Option<Child>,
    address: String,
}

impl Node {
    /// Starts a node alone: one core, 512 MiB.
    pub fn start() -> Self {
        Setup::named("n1").start()
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.setup.name
    }

    /// Where it listens: `HOST:PORT`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Its data directory, as this process sees it.
    pub fn data_dir(&self) -> PathBuf {
        let path = self.folder.path().join("data");
        match &self.child {
            Some(child) if self.setup.has_own_mounts => {
                let root = PathBuf::from(format!("/proc/{}/root", child.id()));
                root.join(path.strip_prefix("/").unwrap_or(&path))
            }
            _ => path,
        }
    }

    /// Its local socket.
    pub fn socket(&self) -> PathBuf {
        self.data_dir().join("shoal.sock")
    }

    /// A folder that lives as long as the node and that the node does not touch, for files of the test.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// All that it has logged, over all its starts.
    pub fn log(&self) -> String {
        let bytes = std::fs::read(self.log_path()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The number of its process.
    pub fn process(&self) -> u32 {
        self.child.as_ref().expect("the node runs").id()
    }

    /// A client at its local socket.
    pub fn client(&self) -> Client {
        Client::connect(&Address::Local(self.socket()), None).expect("a node that runs takes clients")
    }

    /// A client at its local socket, if it takes one.
    pub fn try_client(&self) -> Option<Client> {
        Client::connect(&Address::Local(self.socket()), None).ok()
    }

    /// Whether it was started and neither stopped nor killed since.
    pub fn runs(&self) -> bool {
        self.child.is_some()
    }

    /// Sends its process a signal.
    pub fn signal(&self, signal: Signal) {
        send(self.child.as_ref().expect("the node runs"), signal);
    }

    /// Stops it with SIGTERM and expects it to exit with 0.
    #[track_caller]
    pub fn stop(&mut self) {
        self.signal(Signal::TERM);
        let status = self.wait();
        assert!(status.success(), "node {} stopped with {status}", self.setup.name);
    }

    /// Ends it with SIGKILL.
    pub fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.wait();
    }

    /// Waits until its process has ended.
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("the node runs");
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            until("the node ends", || child.try_wait().expect("a child can be waited for"))
        }));
        ended.unwrap_or_else(|panic| {
            // It is killed when the node is dropped, which also shows its log.
            self.child = Some(child);
            std::panic::resume_unwind(panic)
        })
    }

    /// Starts it again, on the same data directory and the same port, and waits until it answers.
    pub fn restart(&mut self) {
        assert!(self.child.is_none(), "node {} still runs", self.setup.name);
        self.setup.listen = self.address.clone();
        self.launch();
        self.wait_until_ready();
    }

    /// Changes what it is started with the next time.
    pub fn reconfigure(&mut self, change: impl FnOnce(Setup) -> Setup) {
        self.setup = change(self.setup.clone());
    }

    fn log_path(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    fn launch(&mut self) {
        let log = File::options().create(true).append(true).open(self.log_path()).expect("a log can be made");
        let mut command = binary::command(&self.setup.wrapper, &self.setup.program);
        command.args(["serve", "--exit-with-parent", "--name", &self.setup.name]);
        command.args(["--listen", &self.setup.listen]).args(&self.setup.flags);
        command.arg("--data-dir").arg(self.folder.path().join("data"));
        command.envs(self.setup.environment.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a log has two ends")).stderr(log);
        self.child = Some(command.spawn().expect("a node starts"));
    }

    fn wait_until_ready(&mut self) {
        self.address = until("the node answers", || {
            let child = self.child.as_mut().expect("the node runs");
            let ended = child.try_wait().expect("a child can be waited for");
            assert!(ended.is_none(), "node {} ended: {ended:?}", self.setup.name);
            // What an earlier process left behind is gone once the socket answers.
            Client::connect(&Address::Local(self.socket()), None).ok()?;
            let address = std::fs::read_to_string(self.data_dir().join("address")).ok()?;
            Some(address.trim().to_owned())
        });
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Both fail only when it has ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            let log = self.log();
            let from = log.ceil_char_boundary(log.len().saturating_sub(LOG_SHOWN));
            eprintln!("---- log of node {} ----\n{}", self.setup.name, &log[from..]);
        }
    }
}

pub(crate) fn send(child: &Child, signal: Signal) {
    let process = rustix::process::Pid::from_child(child);
    rustix::process::kill_process(process, signal).expect("a child that was not waited for takes signals");
}
