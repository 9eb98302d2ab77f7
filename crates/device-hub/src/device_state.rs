//! The values that this crate keeps as device state, in the form in which they are stored (docs/storage.md).

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use holdfast_model::limits::MAX_CHAIN_CERTIFICATES;
use holdfast_model::{GenerationId, IdentityId, ModuleId, NodeId, UnixMillis};
use holdfast_partition::record::{DeviceStateKey, DeviceStateKind};
use holdfast_proto::device::v1 as proto;
use prost::Message as _;

use crate::Protocol;

/// The version of the values.
const VERSION: u32 = 1;

/// A set of subscriptions as a front end encodes it; 0 is an empty set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Subscriptions(pub u16);

pub(crate) fn key<'a>(
    kind: DeviceStateKind,
    identity: &'a IdentityId,
    generation: &'a GenerationId,
) -> DeviceStateKey<'a> {
    DeviceStateKey {
        kind,
        device: identity.device.as_str(),
        module: identity.module.as_ref().map(ModuleId::as_str),
        generation: &generation.0,
        item: &[],
    }
}

pub(crate) fn encode_subscriptions(subscriptions: Subscriptions) -> Vec<u8> {
    let stored = proto::StoredSubscriptions {
        version: VERSION,
        channels: subscriptions.0.into(),
    };
    stored.encode_to_vec()
}

/// `None` for a value that this version cannot read: the client finds no session, and subscribes again.
pub(crate) fn decode_subscriptions(value: &[u8]) -> Option<Subscriptions> {
    let stored = proto::StoredSubscriptions::decode(value).ok();
    let stored = stored.filter(|stored| stored.version == VERSION);
    let channels = stored.and_then(|stored| u16::try_from(stored.channels).ok());
    if channels.is_none() {
        tracing::warn!(
            bytes = value.len(),
            "stored subscriptions cannot be read; they count as none"
        );
    }
    channels.map(Subscriptions)
}

/// The connection of an identity, as it is stored.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct StoredConnection {
    pub(crate) is_connected: bool,
    /// When that changed last.
    pub(crate) changed: UnixMillis,
    pub(crate) last_activity: UnixMillis,
    /// `None` when an earlier version has stored it.
    pub(crate) origin: Option<ConnectionOrigin>,
    /// SHA-256 of the certificates above the device's own, the CA last; `None`: it had no chain.
    pub(crate) issuers: Option<Arc<[[u8; 32]]>>,
}

/// Where a connection came from, and to which node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ConnectionOrigin {
    pub(crate) gateway: NodeId,
    pub(crate) protocol: Protocol,
    pub(crate) address: SocketAddr,
}

impl ConnectionOrigin {
    /// Of stored or exchanged fields; `None` when one of them is not known.
    pub(crate) fn decode(gateway: u64, protocol: u32, address: &str) -> Option<Self> {
        Some(Self {
            gateway: NodeId(gateway),
            protocol: Protocol::from_number(protocol)?,
            address: address.parse().ok()?,
        })
    }
}

/// `event_number`: of its last connection-state event, 0 when there has been none.
pub(crate) fn encode_connection(connection: &StoredConnection, event_number: u64) -> Vec<u8> {
    let stored = proto::StoredConnection {
        version: VERSION,
        is_connected: connection.is_connected,
        changed_ms: connection.changed.0,
        last_activity_ms: connection.last_activity.0,
        event_number,
        gateway: connection.origin.map_or(0, |origin| origin.gateway.get()),
        protocol: connection.origin.map_or(0, |origin| origin.protocol.number()),
        address: connection
            .origin
            .map(|origin| origin.address.to_string())
            .unwrap_or_default(),
        issuers: encode_issuers(connection.issuers.as_deref()),
    };
    stored.encode_to_vec()
}

/// `None` for a value that this version cannot read: it counts as unknown.
pub(crate) fn decode_connection(value: &[u8]) -> Option<StoredConnection> {
    let stored = proto::StoredConnection::decode(value).ok();
    let stored = stored.filter(|stored| stored.version == VERSION)?;
    Some(StoredConnection {
        is_connected: stored.is_connected,
        changed: UnixMillis(stored.changed_ms),
        last_activity: UnixMillis(stored.last_activity_ms),
        origin: ConnectionOrigin::decode(stored.gateway, stored.protocol, &stored.address),
        issuers: decode_issuers(&stored.issuers),
    })
}

/// As they are stored and exchanged.
pub(crate) fn encode_issuers(issuers: Option<&[[u8; 32]]>) -> Vec<Bytes> {
    let issuers = issuers.unwrap_or_default();
    issuers.iter().map(|digest| Bytes::copy_from_slice(digest)).collect()
}

/// `None` for what is no path: it counts as unknown.
pub(crate) fn decode_issuers(issuers: &[Bytes]) -> Option<Arc<[[u8; 32]]>> {
    if issuers.is_empty() || issuers.len() > MAX_CHAIN_CERTIFICATES {
        return None;
    }
    issuers.iter().map(|digest| digest[..].try_into().ok()).collect()
}

/// The number of the last connection-state event; 0 when there has been none.
pub(crate) fn decode_event_number(value: &[u8]) -> u64 {
    proto::StoredConnection::decode(value).map_or(0, |stored| stored.event_number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_bytes_never_change() {
        let bytes = encode_subscriptions(Subscriptions(0x0109));
        assert_eq!(bytes, [0x08, 1, 0x10, 0x89, 2]);
        assert_eq!(decode_subscriptions(&bytes), Some(Subscriptions(0x0109)));
        let connection = StoredConnection {
            is_connected: true,
            changed: UnixMillis(1),
            last_activity: UnixMillis(0x0203),
            origin: None,
            issuers: None,
        };
        let bytes = encode_connection(&connection, 0);
        let expected = [
            0x08, 1, 0x10, 1, 0x19, 1, 0, 0, 0, 0, 0, 0, 0, 0x21, 3, 2, 0, 0, 0, 0, 0, 0,
        ];
        assert_eq!(bytes, expected);
        assert_eq!(decode_connection(&bytes), Some(connection.clone()));
        assert_eq!(decode_event_number(&bytes), 0);
        let numbered = encode_connection(&connection, 7);
        assert_eq!(numbered[..bytes.len()], bytes);
        assert_eq!(
            (decode_connection(&numbered), decode_event_number(&numbered)),
            (Some(connection.clone()), 7)
        );
        let chained = StoredConnection {
            issuers: Some(Arc::new([[7; 32], [8; 32]])),
            ..connection.clone()
        };
        let stored = encode_connection(&chained, 0);
        let expected = [&[0x4a, 32][..], &[7; 32], &[0x4a, 32], &[8; 32]].concat();
        assert_eq!(stored, [&bytes[..], &expected].concat());
        assert_eq!(decode_connection(&stored), Some(chained));
        assert_eq!(decode_connection(&[0x08, 2]), None, "a later version");
        let known = StoredConnection {
            origin: Some(ConnectionOrigin {
                gateway: NodeId(2),
                protocol: Protocol::MqttWs,
                address: ([192, 0, 2, 7], 80).into(),
            }),
            ..connection
        };
        let bytes = encode_connection(&known, 7);
        assert_eq!(bytes[..numbered.len()], numbered);
        assert_eq!(
            bytes[numbered.len()..],
            *b"\x31\x02\0\0\0\0\0\0\0\x38\x02\x42\x0c192.0.2.7:80"
        );
        assert_eq!(decode_connection(&bytes), Some(known));
    }

    #[test]
    fn values_of_a_later_version_count_as_none() {
        for bytes in [
            &[0x08, 2, 0x10, 1][..],
            &[0x10, 1],
            &[0xff],
            &[0x08, 1, 0x10, 0x80, 0x80, 4],
        ] {
            assert_eq!(decode_subscriptions(bytes), None, "{bytes:?}");
        }
    }
}
