//! `holdfast sas-token`: ready-made tokens, for devices that cannot sign and for curl.

use std::time::Duration;

use clap::Args;
use holdfast_auth::{sign, sign_identity};
use holdfast_model::limits::SAS_DEFAULT_LIFETIME;
use holdfast_model::{DeviceId, IdentityId, ModuleId};
use http::Method;
use serde_json::json;

use crate::device::{KeyType, key_of};
use crate::exit_code::Failure;
use crate::http::{Call, block_on, call};
use crate::hub::{LoginArgs, expiry};
use crate::output::{self, Format};

/// Print a shared access signature: a device's, or the login policy's for the whole hub
#[derive(Debug, Args)]
pub struct SasToken {
    /// The device that it is for; without one it is the policy's
    #[arg(short = 'd', long = "device-id", value_name = "DEVICE")]
    device_id: Option<String>,
    /// A module of the device
    #[arg(short = 'm', long = "module-id", value_name = "MODULE", requires = "device_id")]
    module_id: Option<String>,
    /// Which of the device's keys
    #[arg(long, default_value = "primary")]
    key_type: KeyType,
    /// How long it is good for, in seconds
    #[arg(long, visible_alias = "du", default_value_t = SAS_DEFAULT_LIFETIME.as_secs())]
    duration: u64,
    /// How to show it; default: the bare token
    #[arg(short, long)]
    output: Option<Format>,
    #[command(flatten)]
    login: LoginArgs,
}

pub(crate) fn run(args: &SasToken) -> Result<(), Failure> {
    let hub = args.login.hub()?;
    let expires = expiry(Duration::from_secs(args.duration));
    let token = match &args.device_id {
        Some(device) => {
            let device = DeviceId::parse(device).map_err(Failure::usage)?;
            let module = args
                .module_id
                .as_deref()
                .map(ModuleId::parse)
                .transpose()
                .map_err(Failure::usage)?;
            let identity = IdentityId { device, module };
            let document = block_on(call(&hub, Call::new(Method::GET, crate::device::path_of(&identity))))?;
            sign_identity(&hub.host, &identity, &key_of(&document, args.key_type)?, expires)
        }
        None => match (&hub.login.policy, &hub.login.key) {
            (Some(policy), Some(key)) => sign(&hub.host, key.as_bytes(), Some(policy), expires),
            _ => return Err(Failure::usage("the login has no policy's key to sign with")),
        },
    };
    match args.output {
        Some(Format::Json) => output::show(&json!({"sas": token, "expires": expires}), Format::Json, &[]),
        _ => crate::print(&format!("{token}\n")),
    }
}
