//! Connection strings in the form of Azure's tools and SDKs: `Name=value;Name=value`.
//!
//! Wire facts: Spec amqp §8.1, §10 (Event Hubs form), auth-and-limits §1.6.
//! Invariant: `Debug` and errors show no key; the only way to the full text is [`ConnectionString::reveal`].
//! Trap: ids may contain `;` and `=`, but no SDK can read them back from a connection string; neither can this.

use std::fmt;

use holdfast_model::limits::MAX_CONNECTION_STRING_BYTES;
use holdfast_model::{DeviceId, InvalidId, ModuleId};
use thiserror::Error;
use zeroize::Zeroizing;

use crate::{Key, KeyError};

/// A text that `Debug` does not show and that is wiped when dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Takes a text.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(Zeroizing::new(text.to_owned()))
    }

    /// The text.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Why a text is no connection string. None repeats a value that may be a key.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ConnectionStringError {
    /// Longer than `limits::MAX_CONNECTION_STRING_BYTES`.
    #[error("the connection string is longer than {MAX_CONNECTION_STRING_BYTES} bytes")]
    TooLong,
    /// A part without `=`.
    #[error("part {0} of the connection string has no = (parts are separated by ;)")]
    Part(usize),
    /// A name occurs twice.
    #[error("{0} occurs twice in the connection string")]
    Duplicate(&'static str),
    /// A name is missing or its value is empty.
    #[error("{0} is missing in the connection string")]
    Missing(&'static str),
    /// Names that exclude each other.
    #[error("{0} and {1} exclude each other in a connection string")]
    Conflict(&'static str, &'static str),
    /// A bad device or module id.
    #[error("{0} of the connection string is wrong")]
    Id(&'static str, #[source] InvalidId),
    /// A bad key.
    #[error("SharedAccessKey of the connection string is wrong")]
    Key(#[source] KeyError),
    /// `Endpoint` is no `sb://host[:port]/`.
    #[error("Endpoint of the connection string is not sb://host[:port]/")]
    Endpoint,
}

/// A connection string of either family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConnectionString {
    /// `HostName=…`: devices, modules, and back ends with a policy.
    Iot(IotConnection),
    /// `Endpoint=sb://…`: readers of events.
    EventHubs(EventHubsConnection),
}

/// `HostName=…;DeviceId=…[;ModuleId=…];SharedAccessKey=…` or `HostName=…;SharedAccessKeyName=…;SharedAccessKey=…`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IotConnection {
    /// The hub.
    pub host_name: String,
    /// The host to connect to instead of the hub.
    pub gateway_host_name: Option<String>,
    /// The device.
    pub device: Option<DeviceId>,
    /// Its module.
    pub module: Option<ModuleId>,
    /// The policy whose key it is; excludes a device.
    pub policy: Option<String>,
    /// The key; `None` with a ready-made token or a certificate.
    pub key: Option<Key>,
    /// A ready-made token.
    pub token: Option<Secret>,
    /// `x509=true`: the device shows a certificate.
    pub x509: bool,
}

/// `Endpoint=sb://host/;SharedAccessKeyName=…;SharedAccessKey=…;EntityPath=…[;UseDevelopmentEmulator=true]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventHubsConnection {
    /// The hub's host, without port.
    pub host: String,
    /// The port; most clients ignore it.
    pub port: Option<u16>,
    /// The policy whose key it is.
    pub policy: Option<String>,
    /// The key's text, which signs undecoded.
    pub key: Option<Secret>,
    /// A ready-made token.
    pub token: Option<Secret>,
    /// The event hub's name.
    pub entity_path: Option<String>,
    /// Connect without TLS, to port 5672 unless `port` says otherwise.
    pub emulator: bool,
}

impl IotConnection {
    /// A back end's string.
    #[must_use]
    pub fn policy(host_name: &str, policy: &str, key: Key) -> Self {
        Self {
            policy: Some(policy.to_owned()),
            ..Self::empty(host_name, Some(key))
        }
    }

    /// A device's or module's string.
    #[must_use]
    pub fn identity(host_name: &str, device: DeviceId, module: Option<ModuleId>, key: Key) -> Self {
        Self {
            device: Some(device),
            module,
            ..Self::empty(host_name, Some(key))
        }
    }

    fn empty(host_name: &str, key: Option<Key>) -> Self {
        Self {
            host_name: host_name.to_owned(),
            gateway_host_name: None,
            device: None,
            module: None,
            policy: None,
            key,
            token: None,
            x509: false,
        }
    }

    /// The full text, with the key.
    #[must_use]
    pub fn reveal(&self) -> Zeroizing<String> {
        let mut text = Parts::default();
        text.add("HostName", Some(&self.host_name));
        text.add("DeviceId", self.device.as_ref().map(DeviceId::as_str));
        text.add("ModuleId", self.module.as_ref().map(ModuleId::as_str));
        text.add("SharedAccessKeyName", self.policy.as_deref());
        text.add(
            "SharedAccessKey",
            self.key.as_ref().map(Key::to_base64).as_ref().map(|text| text.as_str()),
        );
        text.add("SharedAccessSignature", self.token.as_ref().map(Secret::reveal));
        text.add("x509", self.x509.then_some("true"));
        text.add("GatewayHostName", self.gateway_host_name.as_deref());
        text.0
    }
}

impl EventHubsConnection {
    /// A reader's string with a policy's key.
    #[must_use]
    pub fn policy(host: &str, policy: &str, key: &Key, entity_path: &str) -> Self {
        Self {
            host: host.to_owned(),
            port: None,
            policy: Some(policy.to_owned()),
            key: Some(Secret(key.to_base64())),
            token: None,
            entity_path: Some(entity_path.to_owned()),
            emulator: false,
        }
    }

    /// The full text, with the key, and with no names beyond those that every client knows.
    #[must_use]
    pub fn reveal(&self) -> Zeroizing<String> {
        let mut text = Parts::default();
        let port = self.port.map_or(String::new(), |port| format!(":{port}"));
        text.add("Endpoint", Some(&format!("sb://{}{port}/", self.host)));
        text.add("SharedAccessKeyName", self.policy.as_deref());
        text.add("SharedAccessKey", self.key.as_ref().map(Secret::reveal));
        text.add("SharedAccessSignature", self.token.as_ref().map(Secret::reveal));
        text.add("EntityPath", self.entity_path.as_deref());
        text.add("UseDevelopmentEmulator", self.emulator.then_some("true"));
        text.0
    }
}

impl ConnectionString {
    /// Reads either family: names in any order and case, unknown names ignored, a `;` at the end allowed.
    ///
    /// # Errors
    /// [`ConnectionStringError`] names the first rule that the text breaks.
    pub fn parse(text: &str) -> Result<Self, ConnectionStringError> {
        if text.len() > MAX_CONNECTION_STRING_BYTES {
            return Err(ConnectionStringError::TooLong);
        }
        let fields = Fields::split(text.trim())?;
        if fields.endpoint.is_some() {
            if fields.host_name.is_some() {
                return Err(ConnectionStringError::Conflict("HostName", "Endpoint"));
            }
            return fields.event_hubs().map(Self::EventHubs);
        }
        fields.iot().map(Self::Iot)
    }

    /// The full text, with the key.
    #[must_use]
    pub fn reveal(&self) -> Zeroizing<String> {
        match self {
            Self::Iot(connection) => connection.reveal(),
            Self::EventHubs(connection) => connection.reveal(),
        }
    }
}

/// `Name=value` pairs being written.
#[derive(Default)]
struct Parts(Zeroizing<String>);

impl Parts {
    fn add(&mut self, name: &str, value: Option<&str>) {
        if let Some(value) = value {
            // Grow once, so that no half-written copy of a key stays behind in freed memory.
            if self.0.is_empty() {
                self.0.reserve_exact(MAX_CONNECTION_STRING_BYTES);
            } else {
                self.0.push(';');
            }
            for part in [name, "=", value] {
                self.0.push_str(part);
            }
        }
    }
}

/// The values of a text by name.
#[derive(Default)]
struct Fields<'a> {
    host_name: Option<&'a str>,
    gateway_host_name: Option<&'a str>,
    device: Option<&'a str>,
    module: Option<&'a str>,
    policy: Option<&'a str>,
    key: Option<&'a str>,
    token: Option<&'a str>,
    x509: Option<&'a str>,
    endpoint: Option<&'a str>,
    entity_path: Option<&'a str>,
    emulator: Option<&'a str>,
}

impl<'a> Fields<'a> {
    fn split(text: &'a str) -> Result<Self, ConnectionStringError> {
        let mut fields = Self::default();
        for (at, part) in text.split(';').enumerate().filter(|(_, part)| !part.trim().is_empty()) {
            let (name, value) = part.split_once('=').ok_or(ConnectionStringError::Part(at + 1))?;
            let Some((name, slot)) = fields.slot(name.trim()) else {
                continue;
            };
            if slot.replace(value.trim()).is_some() {
                return Err(ConnectionStringError::Duplicate(name));
            }
        }
        Ok(fields)
    }

    fn slot(&mut self, name: &str) -> Option<(&'static str, &mut Option<&'a str>)> {
        let slots = [
            ("HostName", &mut self.host_name),
            ("GatewayHostName", &mut self.gateway_host_name),
            ("DeviceId", &mut self.device),
            ("ModuleId", &mut self.module),
            ("SharedAccessKeyName", &mut self.policy),
            ("SharedAccessKey", &mut self.key),
            ("SharedAccessSignature", &mut self.token),
            ("x509", &mut self.x509),
            ("Endpoint", &mut self.endpoint),
            ("EntityPath", &mut self.entity_path),
            ("UseDevelopmentEmulator", &mut self.emulator),
        ];
        slots.into_iter().find(|(known, _)| known.eq_ignore_ascii_case(name))
    }

    fn iot(self) -> Result<IotConnection, ConnectionStringError> {
        use ConnectionStringError::{Conflict, Id, Key as BadKey, Missing};
        let x509 = self.x509.is_some_and(|value| value.eq_ignore_ascii_case("true"));
        let connection = IotConnection {
            host_name: filled(self.host_name).ok_or(Missing("HostName"))?.to_owned(),
            gateway_host_name: filled(self.gateway_host_name).map(str::to_owned),
            device: filled(self.device)
                .map(DeviceId::parse)
                .transpose()
                .map_err(|error| Id("DeviceId", error))?,
            module: filled(self.module)
                .map(ModuleId::parse)
                .transpose()
                .map_err(|error| Id("ModuleId", error))?,
            policy: filled(self.policy).map(str::to_owned),
            key: filled(self.key).map(Key::from_base64).transpose().map_err(BadKey)?,
            token: filled(self.token).map(Secret::new),
            x509,
        };
        match (&connection.device, &connection.module, &connection.policy) {
            (Some(_), _, Some(_)) => return Err(Conflict("DeviceId", "SharedAccessKeyName")),
            (None, Some(_), _) => return Err(Missing("DeviceId")),
            (None, None, None) => return Err(Missing("DeviceId or SharedAccessKeyName")),
            _ => {}
        }
        match (&connection.key, &connection.token, x509) {
            (Some(_), Some(_), _) => Err(Conflict("SharedAccessKey", "SharedAccessSignature")),
            (Some(_), _, true) => Err(Conflict("SharedAccessKey", "x509")),
            (None, None, false) => Err(Missing("SharedAccessKey")),
            _ => Ok(connection),
        }
    }

    fn event_hubs(self) -> Result<EventHubsConnection, ConnectionStringError> {
        use ConnectionStringError::{Conflict, Missing};
        let (host, port) = filled(self.endpoint)
            .and_then(split_endpoint)
            .ok_or(ConnectionStringError::Endpoint)?;
        let connection = EventHubsConnection {
            host: host.to_owned(),
            port,
            policy: filled(self.policy).map(str::to_owned),
            key: filled(self.key).map(Secret::new),
            token: filled(self.token).map(Secret::new),
            entity_path: filled(self.entity_path).map(str::to_owned),
            emulator: self.emulator.is_some_and(|value| value.eq_ignore_ascii_case("true")),
        };
        match (&connection.policy, &connection.key, &connection.token) {
            (_, Some(_), Some(_)) => Err(Conflict("SharedAccessKey", "SharedAccessSignature")),
            (None, Some(_), _) => Err(Missing("SharedAccessKeyName")),
            (_, None, None) => Err(Missing("SharedAccessKey")),
            _ => Ok(connection),
        }
    }
}

fn filled(value: Option<&str>) -> Option<&str> {
    value.filter(|text| !text.is_empty())
}

/// `sb://host[:port][/]`.
fn split_endpoint(text: &str) -> Option<(&str, Option<u16>)> {
    let (scheme, rest) = text.split_once("://")?;
    let known = ["sb", "amqps", "amqp", "https", "http"]
        .iter()
        .any(|known| known.eq_ignore_ascii_case(scheme));
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => (host, Some(port.parse().ok()?)),
        _ => (authority, None),
    };
    (known && !host.is_empty() && !host.contains('/')).then_some((host, port))
}

#[cfg(test)]
mod tests;
