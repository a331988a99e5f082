//! `shoal data …`: the grammar of `gswarm data`

mod http; // the calls of gswarm's data API
mod pool; // chunks of the pool

use std::process::ExitCode;

use serde_json::{Value, json};

use self::http::Server;
use crate::failure::Failure;
use crate::global::Global;
use crate::{amount, output};

/// Keep values as gswarm does: the grammar of `gswarm data`
///
/// The program also answers to the name gswarm: `ln -s $(command -v shoal) gswarm`.
#[derive(clap::Subcommand)]
pub enum Data {
    Start(Box<Start>),
    Write(Write),
    Read(Read),
    Release(Release),
    Send(Send),
    Stats(Stats),
    List(pool::List),
    Create(pool::Create),
    Info(pool::Info),
    Move(pool::Move),
    Transfer(pool::Transfer),
    Delete(pool::Delete),
}

/// Run a node
///
/// As `shoal serve`, whose flags it takes too. Where the address can be reached from other machines, the node wants
/// --token-file, or --insecure.
#[derive(clap::Args)]
pub struct Start {
    /// Address to listen on [default: 0.0.0.0 with --token-file or --insecure, else 127.0.0.1]
    #[arg(long, value_name = "HOST", conflicts_with = "listen")]
    host: Option<String>,
    /// Port to listen on
    #[arg(long, default_value_t = 9015, conflicts_with = "listen")]
    port: u16,
    #[command(flatten)]
    flags: daemon::Flags,
}

/// Where the server is.
#[derive(clap::Args)]
struct Host {
    /// Server address
    #[arg(long, value_name = "HOST:PORT", default_value = "localhost:9015")]
    host: String,
}

/// Write a value
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  shoal data write user:123 john_doe --persist
  shoal data write temp:cache 1,2,3 --volatile")]
pub struct Write {
    /// The key
    key: String,
    /// The value, a text
    value: String,
    /// Keep it durably (the default)
    #[arg(long, overrides_with = "volatile")]
    persist: bool,
    /// Keep it in memory, until the room is wanted
    #[arg(long, overrides_with = "persist")]
    volatile: bool,
    /// Where to keep it in place of that: dram, pinned_dram or disk
    #[arg(short, long)]
    location: Option<String>,
    #[command(flatten)]
    host: Host,
}

/// Print a value
#[derive(clap::Args)]
pub struct Read {
    /// The key
    key: String,
    #[command(flatten)]
    host: Host,
}

/// Remove a key
#[derive(clap::Args)]
pub struct Release {
    /// The key
    key: String,
    #[command(flatten)]
    host: Host,
}

/// Send a value to another server
#[derive(clap::Args)]
pub struct Send {
    /// The key
    key: String,
    /// The other server, such as localhost:9016
    target: String,
    /// Where the value is; only told to the server
    #[arg(short, long)]
    source: Option<String>,
    #[command(flatten)]
    host: Host,
}

/// Show how much there is
#[derive(clap::Args)]
pub struct Stats {
    #[command(flatten)]
    host: Host,
}

impl Data {
    /// Whether it runs a node, which ends on a signal in a way of its own.
    pub fn serves(&self) -> bool {
        matches!(self, Data::Start(_))
    }

    /// Carries it out.
    pub fn run(self, global: &Global) -> Result<ExitCode, Failure> {
        match self {
            Data::Start(start) => return start.run(),
            Data::Write(write) => write.run(global),
            Data::Read(read) => read.run(global),
            Data::Release(release) => release.run(global),
            Data::Send(send) => send.run(global),
            Data::Stats(stats) => stats.run(global),
            Data::List(list) => list.run(global),
            Data::Create(create) => create.run(global),
            Data::Info(info) => info.run(global),
            Data::Move(chunk) => chunk.run(global),
            Data::Transfer(transfer) => transfer.run(global),
            Data::Delete(delete) => delete.run(global),
        }?;
        Ok(ExitCode::SUCCESS)
    }
}

impl Start {
    fn run(self) -> Result<ExitCode, Failure> {
        let Start { host, port, mut flags } = self;
        if flags.listen.is_none() {
            let is_open = flags.token_file.is_some() || flags.insecure;
            let host = host.unwrap_or_else(|| if is_open { "0.0.0.0" } else { "127.0.0.1" }.into());
            let is_bare_v6 = host.contains(':') && !host.starts_with('[');
            flags.listen =
                Some(if is_bare_v6 { format!("[{host}]:{port}") } else { format!("{host}:{port}") });
        }
        Ok(daemon::serve(daemon::Settings::resolve(flags)?))
    }
}

impl Write {
    fn run(self, global: &Global) -> Result<(), Failure> {
        let Write { key, value, volatile, location, host, .. } = self;
        let mut body = json!({"key": key, "value": value});
        match location {
            Some(location) => body["location"] = location.into(),
            None => body["persist"] = (!volatile).into(),
        }
        let done = Server::at(&host.host, global)?.post("/write", &body)?;
        say(global, &done, format!("wrote key '{key}'"))
    }
}

impl Read {
    fn run(self, global: &Global) -> Result<(), Failure> {
        let found = Server::at(&self.host.host, global)?.get(&http::path("/read/", &self.key))?;
        if found["found"] != json!(true) {
            return Err(no_key(&self.key));
        }
        if global.json {
            return output::json(&found);
        }
        match &found["value"] {
            Value::String(text) => output::line(text),
            value => output::line(value),
        }
    }
}

impl Release {
    fn run(self, global: &Global) -> Result<(), Failure> {
        let path = http::path("/release/", &self.key);
        let done = Server::at(&self.host.host, global)?.delete(&path)?;
        say(global, &done, format!("released key '{}'", self.key))
    }
}

impl Send {
    fn run(self, global: &Global) -> Result<(), Failure> {
        let Send { key, target, source, host } = self;
        let (path, body) = if target.contains(":device:") || source.is_some() {
            ("/send_extended", json!({"key": key, "target": target, "source_location": source}))
        } else {
            ("/send", json!({"key": key, "url": target}))
        };
        let done = Server::at(&host.host, global)?.post(path, &body)?;
        say(global, &done, format!("sent key '{key}' to {target}"))
    }
}

impl Stats {
    fn run(self, global: &Global) -> Result<(), Failure> {
        let shown = Server::at(&self.host.host, global)?.get("/stats")?;
        if global.json {
            return output::json(&shown);
        }
        let stats = &shown["stats"];
        let number = |value: &Value| value.as_u64().unwrap_or_default();
        let size = |value: &Value| amount::size(number(value));
        let share = |value: &Value| format!("{:.1} %", value.as_f64().unwrap_or_default());
        output::line(format_args!(
            "memory   {} of {} ({})",
            size(&stats["current_size"]),
            size(&stats["max_size"]),
            share(&stats["usage_percent"])
        ))?;
        output::line(format_args!(
            "keys     {} ({} persistent, {} volatile)",
            number(&stats["total_keys"]),
            number(&stats["persistent_keys"]),
            number(&stats["volatile_keys"])
        ))?;
        let system = &stats["memory_info"];
        output::line(format_args!(
            "machine  {} of {} available ({} used)",
            size(&system["available"]),
            size(&system["total"]),
            share(&system["percent"])
        ))
    }
}

/// Says that something was done.
fn say(global: &Global, done: &Value, text: String) -> Result<(), Failure> {
    match (global.json, global.quiet) {
        (true, _) => output::json(done),
        (false, true) => Ok(()),
        (false, false) => output::line(text),
    }
}

fn no_key(key: &str) -> Failure {
    Failure::NotFound {
        what: format!("there is no key '{key}'"),
        hint: "GET /locations lists the keys of a node",
    }
}
