//! `holdfast config check [--production]|default`.

use clap::Subcommand;
use holdfast_config::{Sources, load, page};

use serde_json::json;
use time::OffsetDateTime;

use super::ConfigSource;
use crate::config::Config;
use crate::config::production::{NOT_CHECKED, Severity, Weakness, weaknesses};
use crate::node::bucket;
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
        /// Name every setting that is too weak for production, with its severity and what to set; exit code 1 when one is
        /// of high or medium severity
        #[arg(long, conflicts_with = "print")]
        production: bool,
        /// Send nothing: leave out the bucket of upload.storage = "s3"
        #[arg(long)]
        offline: bool,
        /// With --production: one JSON document
        #[arg(long, requires = "production")]
        json: bool,
    },
    /// Print a file with every key, its meaning and its default
    Default,
}

pub(super) fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Default => super::print(&page::default_file(&mut Config::default())),
        Command::Check {
            source,
            production: true,
            json,
            ..
        } => production(&source, json),
        Command::Check {
            source, print, offline, ..
        } => {
            let mut config = read(&source, Config::default())?;
            if !print && !offline {
                check_bucket(&config)?;
            }
            if print {
                super::print(&page::effective(&mut config))
            } else {
                super::print("the configuration is valid\n")
            }
        }
    }
}

/// Writes, reads and removes an object in the bucket of uploads, if there is one.
///
/// # Errors
/// Its fault, and the setting that mends it.
fn check_bucket(config: &Config) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let bucket = bucket(config).await.map_err(|error| {
            let error = anyhow::Error::from(error);
            Failure::new(
                Outcome::Failed,
                format!("the bucket of file uploads cannot be used: {error:#}"),
            )
        })?;
        let Some(bucket) = bucket else { return Ok(()) };
        bucket.check().await.map_err(|error| {
            let text = format!("the bucket {} of file uploads cannot be used: {error}", bucket.name());
            Failure::new(Outcome::Failed, text).advise(error.cause.advice())
        })
    })
}

fn production(source: &ConfigSource, is_json: bool) -> Result<(), Failure> {
    let config = read(source, Config::default())?;
    let text = source.config.as_ref().map(std::fs::read_to_string).transpose()?;
    let file = source.config.as_deref().zip(text.as_deref());
    let found = weaknesses(&config, file, OffsetDateTime::now_utc());
    if is_json {
        let shown = json!({
            "weaknesses": found.iter().map(Weakness::json).collect::<Vec<_>>(),
            "notChecked": NOT_CHECKED,
        });
        super::print(&format!("{shown:#}\n"))?;
    } else {
        for weakness in &found {
            super::print(&format!(
                "{:<7} {}: {}\n        → {}\n",
                weakness.severity.as_str().to_uppercase(),
                weakness.setting,
                weakness.reason,
                weakness.set
            ))?;
        }
        super::print(&format!("{NOT_CHECKED}\n"))?;
    }
    let count = |severity| found.iter().filter(|weakness| weakness.severity == severity).count();
    let (high, medium) = (count(Severity::High), count(Severity::Medium));
    if high + medium == 0 {
        return Ok(());
    }
    let text = format!("not for production: {high} weak settings of high severity, {medium} of medium severity");
    Err(Failure::new(Outcome::Failed, text))
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
