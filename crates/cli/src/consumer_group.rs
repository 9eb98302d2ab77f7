//! `holdfast consumer-group …`: the groups in which events are read independently of each other. With Azure these are
//! management calls, which no SDK has; here they are calls of the hub's own API.

use clap::{Args, Subcommand};
use http::Method;

use crate::device::encode;
use crate::exit_code::Failure;
use crate::http::{Call, block_on, call};
use crate::hub::LoginArgs;
use crate::output::{self, Format};

/// Where the REST API has them (Spec rest §10).
pub(crate) const PATH: &str = "/holdfast/v1/consumerGroups";

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Add a consumer group; one that exists is left alone
    Create(Group),
    /// List the consumer groups
    List {
        /// How to show them
        #[arg(short, long, default_value = "table")]
        output: Format,
        #[command(flatten)]
        login: LoginArgs,
    },
    /// Remove a consumer group; its readers are closed
    Delete(Group),
}

#[derive(Debug, Args)]
pub struct Group {
    /// 1 to 50 letters, digits and . - _
    #[arg(value_name = "NAME")]
    name: String,
    #[command(flatten)]
    login: LoginArgs,
}

impl Group {
    fn call(&self, method: Method) -> Result<(), Failure> {
        let path = format!("{PATH}/{}", encode(&self.name));
        block_on(call(&self.login.hub()?, Call::new(method, path))).map(|_| ())
    }
}

pub(crate) fn run(command: &Command) -> Result<(), Failure> {
    match command {
        Command::Create(group) => group.call(Method::PUT),
        Command::Delete(group) => group.call(Method::DELETE),
        Command::List { output, login } => {
            let answer = block_on(call(&login.hub()?, Call::new(Method::GET, PATH.to_owned())))?;
            output::show(&answer, *output, &[("NAME", "/name")])
        }
    }
}
