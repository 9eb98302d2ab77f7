//! `holdfast policy …`: the hub's shared access policies, in the habits of `az iot hub policy`.

use clap::{Args, Subcommand, ValueEnum};
use http::{Method, header};
use serde_json::{Value, json};

use crate::device::encode;
use crate::exit_code::Failure;
use crate::http::{Call, block_on, call};
use crate::hub::LoginArgs;
use crate::output::{self, Format};

/// Where the REST API has them (Spec rest §10).
pub(crate) const PATH: &str = "/holdfast/v1/policies";

const COLUMNS: [(&str, &str); 2] = [("NAME", "/keyName"), ("RIGHTS", "/rights")];

#[derive(Debug, Subcommand)]
pub enum Command {
    /// List the policies and their rights
    List {
        /// How to show them; JSON has the keys too, for a login with all rights
        #[arg(short, long, default_value = "table")]
        output: Format,
        #[command(flatten)]
        login: LoginArgs,
    },
    /// Show one policy; its keys too, for a login with all rights
    Show {
        #[command(flatten)]
        policy: Policy,
    },
    /// Create a policy with new keys
    Create {
        #[command(flatten)]
        policy: Policy,
        /// Its rights
        #[arg(long, required = true, visible_alias = "rights", num_args = 1.., value_delimiter = ',', value_name = "RIGHT")]
        permissions: Vec<Right>,
        #[command(flatten)]
        keys: Keys,
    },
    /// Change the rights or keys of a policy; what is not named stays
    Update {
        #[command(flatten)]
        policy: Policy,
        /// Its rights, in place of those that it has
        #[arg(long, visible_alias = "rights", num_args = 1.., value_delimiter = ',', value_name = "RIGHT")]
        permissions: Option<Vec<Right>>,
        #[command(flatten)]
        keys: Keys,
    },
    /// Delete a policy; its tokens are refused, and connections that it opened are closed
    Delete {
        #[command(flatten)]
        policy: Policy,
    },
    /// Replace one key of a policy; tokens of the old key are refused
    #[command(visible_alias = "renew-key")]
    RegenerateKey {
        #[command(flatten)]
        policy: Policy,
        /// Which one
        #[arg(long, visible_aliases = ["renew-key", "rk"], value_name = "KEY")]
        key_type: KeyType,
    },
    /// Exchange the primary and the secondary key; both stay valid
    SwapKeys {
        #[command(flatten)]
        policy: Policy,
    },
}

/// A policy of a hub.
#[derive(Debug, Args)]
pub struct Policy {
    /// 1 to 64 letters, digits and . - _
    #[arg(value_name = "NAME")]
    name: String,
    #[command(flatten)]
    login: LoginArgs,
    /// How to show the result
    #[arg(short, long, default_value = "json")]
    output: Format,
}

/// Keys that the caller has made.
#[derive(Debug, Args)]
pub struct Keys {
    /// The primary key, in base64
    #[arg(long, visible_alias = "pk", value_name = "KEY")]
    primary_key: Option<String>,
    /// The secondary key, in base64
    #[arg(long, visible_alias = "sk", value_name = "KEY")]
    secondary_key: Option<String>,
}

/// A right of a policy, as Azure's tools write it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Right {
    #[value(name = "RegistryRead")]
    RegistryRead,
    #[value(name = "RegistryWrite")]
    RegistryWrite,
    #[value(name = "ServiceConnect")]
    ServiceConnect,
    #[value(name = "DeviceConnect")]
    DeviceConnect,
}

/// Which key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum KeyType {
    Primary,
    Secondary,
}

impl Policy {
    /// Calls `below` the policy's path; the hub's answer.
    fn call(&self, method: Method, below: &str, body: Option<Value>) -> Result<Value, Failure> {
        self.send(self.request(method, below, body))
    }

    fn request(&self, method: Method, below: &str, body: Option<Value>) -> Call<'static> {
        let mut request = Call::new(method, format!("{PATH}/{}{below}", encode(&self.name)));
        request.body = body;
        request
    }

    fn send(&self, request: Call<'_>) -> Result<Value, Failure> {
        block_on(call(&self.login.hub()?, request))
    }

    fn show(&self, answer: &Value) -> Result<(), Failure> {
        output::show(answer, self.output, &COLUMNS)
    }
}

/// The body of a create or change.
fn document(permissions: Option<&[Right]>, keys: &Keys) -> Value {
    let mut body = json!({});
    if let Some(permissions) = permissions {
        let names: Vec<String> = permissions.iter().map(|right| format!("{right:?}")).collect();
        body["rights"] = names.join(", ").into();
    }
    for (name, key) in [("primaryKey", &keys.primary_key), ("secondaryKey", &keys.secondary_key)] {
        if let Some(key) = key {
            body[name] = key.as_str().into();
        }
    }
    body
}

pub(crate) fn run(command: &Command) -> Result<(), Failure> {
    match command {
        Command::List { output, login } => {
            let mut answer = block_on(call(&login.hub()?, Call::new(Method::GET, PATH.to_owned())))?;
            output::show(&answer["value"].take(), *output, &COLUMNS)
        }
        Command::Show { policy } => policy.show(&policy.call(Method::GET, "", None)?),
        Command::Create {
            policy,
            permissions,
            keys,
        } => {
            let mut request = policy.request(Method::PUT, "", Some(document(Some(permissions), keys)));
            request.headers.push((header::IF_NONE_MATCH, "*".to_owned()));
            policy.show(&policy.send(request)?)
        }
        Command::Update {
            policy,
            permissions,
            keys,
        } => {
            let mut request = policy.request(Method::PUT, "", Some(document(permissions.as_deref(), keys)));
            request.if_match = Some("*");
            policy.show(&policy.send(request)?)
        }
        Command::Delete { policy } => policy.call(Method::DELETE, "", None).map(|_| ()),
        Command::RegenerateKey { policy, key_type } => {
            let key_type = match key_type {
                KeyType::Primary => "primary",
                KeyType::Secondary => "secondary",
            };
            policy.show(&policy.call(Method::POST, "/regenerateKey", Some(json!({"keyType": key_type})))?)
        }
        Command::SwapKeys { policy } => policy.show(&policy.call(Method::POST, "/swapKeys", None)?),
    }
}
