//! `holdfast config check|default`.

use clap::Subcommand;
use holdfast_config::{Sources, load, page};

use super::ConfigSource;
use crate::config::Config;
use holdfast_cli::exit_code::{Failure, Outcome};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Check file, environment and flags without starting anything
    Check {
        #[command(flatten)]
        source: ConfigSource,
        /// Print the settings that the hub would run with
        #[arg(long)]
        print: bool,
    },
    /// Print a file with every key, its meaning and its default
    Default,
}

pub(super) fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Default => super::print(&page::default_file(&mut Config::default())),
        Command::Check { source, print } => {
            let mut config = read(&source, Config::default())?;
            if print {
                super::print(&page::effective(&mut config))
            } else {
                super::print("the configuration is valid\n")
            }
        }
    }
}

/// Reads the configuration over `defaults`.
///
/// # Errors
/// Every mistake at once.
pub(crate) fn read(source: &ConfigSource, defaults: Config) -> Result<Config, Failure> {
    let text = match &source.config {
        Some(path) => Some(std::fs::read_to_string(path).map_err(|error| {
            Failure::new(Outcome::Usage, format!("cannot read {}: {error}", path.display()))
                .advise("`holdfast config default` prints a file to start from")
        })?),
        None => None,
    };
    let sources = Sources {
        file: source.config.as_deref().zip(text.as_deref()),
        environment: std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect(),
        set: source.set.clone(),
    };
    let loaded = load(defaults, &sources).map_err(|problems| {
        Failure::new(Outcome::Usage, format!("the configuration is wrong\n{problems}"))
            .advise("`holdfast config default` shows every key with its meaning")
    })?;
    // Before the log starts: its settings are among those that were read.
    for warning in &loaded.warnings {
        eprintln!("holdfast: warning: {warning}");
    }
    Ok(loaded.config)
}
