//! A device-to-cloud message as every protocol hands it over, before it is stored.

use std::borrow::Cow;

use smallvec::SmallVec;

use crate::property::source;

/// The credential that authenticated a connection (Spec query-and-routing §12).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AuthMethod {
    /// The owner of the credential.
    pub scope: AuthScope,
    /// The kind of credential.
    pub kind: AuthType,
}

/// The owner of the credential that authenticated a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum AuthScope {
    /// The device's own key or certificate.
    Device = 0,
    /// The module's own key or certificate.
    Module = 1,
    /// A shared access policy of the hub.
    Hub = 2,
}

/// The kind of credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum AuthType {
    /// A shared access signature.
    Sas = 0,
    /// A client certificate.
    X509 = 1,
}

impl AuthMethod {
    /// The number under which it is stored: `scope + 4 * kind`.
    #[must_use]
    pub fn number(self) -> u32 {
        self.scope as u32 + 4 * self.kind as u32
    }

    /// The inverse of [`Self::number`]; `None` for numbers of a later version.
    #[must_use]
    pub fn from_number(number: u32) -> Option<Self> {
        let scope = match number % 4 {
            0 => AuthScope::Device,
            1 => AuthScope::Module,
            2 => AuthScope::Hub,
            _ => return None,
        };
        let kind = match number / 4 {
            0 => AuthType::Sas,
            1 => AuthType::X509,
            _ => return None,
        };
        Some(Self { scope, kind })
    }

    /// The JSON text of `iothub-connection-auth-method` (Spec query-and-routing §12).
    #[must_use]
    pub fn json(self) -> &'static str {
        use AuthScope::{Device, Hub, Module};
        use AuthType::{Sas, X509};
        match (self.scope, self.kind) {
            (Device, Sas) => r#"{"scope":"device","type":"sas","issuer":"iothub","acceptingIpFilterRule":null}"#,
            (Module, Sas) => r#"{"scope":"module","type":"sas","issuer":"iothub","acceptingIpFilterRule":null}"#,
            (Hub, Sas) => r#"{"scope":"hub","type":"sas","issuer":"iothub","acceptingIpFilterRule":null}"#,
            (Device, X509) => r#"{"scope":"device","type":"x509","issuer":"iothub","acceptingIpFilterRule":null}"#,
            (Module, X509) => r#"{"scope":"module","type":"x509","issuer":"iothub","acceptingIpFilterRule":null}"#,
            (Hub, X509) => r#"{"scope":"hub","type":"x509","issuer":"iothub","acceptingIpFilterRule":null}"#,
        }
    }
}

/// The source of a record in a partition: a device's message, or an event of the hub about an identity (Spec
/// query-and-routing §14).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum MessageSource {
    /// A device-to-cloud message.
    #[default]
    Telemetry = 0,
    /// A change of a twin.
    TwinChange = 1,
    /// An identity was created or deleted.
    DeviceLifecycle = 2,
    /// A device or module has connected or disconnected.
    ConnectionState = 3,
}

impl MessageSource {
    /// The number under which it is stored.
    #[must_use]
    pub fn number(self) -> u64 {
        self as u64
    }

    /// The inverse of [`Self::number`]; `None` for numbers of a later version.
    #[must_use]
    pub fn from_number(number: u64) -> Option<Self> {
        Some(match number {
            0 => Self::Telemetry,
            1 => Self::TwinChange,
            2 => Self::DeviceLifecycle,
            3 => Self::ConnectionState,
            _ => return None,
        })
    }

    /// The value of `iothub-message-source`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Telemetry => source::TELEMETRY,
            Self::TwinChange => source::TWIN_CHANGE,
            Self::DeviceLifecycle => source::DEVICE_LIFECYCLE,
            Self::ConnectionState => source::CONNECTION_STATE,
        }
    }
}

/// One message on its way into a partition; borrows from the connection's buffer.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TelemetryMessage<'a> {
    /// The body, may be empty.
    pub payload: &'a [u8],
    /// The properties with a fixed meaning that the sender set.
    pub system: SystemProperties<'a>,
    /// The sender's own properties, in the order sent, names unique.
    pub properties: SmallVec<[Property<'a>; 4]>,
}

/// Bytes that a timestamp counts for, in whatever form it was sent.
const TIMESTAMP_BYTES: usize = 8;

impl TelemetryMessage<'_> {
    /// The size that limits apply to, in bytes: payload, values of system properties, names and values of application
    /// properties (Spec query-and-routing §12).
    #[must_use]
    pub fn size(&self) -> usize {
        let system = &self.system;
        let texts = [
            &system.message_id,
            &system.correlation_id,
            &system.to,
            &system.content_type,
            &system.content_encoding,
            &system.creation_time,
            &system.component,
            &system.interface_id,
            &system.output_name,
            &system.message_schema,
        ];
        let mut size = self.payload.len();
        size += texts.into_iter().flatten().map(|text| text.len()).sum::<usize>();
        size += system.user_id.as_ref().map_or(0, |bytes| bytes.len());
        size += system.absolute_expiry_ms.map_or(0, |_| TIMESTAMP_BYTES);
        for property in &self.properties {
            size += property.name.len()
                + match &property.value {
                    PropertyValue::Null => 0,
                    PropertyValue::Text(text) => text.len(),
                    PropertyValue::Amqp(bytes) => bytes.len(),
                };
        }
        size
    }
}

/// The properties with a fixed meaning (Spec device-mqtt §5.2, query-and-routing §13). `None` = not set.
#[derive(Debug, Clone, Default, PartialEq)]
#[expect(missing_docs, reason = "named as in the specification's table")]
pub struct SystemProperties<'a> {
    pub message_id: Option<Cow<'a, str>>,
    pub correlation_id: Option<Cow<'a, str>>,
    pub user_id: Option<Cow<'a, [u8]>>,
    pub to: Option<Cow<'a, str>>,
    pub content_type: Option<Cow<'a, str>>,
    pub content_encoding: Option<Cow<'a, str>>,
    /// Milliseconds since 1970.
    pub absolute_expiry_ms: Option<i64>,
    pub creation_time: Option<Cow<'a, str>>,
    /// `dt-subject`.
    pub component: Option<Cow<'a, str>>,
    pub interface_id: Option<Cow<'a, str>>,
    pub output_name: Option<Cow<'a, str>>,
    pub message_schema: Option<Cow<'a, str>>,
}

/// One property of the sender's own.
#[derive(Debug, Clone, PartialEq)]
pub struct Property<'a> {
    /// Case-sensitive.
    pub name: Cow<'a, str>,
    /// Its value.
    pub value: PropertyValue<'a>,
}

/// A property's value. MQTT and HTTPS know only text and null; AMQP senders' types are kept.
#[derive(Debug, Clone, PartialEq)]
pub enum PropertyValue<'a> {
    /// Present without a value.
    Null,
    /// Text.
    Text(Cow<'a, str>),
    /// One AMQP-encoded primitive, as sent.
    Amqp(Cow<'a, [u8]>),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_auth_method_survives_its_number() {
        for number in 0..64 {
            if let Some(method) = AuthMethod::from_number(number) {
                assert_eq!(method.number(), number);
            }
        }
        assert_eq!((0..64).filter(|n| AuthMethod::from_number(*n).is_some()).count(), 6);
    }

    #[test]
    fn the_json_text_names_scope_and_type() {
        let method = AuthMethod {
            scope: AuthScope::Module,
            kind: AuthType::X509,
        };
        assert_eq!(method.number(), 5);
        assert_eq!(
            method.json(),
            r#"{"scope":"module","type":"x509","issuer":"iothub","acceptingIpFilterRule":null}"#
        );
    }
}
