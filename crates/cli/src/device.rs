//! `holdfast device …`: identities over the REST API, in the habits of `az iot hub device-identity`.

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use holdfast_auth::{IotConnection, Key};
use holdfast_model::{DeviceId, IdentityId, ModuleId};
use http::Method;
use serde_json::{Value, json};

use crate::exit_code::{Failure, Outcome};
use crate::http::{Call, block_on, call};
use crate::hub::{Hub, LoginArgs};
use crate::output::{self, Format};

/// Devices that one request lists.
const PAGE: usize = 1000;
/// The columns of `device list`.
const COLUMNS: [(&str, &str); 5] = [
    ("DEVICE", "/deviceId"),
    ("STATUS", "/status"),
    ("AUTH", "/authentication/type"),
    ("CONNECTION", "/connectionState"),
    ("LAST ACTIVITY", "/lastActivityTime"),
];
/// The columns of one identity, module or device.
const IDENTITY_COLUMNS: [(&str, &str); 5] = [
    ("DEVICE", "/deviceId"),
    ("MODULE", "/moduleId"),
    ("STATUS", "/status"),
    ("AUTH", "/authentication/type"),
    ("CONNECTION", "/connectionState"),
];

/// The columns of a method's answer.
const METHOD_COLUMNS: [(&str, &str); 2] = [("STATUS", "/status"), ("PAYLOAD", "/payload")];

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Register a device or module; without keys the hub makes them
    Create {
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        fields: Fields,
    },
    /// Show one identity, keys included
    Show {
        #[command(flatten)]
        target: Target,
    },
    /// List devices, or the modules of one device
    List {
        /// How many at most [default: all]
        #[arg(long, value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..))]
        top: Option<usize>,
        /// List the modules of this device instead
        #[arg(long, value_name = "DEVICE")]
        modules_of: Option<String>,
        #[command(flatten)]
        common: Common,
    },
    /// Change an identity; values that are not named stay
    Update {
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        fields: Fields,
        /// Make new keys: the primary, the secondary, or both
        #[arg(long, value_name = "WHICH")]
        new_keys: Option<NewKeys>,
        /// Change it only in this version; default: the version that was just read, `*` for any
        #[arg(long)]
        etag: Option<String>,
    },
    /// Delete a device with its modules and messages, or one module
    Delete {
        #[command(flatten)]
        target: Target,
        /// Delete it only in this version
        #[arg(long)]
        etag: Option<String>,
    },
    /// Print the connection string that goes into the device
    #[command(visible_alias = "show-connection-string")]
    ConnectionString {
        #[command(flatten)]
        target: Target,
        /// Which of the two keys
        #[arg(long, default_value = "primary")]
        key_type: KeyType,
    },
    /// Call a method of a device and print its answer
    #[command(visible_alias = "invoke-method")]
    Method {
        /// The method
        name: String,
        #[command(flatten)]
        target: Target,
        /// The argument, as JSON
        #[arg(long, visible_alias = "mp", value_name = "JSON", default_value = "null")]
        payload: String,
        /// How long the device may take to answer, in seconds
        #[arg(long, visible_alias = "to", value_name = "SECONDS", default_value_t = 30)]
        timeout: u32,
        /// How long to wait for a device that is not connected, in seconds
        #[arg(long, visible_alias = "cto", value_name = "SECONDS", default_value_t = 0)]
        connect_timeout: u32,
    },
    /// Why can't this device connect? Its state, live session and last refusals
    Diagnose {
        #[command(flatten)]
        target: Target,
    },
}

/// Options of every command here.
#[derive(Debug, Args)]
pub struct Common {
    #[command(flatten)]
    pub(crate) login: LoginArgs,
    /// How to show the result
    #[arg(short, long)]
    pub(crate) output: Option<Format>,
}

/// A device, or a module of it.
#[derive(Debug, Args)]
pub struct Target {
    /// The device
    #[arg(value_name = "DEVICE")]
    device: Option<String>,
    /// The device, as in `az iot hub`
    #[arg(short = 'd', long = "device-id", value_name = "DEVICE", conflicts_with = "device")]
    device_id: Option<String>,
    /// A module of the device
    #[arg(short = 'm', long = "module-id", value_name = "MODULE")]
    module_id: Option<String>,
    #[command(flatten)]
    common: Common,
}

/// The fields of an identity that can be set.
#[derive(Debug, Args)]
pub struct Fields {
    /// How it authenticates
    #[arg(long, visible_alias = "am")]
    auth_method: Option<AuthMethod>,
    /// Base64, 16 to 64 bytes
    #[arg(long, visible_alias = "pk", requires = "secondary_key")]
    primary_key: Option<String>,
    /// Base64, 16 to 64 bytes
    #[arg(long, visible_alias = "sk", requires = "primary_key")]
    secondary_key: Option<String>,
    /// SHA-1 or SHA-256 of its certificate, hexadecimal
    #[arg(long, visible_alias = "ptp")]
    primary_thumbprint: Option<String>,
    /// Of a second certificate
    #[arg(long, visible_alias = "stp")]
    secondary_thumbprint: Option<String>,
    /// Whether it may connect (devices)
    #[arg(long)]
    status: Option<Status>,
    /// Why, at most 128 characters (devices)
    #[arg(long)]
    status_reason: Option<String>,
    /// Whether it is an IoT Edge device
    #[arg(long, visible_alias = "ee")]
    edge_enabled: Option<bool>,
}

/// The words of `az iot hub device-identity create --auth-method`, and those of the REST API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum AuthMethod {
    #[value(alias = "shared_private_key")]
    Sas,
    #[value(name = "self-signed", alias = "x509_thumbprint", alias = "selfSigned")]
    SelfSigned,
    #[value(name = "x509-ca", alias = "x509_ca", alias = "certificateAuthority")]
    CertificateAuthority,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Status {
    Enabled,
    Disabled,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum KeyType {
    Primary,
    Secondary,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum NewKeys {
    Primary,
    Secondary,
    Both,
}

pub(crate) fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Create { target, fields } => {
            let mut document = target.document()?;
            fields.apply(&mut document);
            let mut request = Call::new(Method::PUT, target.path()?);
            request.body = Some(document);
            target.show(&block_on(call(&target.hub()?, request))?)
        }
        Command::Show { target } => target.show(&target.get()?),
        Command::List {
            top,
            modules_of,
            common,
        } => list(top, modules_of.as_deref(), &common),
        Command::Update {
            target,
            fields,
            new_keys,
            etag,
        } => {
            let mut document = target.get()?;
            fields.apply(&mut document);
            if let Some(which) = new_keys {
                replace_keys(&mut document, which)?;
            }
            let read = document.get("etag").and_then(Value::as_str).map(str::to_owned);
            let mut request = Call::new(Method::PUT, target.path()?);
            request.if_match = etag.as_deref().or(read.as_deref()).or(Some("*"));
            request.body = Some(document);
            target.show(&block_on(call(&target.hub()?, request))?)
        }
        Command::Delete { target, etag } => {
            let mut request = Call::new(Method::DELETE, target.path()?);
            request.if_match = etag.as_deref();
            block_on(call(&target.hub()?, request)).map(|_| ())
        }
        Command::ConnectionString { target, key_type } => connection_string(&target, key_type),
        Command::Method {
            name,
            target,
            payload,
            timeout,
            connect_timeout,
        } => {
            let payload: Value = serde_json::from_str(&payload)
                .map_err(|error| Failure::usage(format!("--payload is not JSON: {error}")))?;
            let path = format!(
                "/twins/{}/methods",
                segments(target.device()?, target.module_id.as_deref())
            );
            let mut request = Call::new(Method::POST, path);
            request.body = Some(json!({
                "methodName": name,
                "payload": payload,
                "responseTimeoutInSeconds": timeout,
                "connectTimeoutInSeconds": connect_timeout,
            }));
            request.device_wait = Duration::from_secs(u64::from(timeout) + u64::from(connect_timeout));
            let answer = block_on(call(&target.hub()?, request))?;
            output::show(&answer, target.common.output.unwrap_or(Format::Json), &METHOD_COLUMNS)
        }
        Command::Diagnose { target } => {
            let path = format!(
                "/holdfast/v1/diagnose/{}",
                segments(target.device()?, target.module_id.as_deref())
            );
            let answer = block_on(call(&target.hub()?, Call::new(Method::GET, path)))?;
            match target.common.output {
                Some(Format::Json) => output::show(&answer, Format::Json, &[]),
                _ => crate::print(&output::text(&answer)),
            }
        }
    }
}

fn list(top: Option<usize>, modules_of: Option<&str>, common: &Common) -> Result<(), Failure> {
    let hub = common.login.hub()?;
    let (mut entries, has_more, columns) = match modules_of {
        Some(device) => {
            let path = format!("/devices/{}/modules", segments(device, None));
            let modules = block_on(call(&hub, Call::new(Method::GET, path)))?;
            (modules, false, &IDENTITY_COLUMNS)
        }
        None => {
            let (devices, has_more) = block_on(devices(&hub, top.unwrap_or(usize::MAX)))?;
            (Value::Array(devices), has_more, &COLUMNS)
        }
    };
    // Keys are shown for a single identity, not in lists.
    for entry in entries.as_array_mut().into_iter().flatten() {
        if let Some(authentication) = entry.get_mut("authentication").and_then(Value::as_object_mut) {
            authentication.remove("symmetricKey");
        }
    }
    output::show(&entries, common.output.unwrap_or(Format::Table), columns)?;
    if has_more {
        let shown = entries.as_array().map_or(0, Vec::len);
        eprintln!("{shown} devices are shown; there are more (--top)");
    }
    Ok(())
}

/// The first `top` devices, page by page; whether there are more.
async fn devices(hub: &Hub, top: usize) -> Result<(Vec<Value>, bool), Failure> {
    let mut devices = Vec::new();
    let mut after = String::new();
    loop {
        let page = PAGE.min(top - devices.len());
        let query = format!("top={page}&after={}", encode(&after));
        let request = Call {
            query: &query,
            ..Call::new(Method::GET, "/holdfast/v1/devices".to_owned())
        };
        let mut answer = call(hub, request).await?;
        if let Some(Value::Array(page)) = answer.get_mut("devices").map(Value::take) {
            devices.extend(page);
        }
        match answer["continuation"].as_str() {
            None => return Ok((devices, false)),
            Some(_) if devices.len() >= top => return Ok((devices, true)),
            Some(next) => after = next.to_owned(),
        }
    }
}

fn connection_string(target: &Target, key_type: KeyType) -> Result<(), Failure> {
    let hub = target.hub()?;
    let document = target.get_from(&hub)?;
    let key = key_of(&document, key_type)?;
    let device = DeviceId::parse(target.device()?).map_err(Failure::usage)?;
    let module = target
        .module_id
        .as_deref()
        .map(ModuleId::parse)
        .transpose()
        .map_err(Failure::usage)?;
    let text = IotConnection::identity(&hub.host, device, module, key).reveal();
    match target.common.output {
        Some(Format::Json) => output::show(&json!({"connectionString": *text}), Format::Json, &[]),
        _ => crate::print(&format!("{}\n", *text)),
    }
}

/// The key of an identity's document.
///
/// # Errors
/// When it does not authenticate by key.
pub(crate) fn key_of(document: &Value, key_type: KeyType) -> Result<Key, Failure> {
    let name = match key_type {
        KeyType::Primary => "/authentication/symmetricKey/primaryKey",
        KeyType::Secondary => "/authentication/symmetricKey/secondaryKey",
    };
    let text = document.pointer(name).and_then(Value::as_str).ok_or_else(|| {
        let kind = document
            .pointer("/authentication/type")
            .and_then(Value::as_str)
            .unwrap_or("unknown");
        Failure::new(
            Outcome::Failed,
            format!("this identity has no key; it authenticates by {kind}"),
        )
    })?;
    Ok(Key::from_base64(text).map_err(anyhow::Error::from)?)
}

fn replace_keys(document: &mut Value, which: NewKeys) -> Result<(), Failure> {
    let fresh = || -> Result<String, Failure> {
        Ok(Key::from_bytes(rand::random::<[u8; 32]>().to_vec())
            .map_err(anyhow::Error::from)?
            .to_base64()
            .to_string())
    };
    let keys = document
        .pointer_mut("/authentication/symmetricKey")
        .filter(|keys| keys.is_object())
        .ok_or_else(|| Failure::new(Outcome::Failed, "this identity does not authenticate by key"))?;
    if which != NewKeys::Secondary {
        keys["primaryKey"] = fresh()?.into();
    }
    if which != NewKeys::Primary {
        keys["secondaryKey"] = fresh()?.into();
    }
    Ok(())
}

/// Where the REST API has an identity.
pub(crate) fn path_of(identity: &IdentityId) -> String {
    format!(
        "/devices/{}",
        segments(identity.device.as_str(), identity.module.as_ref().map(ModuleId::as_str))
    )
}

/// A device, or a device and its module, as the REST API has them in a path.
fn segments(device: &str, module: Option<&str>) -> String {
    match module {
        Some(module) => format!("{}/modules/{}", encode(device), encode(module)),
        None => encode(device),
    }
}

/// Percent-encodes a path segment.
pub(crate) fn encode(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
            other => format!("%{other:02X}"),
        })
        .collect()
}

impl Target {
    fn device(&self) -> Result<&str, Failure> {
        let device = self.device.as_deref().or(self.device_id.as_deref());
        let device = device.ok_or_else(|| Failure::usage("which device? give its id"))?;
        DeviceId::parse(device).map_err(|error| Failure::usage(format!("{device:?} is no device id: {error}")))?;
        Ok(device)
    }

    pub(crate) fn hub(&self) -> Result<Hub, Failure> {
        self.common.login.hub()
    }

    /// The identity, as the REST API has it in a path.
    pub(crate) fn segments(&self) -> Result<String, Failure> {
        Ok(segments(self.device()?, self.module_id.as_deref()))
    }

    fn path(&self) -> Result<String, Failure> {
        Ok(format!("/devices/{}", self.segments()?))
    }

    /// The form that the command line names.
    pub(crate) fn output(&self) -> Option<Format> {
        self.common.output
    }

    pub(crate) fn format(&self) -> Format {
        self.common.output.unwrap_or(Format::Json)
    }

    /// Shows a document about the identity.
    pub(crate) fn show_as(&self, document: &Value, columns: &[(&str, &str)]) -> Result<(), Failure> {
        output::show(document, self.format(), columns)
    }

    fn get(&self) -> Result<Value, Failure> {
        // The arguments are checked first: a typing mistake is one with or without a hub.
        self.path()?;
        self.get_from(&self.hub()?)
    }

    fn get_from(&self, hub: &Hub) -> Result<Value, Failure> {
        block_on(call(hub, Call::new(Method::GET, self.path()?)))
    }

    fn document(&self) -> Result<Value, Failure> {
        let mut document = json!({"deviceId": self.device()?});
        if let Some(module) = &self.module_id {
            document["moduleId"] = module.as_str().into();
        }
        Ok(document)
    }

    fn show(&self, document: &Value) -> Result<(), Failure> {
        self.show_as(document, &IDENTITY_COLUMNS)
    }
}

impl Fields {
    /// Writes what was given over `document`.
    fn apply(&self, document: &mut Value) {
        if let Some(method) = self.auth_method {
            let kind = match method {
                AuthMethod::Sas => "sas",
                AuthMethod::SelfSigned => "selfSigned",
                AuthMethod::CertificateAuthority => "certificateAuthority",
            };
            if document.pointer("/authentication/type").and_then(Value::as_str) != Some(kind) {
                document["authentication"] = json!({"type": kind});
            }
        }
        let mut set = |pointer: &[&str], value: &Option<String>| {
            if let Some(value) = value {
                let mut place = &mut *document;
                for name in pointer {
                    place = &mut place[*name];
                }
                *place = value.as_str().into();
            }
        };
        set(&["authentication", "symmetricKey", "primaryKey"], &self.primary_key);
        set(&["authentication", "symmetricKey", "secondaryKey"], &self.secondary_key);
        set(
            &["authentication", "x509Thumbprint", "primaryThumbprint"],
            &self.primary_thumbprint,
        );
        set(
            &["authentication", "x509Thumbprint", "secondaryThumbprint"],
            &self.secondary_thumbprint,
        );
        set(&["statusReason"], &self.status_reason);
        if let Some(status) = self.status {
            document["status"] = match status {
                Status::Enabled => "enabled".into(),
                Status::Disabled => "disabled".into(),
            };
        }
        if let Some(edge) = self.edge_enabled {
            document["capabilities"] = json!({"iotEdge": edge});
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields() -> Fields {
        Fields {
            auth_method: None,
            primary_key: None,
            secondary_key: None,
            primary_thumbprint: None,
            secondary_thumbprint: None,
            status: None,
            status_reason: None,
            edge_enabled: None,
        }
    }

    #[test]
    fn an_update_changes_what_was_named_and_nothing_else() {
        let mut document = json!({
            "deviceId": "d", "status": "enabled", "etag": "x",
            "authentication": {"type": "sas", "symmetricKey": {"primaryKey": "a", "secondaryKey": "b"}}
        });
        let before = document.clone();
        fields().apply(&mut document);
        assert_eq!(document, before);
        let fields = Fields {
            status: Some(Status::Disabled),
            status_reason: Some("stolen".to_owned()),
            ..fields()
        };
        fields.apply(&mut document);
        assert_eq!(document["status"], "disabled");
        assert_eq!(document["statusReason"], "stolen");
        assert_eq!(document["authentication"], before["authentication"]);
    }

    #[test]
    fn another_auth_method_drops_the_old_secrets() {
        let mut document = json!({"authentication": {"type": "sas", "symmetricKey": {"primaryKey": "a"}}});
        let fields = Fields {
            auth_method: Some(AuthMethod::SelfSigned),
            primary_thumbprint: Some("AB".repeat(20)),
            ..fields()
        };
        fields.apply(&mut document);
        assert_eq!(
            document["authentication"],
            json!({"type": "selfSigned", "x509Thumbprint": {"primaryThumbprint": "AB".repeat(20)}})
        );
    }

    #[test]
    fn every_legal_id_makes_a_legal_path() {
        assert_eq!(segments("a-b.c_d", None), "a-b.c_d");
        assert_eq!(
            segments("a#b%?/;=$'", Some("m:1")),
            "a%23b%25%3F%2F%3B%3D%24%27/modules/m%3A1"
        );
    }
}
