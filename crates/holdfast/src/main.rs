//! The Holdfast IoT hub: composition root, configuration, command line and dev mode.
//!
//! Invariant: no protocol logic here. This crate decides which parts run, with which settings, in which order they
//! start and stop, and what is said about it.
//! Start at [`cli::run`]; the node itself is put together in [`node`].

mod backup_target;
mod certs;
mod cli;
mod config;
mod connection;
mod debug_report;
mod logs;
mod metrics_catalogue;
mod node;
mod ops;
mod preflight;
mod run;

use std::process::ExitCode;

fn main() -> ExitCode {
    match cli::run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
