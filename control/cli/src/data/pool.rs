//! Chunks of the pool.

use serde_json::{Value, json};

use super::http::{self, Server};
use super::{Host, say};
use crate::failure::Failure;
use crate::global::Global;
use crate::table::Table;
use crate::{amount, output};

/// List chunks of the pool
#[derive(clap::Args)]
pub struct List {
    /// Only those with bytes on this device
    #[arg(short, long)]
    device: Option<String>,
    /// Only those of this type
    #[arg(short = 't', long = "type", value_name = "TYPE")]
    kind: Option<String>,
    #[command(flatten)]
    host: Host,
}

/// Read a file or URL into a chunk of the pool
///
/// The node reads it, from what its --allow-source names.
#[derive(clap::Args)]
pub struct Create {
    /// A path on the node's machine, file://…, http://…, https://… or s3://BUCKET/KEY
    #[arg(short, long)]
    source: String,
    /// The device that it comes to: dram, nvme, gpu or gpu:N
    #[arg(short, long, default_value = "dram")]
    device: String,
    /// What it is for: input, output or intermediate
    #[arg(short = 't', long = "type", value_name = "TYPE", default_value = "input")]
    kind: String,
    /// What its bytes are
    #[arg(short, long, default_value = "tensor")]
    format: String,
    #[command(flatten)]
    host: Host,
}

/// Describe a chunk of the pool
#[derive(clap::Args)]
pub struct Info {
    /// Its id, such as chunk-00000001
    chunk_id: String,
    #[command(flatten)]
    host: Host,
}

/// Move a chunk to another device of its node
#[derive(clap::Args)]
pub struct Move {
    /// Its id
    chunk_id: String,
    /// The device: dram, nvme, gpu or gpu:N
    #[arg(short, long, value_name = "DEVICE")]
    to: String,
    /// critical, high, normal or low
    #[arg(short, long, default_value = "normal")]
    priority: String,
    #[command(flatten)]
    host: Host,
}

/// Bring a chunk to another node
#[derive(clap::Args)]
pub struct Transfer {
    /// Its id
    chunk_id: String,
    /// The node and the device, such as n2:dram
    #[arg(short, long, value_name = "NODE:DEVICE")]
    to: String,
    /// Take it away from where it was
    #[arg(long)]
    delete_source: bool,
    #[command(flatten)]
    host: Host,
}

/// Take a chunk out of the pool
#[derive(clap::Args)]
pub struct Delete {
    /// Its id
    chunk_id: String,
    /// Also when it is referred to
    #[arg(short, long)]
    force: bool,
    #[command(flatten)]
    host: Host,
}

/// What the server says itself about every chunk.
const KNOWN: [&str; 5] = ["created_by", "created_at", "last_accessed", "access_count", "checksum"];
/// Where a chunk's paths begin.
const PLACE: &str = "/api/v1/data/";

impl List {
    pub fn run(self, global: &Global) -> Result<(), Failure> {
        let given = [("device", &self.device), ("type", &self.kind)];
        let given =
            given.iter().filter_map(|(name, value)| Some(http::path(&format!("{name}="), value.as_ref()?)));
        let query = given.collect::<Vec<_>>().join("&");
        let listed = Server::at(&self.host.host, global)?.get(&format!("/api/v1/data?{query}"))?;
        if global.json {
            return output::json(&listed);
        }
        let mut table = Table::new(["chunk", "type", "format", ">size", "locations"]);
        for chunk in listed["chunks"].as_array().into_iter().flatten() {
            let text = |name: &str| chunk[name].as_str().unwrap_or_default().to_owned();
            let size = amount::size(chunk["size"].as_u64().unwrap_or_default());
            table.row([text("chunk_id"), text("chunk_type"), text("format"), size, places(chunk)]);
        }
        output::text(&table.to_string())
    }
}

impl Create {
    pub fn run(self, global: &Global) -> Result<(), Failure> {
        let Create { source, device, kind, format, host } = self;
        let body = json!({"source": source, "device": device, "type": kind, "format": format});
        let done = Server::at(&host.host, global)?.post("/api/v1/data", &body)?;
        let size = amount::size(done["size"].as_u64().unwrap_or_default());
        let id = done["chunk_id"].as_str().unwrap_or_default().to_owned();
        say(global, &done, format!("created {id} on {device}, {size}"))
    }
}

impl Info {
    pub fn run(self, global: &Global) -> Result<(), Failure> {
        let chunk = Server::at(&self.host.host, global)?.get(&http::path(PLACE, &self.chunk_id))?;
        if global.json {
            return output::json(&chunk);
        }
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let metadata = &chunk["metadata"];
        let told = metadata.as_object().into_iter().flatten();
        let told = told.filter(|(name, _)| !KNOWN.contains(&name.as_str()));
        let references = chunk["references"].as_array().into_iter().flatten().map(text);
        let lines = [
            ("chunk", text(&chunk["chunk_id"])),
            ("type", text(&chunk["chunk_type"])),
            ("size", amount::size(chunk["size"].as_u64().unwrap_or_default())),
            ("format", text(&chunk["format"])),
            ("locations", places(&chunk)),
            ("created by", text(&metadata["created_by"])),
            ("created at", text(&metadata["created_at"])),
            ("last accessed", text(&metadata["last_accessed"])),
            ("access count", metadata["access_count"].to_string()),
            ("checksum", text(&metadata["checksum"])),
            ("references", references.collect::<Vec<_>>().join(", ")),
        ];
        let lines = lines.into_iter().map(|(name, value)| (name.to_owned(), value));
        let mut lines = lines.chain(told.map(|(name, value)| (name.clone(), value.to_string())));
        lines.try_for_each(|(name, value)| {
            output::line(format_args!("{name:<14} {value}").to_string().trim_end())
        })
    }
}

impl Move {
    pub fn run(self, global: &Global) -> Result<(), Failure> {
        let Move { chunk_id, to, priority, host } = self;
        let body = json!({"target_device": to, "priority": priority});
        let path = http::path(PLACE, &chunk_id) + "/move";
        let begun = Server::at(&host.host, global)?.post(&path, &body)?;
        say(global, &begun, format!("moving {chunk_id} to {to}: task {}", task(&begun)))
    }
}

impl Transfer {
    pub fn run(self, global: &Global) -> Result<(), Failure> {
        let Transfer { chunk_id, to, delete_source, host } = self;
        let Some((node, device)) = to.split_once(':') else {
            return Err(Failure::Usage(format!("--to is '{to}': it must be NODE:DEVICE, such as n2:dram")));
        };
        let body = json!({"target_node": node, "target_device": device, "delete_source": delete_source});
        let path = http::path(PLACE, &chunk_id) + "/transfer";
        let begun = Server::at(&host.host, global)?.post(&path, &body)?;
        say(global, &begun, format!("transferring {chunk_id} to {to}: task {}", task(&begun)))
    }
}

impl Delete {
    pub fn run(self, global: &Global) -> Result<(), Failure> {
        let query = if self.force { "?force=true" } else { "" };
        let path = http::path(PLACE, &self.chunk_id) + query;
        let done = Server::at(&self.host.host, global)?.delete(&path)?;
        say(global, &done, format!("deleted {}", self.chunk_id))
    }
}

fn task(begun: &Value) -> &str {
    begun["task_id"].as_str().unwrap_or_default()
}

fn places(chunk: &Value) -> String {
    let places = chunk["locations"].as_array().into_iter().flatten();
    let shown = places.map(|place| match (place["device"].as_str(), place["status"].as_str()) {
        (Some(device), Some("available")) => device.to_owned(),
        (device, status) => format!("{} ({})", device.unwrap_or("?"), status.unwrap_or("?")),
    });
    shown.collect::<Vec<_>>().join(", ")
}
