//! `holdfast secrets rotate`: wraps a stopped node's data key with another key-encryption key.

use std::path::PathBuf;

use clap::Subcommand;
use holdfast_storage::{Rewrap, rewrap};

use super::ConfigSource;
use crate::config::Config;
use crate::node::sealing_key;
use crate::run;
use holdfast_cli::exit_code::{Failure, Outcome};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Give a stopped node another key-encryption key; sealed values stay as they are
    ///
    /// The configuration names the key of now. After it, secrets.key_file, key_variable or key_command must give the new one before the
    /// node starts. Repeating it is harmless.
    Rotate {
        #[command(flatten)]
        source: ConfigSource,
        /// The file of the new key, 64 hexadecimal digits; made when it is missing
        #[arg(long, value_name = "FILE")]
        new_key_file: PathBuf,
    },
}

pub(super) fn run(command: Command) -> Result<(), Failure> {
    let Command::Rotate { source, new_key_file } = command;
    let config = super::config::read(&source, Config::default())?;
    let failed = |error: anyhow::Error| Failure::new(Outcome::CannotStart, format!("{error:#}"));
    if !config.data_dir().exists() {
        return Err(Failure::usage(format!(
            "{} does not exist: name the node's data directory by hub.data_dir",
            config.data_dir().display()
        )));
    }
    // The lock: a node that runs keeps its key in memory, and would hand out what the old one wrapped.
    let data = run::take_data_dir(config.data_dir(), config.cluster.is_on())?;
    let old = sealing_key::read(&config).map_err(|error| failed(error.into()))?;
    let new = sealing_key::from_file(&new_key_file).map_err(|error| failed(error.into()))?;
    let outcome = rewrap(data.path(), &old, &new).map_err(|error| failed(error.into()))?;
    let text = match outcome {
        Rewrap::Done => "the data key is wrapped by the new key; configure it before the node starts\n",
        Rewrap::Already => "the data key is wrapped by the new key already\n",
    };
    super::print(text)
}
