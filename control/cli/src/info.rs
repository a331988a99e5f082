//! `shoal info`

use std::collections::BTreeMap;

use client::{Client, KeyInfo};
use plan::manifest::{ChunkEntry, FileEntry, FileKind, Shape};
use serde::Serialize;

use crate::chunk::Replica;
use crate::failure::Failure;
use crate::global::Global;
use crate::put::parse_key;
use crate::table::Table;
use crate::{amount, output};

/// Show a key: its version, files, chunks, and where the replicas are
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  shoal info models/llama
  shoal info models/llama --files
  shoal info models/llama --json | jq -r '.chunks[].id'")]
pub struct Info {
    /// The key
    #[arg(value_parser = parse_key)]
    key: String,
    /// List the files too
    #[arg(long)]
    files: bool,
}

/// A key as `--json` prints it.
#[derive(Serialize)]
struct Report {
    key: String,
    version: u64,
    revision: u64,
    created_ms: u64,
    labels: BTreeMap<String, String>,
    expires_ms: Option<u64>,
    shape: &'static str,
    size: u64,
    file_count: u64,
    files: Vec<File>,
    chunks: Vec<ChunkLine>,
}

/// A file of the key.
#[derive(Serialize)]
struct File {
    path: String,
    kind: &'static str,
    size: u64,
    mode: u32,
    mtime_ns: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<String>,
}

/// A chunk of the key.
#[derive(Serialize)]
struct ChunkLine {
    id: String,
    size: u64,
    piece_size: u32,
    replicas: Vec<Replica>,
}

impl Info {
    /// Shows.
    pub fn run(self, global: &Global) -> Result<(), Failure> {
        let client = global.connect()?;
        let info = client.info(&self.key)?;
        let replicas = replicas(&client, &info)?;
        let report = report(info, replicas);
        if global.json {
            return output::json(&report);
        }
        output::text(&describe(&report))?;
        if self.files { output::text(&format!("\n{}", files(&report.files))) } else { Ok(()) }
    }
}

/// The replicas of the key's chunks, by chunk.
fn replicas(client: &Client, info: &KeyInfo) -> Result<BTreeMap<String, Vec<Replica>>, Failure> {
    let mut chunks = info.manifest.all_chunks();
    // One listing of everything is cheaper than a question to every node for each of many chunks.
    let only = match (chunks.next(), chunks.next()) {
        (Some(chunk), None) => Some(client::ChunkId(chunk.id)),
        _ => None,
    };
    let mut replicas: BTreeMap<String, Vec<Replica>> = BTreeMap::new();
    for replica in Replica::all(client, &client.replicas(only)?)? {
        replicas.entry(replica.chunk.clone()).or_default().push(replica);
    }
    Ok(replicas)
}

fn report(info: KeyInfo, mut replicas: BTreeMap<String, Vec<Replica>>) -> Report {
    let line = |chunk: &ChunkEntry| {
        let id = client::ChunkId(chunk.id).to_string();
        let replicas = replicas.remove(&id).unwrap_or_default();
        ChunkLine { id, size: chunk.size, piece_size: chunk.piece_size, replicas }
    };
    let chunks = info.manifest.all_chunks().map(line).collect();
    Report {
        key: info.entry.key,
        version: info.entry.version,
        revision: info.entry.revision,
        created_ms: info.entry.created_ms,
        labels: info.labels.into_iter().collect(),
        expires_ms: info.expires_ms,
        shape: match info.manifest.shape {
            Shape::File => "file",
            Shape::Tree => "directory",
            Shape::Stream => "stream",
        },
        size: info.manifest.size,
        file_count: info.manifest.file_count,
        files: info.files.iter().map(File::of).collect(),
        chunks,
    }
}

impl File {
    fn of(entry: &FileEntry) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (kind, size, digest, target) = match &entry.kind {
            FileKind::Regular { size, digest, .. } => {
                let digest = Some(client::ChunkId(*digest)).filter(client::ChunkId::is_digest);
                ("file", *size, digest.map(|digest| digest.to_string()), None)
            }
            FileKind::Directory => ("directory", 0, None, None),
            FileKind::Symlink { target } => ("symlink", 0, None, Some(text(target))),
        };
        File {
            path: if entry.path.is_empty() && kind == "directory" { ".".into() } else { text(&entry.path) },
            kind,
            size,
            mode: entry.mode,
            mtime_ns: entry.mtime_ns,
            digest,
            target,
        }
    }
}

fn describe(report: &Report) -> String {
    let mut table = Table::new(["CHUNK", ">SIZE", "REPLICAS"]);
    for chunk in &report.chunks {
        let places: Vec<String> = chunk.replicas.iter().flat_map(Replica::places).collect();
        let places = if places.is_empty() { "none on a live node".into() } else { places.join(", ") };
        table.row([chunk.id.clone(), amount::size(chunk.size), places]);
    }
    let labels: Vec<String> = report.labels.iter().map(|(name, text)| format!("{name}={text}")).collect();
    let labels = match labels.join(" ") {
        labels if labels.is_empty() => labels,
        labels => format!("labels    {}\n", crate::table::printable(&labels)),
    };
    let chunks = if table.is_empty() { String::new() } else { format!("\n{table}") };
    format!(
        "key       {}\n\
         version   {}, {} old\n\
         shape     {}\n\
         size      {} ({} bytes)\n\
         files     {}\n\
         chunks    {}\n{labels}{chunks}",
        crate::table::printable(&report.key),
        report.version,
        amount::age(report.created_ms),
        report.shape,
        amount::size(report.size),
        report.size,
        report.file_count,
        report.chunks.len(),
    )
}

fn files(files: &[File]) -> Table {
    let mut table = Table::new(["MODE", ">SIZE", "FILE"]);
    for file in files {
        let arrow = file.target.as_ref().map(|target| format!(" -> {target}")).unwrap_or_default();
        let slash = if file.kind == "directory" { "/" } else { "" };
        table.row([
            format!("{:04o}", file.mode & 0o7777),
            amount::size(file.size),
            format!("{}{slash}{arrow}", file.path),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_described() {
        let files = vec![
            File::of(&FileEntry {
                path: b"w/a.bin".to_vec(),
                kind: FileKind::Regular { size: 2048, digest: [0xab; 32], extents: Vec::new() },
                mode: 0o100640,
                mtime_ns: 0,
            }),
            File::of(&FileEntry {
                path: b"latest".to_vec(),
                kind: FileKind::Symlink { target: b"w".to_vec() },
                mode: 0o777,
                mtime_ns: 0,
            }),
        ];
        let text = super::files(&files).to_string();
        assert_eq!(text, "MODE     SIZE  FILE\n0640  2.0 KiB  w/a.bin\n0777      0 B  latest -> w\n");
        let chunk = ChunkLine { id: "ab".repeat(32), size: 2048, piece_size: 1 << 20, replicas: Vec::new() };
        let report = Report {
            key: "k".into(),
            version: 3,
            revision: 9,
            created_ms: u64::MAX,
            labels: BTreeMap::from([("type".into(), "npy".into())]),
            expires_ms: None,
            shape: "directory",
            size: 2048,
            file_count: 1,
            files,
            chunks: vec![chunk],
        };
        let text = describe(&report);
        assert!(text.contains("version   3, 0s old") && text.contains("labels    type=npy\n"), "{text}");
        assert!(text.ends_with("2.0 KiB  none on a live node\n"), "{text}");
    }
}
