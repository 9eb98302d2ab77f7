//! `chaos`: injects faults into a cluster of real processes under load, and checks its guarantees.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::Parser;
use holdfast_chaos::cluster::Setup;
use holdfast_chaos::interrupt;
use holdfast_chaos::nemesis::Kind;
use holdfast_chaos::run::{Options, run};

/// Exit code when a guarantee was violated.
const BROKEN: u8 = 1;
/// Exit code when the run itself could not be done.
const FAILED: u8 = 2;

/// Inject faults into a cluster of real processes under load, and check its guarantees
#[derive(Debug, Parser)]
struct Args {
    /// The binary under test
    #[arg(long, env = "HOLDFAST_BIN")]
    binary: PathBuf,
    /// How many nodes
    #[arg(long, default_value_t = 3)]
    nodes: u32,
    /// How many spare nodes join and leave
    #[arg(long, default_value_t = 1)]
    spares: u32,
    /// How many faults
    #[arg(long, default_value_t = 200)]
    faults: usize,
    /// Only these kinds, separated by commas
    #[arg(long, value_delimiter = ',', value_parser = kind)]
    kinds: Vec<Kind>,
    /// The seed: the same one draws the same faults again
    #[arg(long)]
    seed: Option<u64>,
    /// The folder for logs and reports
    #[arg(long)]
    folder: Option<PathBuf>,
    /// Partitions of the hub
    #[arg(long, default_value_t = 4)]
    partitions: u32,
    /// Devices that publish
    #[arg(long, default_value_t = 40)]
    devices: u32,
    /// Devices whose rights are revoked and restored
    #[arg(long, default_value_t = 8)]
    revocable: u32,
    /// Devices whose twins are written, which get messages, and whose methods are called
    #[arg(long, default_value_t = 4)]
    commanded: u32,
    /// Back ends that write identities
    #[arg(long, default_value_t = 4)]
    writers: u32,
    /// No further fault after this many minutes
    #[arg(long)]
    minutes: Option<u64>,
    /// End at the first violation that is found while faults are injected
    #[arg(long)]
    stop_at_violation: bool,
    /// The nodes' log filter
    #[arg(long, default_value = "info")]
    node_log: String,
}

fn kind(name: &str) -> Result<Kind, String> {
    Kind::named(name).ok_or_else(|| {
        let names: Vec<String> = Kind::ALL.iter().map(|kind| kind.name()).collect();
        format!("no such fault; there are {}", names.join(", "))
    })
}

/// How long sessions are kept without a lease; short, so that a run reaches the end of it.
const GRACE_SECONDS: u64 = 5;

fn main() -> ExitCode {
    let args = Args::parse();
    let seed = args.seed.unwrap_or_else(rand::random);
    let options = Options {
        setup: Setup {
            binary: args.binary,
            folder: args
                .folder
                .unwrap_or_else(|| std::env::temp_dir().join(format!("holdfast-chaos-{seed}"))),
            nodes: args.nodes,
            spares: if args.nodes > 1 { args.spares } else { 0 },
            partitions: args.partitions,
            grace_seconds: GRACE_SECONDS,
            log_level: args.node_log,
            seed,
        },
        faults: args.faults,
        kinds: args.kinds,
        devices: args.devices,
        revocable: args.revocable,
        commanded: args.commanded,
        writers: args.writers,
        limit: args.minutes.map(|minutes| Duration::from_secs(minutes * 60)),
        stop_at_violation: args.stop_at_violation,
    };
    if let Err(error) = interrupt::listen() {
        eprintln!("chaos: {error:#}");
        return ExitCode::from(FAILED);
    }
    match run(&options, |line| eprintln!("chaos: {line}")) {
        Ok(report) => {
            print!("{}", report.text());
            if report.is_clean() {
                ExitCode::SUCCESS
            } else {
                ExitCode::from(BROKEN)
            }
        }
        Err(error) => {
            eprintln!(
                "chaos: {error:#}\nchaos: logs and data are in {}",
                options.setup.folder.display()
            );
            ExitCode::from(FAILED)
        }
    }
}
