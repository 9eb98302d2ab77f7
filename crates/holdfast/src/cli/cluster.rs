//! `holdfast cluster …`: how the cluster is doing, at a glance.

use clap::Subcommand;
use http::Method;
use serde_json::Value;

use super::http::{Call, block_on, call};
use super::hub::LoginArgs;
use super::output;
use super::output::Format;
use crate::exit::Failure;

/// Where the REST API has it.
pub(super) const PATH: &str = "/holdfast/v1/cluster";

/// The columns of a node, as JSON pointers into its status.
pub(super) const NODE_COLUMNS: &[(&str, &str)] = &[
    ("NAME", "/name"),
    ("STATE", "/state"),
    ("UP", "/up"),
    ("ROLE", "/role"),
    ("ZONE", "/zone"),
    ("ADDRESS", "/address"),
    ("LEADS", "/leads"),
    ("REPLICAS", "/replicas"),
    ("SESSIONS", "/sessions"),
    ("DISK FREE", "/diskFreePercent"),
    ("VERSION", "/version"),
    ("ID", "/id"),
];

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show nodes, leaders, lag, disk and sessions, and what is wrong
    Status {
        /// As JSON, with everything that is known
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        login: LoginArgs,
    },
}

pub(super) fn run(command: &Command) -> Result<(), Failure> {
    let Command::Status { json, login } = command;
    let status = fetch(login)?;
    if *json {
        return output::show(&status, Format::Json, &[]);
    }
    super::print(&glance(&status))
}

/// The status as the hub gives it.
pub(super) fn fetch(login: &LoginArgs) -> Result<Value, Failure> {
    block_on(call(&login.hub()?, Call::new(Method::GET, PATH.to_owned())))
}

fn glance(status: &Value) -> String {
    output::text(status)
}
