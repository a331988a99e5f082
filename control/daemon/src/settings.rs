//! Flags, environment and configuration file, in this order of precedence.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};

use catalog::EtcdAddress;
use engine::GpuSettings;
use flow::limits::NAME_LENGTH_MAX;
use flow::swarm::{NoUplinks, Uplinks};
use flow::wire::handshake::Token;

use crate::outgoing::Trust;
use crate::pool::Sources;
use crate::size::{self, SizeError};

mod given; // what the sources give
mod gpus; // which GPUs are devices
mod topology; // where the node stands, as the job's manager tells
mod transports; // how pieces may come and go
mod variables; // names of environment variables

pub use transports::Transports;
pub(crate) use variables::unknown_variables;

use given::Given;

/// Shortest token, in characters. A shorter one could be guessed.
const TOKEN_LENGTH_MIN: usize = 16;
/// Least memory that a node can work with, in bytes: a few of the largest pieces.
const MEMORY_MIN: u64 = 64 << 20;
/// Most cores that are used unless `--cores` asks for more.
const CORES_DEFAULT_MAX: usize = 4;
/// Most shards of one node.
const CORES_MAX: u16 = 256;

/// How a node runs.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Everything that the node keeps is below it.
    pub data_dir: PathBuf,
    /// Where nodes and remote clients connect.
    pub listen: SocketAddr,
    /// Where other nodes reach this one, `HOST:PORT`, when that is not `listen`.
    pub advertise: Option<String>,
    /// Most bytes of memory for chunks.
    pub max_memory: u64,
    /// What to tell about `max_memory`, when it is not what was asked for.
    pub max_memory_note: Option<String>,
    /// How many shards.
    pub cores: u16,
    /// The head's address, `HOST:PORT`. Without it and without `catalog` this node is the head.
    pub join: Option<String>,
    /// The etcd that keeps the catalog, for this node and all others that name it.
    pub catalog: Option<EtcdAddress>,
    /// The node's name, unique in the cluster.
    pub name: String,
    /// The rack it stands in; empty when unknown.
    pub rack: String,
    /// What the links between racks carry.
    pub uplinks: Uplinks,
    /// What proves that a peer belongs to the cluster; the empty token when there is none.
    pub token: Token,
    /// Whether to take all memory from the machine at the start.
    pub prefault: bool,
    /// TCP congestion control of data connections, or the system's own.
    pub congestion_control: Option<String>,
    /// How pieces come and go.
    pub transports: Transports,
    /// Which GPUs are devices, and how much of them.
    pub(crate) gpus: GpuSettings,
    /// Where values may be sent over HTTP, beside where they may be anyway: `HOST`, `HOST:PORT`, or `*`.
    pub allow_send: Vec<String>,
    /// What chunks of the pool may be read from.
    pub(crate) sources: Sources,
    /// The process that started the node, if the node stops when that is gone. Zero is whichever it is at the start.
    pub exit_with_parent: Option<u32>,
    /// For tests of others' checks: one in so many pieces leaves this node with a flipped bit. Zero is never.
    pub corrupt_one_in: u32,
}

/// The flags of `shoal serve`. Each may also come from the environment (`SHOAL_` and its name) or, last, from the
/// file that `--config` names.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Flags {
    /// Directory that the node owns: chunk files, the catalog, the local socket
    /// [env: SHOAL_DATA_DIR] [default: /var/lib/shoal as root, else ~/.local/share/shoal]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Address that nodes and remote clients connect to [env: SHOAL_LISTEN] [default: 127.0.0.1:9015]
    #[arg(long, value_name = "HOST:PORT")]
    pub listen: Option<String>,
    /// Address that other nodes reach this one at, when it is not the one listened on [env: SHOAL_ADVERTISE]
    #[arg(long, value_name = "HOST:PORT")]
    pub advertise: Option<String>,
    /// Most memory for chunks; units are powers of 1024 [env: SHOAL_MAX_MEMORY] [default: 16GB]
    #[arg(long, value_name = "SIZE")]
    pub max_memory: Option<String>,
    /// Cores that move bytes [env: SHOAL_CORES] [default: all, at most 4]
    #[arg(long, value_name = "COUNT")]
    pub cores: Option<u16>,
    /// Address of the head to join; without it this node is a head [env: SHOAL_JOIN]
    #[arg(long, value_name = "HOST:PORT")]
    pub join: Option<String>,
    /// The etcd that keeps the catalog, in place of a head: etcd://HOST:PORT,HOST:PORT/PREFIX. Every node names
    /// the same one, and any of them may fail. docs/catalog-etcd.md has passwords and TLS [env: SHOAL_CATALOG]
    #[arg(long, value_name = "ETCD")]
    pub catalog: Option<String>,
    /// Name of the node, unique in the cluster [env: SHOAL_NAME] [default: the host's name]
    #[arg(long)]
    pub name: Option<String>,
    /// Rack that the node stands in [env: SHOAL_RACK] [default: in a SLURM job the node's switch, if SLURM knows it]
    #[arg(long)]
    pub rack: Option<String>,
    /// What the links between racks carry: full, about as much as the nodes of a rack send; or scarce, much less, as with 4:1
    /// oversubscription. Then neighbours tell each other what is coming, so that it crosses into their rack once. The same
    /// for all nodes of a rack [env: SHOAL_UPLINKS] [default: full]
    #[arg(long, value_name = "WORD")]
    pub uplinks: Option<String>,
    /// File with the cluster's token, at least 16 characters, readable by its owner alone [env: SHOAL_TOKEN_FILE]
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Listen beyond this machine without a token [env: SHOAL_INSECURE]
    #[arg(long)]
    pub insecure: bool,
    /// Take all of --max-memory from the machine at the start, so that no later write waits for it
    /// [env: SHOAL_PREFAULT]
    #[arg(long)]
    pub prefault: bool,
    /// TCP congestion control of data connections, such as cubic or bbr [env: SHOAL_CONGESTION_CONTROL]
    #[arg(long, value_name = "NAME")]
    pub congestion_control: Option<String>,
    /// How chunks may come and go: tcp; shm between nodes of one user on one host; rdma where there are devices, which
    /// take all of --max-memory at the start and lock it; ucx through that library, which UCX_TLS, UCX_NET_DEVICES and
    /// the like in the environment tell what to use. Of rdma and ucx the first that reaches a node is used
    /// [env: SHOAL_TRANSPORTS] [default: rdma,shm,tcp]
    #[arg(long, value_name = "LIST")]
    pub transports: Option<String>,
    /// How RDMA is used, such as devices=mlx5_0+mlx5_1,gid-index=3,pkey-index=0,service-level=0,traffic-class=106
    /// [env: SHOAL_RDMA]
    #[arg(long, value_name = "OPTIONS")]
    pub rdma: Option<String>,
    /// Most memory of each GPU for chunks: a size, or a part such as 30% [env: SHOAL_GPU_MEMORY] [default: 50%]
    #[arg(long, value_name = "SIZE")]
    pub gpu_memory: Option<String>,
    /// Stand-ins for GPUs, in the host's memory, in place of those of the machine: how many, and how much memory each has.
    /// To try out and to test what is done with GPUs [env: SHOAL_EMULATE_GPUS] [default size: 1GB]
    #[arg(long, value_name = "COUNT[:SIZE]")]
    pub emulate_gpus: Option<String>,
    /// Place that values may be sent to over HTTP, or * for any; may be given several times. Other nodes of the cluster may
    /// be, and where the node listens on this machine alone, places on it [env: SHOAL_ALLOW_SEND, with commas]
    #[arg(long, value_name = "HOST[:PORT]")]
    pub allow_send: Vec<String>,
    /// Folder, or beginning of a URL (http://, https://, s3://BUCKET/KEY), that chunks of the pool may be read from; may be
    /// given several times. Without it nothing may [env: SHOAL_ALLOW_SOURCE, with commas]
    #[arg(long, value_name = "ROOT")]
    pub allow_source: Vec<String>,
    /// File with certificates, in PEM form, that vouch for servers which chunks of the pool are read from, beside those of the
    /// system [env: SHOAL_SOURCE_CA]
    #[arg(long, value_name = "FILE")]
    pub source_ca: Option<PathBuf>,
    /// TOML file with settings, named like the flags [env: SHOAL_CONFIG]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Stop when the process that started this one is gone; it may be so already, unless its number is given
    #[arg(long, hide = true, value_name = "PROCESS")]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "0")]
    pub exit_with_parent: Option<u32>,
    /// Flip a bit in one of so many pieces that are sent, to test that receivers notice
    #[arg(long, hide = true, value_name = "COUNT")]
    pub corrupt_one_in: Option<u32>,
}

/// Why settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The configuration file cannot be read.
    #[error("cannot read {what} {path}: {source}")]
    File {
        /// What kind of file.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The configuration file is not what it should be.
    #[error("{path} is not a configuration: {message}")]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        message: String,
    },
    /// A value makes no sense.
    #[error("{setting} is '{value}': {remedy}")]
    Value {
        /// The flag.
        setting: &'static str,
        /// What it is set to.
        value: String,
        /// What it must be.
        remedy: String,
    },
    /// A size makes no sense.
    #[error("--max-memory: {0}")]
    Size(#[from] SizeError),
    /// The node cannot have two places to look for keys.
    #[error(
        "--join {join} and --catalog {catalog} exclude each other: with --join the head keeps the keys, with --catalog etcd \
         does; give one of them (they may also come from SHOAL_JOIN, SHOAL_CATALOG and the file of --config)"
    )]
    TwoCatalogs {
        /// The head.
        join: String,
        /// The etcd, without its password.
        catalog: String,
    },
    /// Anybody on the network could use the node.
    #[error(
        "--listen {0} can be reached from other machines and there is no token; give --token-file FILE, \
         listen on 127.0.0.1, or accept everybody with --insecure"
    )]
    Open(SocketAddr),
    /// Others can read the token.
    #[error("the token file {0} can be read by others than its owner; run `chmod 600 {0}`", .path.display())]
    TokenReadable {
        /// The file.
        path: PathBuf,
    },
    /// The token could be guessed.
    #[error(
        "the token in {} has fewer than {TOKEN_LENGTH_MIN} characters; \
         make one with `head -c 32 /dev/urandom | base64`", .path.display()
    )]
    TokenShort {
        /// The file.
        path: PathBuf,
    },
}

/// Where a node and its clients look for the data directory unless told otherwise.
pub fn default_data_dir() -> PathBuf {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if rustix::process::geteuid().is_root() {
        return "/var/lib/shoal".into();
    }
    let home = || variable("HOME").map(|home| home.join(".local/share"));
    variable("XDG_DATA_HOME").or_else(home).unwrap_or_else(|| "/var/lib".into()).join("shoal")
}

impl Settings {
    /// Puts flags, the environment and the configuration file together and checks the result.
    pub fn resolve(flags: Flags) -> Result<Self, SettingsError> {
        Self::resolve_with(flags, &|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
    }

    /// As [`Settings::resolve`], from flags alone.
    pub fn of_flags(flags: Flags) -> Result<Self, SettingsError> {
        Self::resolve_with(flags, &|_| None)
    }

    fn resolve_with(
        flags: Flags,
        environment: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, SettingsError> {
        let (exit_with_parent, corrupt_one_in) = (flags.exit_with_parent, flags.corrupt_one_in.unwrap_or(0));
        let mut given = Given::from_flags(flags).or(Given::from_environment(environment)?);
        if let Some(path) = given.config.take() {
            given = given.or(Given::from_file(&path)?);
        }
        let rack = given.rack.take().or_else(|| topology::rack(environment));
        let given = Given { rack, ..given };
        Ok(Settings { exit_with_parent, corrupt_one_in, ..given.settle(environment)? })
    }
}

impl Given {
    fn settle(self, environment: &dyn Fn(&str) -> Option<String>) -> Result<Settings, SettingsError> {
        let listen = resolve_listen(self.listen.as_deref().unwrap_or("127.0.0.1:9015"))?;
        let token = self.token_file.as_deref().map(read_token).transpose()?;
        if !listen.ip().is_loopback() && token.is_none() && self.insecure != Some(true) {
            return Err(SettingsError::Open(listen));
        }
        let wanted = size::parse(self.max_memory.as_deref().unwrap_or("16GB"))?;
        let (max_memory, max_memory_note) = cap_memory(wanted, engine::machine_memory_bytes())?;
        let advertise = self.advertise.map(|text| check_address("--advertise", text)).transpose()?;
        let join = self.join.map(|text| check_address("--join", text)).transpose()?;
        let catalog = self.catalog.as_deref().map(parse_catalog).transpose()?;
        if let (Some(join), Some(catalog)) = (&join, &catalog) {
            return Err(SettingsError::TwoCatalogs { join: join.clone(), catalog: catalog.to_string() });
        }
        Ok(Settings {
            data_dir: self.data_dir.unwrap_or_else(default_data_dir),
            listen,
            advertise,
            max_memory,
            max_memory_note,
            cores: settle_cores(self.cores)?,
            join,
            catalog,
            name: check_name(self.name.unwrap_or_else(host_name))?,
            rack: self.rack.unwrap_or_default(),
            uplinks: self.uplinks.as_deref().map(check_uplinks).transpose()?.unwrap_or_default(),
            token: token.unwrap_or_else(|| Token::new("")),
            prefault: self.prefault.unwrap_or(false),
            congestion_control: self.congestion_control.map(check_congestion_control).transpose()?,
            transports: Transports::parse(
                self.transports.as_deref().unwrap_or("rdma,shm,tcp"),
                self.rdma.as_deref(),
            )?,
            gpus: gpus::parse(self.emulate_gpus.as_deref(), self.gpu_memory.as_deref())?,
            allow_send: self.allow_send.unwrap_or_default(),
            sources: check_sources(
                &self.allow_source.unwrap_or_default(),
                self.source_ca.as_deref(),
                environment,
            )?,
            exit_with_parent: None,
            corrupt_one_in: 0,
        })
    }
}

fn refuse<T>(setting: &'static str, value: &str, remedy: impl Into<String>) -> Result<T, SettingsError> {
    let value = value.chars().take(80).collect();
    Err(SettingsError::Value { setting, value, remedy: remedy.into() })
}

/// What is wrong with the address is told without its password.
fn parse_catalog(text: &str) -> Result<EtcdAddress, SettingsError> {
    let shown = text.rsplit_once('@').map_or(text, |(_, after)| after);
    text.parse().or_else(|error: catalog::CatalogError| refuse("--catalog", shown, error.to_string()))
}

fn check_sources(
    roots: &[String],
    certificates: Option<&Path>,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Result<Sources, SettingsError> {
    let trust = |path: &Path| {
        let pem = read_file("the certificates", path)?;
        let trust = Trust::beside_system(&pem);
        trust.or_else(|reason| refuse("--source-ca", &path.display().to_string(), reason))
    };
    let trust = certificates.map(trust).transpose()?.unwrap_or_default();
    Sources::new(roots, trust, environment)
        .or_else(|reason| refuse("--allow-source", &roots.join(","), reason))
}

fn resolve_listen(text: &str) -> Result<SocketAddr, SettingsError> {
    let resolved = text.to_socket_addrs().map(|mut addresses| addresses.next());
    match resolved {
        Ok(Some(address)) => Ok(address),
        Ok(None) => refuse("--listen", text, "the host has no address"),
        Err(error) => {
            refuse("--listen", text, format!("{error}; it must be HOST:PORT, such as 127.0.0.1:9015"))
        }
    }
}

/// Checks the form alone: the host may well be resolvable only later, or elsewhere.
fn check_address(setting: &'static str, text: String) -> Result<String, SettingsError> {
    let fine = text.rsplit_once(':').is_some_and(|(host, port)| {
        let host_fine = !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/');
        let port_fine = port.parse::<u16>().is_ok_and(|port| port != 0);
        let bare_v6 = host.contains(':') && !(host.starts_with('[') && host.ends_with(']'));
        host_fine && port_fine && !bare_v6
    });
    let wildcard = text.parse::<SocketAddr>().is_ok_and(|address| address.ip().is_unspecified());
    match (fine, wildcard) {
        (false, _) => refuse(setting, &text, "it must be HOST:PORT, such as node1:9015"),
        (true, true) => refuse(setting, &text, "nobody can be reached at the wildcard address; name a host"),
        (true, false) => Ok(text),
    }
}

fn cap_memory(wanted: u64, machine: u64) -> Result<(u64, Option<String>), SettingsError> {
    if wanted < MEMORY_MIN {
        return refuse(
            "--max-memory",
            &size::show(wanted),
            format!("at least {} are needed", size::show(MEMORY_MIN)),
        );
    }
    if machine == 0 || wanted <= machine {
        return Ok((wanted, None));
    }
    let (wanted, has) = (size::show(wanted), size::show(machine));
    let note = format!("--max-memory {wanted} is more than this machine has; {has} are used");
    Ok((machine, Some(note)))
}

fn settle_cores(asked: Option<u16>) -> Result<u16, SettingsError> {
    let available = std::thread::available_parallelism().map_or(1, usize::from);
    match asked {
        None => Ok(available.clamp(1, CORES_DEFAULT_MAX) as u16),
        Some(cores @ 1..=CORES_MAX) => Ok(cores),
        Some(cores) => refuse("--cores", &cores.to_string(), format!("it must be 1 to {CORES_MAX}")),
    }
}

fn host_name() -> String {
    let system = rustix::system::uname();
    system.nodename().to_string_lossy().into_owned()
}

fn check_name(name: String) -> Result<String, SettingsError> {
    let odd = |character: char| {
        character.is_control() || character.is_whitespace() || matches!(character, ':' | '/')
    };
    if name.is_empty() || name.len() > NAME_LENGTH_MAX || name.contains(odd) {
        return refuse(
            "--name",
            &name,
            format!("a name has 1 to {NAME_LENGTH_MAX} bytes and no blank, ':' or '/'"),
        );
    }
    Ok(name)
}

fn check_uplinks(text: &str) -> Result<Uplinks, SettingsError> {
    let remedy = "it must be full, where the links between racks carry about as much as the nodes of a rack send, or scarce";
    text.trim().parse().or_else(|NoUplinks| refuse("--uplinks", text, remedy))
}

/// Asks the kernel, since the list of what it offers leaves out what it would load on demand.
fn check_congestion_control(name: String) -> Result<String, SettingsError> {
    let socket = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::STREAM, None);
    let taken = socket.and_then(|socket| rustix::net::sockopt::set_tcp_congestion(&socket, &name));
    match taken {
        Err(error) => {
            let offered = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_available_congestion_control");
            let offered = offered.unwrap_or_default();
            refuse(
                "--congestion-control",
                &name,
                format!("the kernel says: {error}; it offers: {}", offered.trim()),
            )
        }
        Ok(()) => Ok(name),
    }
}

fn read_token(path: &Path) -> Result<Token, SettingsError> {
    use std::os::unix::fs::PermissionsExt;
    let failed = |source| SettingsError::File { what: "the token file", path: path.to_owned(), source };
    let mode = std::fs::metadata(path).map_err(failed)?.permissions().mode();
    if mode & 0o077 != 0 {
        return Err(SettingsError::TokenReadable { path: path.to_owned() });
    }
    let text = read_file("the token file", path)?;
    if text.trim().chars().count() < TOKEN_LENGTH_MIN {
        return Err(SettingsError::TokenShort { path: path.to_owned() });
    }
    Ok(Token::new(&text))
}

/// Reads a small text file; a device or a huge file named by mistake is not read without end.
fn read_file(what: &'static str, path: &Path) -> Result<String, SettingsError> {
    use std::io::Read;
    let mut text = String::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(1 << 20).read_to_string(&mut text));
    read.map_err(|source| SettingsError::File { what, path: path.to_owned(), source })?;
    Ok(text)
}

#[cfg(test)]
mod tests;
