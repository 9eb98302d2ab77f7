//! The commands that talk to a running hub, over the same endpoints as every other client.
//!
//! Why apart from the binary: they need a connection string and no part of the server.
//! Invariant: how a command ends is a [`Failure`], whose exit code scripts may rely on; text that a device or a back end
//! has written leaves escaped ([`output`]).
//! Not here: running a hub, its configuration and dev mode (`holdfast`).

mod as_code;
mod c2d;
mod ca;
pub mod cluster;
mod consumer_group;
mod debug;
mod device;
mod doctor;
mod events;
pub mod exit_code;
pub mod export;
mod http;
mod hub;
mod monitor;
pub mod node;
mod output;
mod policy;
mod provisioning;
mod query;
mod sas;
mod saved_query;
mod settings;
mod simulate;
mod trace;
mod twin;

use clap::Subcommand;

use exit_code::Failure;
pub use hub::LoginArgs;

/// A command for a running hub.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Manage devices and modules of a running hub
    Device {
        #[command(subcommand)]
        command: device::Command,
    },
    /// Send messages to devices, and look at their queues
    C2d {
        #[command(subcommand)]
        command: c2d::Command,
    },
    /// Read and change the twins of devices and modules
    Twin {
        #[command(subcommand)]
        command: twin::Command,
    },
    /// Manage the consumer groups of the events endpoint
    ConsumerGroup {
        #[command(subcommand)]
        command: consumer_group::Command,
    },
    /// Manage the CAs whose devices the hub accepts
    Ca {
        #[command(subcommand)]
        command: ca::Command,
    },
    /// Manage the shared access policies that back ends log in with
    Policy {
        #[command(subcommand)]
        command: policy::Command,
    },
    /// Manage what devices register by that have no identity yet
    Provisioning {
        #[command(subcommand)]
        command: provisioning::Command,
    },
    /// Say why something does not work; for devices of the hub: `device diagnose`
    Diagnose {
        #[command(subcommand)]
        command: provisioning::DiagnoseCommand,
    },
    /// Show and change values of the whole hub
    Settings {
        #[command(subcommand)]
        command: settings::Command,
    },
    Export(as_code::Export),
    Apply(as_code::Apply),
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
    /// Collect what a stranger needs to know about a hub that misbehaves
    Debug {
        #[command(subcommand)]
        command: debug::Command,
    },
    Doctor(Box<doctor::Doctor>),
    Query(query::Query),
    Trace(trace::Trace),
    SasToken(sas::SasToken),
    MonitorEvents(monitor::Monitor),
    Simulate(simulate::Simulate),
}

/// Runs the given command.
///
/// # Errors
/// How it failed, with the exit code.
pub fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Device { command } => device::run(command),
        Command::C2d { command } => c2d::run(command),
        Command::Twin { command } => twin::run(command),
        Command::ConsumerGroup { command } => consumer_group::run(&command),
        Command::Ca { command } => ca::run(&command),
        Command::Policy { command } => policy::run(&command),
        Command::Provisioning { command } => provisioning::run(&command),
        Command::Diagnose { command } => provisioning::run_diagnosis(&command),
        Command::Settings { command } => settings::run(&command),
        Command::Export(args) => as_code::export(&args),
        Command::Apply(args) => as_code::apply(&args),
        Command::Cluster { command } => cluster::run(&command),
        Command::Node { command } => node::run(&command),
        Command::Debug { command } => debug::run(&command),
        Command::Doctor(args) => doctor::run(&args),
        Command::Query(args) => query::run(&args),
        Command::Trace(args) => trace::run(&args),
        Command::SasToken(args) => sas::run(&args),
        Command::MonitorEvents(args) => monitor::run(&args),
        Command::Simulate(args) => simulate::run(&args),
    }
}

/// Writes to standard output; a reader that has gone away (`| head`) ends the command quietly.
///
/// # Errors
/// Any other error of standard output.
pub fn print(text: &str) -> Result<(), Failure> {
    use std::io::Write as _;
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
        result => Ok(result?),
    }
}
