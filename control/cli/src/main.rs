//! The `shoal` binary: `shoal serve` is a node, everything else talks to one.
//!
//! One file per subcommand. What they share: [`global`] (flags of every command, and the way to a node),
//! [`failure`] (errors and exit codes), [`output`] (standard output), [`table`], [`amount`] (sizes, rates and ages
//! for people), [`progress`] and [`interrupt`].
#![forbid(unsafe_code)]

mod amount;
mod bench;
mod broadcast;
mod chunk;
mod cluster;
mod completions;
mod data;
mod demo;
mod doctor;
mod failure;
mod get;
mod global;
mod host;
mod info;
mod interrupt;
mod kv;
mod ls;
mod node;
mod noise;
mod output;
mod place;
mod processes;
mod progress;
mod put;
mod rm;
mod serve;
mod service;
mod sim;
mod status;
mod table;

use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Parser, Subcommand};

use crate::failure::Failure;
use crate::global::Global;

/// Puts bytes where GPUs need them: chunks in memory and on NVMe, moved by a swarm of nodes.
#[derive(Parser)]
#[command(name = "shoal", version, after_help = AFTER_HELP, propagate_version = true)]
struct Shoal {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

const AFTER_HELP: &str = "\
Examples:
  shoal demo                                  See eight nodes broadcast 1 GiB on this machine
  shoal cluster up                            Try three nodes of which any may fail
  shoal serve                                 Start a node
  shoal put models/llama --src ./llama        Store a directory
  shoal get models/llama --dest /scratch/m    Write it elsewhere
  shoal ls models -l                          List what is below a key
  shoal kv put jobs/7/state running           Keep a small value

Exit codes:
  0    done
  1    failed
  2    wrong usage
  3    no such key, chunk or node
  4    the node or the cluster cannot be reached, or is shutting down
  5    a key has another version than was expected, or was written meanwhile
  130  interrupted by Ctrl-C (143 by SIGTERM); nothing half done is left behind";

#[derive(Subcommand)]
enum Command {
    Serve(Box<serve::Serve>),
    Put(put::Put),
    Get(get::Get),
    Ls(ls::Ls),
    Rm(rm::Rm),
    Info(info::Info),
    #[command(subcommand)]
    Kv(kv::Kv),
    #[command(subcommand)]
    Data(data::Data),
    #[command(subcommand)]
    Service(service::Service),
    #[command(subcommand)]
    Chunk(chunk::Chunk),
    #[command(subcommand)]
    Node(node::Node),
    Status(status::Status),
    Doctor(doctor::Doctor),
    Demo(demo::Demo),
    #[command(subcommand)]
    Cluster(cluster::Cluster),
    #[command(subcommand)]
    Bench(bench::Bench),
    #[command(subcommand)]
    Sim(sim::Sim),
    Completions(completions::Completions),
}

fn main() -> ExitCode {
    let shoal = match Shoal::try_parse() {
        Ok(shoal) => shoal,
        Err(error) => return usage(&error),
    };
    let json = shoal.global.json;
    match run(shoal) {
        Ok(code) => code,
        Err(failure) => failure.report(json),
    }
}

fn run(shoal: Shoal) -> Result<ExitCode, Failure> {
    let global = shoal.global;
    // The node has its own way to end on a signal.
    let serves = match &shoal.command {
        Command::Serve(_) => true,
        Command::Data(data) => data.serves(),
        _ => false,
    };
    if !serves {
        interrupt::watch().map_err(Failure::Signals)?;
    }
    match shoal.command {
        Command::Serve(serve) => return serve.run(),
        Command::Data(data) => return data.run(&global),
        Command::Put(put) => put.run(&global),
        Command::Get(get) => get.run(&global),
        Command::Ls(ls) => ls.run(&global),
        Command::Rm(rm) => rm.run(&global),
        Command::Info(info) => info.run(&global),
        Command::Kv(kv) => kv.run(&global),
        Command::Service(service) => service.run(&global),
        Command::Chunk(chunk) => chunk.run(&global),
        Command::Node(node) => node.run(&global),
        Command::Status(status) => status.run(&global),
        Command::Doctor(doctor) => doctor.run(&global),
        Command::Demo(demo) => demo.run(&global),
        Command::Cluster(cluster) => cluster.run(&global),
        Command::Bench(bench) => bench.run(&global),
        Command::Sim(sim) => sim.run(&global),
        Command::Completions(completions) => completions.run(),
    }?;
    Ok(ExitCode::SUCCESS)
}

/// Says what clap found; help and version are no errors.
fn usage(error: &clap::Error) -> ExitCode {
    let wanted = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
    if !wanted && std::env::args_os().any(|argument| argument == "--json") {
        return Failure::Usage(error.to_string().trim_end().to_owned()).report(true);
    }
    // A closed pipe is the only way this fails, and then there is nobody to tell.
    let _ = error.print();
    if wanted { ExitCode::SUCCESS } else { ExitCode::from(failure::USAGE) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_commands_are_consistent() {
        use clap::CommandFactory;
        Shoal::command().debug_assert();
    }
}
