//! The names of properties that the hub itself sets or interprets.
//!
//! Why: an MQTT front end writes them and an Event Hubs reader shows them; a name is spelled once.
//! Wire facts: Spec query-and-routing §12, §13; device-mqtt §3.5, §5.2, §5.3; amqp §8.4.
//! Not here: how a value is encoded (`mqtt::bag`, `service-api`'s event encoder).

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
    /// A change of a twin (query-and-routing §14).
    pub const TWIN_CHANGE: &str = "twinChangeEvents";
    /// An identity was created or deleted.
    pub const DEVICE_LIFECYCLE: &str = "deviceLifecycleEvents";
    /// A device or module has connected or disconnected.
    pub const CONNECTION_STATE: &str = "deviceConnectionStateEvents";
}

/// Names that the hub sets itself, or that only cloud-to-device messages have: dropped, so that a device cannot forge
/// them.
#[must_use]
pub fn is_reserved(name: &str) -> bool {
    // Nearly no property begins like one of these.
    if !name.starts_with("iothub-") {
        return name == annotation::MODEL_ID;
    }
    matches!(
        name,
        "iothub-ack"
            | "iothub-operation"
            | annotation::MESSAGE_SOURCE
            | annotation::HUB_ENQUEUED_TIME
            | annotation::DEVICE_ID
            | annotation::MODULE_ID
            | annotation::AUTH_METHOD
            | annotation::GENERATION_ID
    )
}
