//! `swarm`: load a hub or an MQTT broker, and check that what was acknowledged can be read.

mod args;
mod commands;

use clap::Parser;

fn main() -> anyhow::Result<()> {
    args::Args::parse().command.run()
}
