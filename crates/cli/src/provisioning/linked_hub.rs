//! `holdfast provisioning hub …`: the hubs that devices are assigned to.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use http::Method;
use serde_json::{Value, json};

use super::{Listing, One, request};
use crate::device::encode;
use crate::exit_code::Failure;
use crate::http::{block_on, call};
use crate::output;

const COLUMNS: [(&str, &str); 5] = [
    ("HUB", "/hostName"),
    ("WEIGHT", "/allocationWeight"),
    ("ALLOCATION", "/applyAllocationPolicy"),
    ("ENABLED", "/enabled"),
    ("ENDPOINT", "/endpoint"),
];

#[derive(Debug, Subcommand)]
pub enum HubCommand {
    /// List all, this hub among them
    List(Listing),
    /// Show one; its key stays hidden
    Show(One),
    /// Link one; ID is its host name
    #[command(visible_alias = "create")]
    Add {
        #[command(flatten)]
        one: One,
        #[command(flatten)]
        link: Link,
    },
    /// Change a link, or the weight of this hub; what is not named stays
    Update {
        #[command(flatten)]
        one: One,
        #[command(flatten)]
        link: Link,
    },
    /// Remove a link; its devices stay there
    #[command(visible_alias = "delete")]
    Remove(One),
}

/// What a link is made of.
#[derive(Debug, Args)]
pub struct Link {
    /// A policy of that hub with RegistryRead and RegistryWrite: HostName=…;SharedAccessKeyName=…;SharedAccessKey=…
    #[arg(long, visible_alias = "cs", value_name = "TEXT", env = "HOLDFAST_LINKED_HUB")]
    connection_string: Option<String>,
    /// Its share of the devices, relative to the others
    #[arg(long, visible_alias = "aw", value_name = "N")]
    allocation_weight: Option<u32>,
    /// Whether it gets devices whose enrollment does not name it
    #[arg(long, visible_alias = "aap", value_name = "BOOL")]
    apply_allocation_policy: Option<bool>,
    /// Whether it gets devices at all
    #[arg(long, value_name = "BOOL")]
    enabled: Option<bool>,
    /// HOST or HOST:PORT of its REST API, unless it is the host name and 443
    #[arg(long, value_name = "HOST:PORT")]
    endpoint: Option<String>,
    /// The CA of its certificate, PEM
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Where it is, for people
    #[arg(long, value_name = "TEXT")]
    location: Option<String>,
}

impl Link {
    fn apply(&self, document: &mut Value) -> Result<(), Failure> {
        let ca = match &self.ca {
            Some(path) => {
                let text = std::fs::read_to_string(path);
                Some(text.map_err(|error| Failure::usage(format!("{}: {error}", path.display())))?)
            }
            None => None,
        };
        for (name, value) in [
            (
                "connectionString",
                self.connection_string.as_ref().map(|text| json!(text)),
            ),
            ("allocationWeight", self.allocation_weight.map(|weight| json!(weight))),
            (
                "applyAllocationPolicy",
                self.apply_allocation_policy.map(|applies| json!(applies)),
            ),
            ("enabled", self.enabled.map(|enabled| json!(enabled))),
            ("endpoint", self.endpoint.as_ref().map(|text| json!(text))),
            ("caCertificate", ca.map(|text| json!(text))),
            ("location", self.location.as_ref().map(|text| json!(text))),
        ] {
            if let Some(value) = value {
                document[name] = value;
            }
        }
        Ok(())
    }
}

fn path(host: &str) -> String {
    format!("/linkedHubs/{}", encode(host))
}

pub(super) fn run(command: &HubCommand) -> Result<(), Failure> {
    match command {
        HubCommand::List(list) => {
            let hub = list.login.provisioning()?;
            let all = block_on(call(&hub, request(Method::GET, "/linkedHubs".to_owned(), None)))?;
            output::show(&all, list.output, &COLUMNS)
        }
        HubCommand::Show(one) => {
            let hub = one.login.provisioning()?;
            let found = block_on(call(&hub, request(Method::GET, path(&one.id), None)))?;
            output::show(&found, one.output, &COLUMNS)
        }
        HubCommand::Add { one, link } => {
            let mut document = json!({"hostName": one.id});
            link.apply(&mut document)?;
            let hub = one.login.provisioning()?;
            let stored = block_on(call(&hub, request(Method::PUT, path(&one.id), Some(document))))?;
            output::show(&stored, one.output, &COLUMNS)
        }
        HubCommand::Update { one, link } => update(one, link),
        HubCommand::Remove(one) => {
            let hub = one.login.provisioning()?;
            block_on(call(&hub, request(Method::DELETE, path(&one.id), None))).map(|_| ())
        }
    }
}

/// The stored document, changed; it must not have changed meanwhile. This hub may have none yet.
fn update(one: &One, link: &Link) -> Result<(), Failure> {
    let hub = one.login.provisioning()?;
    let all = block_on(call(&hub, request(Method::GET, "/linkedHubs".to_owned(), None)))?;
    let is_it = |hub: &&Value| {
        hub["hostName"]
            .as_str()
            .is_some_and(|host| host.eq_ignore_ascii_case(&one.id))
    };
    let found = all.as_array().and_then(|all| all.iter().find(is_it));
    let mut document = found.cloned().ok_or_else(|| {
        let text = format!("hub {} is not linked", one.id);
        Failure::new(crate::exit_code::Outcome::NotFound, text)
    })?;
    link.apply(&mut document)?;
    let etag = document["etag"].as_str().map(|etag| etag.trim_matches('"').to_owned());
    let mut put = request(Method::PUT, path(&one.id), Some(document));
    put.if_match = etag.as_deref();
    let stored = block_on(call(&hub, put))?;
    output::show(&stored, one.output, &COLUMNS)
}
