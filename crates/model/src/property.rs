//! The names that one system property has on each side of the hub, in one table.
//!
//! Why: the same fact is `$.mid` in an MQTT topic, `message-id` to an Event Hubs reader and `messageId` in a query.
//! Wire facts: Spec query-and-routing §12, §13; device-mqtt §5.2; amqp §8.4.
//! Not here: how a value is encoded (`mqtt::bag`, `service-api`'s event encoder).

/// Where an Event Hubs reader finds a property.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Section {
    /// The AMQP `properties` section, a field with this name.
    Properties,
    /// The AMQP message annotations, with this symbol as key.
    Annotations,
}

/// One property with a fixed meaning; `None` = it has no name there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SystemProperty {
    /// Key in a device's property bag, decoded: `$.mid`.
    pub mqtt: Option<&'static str>,
    /// Name in a routing query.
    pub query: Option<&'static str>,
    /// Name for Event Hubs readers.
    pub event_hubs: &'static str,
    /// Where an Event Hubs reader finds it.
    pub section: Section,
    /// Name in stored blobs.
    pub storage: Option<&'static str>,
    /// Name for Service Bus readers.
    pub service_bus: Option<&'static str>,
    /// Name in Event Grid events.
    pub event_grid: Option<&'static str>,
}

/// Symbols among the message annotations of an event.
pub mod annotation {
    /// long: number within the partition.
    pub const SEQUENCE_NUMBER: &str = "x-opt-sequence-number";
    /// string: decimal offset.
    pub const OFFSET: &str = "x-opt-offset";
    /// timestamp: when the partition stored it.
    pub const ENQUEUED_TIME: &str = "x-opt-enqueued-time";
    /// string: the device id.
    pub const PARTITION_KEY: &str = "x-opt-partition-key";
    /// string.
    pub const DEVICE_ID: &str = "iothub-connection-device-id";
    /// string.
    pub const MODULE_ID: &str = "iothub-connection-module-id";
    /// string: JSON text.
    pub const AUTH_METHOD: &str = "iothub-connection-auth-method";
    /// string.
    pub const GENERATION_ID: &str = "iothub-connection-auth-generation-id";
    /// timestamp: when the hub took it in.
    pub const HUB_ENQUEUED_TIME: &str = "iothub-enqueuedtime";
    /// string, see [`super::source`].
    pub const MESSAGE_SOURCE: &str = "iothub-message-source";
    /// string: model id of the connection.
    pub const MODEL_ID: &str = "dt-dataschema";
    /// string: component.
    pub const COMPONENT: &str = "dt-subject";
    /// string.
    pub const INTERFACE_ID: &str = "iothub-interface-id";
}

/// Application properties with a meaning.
pub mod application {
    /// `Will` on the last message of a connection that ended without DISCONNECT (device-mqtt §3.5).
    pub const MESSAGE_TYPE: &str = "iothub-MessageType";
    /// Value of [`MESSAGE_TYPE`] on a will.
    pub const MESSAGE_TYPE_WILL: &str = "Will";
    /// Creation time that the device set (query-and-routing §12).
    pub const CREATION_TIME: &str = "iothub-creation-time-utc";
    /// Schema of the body.
    pub const MESSAGE_SCHEMA: &str = "iothub-message-schema";
    /// `true` on a message that was published with RETAIN (device-mqtt §5.3): nothing is retained.
    pub const MQTT_RETAIN: &str = "mqtt-retain";
    /// `true` on a message that was published with DUP (device-mqtt §5.3).
    pub const MQTT_DUP: &str = "mqtt-dup";
    /// Output of a module.
    pub const OUTPUT_NAME: &str = "iothub-outputname";
}

/// Values of [`annotation::MESSAGE_SOURCE`].
pub mod source {
    /// A device-to-cloud message.
    pub const TELEMETRY: &str = "Telemetry";
}

const fn field(mqtt: &'static str, query: &'static str, event_hubs: &'static str, bus: &'static str) -> SystemProperty {
    SystemProperty {
        mqtt: Some(mqtt),
        query: Some(query),
        event_hubs,
        section: Section::Properties,
        storage: Some(query),
        service_bus: Some(bus),
        event_grid: Some(event_hubs),
    }
}

const fn stamp(query: &'static str, event_hubs: &'static str) -> SystemProperty {
    SystemProperty {
        mqtt: None,
        query: Some(query),
        event_hubs,
        section: Section::Annotations,
        storage: Some(query),
        service_bus: Some(event_hubs),
        event_grid: Some(event_hubs),
    }
}

const fn same(mqtt: Option<&'static str>, name: &'static str) -> SystemProperty {
    SystemProperty {
        mqtt,
        query: Some(name),
        event_hubs: name,
        section: Section::Annotations,
        storage: Some(name),
        service_bus: Some(name),
        event_grid: Some(name),
    }
}

/// The sender's id of the message.
pub const MESSAGE_ID: SystemProperty = field("$.mid", "messageId", "message-id", "MessageId");
/// The id of what the message answers.
pub const CORRELATION_ID: SystemProperty = field("$.cid", "correlationId", "correlation-id", "CorrelationId");
/// Free text of the sender; bytes in AMQP.
pub const USER_ID: SystemProperty = field("$.uid", "userId", "user-id", "UserId");
/// MIME type of the body.
pub const CONTENT_TYPE: SystemProperty = SystemProperty {
    event_grid: Some("iothub-content-type"),
    ..field("$.ct", "contentType", "content-type", "ContentType")
};
/// Encoding of the body.
pub const CONTENT_ENCODING: SystemProperty = SystemProperty {
    event_grid: Some("iothub-content-encoding"),
    ..field("$.ce", "contentEncoding", "content-encoding", "ContentEncoding")
};
/// Destination.
pub const TO: SystemProperty = field("$.to", "to", "to", "To");
/// When the message is of no use any more.
pub const ABSOLUTE_EXPIRY_TIME: SystemProperty =
    field("$.exp", "expiryTimeUtc", "absolute-expiry-time", "ExpiresAtUtc");
/// The device that sent it.
pub const DEVICE_ID: SystemProperty = stamp("connectionDeviceId", annotation::DEVICE_ID);
/// The module that sent it.
pub const MODULE_ID: SystemProperty = stamp("connectionModuleId", annotation::MODULE_ID);
/// Which life of the device id sent it.
pub const GENERATION_ID: SystemProperty = stamp("connectionDeviceGenerationId", annotation::GENERATION_ID);
/// How the connection was authenticated.
pub const AUTH_METHOD: SystemProperty = stamp("connectionAuthMethod", annotation::AUTH_METHOD);
/// When the hub took it in.
pub const ENQUEUED_TIME: SystemProperty = SystemProperty {
    service_bus: None,
    ..stamp("enqueuedTime", annotation::HUB_ENQUEUED_TIME)
};
/// The model of the device.
pub const MODEL_ID: SystemProperty = same(None, annotation::MODEL_ID);
/// The component that sent it.
pub const COMPONENT: SystemProperty = same(Some("$.sub"), annotation::COMPONENT);
/// What kind of event it is.
pub const MESSAGE_SOURCE: SystemProperty = SystemProperty {
    query: None,
    storage: None,
    ..stamp("", annotation::MESSAGE_SOURCE)
};

/// All of them.
pub const ALL: &[SystemProperty] = &[
    MESSAGE_ID,
    CORRELATION_ID,
    USER_ID,
    CONTENT_TYPE,
    CONTENT_ENCODING,
    TO,
    ABSOLUTE_EXPIRY_TIME,
    DEVICE_ID,
    MODULE_ID,
    GENERATION_ID,
    AUTH_METHOD,
    ENQUEUED_TIME,
    MODEL_ID,
    COMPONENT,
    MESSAGE_SOURCE,
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_two_properties_share_a_name_on_any_side() {
        for names in [
            ALL.iter().filter_map(|p| p.mqtt).collect::<Vec<_>>(),
            ALL.iter().filter_map(|p| p.query).collect(),
            ALL.iter().map(|p| p.event_hubs).collect(),
            ALL.iter().filter_map(|p| p.storage).collect(),
            ALL.iter().filter_map(|p| p.service_bus).collect(),
            ALL.iter().filter_map(|p| p.event_grid).collect(),
        ] {
            assert!(names.iter().all(|name| !name.is_empty()));
            assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len(), "{names:?}");
        }
    }
}
