//! `holdfast cluster …`: the state of the cluster, at a glance.

use clap::Subcommand;
use http::Method;
use serde_json::{Value, json};

use crate::exit_code::Failure;
use crate::http::{Call, block_on, call};
use crate::hub::LoginArgs;
use crate::output::{self, Format, plain};

/// Where the REST API has it.
pub(crate) const PATH: &str = "/holdfast/v1/cluster";

/// The columns of a node, as JSON pointers into its status.
pub(crate) const NODE_COLUMNS: &[(&str, &str)] = &[
    ("NAME", "/name"),
    ("STATE", "/state"),
    ("UP", "/up"),
    ("IN LEASE", "/inLease"),
    ("ROLE", "/role"),
    ("ZONE", "/zone"),
    ("ADDRESS", "/address"),
    ("LEADS", "/leads"),
    ("REPLICAS", "/replicas"),
    ("SESSIONS", "/sessions"),
    ("DISK FREE %", "/diskFreePercent"),
    ("VERSION", "/version"),
    ("ID", "/id"),
];

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show nodes, leaders, lag, disk and sessions, and what is wrong
    Status {
        /// As JSON, with every detail
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        login: LoginArgs,
    },
    /// Show the feature level: which formats the nodes may write, and so to which versions they can be set back
    FeatureLevel {
        /// Raise it to the highest that all members support; it is never lowered
        #[arg(long)]
        raise: bool,
        #[command(flatten)]
        login: LoginArgs,
    },
    /// Set how many replicas each partition has, 1 to 5 and no more than there are core nodes; returns at once
    SetReplication {
        /// How many; an odd number survives as many losses as the even one above it
        #[arg(value_name = "N")]
        factor: u8,
        #[command(flatten)]
        login: LoginArgs,
    },
}

pub(crate) fn run(command: &Command) -> Result<(), Failure> {
    match command {
        Command::Status { json, login } => {
            let status = fetch(login)?;
            if *json {
                return output::show(&status, Format::Json, &[]);
            }
            crate::print(&glance(&status))
        }
        Command::FeatureLevel { raise: false, login } => crate::print(&levels(&fetch(login)?)),
        Command::FeatureLevel { raise: true, login } => raise_feature_level(login),
        Command::SetReplication { factor, login } => set_replication(*factor, login),
    }
}

fn raise_feature_level(login: &LoginArgs) -> Result<(), Failure> {
    let answer = block_on(call(
        &login.hub()?,
        Call::new(Method::POST, format!("{PATH}/feature-level")),
    ))?;
    let number = |pointer: &str| answer.pointer(pointer).map_or_else(String::new, plain);
    crate::print(&format!(
        "The feature level is {}; it was {}.\n",
        number("/featureLevel"),
        number("/before")
    ))
}

/// The feature level of the hub, what its members support, and what to do.
fn levels(status: &Value) -> String {
    let (level, supported) = (feature_level(status), supported_level(status));
    let mut out = format!("The hub has feature level {level}.\n\n");
    let nodes = status.pointer("/nodes").and_then(Value::as_array).cloned();
    out.push_str(&output::table(
        &nodes.unwrap_or_default(),
        &[
            ("NAME", "/name"),
            ("VERSION", "/version"),
            ("SUPPORTS", "/featureLevel"),
        ],
    ));
    out.push_str(match supported {
        None => "\nNot all members have said what they support: they are down, or run a version without levels. Until then it stays.\n",
        Some(supported) if supported > level => {
            "\nAll members support a higher one. `holdfast cluster feature-level --raise` raises it; then no node can be set back to a version \
             that does not support it. Without `cluster.raise_feature_level = false` the hub does so by itself within seconds.\n"
        }
        Some(_) => "\nIt is as high as the members support together.\n",
    });
    out
}

fn feature_level(status: &Value) -> u64 {
    status.pointer("/featureLevel").and_then(Value::as_u64).unwrap_or(0)
}

/// The highest level that all members support; `None` while one has not said it.
fn supported_level(status: &Value) -> Option<u64> {
    let nodes = status.pointer("/nodes")?.as_array()?;
    let levels = nodes.iter().map(|node| node["featureLevel"].as_u64().unwrap_or(0));
    levels.min().filter(|level| *level > 0)
}

fn set_replication(factor: u8, login: &LoginArgs) -> Result<(), Failure> {
    let request = Call {
        body: Some(json!({"factor": factor})),
        ..Call::new(Method::PUT, format!("{PATH}/replication"))
    };
    let answer = block_on(call(&login.hub()?, request))?;
    if let Some(warning) = answer.pointer("/warning") {
        eprintln!("warning: {}", plain(warning));
    }
    let before = answer.pointer("/before").map_or_else(String::new, plain);
    crate::print(&format!(
        "Each partition is to have {factor} replicas; it was {before}. `holdfast cluster status` is healthy when they \
         have.\n"
    ))
}

/// The status as the hub gives it.
///
/// # Errors
/// As the hub says.
pub fn fetch(login: &LoginArgs) -> Result<Value, Failure> {
    block_on(call(&login.hub()?, Call::new(Method::GET, PATH.to_owned())))
}

/// A summary for people: health, problems, leaders, lag.
fn glance(status: &Value) -> String {
    let text = |pointer: &str| status.pointer(pointer).map_or_else(String::new, plain);
    let list = |pointer: &str| {
        status
            .pointer(pointer)
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default()
    };
    let level = feature_level(status);
    let mut out = format!(
        "cluster {}: {}, feature level {level}{}\n",
        text("/cluster"),
        if is_settled(status) { "healthy" } else { "NOT healthy" },
        match supported_level(status) {
            Some(supported) if supported > level => format!(" of {supported} (`holdfast cluster feature-level`)"),
            _ => String::new(),
        }
    );
    for note in list("/notes") {
        out.push_str(&format!("  ! {}\n", plain(&note)));
    }
    out.push('\n');
    out.push_str(&output::table(&list("/nodes"), NODE_COLUMNS));
    out.push('\n');
    let names: Vec<(Value, String)> = list("/nodes")
        .iter()
        .filter_map(|node| Some((node.get("id")?.clone(), plain(node.get("name")?))))
        .collect();
    let rows: Vec<Value> = list("/groups").iter().map(|group| group_row(group, &names)).collect();
    out.push_str(&output::table(
        &rows,
        &[
            ("GROUP", "/name"),
            ("LEADER", "/leader"),
            ("VOTERS", "/voters"),
            ("LEARNERS", "/learners"),
            ("LAST ENTRY", "/last"),
            ("MOST BEHIND", "/lag"),
            ("CHANGE IN PROGRESS", "/underWay"),
        ],
    ));
    out
}

fn group_row(group: &Value, names: &[(Value, String)]) -> Value {
    let name = |id: &Value| {
        let found = names.iter().find(|(known, _)| known == id);
        found.map_or_else(|| plain(id), |(_, name)| name.clone())
    };
    let replicas = group
        .get("replicas")
        .and_then(Value::as_array)
        .cloned()
        .unwrap_or_default();
    let members = |voter: bool| {
        let of_kind = replicas
            .iter()
            .filter(|replica| replica["voter"].as_bool() == Some(voter));
        let shown: Vec<String> = of_kind
            .map(|replica| {
                let down = if replica["running"].as_bool() == Some(false) {
                    " (down)"
                } else {
                    ""
                };
                format!("{}{down}", name(&replica["node"]))
            })
            .collect();
        if shown.is_empty() {
            "-".to_owned()
        } else {
            shown.join(", ")
        }
    };
    let lag = replicas.iter().filter_map(|replica| replica["lag"].as_u64()).max();
    serde_json::json!({
        "name": group["name"],
        "leader": if group["leader"].is_null() { "NONE".to_owned() } else { name(&group["leader"]) },
        "voters": members(true),
        "learners": members(false),
        "last": group["lastLog"],
        "lag": lag,
        "underWay": group["underWay"],
    })
}

/// Whether every node is up and every group has its voters.
#[must_use]
pub fn is_settled(status: &Value) -> bool {
    status.pointer("/healthy").and_then(Value::as_bool).unwrap_or(false)
}
