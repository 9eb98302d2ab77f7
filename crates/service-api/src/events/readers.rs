//! The links of Event Hubs readers on one connection: receivers of partitions, and `$management`.

use std::sync::Arc;
use std::task::Context;

use holdfast_amqp::address::Endpoint;
use holdfast_amqp::message::Request;
use holdfast_amqp::{Attach, LinkId};
use holdfast_amqp_server::{
    Answered, AuthorizationChange, Certainty, LINK_STOLEN, Leaving, LinkHandler, LinkService, Links, Refused,
    RequestNode, response,
};
use holdfast_device_hub::DeviceHub;
use holdfast_model::{ErrorCode, RefusalReason};

use super::EventsConfig;
use super::endpoint::admit_management;
use super::management::{self, Decision};
use super::metrics::Metrics;
use super::opening::Opening;
use super::pending_management::PendingManagement;
use super::receiver::{Receiver, ReceiverError};
use super::scope::{EndpointScope, is_covered};

/// Serves the events endpoint on the connections of one core.
pub(super) struct ReaderService {
    pub(super) hub: Arc<DeviceHub>,
    pub(super) config: EventsConfig,
    pub(super) metrics: Metrics,
}

impl LinkService for ReaderService {
    fn connect(&self) -> Box<dyn LinkHandler> {
        Box::new(Readers {
            hub: Arc::clone(&self.hub),
            config: self.config.clone(),
            metrics: self.metrics.clone(),
            management: RequestNode::default(),
            receivers: Vec::new(),
            openings: Vec::new(),
            pending_management: Vec::new(),
            first: 0,
        })
    }
}

/// The readers of one connection.
pub(super) struct Readers {
    pub(super) hub: Arc<DeviceHub>,
    pub(super) config: EventsConfig,
    pub(super) metrics: Metrics,
    pub(super) management: RequestNode,
    pub(super) receivers: Vec<Receiver>,
    /// Receivers whose partition has not answered yet.
    pub(super) openings: Vec<Opening>,
    /// Requests about partitions that have not answered yet.
    pub(super) pending_management: Vec<PendingManagement>,
    /// The receiver that is served first; rotates, so that none starves.
    first: usize,
}

impl LinkHandler for Readers {
    fn serves(&self, endpoint: &Endpoint<'_>) -> bool {
        match endpoint {
            Endpoint::Management(_) | Endpoint::Partition { .. } | Endpoint::Events { .. } => true,
            Endpoint::Cbs
            | Endpoint::Device { .. }
            | Endpoint::Registration { .. }
            | Endpoint::ServiceDevicebound
            | Endpoint::ServiceFeedback
            | Endpoint::ServiceFileNotifications
            | Endpoint::Unknown => false,
        }
    }

    fn attach(
        &mut self,
        links: &mut Links,
        link: LinkId,
        attach: &Attach<'_>,
        endpoint: Endpoint<'_>,
    ) -> Result<(), Refused> {
        self.decide_attach(links, link, attach, endpoint)
    }

    fn node_of(&self, link: LinkId) -> Option<&RequestNode> {
        self.management.takes(link).then_some(&self.management)
    }

    fn request(&mut self, links: &mut Links, link: LinkId, request: &Request<'_>, certainty: Certainty) -> Answered {
        let decision = match self.hub.registry().settings() {
            Ok(settings) => management::read(&self.hub, links, &settings, request, certainty),
            Err(_) => Decision::Refused(Refused::busy("The hub is not ready.")),
        };
        if matches!(decision, Decision::Answer(_) | Decision::Partition(_))
            && let Err(refused) = admit_management(&self.hub, links.carrier())
        {
            links.audit(&refused);
            // No guess of a credential: answered without delay.
            return Answered::Now(links.refusal(request.message_id, &refused));
        }
        match decision {
            Decision::NeedsConfirmation => Answered::NeedsConfirmation,
            Decision::Answer(answer) => {
                Answered::Now(response(request.message_id, 200, "OK", None, |buf| answer.encode(buf)))
            }
            Decision::Partition(query) => self
                .query_partition(links, link, request.message_id, query)
                .map_or(Answered::Later, Answered::Now),
            Decision::Refused(refused) => {
                links.audit(&refused);
                Answered::Refused(links.refusal(request.message_id, &refused))
            }
        }
    }

    fn drain(&mut self, link: LinkId, drain: bool) -> bool {
        if let Some(receiver) = self.receivers.iter_mut().find(|receiver| receiver.link == link) {
            receiver.drain = drain;
            return true;
        }
        match self.openings.iter_mut().find(|opening| opening.link == link) {
            Some(opening) => {
                opening.drain = drain;
                true
            }
            None => false,
        }
    }

    fn poll(&mut self, links: &mut Links, cx: &mut Context<'_>) {
        self.poll_openings(links, cx);
        self.poll_pending_management(links, cx);
        if self.receivers.is_empty() {
            return;
        }
        let now = self.hub.clock().now();
        let output_bytes = links.output_bytes();
        let mut sent = 0;
        let mut failed = Vec::new();
        self.first = (self.first + 1) % self.receivers.len();
        let (front, back) = self.receivers.split_at_mut(self.first);
        for receiver in back.iter_mut().chain(front) {
            if links.is_detached(receiver.link) {
                continue;
            }
            match receiver.pump(links.engine(), output_bytes, now, cx) {
                Ok(events) => sent += events,
                Err(error) => failed.push((receiver.link, error)),
            }
        }
        self.metrics.events.increment(sent);
        for (link, error) in failed {
            let refused = match error {
                ReceiverError::Stolen(stolen) => {
                    Refused::new(ErrorCode::LinkCreationConflict, stolen.to_string()).with_condition(LINK_STOLEN)
                }
                ReceiverError::Failed(refused) => refused,
            };
            links.detach(link, &refused);
        }
    }

    fn recheck(&mut self, links: &mut Links, change: AuthorizationChange) {
        let Ok(settings) = self.hub.registry().settings() else {
            return;
        };
        for receiver in &self.receivers {
            let id = receiver.reader.id().0.to_string();
            let part = EndpointScope::Partition {
                group: &receiver.group,
                partition: &id,
            };
            if settings.consumer_group(&receiver.group).is_none() {
                let host = self.hub.hub_names().primary().unwrap_or_default();
                let path = format!("{}/ConsumerGroups/{}", settings.hub_name, receiver.group);
                links.detach(receiver.link, &Refused::no_entity(host, &path));
            } else if !is_covered(links.tokens(), &settings.hub_name, part) {
                let reason = match change {
                    AuthorizationChange::Revoked => RefusalReason::Signature,
                    AuthorizationChange::Other => RefusalReason::Expired,
                };
                links.detach(receiver.link, &Refused::credentials(reason));
            }
        }
    }

    fn leave(&mut self, links: &mut Links, _: Leaving) {
        let openings = self.openings.iter().map(|opening| opening.link);
        let receivers = self.receivers.iter().map(|receiver| receiver.link);
        for link in openings.chain(receivers) {
            links.send_away(link);
        }
    }

    /// Dropping a receiver releases its lease.
    fn forget(&mut self, is_gone: &dyn Fn(LinkId) -> bool) {
        let before = self.receivers.len();
        self.receivers.retain(|receiver| !is_gone(receiver.link));
        self.count_ended(before - self.receivers.len());
        self.openings.retain(|opening| !is_gone(opening.link));
        self.pending_management.retain(|pending| !is_gone(pending.link));
        self.management.retain(|link| !is_gone(link));
    }
}

impl Readers {
    fn count_ended(&self, receivers: usize) {
        #[expect(clippy::cast_precision_loss, reason = "a few links")]
        self.metrics.receivers.decrement(receivers as f64);
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        self.count_ended(self.receivers.len());
    }
}
