//! `holdfast node token …`: permissions to join.

use clap::{Args, Subcommand, ValueEnum};
use holdfast_model::HumanDuration;
use http::Method;
use serde_json::{Value, json};

use super::PATH;
use crate::device::encode;
use crate::exit_code::Failure;
use crate::http::{Call, block_on, call};
use crate::hub::LoginArgs;
use crate::output::{self, Format};

const COLUMNS: &[(&str, &str)] = &[
    ("ID", "/id"),
    ("STATE", "/state"),
    ("ROLE", "/role"),
    ("CREATED", "/created"),
    ("EXPIRES", "/expires"),
    ("USED BY", "/usedBy"),
];

#[derive(Debug, Subcommand)]
pub enum Command {
    /// List tokens, without the secrets: a token is shown once, when it is made
    List {
        /// How to show them
        #[arg(short, long, default_value = "table")]
        output: Format,
        #[command(flatten)]
        login: LoginArgs,
    },
    /// Take a token back, so that no node joins with it
    Revoke {
        /// Its id, see `holdfast node token list`
        #[arg(value_name = "ID")]
        id: String,
        #[command(flatten)]
        login: LoginArgs,
    },
}

/// A token that is to be made.
#[derive(Debug, Args)]
pub struct New {
    /// How long the token is good for, 1s to 7d
    #[arg(long, value_name = "TIME", default_value = "1h")]
    valid: HumanDuration,
    /// The role of the node
    #[arg(long, default_value = "core")]
    pub(super) role: Role,
    #[command(flatten)]
    pub(super) login: LoginArgs,
}

/// The roles that a node can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Role {
    /// Holds partitions and takes connections
    Core,
    /// Takes connections only
    Gateway,
}

impl Role {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Core => "core",
            Self::Gateway => "gateway",
        }
    }
}

pub(super) fn run(command: &Command) -> Result<(), Failure> {
    match command {
        Command::List { output, login } => {
            let request = Call::new(Method::GET, format!("{PATH}/tokens"));
            let tokens = block_on(call(&login.hub()?, request))?;
            output::show(&tokens, *output, COLUMNS)
        }
        Command::Revoke { id, login } => {
            let request = Call::new(Method::DELETE, format!("{PATH}/tokens/{}", encode(id)));
            block_on(call(&login.hub()?, request))?;
            crate::print(&format!("No node can join with token {id} any more.\n"))
        }
    }
}

impl New {
    pub(super) fn make(&self) -> Result<String, Failure> {
        token(&self.login, self.valid, self.role)
    }
}

/// Makes a token with which one node may join.
///
/// # Errors
/// As the hub says.
pub fn token(login: &LoginArgs, valid: HumanDuration, role: Role) -> Result<String, Failure> {
    let request = Call {
        body: Some(json!({"validSeconds": valid.get().as_secs(), "role": role.as_str()})),
        ..Call::new(Method::POST, format!("{PATH}/tokens"))
    };
    let answer = block_on(call(&login.hub()?, request))?;
    answer
        .pointer("/token")
        .and_then(Value::as_str)
        .map(str::to_owned)
        .ok_or_else(|| anyhow::anyhow!("the hub's answer holds no token").into())
}
