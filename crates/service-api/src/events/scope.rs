//! The parts of the events endpoint, and the tokens that cover them.

use std::fmt;

use holdfast_amqp::address::percent_decode;
use holdfast_amqp_server::{Tokens, token_path};
use holdfast_auth::bearer::Action;
use holdfast_auth::{ResourcePath, ResourceScope};

/// The part of the events endpoint that a link or request addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EndpointScope<'a> {
    /// `$management`: covered by any token for the endpoint or for something below it. Python's consumer client has one
    /// for its consumer group only.
    Management,
    /// The endpoint as a whole.
    Whole,
    /// One partition for one consumer group.
    Partition {
        /// The consumer group.
        group: &'a str,
        /// The partition id.
        partition: &'a str,
    },
}

impl fmt::Display for EndpointScope<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Management => f.write_str("$management"),
            Self::Whole => f.write_str("messages/events"),
            Self::Partition { group, partition } => write!(f, "ConsumerGroups/{group}/Partitions/{partition}"),
        }
    }
}

/// Whether a token of the connection covers a part of the events endpoint called `name`.
pub(super) fn is_covered(tokens: &Tokens, name: &str, part: EndpointScope<'_>) -> bool {
    tokens
        .covering(Action::EVENTS_READ, |resource| covers(resource, name, part))
        .is_some()
}

fn covers(sr: &str, name: &str, part: EndpointScope<'_>) -> bool {
    let Ok(scope) = ResourceScope::parse(sr) else {
        return false;
    };
    // Readers of the hub's own path have tokens for the hub or for that path.
    let hub_path = ResourcePath::HUB.then("messages").then("events");
    [ResourcePath::events(name, &[]), hub_path]
        .into_iter()
        .any(|root| match part {
            EndpointScope::Whole => scope.covers(&root),
            EndpointScope::Management => scope.covers(&root.then("$management")) || lies_within(sr, &root),
            EndpointScope::Partition { group, partition } => scope.covers(
                &root
                    .then("ConsumerGroups")
                    .then(group)
                    .then("Partitions")
                    .then(partition),
            ),
        })
}

/// Whether the resource of a token is something below `root`.
fn lies_within(sr: &str, root: &ResourcePath<'_>) -> bool {
    let segments = token_path(sr);
    let root = root.segments();
    segments.len() >= root.len()
        && segments
            .iter()
            .zip(root)
            .all(|(segment, root)| percent_decode(segment).eq_ignore_ascii_case(root))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_of_event_hubs_clients_cover_what_they_name() {
        let partition = EndpointScope::Partition {
            group: "$Default",
            partition: "0",
        };
        for (resource, whole, management, one) in [
            ("sb://hub.example/hub", true, true, true),
            ("sb://hub.example/hub/", true, true, true),
            ("amqps://hub.example/HUB/consumergroups/$default", false, true, true),
            (
                "sb://hub.example/hub/ConsumerGroups/$Default/Partitions/0",
                false,
                true,
                true,
            ),
            (
                "sb://hub.example/hub/ConsumerGroups/$Default/Partitions/1",
                false,
                true,
                false,
            ),
            ("sb://hub.example/hub/$management", false, true, false),
            ("hub.example", true, true, true),
            ("hub.example/messages/events", true, true, true),
            ("hub.example/devices/hub", false, false, false),
        ] {
            assert_eq!(covers(resource, "hub", EndpointScope::Whole), whole, "{resource}");
            assert_eq!(
                covers(resource, "hub", EndpointScope::Management),
                management,
                "{resource}"
            );
            assert_eq!(covers(resource, "hub", partition), one, "{resource}");
        }
    }
}
