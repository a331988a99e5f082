//! Values as they are given.

use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;
use std::time::Duration;

use client::kv::{PutValue, VALUE_SIZE_MAX};

use crate::amount::parse_span;
use crate::failure::Failure;
use crate::put::Input;

/// What a key is put with besides its value.
#[derive(clap::Args)]
pub struct With {
    /// Let it expire after so long, such as 30s, 10m or 1h [default: it stays]
    #[arg(long, value_name = "TIME", value_parser = parse_span)]
    ttl: Option<Duration>,
    /// Say something about it; may be given several times
    #[arg(long = "label", value_name = "NAME=TEXT", value_parser = parse_label)]
    labels: Vec<(String, String)>,
    /// Let it belong to a service, and go with it
    #[arg(long, value_name = "SERVICE")]
    owner: Option<String>,
}

impl With {
    /// The options of the client.
    pub fn options(self, if_version: Option<u64>) -> PutValue {
        PutValue { ttl: self.ttl, owner: self.owner, labels: self.labels, if_version }
    }
}

/// The bytes of a value: the text itself, `-` for standard input, `@FILE` for a file.
pub fn read(key: &str, value: &str) -> Result<Vec<u8>, Failure> {
    let bytes = match (value, value.strip_prefix('@')) {
        ("-", _) => read_limited(&mut Input).map_err(Failure::Input)?,
        (_, Some(path)) => {
            let opened = File::open(path).and_then(|mut file| read_limited(&mut file));
            opened.map_err(|source| Failure::ReadFile { path: PathBuf::from(path), source })?
        }
        (text, None) => text.as_bytes().to_vec(),
    };
    if bytes.len() > VALUE_SIZE_MAX { Err(Failure::ValueSize { key: key.into() }) } else { Ok(bytes) }
}

/// All of it, or so much that it is too much.
fn read_limited(from: &mut dyn Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(VALUE_SIZE_MAX as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn parse_label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.into(), value.into())),
        _ => Err(format!("'{text}' is not NAME=TEXT")),
    }
}
