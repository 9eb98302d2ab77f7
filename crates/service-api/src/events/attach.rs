//! Decides about attaches (Spec amqp §4.1, §4.2, §8.1, §8.3).

use holdfast_amqp::address::{Endpoint, Entity};
use holdfast_amqp::selector::{self, Start};
use holdfast_amqp::types::Map;
use holdfast_amqp::{Accept, Attach, DecodeError, Fault, InfoValue, LinkId, Role, limits};
use holdfast_amqp_server::{Links, Refused};
use holdfast_auth::bearer::Action;
use holdfast_model::{ErrorCode, SequenceNumber, UnixMillis};
use holdfast_partition::epoch::Receiver as Candidate;
use holdfast_partition::{Bound, StartPosition};
use holdfast_registry::HubSettings;

use super::management::{is_entity, partition};
use super::opening::{Opening, ReceiverRequest};
use super::readers::Readers;
use super::scope::{EndpointScope, is_covered};

const EPOCH: &str = "com.microsoft:epoch";
const RECEIVER_NAME: &str = "com.microsoft:receiver-name";
const RUNTIME_METRIC: &str = "com.microsoft:enable-receiver-runtime-metric";

impl Readers {
    /// Accepts the attach, refuses it by an error, or opens a receiver, which answers later.
    pub(super) fn decide_attach(
        &mut self,
        links: &mut Links,
        link: LinkId,
        attach: &Attach<'_>,
        endpoint: Endpoint<'_>,
    ) -> Result<(), Refused> {
        let client_sends = attach.role == Role::Sender;
        let text = attach.address().map_err(malformed)?.unwrap_or_default();
        let settings = self
            .hub
            .registry()
            .settings()
            .map_err(|_| Refused::busy("The hub is not ready."))?;
        let authorise = |links: &Links, part: EndpointScope<'_>| authorise(links, &settings, part);
        let known = |links: &Links, entity: &Entity<'_>| match entity {
            Entity::Named(name) if !is_entity(name, &settings) => Err(Refused::no_address(links.authority(), text)),
            _ => Ok(()),
        };
        match endpoint {
            Endpoint::Management(entity) => {
                // Helper code that looks for the events endpoint attaches a receiver only, and waits for the redirect.
                let is_lookup = !client_sends && !self.management.has_requests_in(link.session());
                if entity == Entity::HubPath && (self.config.redirect || is_lookup) {
                    authorise(links, EndpointScope::Management)?;
                    self.redirect(links, link, "$management");
                    return Ok(());
                }
                // An attach discloses nothing, and each request is authorised by itself.
                known(links, &entity)?;
                links.accept_node(&mut self.management, link, client_sends);
                Ok(())
            }
            Endpoint::Partition {
                entity,
                group,
                partition,
            } => {
                let part = EndpointScope::Partition {
                    group: &group,
                    partition: &partition,
                };
                authorise(links, part)?;
                known(links, &entity)?;
                if client_sends {
                    return Err(read_only());
                }
                if entity == Entity::HubPath && self.config.redirect {
                    self.redirect(links, link, &format!("ConsumerGroups/{group}/Partitions/{partition}"));
                    return Ok(());
                }
                let opening = self.receiver(link, attach, &settings, &group, &partition)?;
                self.open(links, opening);
                Ok(())
            }
            Endpoint::Events { entity, .. } => {
                authorise(links, EndpointScope::Whole)?;
                known(links, &entity)?;
                if client_sends {
                    return Err(read_only());
                }
                if entity == Entity::HubPath && self.config.redirect {
                    self.redirect(links, link, "");
                    return Ok(());
                }
                let text = "A receiver must name a partition: {name}/ConsumerGroups/{group}/Partitions/{id}.";
                Err(Refused::new(ErrorCode::InvalidOperation, text))
            }
            _ => Err(Refused::no_address(links.authority(), text)),
        }
    }

    /// Redirects a link, as Azure does for every link under `messages/events`. The address contains the port: client
    /// helpers parse it there.
    fn redirect(&self, links: &mut Links, link: LinkId, tail: &str) {
        let host = self.hub.hub_names().primary().unwrap_or_default();
        let port = self.config.redirect_port;
        let address = format!("amqps://{host}:{port}/{}/{tail}", links.authority().hub_name());
        let info = [
            ("hostname", InfoValue::Text(host)),
            ("network-host", InfoValue::Text(host)),
            ("port", InfoValue::Int(i32::from(port))),
            ("address", InfoValue::Text(&address)),
        ];
        let fault = Fault::new("amqp:link:redirect", "The events are at another address.").with_info(&info);
        links.accept(link, &Accept::default());
        links.close_link(link, &fault);
    }

    fn receiver(
        &self,
        link: LinkId,
        attach: &Attach<'_>,
        settings: &HubSettings,
        group: &str,
        id: &str,
    ) -> Result<Opening, Refused> {
        let hub = &self.hub;
        let partition = partition(hub, id)?;
        let Some(group) = settings.consumer_group(group) else {
            let host = hub.hub_names().primary().unwrap_or_default();
            return Err(Refused::no_entity(
                host,
                &format!("{}/ConsumerGroups/{group}", settings.hub_name),
            ));
        };
        let filters = attach.source().map_err(malformed)?.map(|source| source.filter);
        let selection = selector::from_filters(filters.unwrap_or(Map::EMPTY));
        let selection = selection.map_err(|error| Refused::new(ErrorCode::ArgumentInvalid, format!("{error}.")))?;
        let text = |key| Ok::<_, Refused>(attach.property(key).map_err(malformed)?.and_then(|value| value.text()));
        let candidate = Candidate {
            name: text(RECEIVER_NAME)?
                .unwrap_or(attach.name)
                .chars()
                .take(limits::MAX_LINK_NAME)
                .collect(),
            epoch: attach
                .property(EPOCH)
                .map_err(malformed)?
                .and_then(|value| value.integer()),
        };
        let request = ReceiverRequest {
            partition,
            from: position(selection.start),
            filter: selection.in_place,
            group: group.to_owned(),
            candidate,
            address: attach.address().map_err(malformed)?.unwrap_or_default().to_owned(),
            with_metric: attach.desires(RUNTIME_METRIC).map_err(malformed)?,
        };
        Ok(Opening::new(link, hub.partitions().clone(), request))
    }
}

fn malformed(_: DecodeError) -> Refused {
    Refused::new(ErrorCode::ArgumentInvalid, "The attach cannot be decoded.")
}

fn read_only() -> Refused {
    Refused::new(ErrorCode::InvalidOperation, "The endpoint is read-only.")
}

fn authorise(links: &Links, settings: &HubSettings, part: EndpointScope<'_>) -> Result<(), Refused> {
    let tokens = links.tokens();
    if is_covered(tokens, &settings.hub_name, part) {
        return Ok(());
    }
    Err(tokens.refusal(Action::EVENTS_READ, &format!("{}/{part}", settings.hub_name)))
}

/// The offset of an event is its sequence number as text (docs/decisions/0003).
fn position(start: Start) -> StartPosition {
    match start {
        Start::Oldest => StartPosition::Oldest,
        Start::Latest => StartPosition::Latest,
        Start::Offset {
            offset: number,
            inclusive: true,
        }
        | Start::Sequence {
            number,
            inclusive: true,
        } => StartPosition::AtSequence(SequenceNumber(number)),
        Start::Offset {
            offset: number,
            inclusive: false,
        }
        | Start::Sequence {
            number,
            inclusive: false,
        } => StartPosition::AfterSequence(SequenceNumber(number)),
        Start::Enqueued { millis, inclusive } => {
            // A time before 1970 is before everything.
            let Ok(millis) = u64::try_from(millis) else {
                return StartPosition::Oldest;
            };
            let bound = if inclusive { Bound::Inclusive } else { Bound::Exclusive };
            StartPosition::enqueued(UnixMillis(millis), bound)
        }
    }
}
