//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::exit_code::Failure;

mod cluster;
mod config;
mod consumer_group;
mod dev;
mod device;
mod events;
mod http;
mod hub;
mod monitor;
mod node;
mod output;
mod sas;
mod simulate;
mod start;

/// A self-hosted IoT hub that speaks Azure IoT Hub's protocols.
#[derive(Debug, Parser)]
#[command(name = "holdfast", version, about, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Dev(dev::Dev),
    Start(start::Start),
    /// Manage devices and modules of a running hub
    Device {
        #[command(subcommand)]
        command: device::Command,
    },
    /// Manage the consumer groups of the events endpoint
    ConsumerGroup {
        #[command(subcommand)]
        command: consumer_group::Command,
    },
    /// Look at the cluster
    Cluster {
        #[command(subcommand)]
        command: cluster::Command,
    },
    /// Add, drain and remove the cluster's nodes
    Node {
        #[command(subcommand)]
        command: node::Command,
    },
    SasToken(sas::SasToken),
    MonitorEvents(monitor::Monitor),
    Simulate(simulate::Simulate),
    /// Check a configuration file, or print one with every key and its default
    Config {
        #[command(subcommand)]
        command: config::Command,
    },
}

/// Where settings come from.
#[derive(Debug, Args)]
pub(crate) struct ConfigSource {
    /// The configuration file (TOML)
    #[arg(long, value_name = "FILE", env = "HOLDFAST_CONFIG")]
    config: Option<PathBuf>,
    /// Set one key, over file and environment; may be repeated
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    set: Vec<String>,
}

/// Runs the command that was asked for.
pub(crate) fn run() -> Result<(), Failure> {
    match Cli::parse().command {
        Command::Dev(args) => dev::run(args),
        Command::Start(args) => start::run(&args),
        Command::Device { command } => device::run(command),
        Command::ConsumerGroup { command } => consumer_group::run(&command),
        Command::Cluster { command } => cluster::run(&command),
        Command::Node { command } => node::run(&command),
        Command::SasToken(args) => sas::run(&args),
        Command::MonitorEvents(args) => monitor::run(&args),
        Command::Simulate(args) => simulate::run(&args),
        Command::Config { command } => config::run(command),
    }
}

/// Writes to standard output; a reader that has gone away (`| head`) ends the command quietly.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    use std::io::Write as _;
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
        result => Ok(result?),
    }
}
