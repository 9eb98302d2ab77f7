//! Link addresses in all forms that clients write, and the endpoints that they name (Spec amqp §4.1).
//!
//! Invariants: scheme, authority and leading slashes are dropped; each segment is percent-decoded by itself, `+` stays;
//! fixed words compare without case, names and ids with it.
//! Not here: existence of the named endpoint, and authorization.

use std::borrow::Cow;

use smallvec::SmallVec;

/// More segments than any served address has.
const MAX_SEGMENTS: usize = 8;

/// The endpoint that an address names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint<'a> {
    /// `$cbs`: tokens.
    Cbs,
    /// `$management`, of the built-in events or of nothing named.
    Management(Entity<'a>),
    /// `…/ConsumerGroups/{group}/Partitions/{partition}`.
    Partition {
        /// Of which events endpoint.
        entity: Entity<'a>,
        /// The consumer group, case as written.
        group: Cow<'a, str>,
        /// The partition id, not checked to be a number.
        partition: Cow<'a, str>,
    },
    /// The events endpoint itself, or one of its partitions, as a target.
    Events {
        /// Which.
        entity: Entity<'a>,
        /// `…/Partitions/{partition}`.
        partition: Option<Cow<'a, str>>,
    },
    /// `devices/{id}[/modules/{id}]/…`.
    Device {
        /// The device id, not checked to be one.
        device: Cow<'a, str>,
        /// The module id, not checked to be one.
        module: Option<Cow<'a, str>>,
        /// Which of its channels.
        channel: DeviceChannel,
    },
    /// `{scope}/registrations/{id}`: a device that registers with the provisioning service.
    Registration {
        /// The id scope, case as written.
        id_scope: Cow<'a, str>,
        /// The registration id, not checked to be one.
        registration_id: Cow<'a, str>,
    },
    /// `messages/devicebound`: C2D from the back end.
    ServiceDevicebound,
    /// `messages/serviceBound/feedback`.
    ServiceFeedback,
    /// `messages/serviceBound/filenotifications`.
    ServiceFileNotifications,
    /// Anything else.
    Unknown,
}

/// Which events endpoint an address names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entity<'a> {
    /// None: a bare `$management`.
    Unnamed,
    /// `messages/events`.
    HubPath,
    /// The Event Hubs compatible name.
    Named(Cow<'a, str>),
}

/// The channels of a device or module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceChannel {
    /// `messages/events`.
    Events,
    /// `messages/devicebound`.
    Devicebound,
    /// `methods/devicebound`.
    Methods,
    /// `twin`.
    Twin,
    /// `messages/serviceBound/feedback`.
    Feedback,
}

/// The authority of an address with a scheme.
#[must_use]
pub fn host(address: &str) -> Option<&str> {
    let (_, rest) = address.split_once("://")?;
    rest.split('/').next()
}

/// The decoded segments of an address, or `None` when there are more than any address has.
fn segments(address: &str) -> Option<SmallVec<[Cow<'_, str>; MAX_SEGMENTS]>> {
    let path = match address.split_once("://") {
        Some((_, rest)) => rest.split_once('/').map_or("", |(_, path)| path),
        None => address,
    };
    let path = path.trim_start_matches('/');
    let path = path.strip_suffix('/').unwrap_or(path);
    let mut found = SmallVec::new();
    for segment in path.split('/') {
        if found.len() == MAX_SEGMENTS {
            return None;
        }
        found.push(percent_decode(segment));
    }
    Some(found)
}

/// Decodes `%XX`; everything else stays, malformed escapes and what would not be UTF-8 too.
#[must_use]
pub fn percent_decode(text: &str) -> Cow<'_, str> {
    percent_encoding::percent_decode_str(text)
        .decode_utf8()
        .unwrap_or(Cow::Borrowed(text))
}

/// The endpoint that `address` names.
#[must_use]
pub fn parse(address: &str) -> Endpoint<'_> {
    let Some(mut segments) = segments(address) else {
        return Endpoint::Unknown;
    };
    let words: SmallVec<[String; MAX_SEGMENTS]> = segments.iter().map(|segment| segment.to_ascii_lowercase()).collect();
    let words: SmallVec<[&str; MAX_SEGMENTS]> = words.iter().map(String::as_str).collect();
    let mut take = |index: usize| std::mem::take(&mut segments[index]);
    match words.as_slice() {
        ["$cbs"] => Endpoint::Cbs,
        ["$management"] => Endpoint::Management(Entity::Unnamed),
        ["messages", "events", "$management"] => Endpoint::Management(Entity::HubPath),
        ["messages", "events", "consumergroups", _, "partitions", _] => Endpoint::Partition {
            entity: Entity::HubPath,
            group: take(3),
            partition: take(5),
        },
        ["messages", "events"] => Endpoint::Events {
            entity: Entity::HubPath,
            partition: None,
        },
        ["messages", "devicebound"] => Endpoint::ServiceDevicebound,
        ["messages", "servicebound", "feedback"] => Endpoint::ServiceFeedback,
        ["messages", "servicebound", "filenotifications"] => Endpoint::ServiceFileNotifications,
        ["devices", _, "modules", _, rest @ ..] => match device_channel(rest) {
            Some(channel) => Endpoint::Device {
                device: take(1),
                module: Some(take(3)),
                channel,
            },
            None => Endpoint::Unknown,
        },
        ["devices", _, rest @ ..] if !rest.is_empty() => match device_channel(rest) {
            Some(channel) => Endpoint::Device {
                device: take(1),
                module: None,
                channel,
            },
            None => Endpoint::Unknown,
        },
        [scope, "registrations", _] if !scope.is_empty() => Endpoint::Registration {
            id_scope: take(0),
            registration_id: take(2),
        },
        [_, "$management"] => Endpoint::Management(Entity::Named(take(0))),
        [_, "consumergroups", _, "partitions", _] => Endpoint::Partition {
            entity: Entity::Named(take(0)),
            group: take(2),
            partition: take(4),
        },
        [_, "partitions", _] => Endpoint::Events {
            entity: Entity::Named(take(0)),
            partition: Some(take(2)),
        },
        [name] if !name.is_empty() => Endpoint::Events {
            entity: Entity::Named(take(0)),
            partition: None,
        },
        _ => Endpoint::Unknown,
    }
}

fn device_channel(words: &[&str]) -> Option<DeviceChannel> {
    match words {
        ["messages", "events"] => Some(DeviceChannel::Events),
        ["messages", "devicebound"] => Some(DeviceChannel::Devicebound),
        ["methods", "devicebound"] => Some(DeviceChannel::Methods),
        ["twin"] => Some(DeviceChannel::Twin),
        ["messages", "servicebound", "feedback"] => Some(DeviceChannel::Feedback),
        _ => None,
    }
}
