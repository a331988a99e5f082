//! `shoal serve`

use std::process::ExitCode;

use crate::failure::Failure;

/// Run a node
///
/// A node alone is a whole cluster. Others join it with --join, and it is then the head, which keeps the catalog. With
/// --catalog etcd keeps it, and any node may fail.
/// Settings come from flags, then SHOAL_* variables, then the file of --config.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  shoal serve                                                A node for this machine alone
  shoal serve --listen 10.0.0.1:9015 --token-file t          A head that others can join
  shoal serve --listen 10.0.0.2:9015 --token-file t --join 10.0.0.1:9015
  shoal serve --listen 10.0.0.1:9015 --token-file t --catalog etcd://10.0.1.1,10.0.1.2,10.0.1.3
                                                             A node among equals, each started with the same etcd
  shoal serve --max-memory 64GB --cores 8 --data-dir /nvme/shoal

SIGTERM or Ctrl-C lets transfers end and exits with 0; a second signal ends at once.")]
pub struct Serve {
    #[command(flatten)]
    flags: daemon::Flags,
}

impl Serve {
    /// Serves until a signal.
    pub fn run(self) -> Result<ExitCode, Failure> {
        let settings = daemon::Settings::resolve(self.flags)?;
        Ok(daemon::serve(settings))
    }
}
