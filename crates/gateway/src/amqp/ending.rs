//! Ends of an identity's session: its links are detached, or gone already; the connection and its other identities stay.

use std::rc::Rc;

use holdfast_amqp::LinkId;
use holdfast_amqp_server::{Links, Refused};
use holdfast_device_hub::{CloseReason, EndedConnection, Operation, Refusal, TraceKind};
use holdfast_model::RefusalReason;

use super::device::{Device, SessionState};
use super::handler::Devices;
use super::protocol;
use super::refused::of_end;

impl Devices {
    /// The hub ends a session.
    pub(super) fn end_session(&mut self, links: &mut Links, slot: u32, reason: CloseReason) {
        if reason == CloseReason::Stopping
            && let Some(device) = self.devices.get_mut(slot as usize).and_then(Option::as_mut)
            && !device.sent.is_empty()
        {
            // What it has sent is accepted first.
            device.is_stopping = true;
            return;
        }
        let (refused, audited) = of_end(reason);
        self.end_with(links, slot, &refused, reason.as_str(), audited);
    }

    /// Ends a session, or the attempt to open one, and detaches the links of its identity with this error.
    pub(super) fn end_with(
        &mut self,
        links: &mut Links,
        slot: u32,
        refused: &Refused,
        label: &'static str,
        audited: Option<RefusalReason>,
    ) {
        let Some(device) = self.take(slot) else { return };
        for offer in &device.links {
            self.links.remove(&offer.link);
            links.detach_recorded(offer.link, refused);
        }
        if let Some(reason) = audited {
            // A token of a deleted or disabled identity opens nothing any more.
            self.credentials.remove(&device.name);
            let core = &self.front.core;
            let identity = device.name.to_string();
            let ended = EndedConnection {
                operation: Operation::Session,
                identity: &identity,
                protocol: protocol(links.carrier()),
                address: links.address(),
                refusal: Refusal {
                    code: refused.code,
                    reason,
                },
                detail: format!("the links of the identity were detached: {}", refused.text),
            };
            core.hub().audit().ended(ended, core.clock().now());
        }
        self.finish(device, label);
    }

    /// Ends the session of a device that is not in the table any more.
    pub(super) fn finish(&mut self, device: Device, label: &'static str) {
        self.in_flight_bytes -= device.sent.iter().map(|sent| sent.bytes).sum::<usize>();
        let SessionState::Open(session) = device.session else {
            // What opens it finds its place empty.
            return;
        };
        let front = Rc::clone(&self.front);
        let hub = front.core.hub();
        if hub.is_tracing() {
            let text = || format!("session ended: {label}");
            hub.trace(&session.identity().to_string(), TraceKind::Decided, &text, None);
        }
        tracing::debug!(identity = %session.identity(), reason = label, "AMQP session of a device ended");
        if let Some(mut downlink) = device.downlink {
            downlink.methods.ended(&front.core, &session, self.now_ms());
        }
        front.core.disconnect(&session);
        front.metrics.ended(label);
        front.metrics.connections.decrement(1.0);
    }

    /// A link is gone. With the last one the session ends.
    pub(super) fn link_gone(&mut self, link: LinkId) {
        let Some(at) = self.links.remove(&link) else { return };
        let Some(device) = self.devices.get_mut(at.slot as usize).and_then(Option::as_mut) else {
            return;
        };
        device.links.retain(|offer| offer.link != link);
        if !device.links.is_empty() {
            if let Some(kind) = at.kind {
                self.delivery_link_gone(at.slot, kind);
            }
        } else if let Some(device) = self.take(at.slot) {
            self.finish(device, "detached");
        }
    }
}
