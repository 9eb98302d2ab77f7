//! Decides about attaches (Spec amqp §4.1, §4.2, §8.1, §8.3).

use holdfast_amqp::address::{self, Endpoint, Entity};
use holdfast_amqp::selector::{self, Start};
use holdfast_amqp::types::Map;
use holdfast_amqp::{Accept, Attach, Detached, Fault, InfoValue, LinkId, Role, limits};
use holdfast_model::{ErrorCode, RefusalReason, SequenceNumber, UnixMillis};
use holdfast_partition::epoch::Receiver as Candidate;
use holdfast_partition::{Bound, StartPosition};
use holdfast_registry::HubSettings;

use super::delayed::Refusal;
use super::driver::Driver;
use super::management::{is_entity, partition};
use super::opening::{Opening, ReceiverRequest};
use super::refusal::Refused;
use super::tokens::EndpointScope;

const EPOCH: &str = "com.microsoft:epoch";
const RECEIVER_NAME: &str = "com.microsoft:receiver-name";
const RUNTIME_METRIC: &str = "com.microsoft:enable-receiver-runtime-metric";

/// The kind of an accepted attach.
pub(super) enum Accepted {
    /// A link of `$cbs`; `true` when the client sends requests on it.
    Cbs(bool),
    /// A link of `$management`; `true` when the client sends requests on it.
    Management(bool),
    /// A receiver of a partition, which must admit it.
    Receiver(Opening),
    /// A link that is redirected: the tail of its new address.
    Redirect(String),
}

impl Driver {
    /// Answers an attach.
    pub(super) fn attach(&mut self, link: LinkId, attach: &Attach<'_>) {
        let now = self.endpoint.hub().clock().now();
        match self.decide(link, attach, now) {
            Ok(accepted) => self.accept(link, accepted),
            Err(refused) => {
                let address = attach.address().ok().flatten().unwrap_or_default();
                self.refuse_attach(link, address, refused);
            }
        }
    }

    pub(super) fn refuse_attach(&mut self, link: LinkId, address: &str, refused: Refused) {
        let now = self.endpoint.hub().clock().now();
        self.audit(&refused, now);
        self.refuse(&self.identity(), address, Refusal::Attach(link, refused));
    }

    fn accept(&mut self, link: LinkId, accepted: Accepted) {
        let receiving = Accept {
            credit: limits::RECEIVER_CREDIT,
            ..Accept::default()
        };
        match accepted {
            Accepted::Cbs(true) => {
                self.engine.accept(link, &receiving);
                self.cbs.add_requests(link);
            }
            Accepted::Management(true) => {
                self.engine.accept(link, &receiving);
                self.management.add_requests(link);
            }
            Accepted::Cbs(false) => {
                self.engine.accept(link, &Accept::default());
                self.cbs.add_responses(link);
            }
            Accepted::Management(false) => {
                self.engine.accept(link, &Accept::default());
                self.management.add_responses(link);
            }
            Accepted::Receiver(opening) => self.open(opening),
            Accepted::Redirect(tail) => {
                self.engine.accept(link, &Accept::default());
                self.redirect(link, &tail);
            }
        }
    }

    /// Redirects a link, as Azure does for every link under `messages/events`. The address contains the port: client
    /// helpers parse it there.
    fn redirect(&mut self, link: LinkId, tail: &str) {
        let hub = self.endpoint.hub();
        let host = hub.hub_names().primary().unwrap_or_default();
        let port = self.endpoint.config().redirect_port;
        let address = format!("amqps://{host}:{port}/{}/{tail}", self.endpoint.hub_name());
        let info = [
            ("hostname", InfoValue::Text(host)),
            ("network-host", InfoValue::Text(host)),
            ("port", InfoValue::Int(i32::from(port))),
            ("address", InfoValue::Text(&address)),
        ];
        let fault = Fault::new("amqp:link:redirect", "The events are at another address.").with_info(&info);
        self.engine.detach(link, Detached::Closed, Some(&fault), self.now);
    }

    fn decide(&mut self, link: LinkId, attach: &Attach<'_>, now: UnixMillis) -> Result<Accepted, Refused> {
        let malformed = |_| Refused::new(ErrorCode::ArgumentInvalid, "The attach cannot be decoded.");
        if attach
            .target()
            .map_err(malformed)?
            .is_some_and(|target| target.coordinator)
        {
            return Err(Refused::new(
                ErrorCode::FeatureNotSupported,
                "Transactions are not supported.",
            ));
        }
        let client_sends = attach.role == Role::Sender;
        let text = attach.address().map_err(malformed)?.unwrap_or_default();
        let endpoint = address::parse(text);
        if endpoint == Endpoint::Cbs {
            return Ok(Accepted::Cbs(client_sends));
        }
        let hub = self.endpoint.hub_arc();
        let settings = hub
            .registry()
            .settings()
            .map_err(|_| Refused::busy("The hub is not ready."))?;
        match endpoint {
            Endpoint::Management(entity) => {
                // Helper code that looks for the events endpoint attaches a receiver only, and waits for the redirect.
                let is_lookup = !client_sends && !self.management.has_requests_in(link.session());
                if entity == Entity::HubPath && (self.endpoint.config().redirect || is_lookup) {
                    self.authorise(&settings, EndpointScope::Management)?;
                    return Ok(Accepted::Redirect("$management".to_owned()));
                }
                // An attach discloses nothing, and each request is authorised by itself.
                self.known(&entity, &settings, text)?;
                Ok(Accepted::Management(client_sends))
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
                self.authorise(&settings, part)?;
                self.known(&entity, &settings, text)?;
                if client_sends {
                    return Err(Refused::new(ErrorCode::InvalidOperation, "The endpoint is read-only."));
                }
                if entity == Entity::HubPath && self.endpoint.config().redirect {
                    return Ok(Accepted::Redirect(format!(
                        "ConsumerGroups/{group}/Partitions/{partition}"
                    )));
                }
                let opening = self.receiver(link, attach, &settings, &group, &partition)?;
                Ok(Accepted::Receiver(opening))
            }
            Endpoint::Events { entity, .. } => {
                self.authorise(&settings, EndpointScope::Whole)?;
                self.known(&entity, &settings, text)?;
                if client_sends {
                    return Err(Refused::new(ErrorCode::InvalidOperation, "The endpoint is read-only."));
                }
                if entity == Entity::HubPath && self.endpoint.config().redirect {
                    return Ok(Accepted::Redirect(String::new()));
                }
                let text = "A receiver must name a partition: {name}/ConsumerGroups/{group}/Partitions/{id}.";
                Err(Refused::new(ErrorCode::InvalidOperation, text))
            }
            Endpoint::Device { .. }
            | Endpoint::ServiceDevicebound
            | Endpoint::ServiceFeedback
            | Endpoint::ServiceFileNotifications => {
                if self.tokens.is_empty() {
                    return Err(Refused::credentials(RefusalReason::Missing));
                }
                let text = "This version of the hub does not serve this address.";
                Err(Refused::new(ErrorCode::FeatureNotSupported, text))
            }
            Endpoint::Unknown | Endpoint::Cbs => {
                if self.tokens.is_empty() {
                    return Err(Refused::credentials(RefusalReason::Missing));
                }
                Err(self.not_found(text))
            }
        }
        .inspect(|_| tracing::debug!(address = text, now = now.0, "link accepted"))
    }

    fn authorise(&self, settings: &HubSettings, part: EndpointScope<'_>) -> Result<(), Refused> {
        if self.tokens.covering(&settings.hub_name, part).is_some() {
            return Ok(());
        }
        let reason = if self.tokens.is_empty() {
            RefusalReason::Missing
        } else {
            RefusalReason::Scope
        };
        Err(Refused::credentials(reason))
    }

    fn known(&self, entity: &Entity<'_>, settings: &HubSettings, address: &str) -> Result<(), Refused> {
        match entity {
            Entity::Named(name) if !is_entity(name, settings) => Err(self.not_found(address)),
            _ => Ok(()),
        }
    }

    fn not_found(&self, address: &str) -> Refused {
        let host = self.endpoint.hub().hub_names().primary().unwrap_or_default();
        let path = address
            .split_once("://")
            .map_or(address, |(_, rest)| rest.split_once('/').map_or("", |(_, path)| path));
        // The reply repeats the client's text; it is truncated so that it cannot fill a frame.
        let path: String = path.trim_start_matches('/').chars().take(256).collect();
        Refused::no_entity(host, &path)
    }

    fn receiver(
        &self,
        link: LinkId,
        attach: &Attach<'_>,
        settings: &HubSettings,
        group: &str,
        id: &str,
    ) -> Result<Opening, Refused> {
        let malformed = |_| Refused::new(ErrorCode::ArgumentInvalid, "The attach cannot be decoded.");
        let hub = self.endpoint.hub();
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
