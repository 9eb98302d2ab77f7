//! Field numbers of `proto/holdfast/partition/v1`, as the tags that precede the fields.
//!
//! A test compares every one of them with what the generated code writes.

pub(super) const FIXED32: u8 = 5;
pub(super) const FIXED64: u8 = 1;
pub(super) const BYTES: u8 = 2;
pub(super) const VARINT: u8 = 0;

/// The tag of field `number` with wire type `kind`.
pub(super) const fn tag(number: u32, kind: u8) -> u32 {
    (number << 3) | kind as u32
}

/// The fields of `PartitionEntry`.
pub(super) mod entry {
    use super::{BYTES, FIXED32, FIXED64, tag};

    pub(crate) const VERSION: u32 = tag(1, FIXED32);
    pub(crate) const GATEWAY_NODE: u32 = tag(2, FIXED64);
    pub(crate) const INCARNATION: u32 = tag(3, FIXED64);
    pub(crate) const CORE: u32 = tag(4, FIXED32);
    pub(crate) const BATCH_NUMBER: u32 = tag(5, FIXED64);
    pub(crate) const ENQUEUED_TIME: u32 = tag(6, FIXED64);
    pub(crate) const RECORD_COUNT: u32 = tag(7, FIXED32);
    pub(crate) const OWNER_TERM: u32 = tag(8, FIXED64);
    pub(crate) const OWNER_NODE: u32 = tag(9, FIXED64);
    pub(crate) const COMMAND: u32 = tag(14, BYTES);
    pub(crate) const RECORD: u32 = tag(15, BYTES);
}

/// The fields of `PartitionCommand`.
pub(super) mod command {
    use super::{BYTES, tag};

    pub(crate) const GATEWAY_ABSENT: u32 = tag(1, BYTES);
    pub(crate) const GATEWAY_PRESENT: u32 = tag(2, BYTES);
    pub(crate) const DEVICE_STATE: u32 = tag(3, BYTES);
}

/// The fields of `GatewayPresence`.
pub(super) mod presence {
    use super::{VARINT, tag};

    pub(crate) const GATEWAY_NODE: u32 = tag(1, VARINT);
}

/// The fields of `DeviceStateChange`.
pub(super) mod device_state {
    use super::{BYTES, VARINT, tag};

    pub(crate) const KIND: u32 = tag(1, VARINT);
    pub(crate) const DEVICE_ID: u32 = tag(2, BYTES);
    pub(crate) const MODULE_ID: u32 = tag(3, BYTES);
    pub(crate) const GENERATION_ID: u32 = tag(4, BYTES);
    pub(crate) const ITEM: u32 = tag(5, BYTES);
    pub(crate) const VALUE: u32 = tag(6, BYTES);
    pub(crate) const REMOVED: u32 = tag(7, VARINT);
}

/// The fields of `TelemetryRecord`.
pub(super) mod record {
    use super::{BYTES, VARINT, tag};

    pub(crate) const DEVICE_ID: u32 = tag(1, BYTES);
    pub(crate) const MODULE_ID: u32 = tag(2, BYTES);
    pub(crate) const GENERATION_ID: u32 = tag(3, BYTES);
    pub(crate) const AUTH_METHOD: u32 = tag(4, VARINT);
    pub(crate) const RECEIVED: u32 = tag(5, VARINT);
    pub(crate) const PAYLOAD: u32 = tag(6, BYTES);
    pub(crate) const MESSAGE_ID: u32 = tag(7, BYTES);
    pub(crate) const CORRELATION_ID: u32 = tag(8, BYTES);
    pub(crate) const USER_ID: u32 = tag(9, BYTES);
    pub(crate) const TO: u32 = tag(10, BYTES);
    pub(crate) const CONTENT_TYPE: u32 = tag(11, BYTES);
    pub(crate) const CONTENT_ENCODING: u32 = tag(12, BYTES);
    pub(crate) const ABSOLUTE_EXPIRY: u32 = tag(13, VARINT);
    pub(crate) const CREATION_TIME: u32 = tag(14, BYTES);
    pub(crate) const MODEL_ID: u32 = tag(15, BYTES);
    pub(crate) const COMPONENT: u32 = tag(16, BYTES);
    pub(crate) const INTERFACE_ID: u32 = tag(17, BYTES);
    pub(crate) const OUTPUT_NAME: u32 = tag(18, BYTES);
    pub(crate) const MESSAGE_SCHEMA: u32 = tag(19, BYTES);
    pub(crate) const PROPERTY: u32 = tag(20, BYTES);
    pub(crate) const SOURCE: u32 = tag(21, VARINT);
}

/// The fields of `Property`.
pub(super) mod property {
    use super::{BYTES, tag};

    pub(crate) const NAME: u32 = tag(1, BYTES);
    pub(crate) const TEXT: u32 = tag(2, BYTES);
    pub(crate) const AMQP: u32 = tag(3, BYTES);
}
