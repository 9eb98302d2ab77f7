//! `holdfast node …`: the cluster's members, and changes of them.

mod tokens;

use clap::{Args, Subcommand};
use http::Method;
use serde_json::Value;

use crate::cluster;
use crate::device::encode;
use crate::exit_code::Failure;
use crate::http::{Call, block_on, call};
use crate::hub::LoginArgs;
use crate::output::{self, Format};

pub use tokens::{Role, token};

/// Where the REST API has them.
const PATH: &str = "/holdfast/v1/nodes";

#[derive(Debug, Subcommand)]
pub enum Command {
    /// List the nodes
    List {
        /// How to show them
        #[arg(short, long, default_value = "table")]
        output: Format,
        #[command(flatten)]
        login: LoginArgs,
    },
    /// Print a token with which one new node may join; list or revoke those that there are
    #[command(args_conflicts_with_subcommands = true)]
    Token {
        #[command(subcommand)]
        command: Option<tokens::Command>,
        #[command(flatten)]
        new: tokens::New,
    },
    /// Show how a new node joins this cluster: the token and the keys of its configuration
    Join(tokens::New),
    /// Move leaders and replicas away from a node, so that it can be removed; returns at once
    Drain {
        #[command(flatten)]
        node: Node,
        /// Take the node back into service instead
        #[arg(long)]
        undo: bool,
    },
    /// Remove a node that is drained, or one that is dead for good
    Remove {
        #[command(flatten)]
        node: Node,
        /// The node is dead and will not come back with its disk: make new replicas of what it held
        #[arg(long)]
        dead: bool,
    },
}

#[derive(Debug, Args)]
pub struct Node {
    /// The node's name, see `holdfast node list`
    #[arg(value_name = "NODE")]
    name: String,
    #[command(flatten)]
    login: LoginArgs,
}

pub(crate) fn run(command: &Command) -> Result<(), Failure> {
    match command {
        Command::List { output, login } => {
            let status = cluster::fetch(login)?;
            let nodes = status.pointer("/nodes").cloned().unwrap_or_default();
            output::show(&nodes, *output, cluster::NODE_COLUMNS)
        }
        Command::Token { command: None, new } => crate::print(&format!("{}\n", new.make()?)),
        Command::Token {
            command: Some(command), ..
        } => tokens::run(command),
        Command::Join(new) => join(new),
        Command::Drain { node, undo } => {
            let path = format!("{PATH}/{}/drain", encode(&node.name));
            let method = if *undo { Method::DELETE } else { Method::POST };
            block_on(call(&node.login.hub()?, Call::new(method, path)))?;
            let text = if *undo {
                format!("{} is back in service.\n", node.name)
            } else {
                format!(
                    "{} is draining; `holdfast node list` shows Drained when everything has been moved.\n",
                    node.name
                )
            };
            crate::print(&text)
        }
        Command::Remove { node, dead } => {
            let request = Call {
                query: if *dead { "force=true" } else { "" },
                ..Call::new(Method::DELETE, format!("{PATH}/{}", encode(&node.name)))
            };
            block_on(call(&node.login.hub()?, request))?;
            crate::print(&format!("{} is no member any more.\n", node.name))
        }
    }
}

fn join(new: &tokens::New) -> Result<(), Failure> {
    let token = new.make()?;
    let status = cluster::fetch(&new.login)?;
    let addresses: Vec<&str> = status
        .pointer("/nodes")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|node| node.pointer("/address").and_then(Value::as_str))
        .collect();
    let addresses = serde_json::to_string(&addresses).map_err(anyhow::Error::from)?;
    crate::print(&format!(
        "On the new node, put this token into a file of mode 0600, such as /etc/holdfast/join-token:\n\n\
         {token}\n\n\
         and these keys into its configuration, beside its certificate for other nodes and the sealing key of this hub:\n\n\
         [cluster]\n\
         listen = [\"0.0.0.0:9700\"]\n\
         advertise = \"<name or IP of the new node>:9700\"\n\
         role = \"{}\"\n\
         join = {addresses}\n\
         join_token_file = \"/etc/holdfast/join-token\"\n\n\
         Then start it: `holdfast start --config …`. `holdfast cluster status` and `holdfast node list` show its progress.\n",
        new.role.as_str(),
    ))
}
