//! The command line: running a hub here; the commands for a running hub are `holdfast_cli`'s.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use holdfast_cli::exit_code::Failure;
use holdfast_cli::print;

pub(crate) mod backup;
mod config;
mod dev;
mod restore;
mod secrets;
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
    #[command(flatten)]
    OfRunningHub(Box<holdfast_cli::Command>),
    /// Make, check and list backups of a running hub
    Backup {
        #[command(subcommand)]
        command: backup::Command,
    },
    Restore(restore::Restore),
    /// The key that seals stored keys
    Secrets {
        #[command(subcommand)]
        command: secrets::Command,
    },
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

/// Runs the given command.
pub(crate) fn run() -> Result<(), Failure> {
    match Cli::parse().command {
        Command::Dev(args) => dev::run(args),
        Command::Start(args) => start::run(&args),
        Command::OfRunningHub(command) => holdfast_cli::run(*command),
        Command::Backup { command } => backup::run(command),
        Command::Restore(args) => restore::run(args),
        Command::Secrets { command } => secrets::run(command),
        Command::Config { command } => config::run(command),
    }
}
