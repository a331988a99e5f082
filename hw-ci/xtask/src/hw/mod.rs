//! Tests on hardware, or on what stands in for it.

mod cluster; // the validation kit for a real cluster
mod soft_roce; // verbs in a kernel of their own

use std::process::ExitCode;

use clap::Subcommand;

use crate::Error;
pub(crate) use soft_roce::Error as SoftRoceError;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    lane: Lane,
}

#[derive(Subcommand)]
enum Lane {
    /// Run a command, or the suites that need verbs, on Linux's software RDMA devices
    #[command(after_help = soft_roce::HELP)]
    SoftRoce(soft_roce::Arguments),
    /// Validate Shoal on a real cluster, and write one report
    #[command(after_help = cluster::HELP)]
    Cluster(cluster::Arguments),
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Error> {
    match &arguments.lane {
        Lane::SoftRoce(arguments) => Ok(soft_roce::run(arguments)?),
        Lane::Cluster(arguments) => cluster::run(arguments),
    }
}
