//! `holdfast settings …`: values of the whole hub that can be changed while it runs.

use clap::{Args, Subcommand};
use holdfast_model::{ByteSize, HumanDuration};
use http::Method;
use serde_json::{Value, json};

use crate::exit_code::Failure;
use crate::http::{Call, block_on, call};
use crate::hub::LoginArgs;
use crate::output::{self, Format};

/// Where the REST API has them (Spec rest §10).
pub(crate) const PATH: &str = "/holdfast/v1/settings";

const COLUMNS: [(&str, &str); 3] = [
    ("RETENTION (S)", "/retentionSeconds"),
    ("BYTES A PARTITION", "/retentionBytes"),
    ("MAX IDENTITIES", "/maxIdentities"),
];

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show the settings
    Show {
        /// How to show them
        #[arg(short, long, default_value = "json")]
        output: Format,
        #[command(flatten)]
        login: LoginArgs,
    },
    /// Change settings; what is not named stays
    ///
    /// A retention that is set here stays in force until the configuration has another one.
    Update(Update),
}

#[derive(Debug, Args)]
pub struct Update {
    /// How long events stay readable, 1d to 7d
    #[arg(long, value_name = "DURATION")]
    retention: Option<HumanDuration>,
    /// The most bytes of events that a partition keeps; 0B: no limit
    #[arg(long, value_name = "SIZE")]
    retention_size: Option<ByteSize>,
    /// The most devices and modules
    #[arg(long, value_name = "COUNT")]
    max_identities: Option<u64>,
    /// How to show the result
    #[arg(short, long, default_value = "json")]
    output: Format,
    #[command(flatten)]
    login: LoginArgs,
}

pub(crate) fn run(command: &Command) -> Result<(), Failure> {
    match command {
        Command::Show { output, login } => {
            let answer = block_on(call(&login.hub()?, Call::new(Method::GET, PATH.to_owned())))?;
            output::show(&answer, *output, &COLUMNS)
        }
        Command::Update(update) => {
            let body = body(update.retention, update.retention_size, update.max_identities);
            if body.as_object().is_none_or(serde_json::Map::is_empty) {
                return Err(Failure::usage(
                    "name what to change: --retention, --retention-size or --max-identities",
                ));
            }
            let mut request = Call::new(Method::PATCH, PATH.to_owned());
            request.body = Some(body);
            let answer = block_on(call(&update.login.hub()?, request))?;
            output::show(&answer, update.output, &COLUMNS)
        }
    }
}

/// The body of a change.
pub(crate) fn body(
    retention: Option<HumanDuration>,
    retention_size: Option<ByteSize>,
    max_identities: Option<u64>,
) -> Value {
    let mut body = json!({});
    if let Some(retention) = retention {
        body["retentionSeconds"] = retention.get().as_secs().into();
    }
    if let Some(size) = retention_size {
        body["retentionBytes"] = size.bytes().into();
    }
    if let Some(count) = max_identities {
        body["maxIdentities"] = count.into();
    }
    body
}
