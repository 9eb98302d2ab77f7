//! Effects: decisions of the owner, which applying an entry only stores.
//!
//! Why effects and not requests: the owner validates a request against its state and proposes the result, so that apply is
//! cheap and gives the same on every replica (docs/decisions/0027).
//! Invariants: an entry carries effects of one leadership; keys of device state contain no byte 0 in their texts, since
//! that byte separates them on disk; an effect that cannot be read makes the whole entry unreadable.
//! A new kind of effect raises the version of the entries that carry it.

use std::fmt;

use holdfast_model::{NodeId, Term};

use super::fields::{command, device_state, presence};
use super::wire::{Corrupt, Cursor, encode_bytes, encode_number};
use super::{MAX_DEVICE_STATE_BYTES, MAX_ITEM_BYTES, MAX_KEY_TEXT_BYTES, Records};

/// One leadership of the partition: two nodes may lead one after the other in the same term (docs/decisions/0002).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Leadership {
    /// The term.
    pub term: Term,
    /// The node that leads in it.
    pub node: NodeId,
}

impl fmt::Display for Leadership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "term {} of node {}", self.term, self.node)
    }
}

/// A command of an entry, in the order in which they take effect.
#[derive(Debug, Clone, Copy)]
pub enum PartitionCommand<'a> {
    /// The records of the entry become events.
    Telemetry(Records<'a>),
    /// An effect that the owner has decided.
    Effect(Effect<'a>),
}

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect<'a> {
    /// Sessions may begin without this gateway (docs/decisions/0026).
    GatewayAbsent {
        /// The gateway.
        gateway: NodeId,
    },
    /// All sessions of the gateway are known again.
    GatewayPresent {
        /// The gateway.
        gateway: NodeId,
    },
    /// Sets or removes a value of a device's state.
    DeviceState(DeviceStateChange<'a>),
}

/// The meaning of a value of device state; numbers once used stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceStateKind(pub u8);

impl DeviceStateKind {
    /// The MQTT subscriptions that outlive a session.
    pub const SUBSCRIPTIONS: Self = Self(1);
    /// `connectionState`, the time of its last change, and `lastActivityTime`. Number 2 was never used.
    pub const CONNECTION: Self = Self(3);
    /// The queue of cloud-to-device messages of a device: their order and what is known of each.
    pub const CLOUD_QUEUE: Self = Self(6);
    /// A cloud-to-device message; the item is its sequence number, big-endian.
    pub const CLOUD_MESSAGE: Self = Self(7);
    /// Feedback about a device's messages that no back end has accepted yet.
    pub const FEEDBACK: Self = Self(8);
    /// The twin.
    pub const TWIN: Self = Self(4);
    /// Earlier versions of the twin, by their number.
    pub const TWIN_HISTORY: Self = Self(5);
    /// The creation of the identity is in the stream of events.
    pub const LIFECYCLE: Self = Self(9);
    /// Uploads of a device that have begun, and notifications about those that have ended.
    pub const UPLOADS: Self = Self(10);
}

/// The name of a value of device state. A re-created device has another generation and so never sees older values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceStateKey<'a> {
    /// The meaning of the value.
    pub kind: DeviceStateKind,
    /// The device.
    pub device: &'a str,
    /// The module, if the value is a module's.
    pub module: Option<&'a str>,
    /// The generation of the device or module.
    pub generation: &'a str,
    /// Tells several values of one kind apart; empty for a kind with one value.
    pub item: &'a [u8],
}

/// Sets or removes one value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceStateChange<'a> {
    /// Its name.
    pub key: DeviceStateKey<'a>,
    /// The new value; `None` removes it.
    pub value: Option<&'a [u8]>,
}

impl DeviceStateKey<'_> {
    fn check(&self) -> Result<(), &'static str> {
        let texts = [self.device, self.module.unwrap_or_default(), self.generation];
        if self.kind.0 == 0 {
            Err("a device state has no kind")
        } else if self.device.is_empty() {
            Err("a device state has no device")
        } else if texts.iter().any(|text| text.len() > MAX_KEY_TEXT_BYTES) {
            Err("an id of a device state is too long")
        } else if texts.iter().any(|text| text.bytes().any(|byte| byte == 0)) {
            Err("an id of a device state contains a byte 0")
        } else if self.item.len() > MAX_ITEM_BYTES {
            Err("the item of a device state is too long")
        } else {
            Ok(())
        }
    }
}

impl<'a> Effect<'a> {
    /// Whether an entry can carry it.
    pub(super) fn check(&self) -> Result<(), &'static str> {
        match self {
            Self::GatewayAbsent { .. } | Self::GatewayPresent { .. } => Ok(()),
            Self::DeviceState(change) => {
                if change.value.is_some_and(|value| value.len() > MAX_DEVICE_STATE_BYTES) {
                    return Err("the value of a device state is too long");
                }
                change.key.check()
            }
        }
    }

    /// Appends it as a `PartitionCommand`, without tag and length.
    pub(super) fn encode(&self, buffer: &mut Vec<u8>) {
        let mut body = Vec::new();
        let tag = match self {
            Self::GatewayAbsent { gateway } => {
                encode_number(&mut body, presence::GATEWAY_NODE, gateway.0);
                command::GATEWAY_ABSENT
            }
            Self::GatewayPresent { gateway } => {
                encode_number(&mut body, presence::GATEWAY_NODE, gateway.0);
                command::GATEWAY_PRESENT
            }
            Self::DeviceState(change) => {
                let key = &change.key;
                encode_number(&mut body, device_state::KIND, u64::from(key.kind.0));
                encode_bytes(&mut body, device_state::DEVICE_ID, key.device.as_bytes());
                if let Some(module) = key.module {
                    encode_bytes(&mut body, device_state::MODULE_ID, module.as_bytes());
                }
                encode_bytes(&mut body, device_state::GENERATION_ID, key.generation.as_bytes());
                if !key.item.is_empty() {
                    encode_bytes(&mut body, device_state::ITEM, key.item);
                }
                match change.value {
                    Some(value) => encode_bytes(&mut body, device_state::VALUE, value),
                    None => encode_number(&mut body, device_state::REMOVED, 1),
                }
                command::DEVICE_STATE
            }
        };
        encode_bytes(buffer, tag, &body);
    }

    /// Reads one `PartitionCommand`.
    pub(super) fn decode(bytes: &'a [u8]) -> Result<Self, Corrupt> {
        let mut cursor = Cursor::new(bytes);
        let mut effect = None;
        while !cursor.is_at_end() {
            effect = Some(match cursor.tag()? {
                command::GATEWAY_ABSENT => Self::GatewayAbsent {
                    gateway: decode_gateway(cursor.bytes()?)?,
                },
                command::GATEWAY_PRESENT => Self::GatewayPresent {
                    gateway: decode_gateway(cursor.bytes()?)?,
                },
                command::DEVICE_STATE => Self::DeviceState(DeviceStateChange::decode(cursor.bytes()?)?),
                _ => return Err(cursor.corrupt("a command is of a kind that its version does not have")),
            });
        }
        let effect = effect.ok_or_else(|| cursor.corrupt("a command is empty"))?;
        effect.check().map_err(|what| cursor.corrupt(what))?;
        Ok(effect)
    }
}

fn decode_gateway(bytes: &[u8]) -> Result<NodeId, Corrupt> {
    let mut gateway = 0;
    let mut cursor = Cursor::new(bytes);
    while !cursor.is_at_end() {
        match cursor.tag()? {
            presence::GATEWAY_NODE => gateway = cursor.varint()?,
            other => cursor.skip(other)?,
        }
    }
    Ok(NodeId(gateway))
}

impl<'a> DeviceStateChange<'a> {
    fn decode(bytes: &'a [u8]) -> Result<Self, Corrupt> {
        let mut key = DeviceStateKey {
            kind: DeviceStateKind(0),
            device: "",
            module: None,
            generation: "",
            item: &[],
        };
        let mut value = None;
        let mut cursor = Cursor::new(bytes);
        while !cursor.is_at_end() {
            match cursor.tag()? {
                device_state::KIND => {
                    let kind = u8::try_from(cursor.varint()?);
                    key.kind =
                        DeviceStateKind(kind.map_err(|_| cursor.corrupt("a kind of device state is above 255"))?);
                }
                device_state::DEVICE_ID => key.device = cursor.text()?,
                device_state::MODULE_ID => key.module = Some(cursor.text()?).filter(|text| !text.is_empty()),
                device_state::GENERATION_ID => key.generation = cursor.text()?,
                device_state::ITEM => key.item = cursor.bytes()?,
                device_state::VALUE => value = Some(cursor.bytes()?),
                device_state::REMOVED => {
                    cursor.varint()?;
                    value = None;
                }
                other => cursor.skip(other)?,
            }
        }
        Ok(Self { key, value })
    }
}

#[cfg(test)]
mod tests;
