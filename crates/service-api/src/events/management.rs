//! `$management` READ: the description of the event hub and its partitions (Spec amqp §8.2).

use holdfast_amqp::message::Request;
use holdfast_amqp_server::{Certainty, Links, Refused, Tokens, Verdict, present};
use holdfast_auth::bearer::Action;
use holdfast_device_hub::DeviceHub;
use holdfast_model::{ErrorCode, PartitionId, RefusalReason, UnixMillis};
use holdfast_partition::PartitionStatus;
use holdfast_registry::HubSettings;

use super::encode;
use super::scope::{EndpointScope, is_covered};

/// The body of a successful answer.
#[derive(Debug)]
pub(super) enum Answer {
    /// About the event hub.
    Hub {
        name: String,
        created: UnixMillis,
        partitions: u16,
    },
    /// About one partition.
    Partition {
        name: String,
        id: String,
        status: PartitionStatus,
        now: UnixMillis,
    },
}

impl Answer {
    /// Appends the value.
    pub(super) fn encode(&self, buf: &mut Vec<u8>) {
        match self {
            Answer::Hub {
                name,
                created,
                partitions,
            } => encode::hub_properties(buf, name, *created, *partitions),
            Answer::Partition { name, id, status, now } => {
                encode::partition_properties(buf, name, id, status, *now);
            }
        }
    }
}

/// A request about a partition.
#[derive(Debug)]
pub(super) struct PartitionQuery {
    pub(super) name: String,
    pub(super) id: String,
    pub(super) partition: PartitionId,
}

/// The decision about a request.
pub(super) enum Decision {
    Answer(Answer),
    /// A partition's owner must be queried first.
    Partition(PartitionQuery),
    Refused(Refused),
    /// The registry's leader must confirm a refusal first.
    NeedsConfirmation,
}

/// Decides about a request. If no token of the connection covers it, its own `security_token` counts.
pub(super) fn read(
    hub: &DeviceHub,
    links: &Links,
    settings: &HubSettings,
    request: &Request<'_>,
    certainty: Certainty,
) -> Decision {
    if !is_covered(links.tokens(), &settings.hub_name, EndpointScope::Management) {
        let Some(token) = request.property("security_token") else {
            let refused = match links.tokens().is_empty() {
                true => Refused::credentials(RefusalReason::Missing),
                false => links.tokens().refusal(Action::EVENTS_READ, "$management"),
            };
            return Decision::Refused(refused).unauthorized();
        };
        // Valid for this request only.
        let mut own = Tokens::default();
        match present(links.authority(), &mut own, token, certainty) {
            Verdict::NeedsConfirmation => return Decision::NeedsConfirmation,
            Verdict::Refused(refused) => return Decision::Refused(refused).unauthorized(),
            Verdict::Accepted if !is_covered(&own, &settings.hub_name, EndpointScope::Management) => {
                return Decision::Refused(own.refusal(Action::EVENTS_READ, "$management"));
            }
            Verdict::Accepted => {}
        }
    }
    answer(hub, settings, request).unwrap_or_else(Decision::Refused)
}

impl Decision {
    /// A missing or unreadable token is a matter of rights here, not of form.
    fn unauthorized(self) -> Self {
        match self {
            Decision::Refused(refused) if refused.status() == 400 => Decision::Refused(Refused {
                reason: Some(RefusalReason::Signature),
                ..refused
            }),
            other => other,
        }
    }
}

fn answer(hub: &DeviceHub, settings: &HubSettings, request: &Request<'_>) -> Result<Decision, Refused> {
    if request
        .operation
        .is_none_or(|operation| !operation.eq_ignore_ascii_case("READ"))
    {
        return Err(Refused::new(
            ErrorCode::InvalidOperation,
            "The operation of a request must be READ.",
        ));
    }
    let host = hub.hub_names().primary().unwrap_or_default();
    let asked = request.name.unwrap_or(&settings.hub_name);
    if !is_entity(asked, settings) {
        return Err(Refused::no_entity(host, asked));
    }
    let name = settings.hub_name.clone();
    match request.kind {
        Some("com.microsoft:eventhub") => Ok(Decision::Answer(Answer::Hub {
            name,
            created: settings.created,
            partitions: settings.partition_count.get(),
        })),
        Some("com.microsoft:partition") => {
            let id = request
                .property("partition")
                .map(str::to_owned)
                .or_else(|| numeric_partition(request));
            let id = id.unwrap_or_default();
            let partition = partition(hub, &id)?;
            Ok(Decision::Partition(PartitionQuery { name, id, partition }))
        }
        _ => Err(Refused::new(
            ErrorCode::ArgumentInvalid,
            "The type of a request must be an event hub or a partition.",
        )),
    }
}

fn numeric_partition(request: &Request<'_>) -> Option<String> {
    request
        .properties
        .get("partition")
        .ok()
        .flatten()?
        .integer()
        .map(|id| id.to_string())
}

/// Whether `name` names this hub's events endpoint.
pub(super) fn is_entity(name: &str, settings: &HubSettings) -> bool {
    let name = name.trim_matches('/');
    name.eq_ignore_ascii_case(&settings.hub_name) || name.eq_ignore_ascii_case("messages/events")
}

/// The partition with id `id`: decimal, without leading zeros.
pub(super) fn partition(hub: &DeviceHub, id: &str) -> Result<PartitionId, Refused> {
    let count = hub.partitions().count().get();
    let number = id
        .parse::<u16>()
        .ok()
        .filter(|number| number.to_string() == id && *number < count);
    number.map(PartitionId).ok_or_else(|| {
        let last = count.saturating_sub(1);
        let text = format!("The specified partition is invalid for an EventHub partition sender or receiver. It should be between 0 and {last}.");
        Refused::new(ErrorCode::ArgumentInvalid, text).with_condition("com.microsoft:argument-out-of-range")
    })
}
