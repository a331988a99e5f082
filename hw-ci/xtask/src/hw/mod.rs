//! Tests on hardware, or on what stands in for it.

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
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Error> {
    match &arguments.lane {
        Lane::SoftRoce(arguments) => Ok(soft_roce::run(arguments)?),
    }
}
