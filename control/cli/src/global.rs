//! The flags that every command has, and the way to a node.

use std::ffi::OsString;
use std::fs;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::Arc;

use client::{Address, Client};
use flow::wire::handshake::Token;

use crate::failure::Failure;
use crate::interrupt;

/// The flags that every command has.
#[derive(clap::Args, Clone)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// The node to talk to: the path of its local socket, or HOST:PORT
    /// [env: SHOAL_NODE] [default: shoal.sock in the data directory]
    #[arg(long, global = true, value_name = "ADDRESS")]
    node: Option<String>,
    /// A file with the cluster's token [env: SHOAL_TOKEN_FILE]
    #[arg(long, global = true, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Print JSON in place of tables and messages; errors are objects on standard error
    #[arg(long, global = true)]
    pub json: bool,
    /// Print errors and what was asked for, and nothing else
    #[arg(short, long, global = true)]
    pub quiet: bool,
}

impl Global {
    /// Connects to the node that was named, or the one on this machine.
    pub fn connect(&self) -> Result<Arc<Client>, Failure> {
        self.connect_to(&self.address()?)
    }

    /// Connects to another node with the same token. A signal closes the connection.
    pub fn connect_to(&self, address: &Address) -> Result<Arc<Client>, Failure> {
        open(address, self.token()?.as_ref())
    }

    /// Connects even after a signal, to clean up.
    pub fn connect_to_clean_up(&self) -> Result<Client, Failure> {
        Ok(Client::connect(&self.address()?, self.token()?.as_ref())?)
    }

    /// Whether progress may be drawn on standard error.
    pub fn draws(&self) -> bool {
        !self.quiet && std::io::stderr().is_terminal()
    }

    /// The cluster's token, to be shown over HTTP.
    pub fn token_text(&self) -> Result<Option<String>, Failure> {
        let named = self.token_file.clone().or_else(|| variable("SHOAL_TOKEN_FILE").map(PathBuf::from));
        let Some(path) = named else { return Ok(None) };
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text.trim().to_owned())),
            Err(source) => Err(Failure::TokenFile { path, source }),
        }
    }

    fn address(&self) -> Result<Address, Failure> {
        let named =
            self.node.clone().or_else(|| Some(variable("SHOAL_NODE")?.to_string_lossy().into_owned()));
        match named {
            Some(text) => Ok(Address::parse(&text)?),
            None => Ok(Address::Local(data_dir().join("shoal.sock"))),
        }
    }

    fn token(&self) -> Result<Option<Token>, Failure> {
        Ok(self.token_text()?.map(|text| Token::new(&text)))
    }
}

/// The data directory of a node that was started without `--data-dir` in the same environment.
pub fn data_dir() -> PathBuf {
    variable("SHOAL_DATA_DIR").map_or_else(daemon::default_data_dir, PathBuf::from)
}

/// An environment variable; an empty one counts as none.
fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

/// Connects to a node. A signal closes the connection.
pub fn open(address: &Address, token: Option<&Token>) -> Result<Arc<Client>, Failure> {
    let client = Arc::new(Client::connect(address, token)?);
    interrupt::closes(&client);
    Ok(client)
}
