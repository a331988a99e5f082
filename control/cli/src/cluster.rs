//! `shoal cluster`

mod etcd; // members of etcd
mod layout; // which ports belong to whom
mod tether; // a program that ends with the process that wanted it
mod up; // a cluster on this machine

use clap::Subcommand;

use crate::failure::Failure;
use crate::global::Global;

/// Clusters on this machine, for trying them out
#[derive(Subcommand)]
pub enum Cluster {
    Up(up::Up),
    #[command(hide = true)]
    Tether(tether::Tether),
}

impl Cluster {
    /// Does what was asked for.
    pub fn run(self, global: &Global) -> Result<(), Failure> {
        match self {
            Cluster::Up(up) => up.run(global),
            Cluster::Tether(tether) => tether.run(),
        }
    }
}
