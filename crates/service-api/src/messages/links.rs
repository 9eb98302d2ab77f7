//! The links of one connection on which messages are sent, and on which feedback and notifications are received.

use std::sync::Arc;
use std::task::Context;

use holdfast_amqp::address::Endpoint;
use holdfast_amqp::message::Request;
use holdfast_amqp::{Accept, Attach, Incoming, LinkId, Outcome, Outgoing, Role, SenderSettleMode, limits};
use holdfast_amqp_server::{
    Answered, AuthorizationChange, Certainty, Leaving, LinkHandler, LinkService, Links, Refused, RequestNode, Tokens,
};
use holdfast_auth::bearer::Action;
use holdfast_auth::{ResourcePath, ResourceScope};
use holdfast_device_hub::{DeviceHub, FeedbackSource, UploadSource};
use holdfast_model::{ErrorCode, RefusalReason};

use super::read;
use super::receiver::{AnyReceiver, RecordReceiver};
use super::sending::Sending;

/// Serves the addresses of messages on the connections of one core.
pub(crate) struct MessageService(pub(crate) Arc<DeviceHub>);

impl LinkService for MessageService {
    fn connect(&self) -> Box<dyn LinkHandler> {
        Box::new(Messages {
            hub: Arc::clone(&self.0),
            senders: Vec::new(),
            sending: Sending::new(Arc::clone(&self.0)),
            receivers: Vec::new(),
        })
    }
}

/// The links of one connection.
struct Messages {
    hub: Arc<DeviceHub>,
    /// Links on which the client sends messages.
    senders: Vec<LinkId>,
    sending: Sending,
    receivers: Vec<Box<dyn AnyReceiver>>,
}

/// Whether a token of the connection opens `action` at the addresses. A policy's right is that of every token here.
fn is_covered(tokens: &Tokens, action: Action) -> bool {
    let addresses = ResourcePath::HUB.then("messages");
    let covers = |sr: &str| {
        let scope = ResourceScope::parse(sr);
        scope.is_ok_and(|scope| {
            scope.covers(&addresses.then("devicebound")) && scope.covers(&addresses.then("serviceBound"))
        })
    };
    tokens.covering(action, covers).is_some()
}

impl LinkHandler for Messages {
    fn serves(&self, endpoint: &Endpoint<'_>) -> bool {
        matches!(
            endpoint,
            Endpoint::ServiceDevicebound | Endpoint::ServiceFeedback | Endpoint::ServiceFileNotifications
        )
    }

    fn attach(
        &mut self,
        links: &mut Links,
        link: LinkId,
        attach: &Attach<'_>,
        endpoint: Endpoint<'_>,
    ) -> Result<(), Refused> {
        let (action, address) = match endpoint {
            Endpoint::ServiceFeedback => (Action::MESSAGES_FEEDBACK, "/messages/serviceBound/feedback"),
            Endpoint::ServiceFileNotifications => {
                (Action::FILE_NOTIFICATIONS, "/messages/serviceBound/filenotifications")
            }
            _ => (Action::MESSAGES_SEND, "/messages/devicebound"),
        };
        if !is_covered(links.tokens(), action) {
            return Err(links.tokens().refusal(action, address));
        }
        let client_sends = attach.role == Role::Sender;
        if (endpoint == Endpoint::ServiceDevicebound) != client_sends {
            let text = match client_sends {
                true => "Feedback and notifications are received, not sent.",
                false => "Messages to devices are sent, not received.",
            };
            return Err(Refused::new(ErrorCode::InvalidOperation, text));
        }
        if client_sends {
            let accept = Accept {
                credit: limits::RECEIVER_CREDIT,
                ..Accept::default()
            };
            links.accept(link, &accept);
            self.senders.push(link);
        } else {
            links.accept(link, &Accept::default());
            let is_settled = attach.snd_settle_mode == SenderSettleMode::SETTLED;
            let hub = Arc::clone(&self.hub);
            let receiver: Box<dyn AnyReceiver> = match endpoint {
                Endpoint::ServiceFileNotifications => {
                    Box::new(RecordReceiver::<UploadSource>::new(hub, link, is_settled))
                }
                _ => Box::new(RecordReceiver::<FeedbackSource>::new(hub, link, is_settled)),
            };
            self.receivers.push(receiver);
        }
        Ok(())
    }

    fn node_of(&self, _: LinkId) -> Option<&RequestNode> {
        None
    }

    fn request(&mut self, _: &mut Links, _: LinkId, _: &Request<'_>, _: Certainty) -> Answered {
        Answered::Later
    }

    fn takes_messages(&self, link: LinkId) -> bool {
        self.senders.contains(&link)
    }

    fn message(&mut self, links: &mut Links, incoming: &Incoming<'_>) {
        let queued = read::message(&incoming.payload, incoming.message_format, links.authority().now())
            .and_then(|(device, message)| self.sending.push(incoming, device, message));
        if let Err(refused) = queued {
            match incoming.settled {
                true => links.audit_message(&refused),
                false => links.reject(incoming.link, incoming.delivery_id, &refused),
            }
        }
        links.engine().top_up(incoming.link, limits::RECEIVER_CREDIT);
    }

    fn settled(&mut self, _: &mut Links, delivery: &Outgoing, outcome: &Outcome<'_>) {
        let receiver = self
            .receivers
            .iter_mut()
            .find(|receiver| receiver.link() == delivery.link);
        if let Some(receiver) = receiver {
            receiver.settled(&delivery.tag, outcome);
        }
    }

    fn drain(&mut self, link: LinkId, drain: bool) -> bool {
        let receiver = self.receivers.iter_mut().find(|receiver| receiver.link() == link);
        receiver.map(|receiver| receiver.set_drain(drain)).is_some()
    }

    fn poll(&mut self, links: &mut Links, cx: &mut Context<'_>) {
        self.sending.poll(links, cx);
        let hub_name = links.authority().hub_name();
        let (output_bytes, now) = (links.output_bytes(), links.authority().now());
        for receiver in &mut self.receivers {
            if !links.is_detached(receiver.link()) {
                receiver.pump(links.engine(), &hub_name, output_bytes, now, cx);
            }
        }
    }

    fn recheck(&mut self, links: &mut Links, change: AuthorizationChange) {
        let reason = match change {
            AuthorizationChange::Revoked => RefusalReason::Signature,
            AuthorizationChange::Other => RefusalReason::Expired,
        };
        if !is_covered(links.tokens(), Action::MESSAGES_SEND) {
            for link in &self.senders {
                links.detach(*link, &Refused::credentials(reason));
            }
        }
        for receiver in &self.receivers {
            if !is_covered(links.tokens(), receiver.action()) {
                links.detach(receiver.link(), &Refused::credentials(reason));
            }
        }
    }

    fn leave(&mut self, links: &mut Links, _: Leaving) {
        let receivers = self.receivers.iter().map(|receiver| receiver.link());
        for link in self.senders.iter().copied().chain(receivers) {
            links.send_away(link);
        }
    }

    fn forget(&mut self, is_gone: &dyn Fn(LinkId) -> bool) {
        self.senders.retain(|link| !is_gone(*link));
        // Dropping a receiver gives back what it has.
        self.receivers.retain(|receiver| !is_gone(receiver.link()));
    }
}
