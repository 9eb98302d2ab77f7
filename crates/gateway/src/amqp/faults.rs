//! Fault-injection messages over AMQP: a link, session or connection breaks, or the identity is refused for a while.

use std::time::Duration;

use holdfast_amqp::LinkId;
use holdfast_amqp_server::{Breakage, Links, Refused};
use holdfast_model::{ErrorCode, TelemetryMessage};

use super::device::LinkKind;
use super::handler::{Devices, Done};
use super::inbox::Place;
use crate::faults::RequestedFault;

/// How long a fault is put off while messages of the device are undecided.
const DEFERRAL: Duration = Duration::from_millis(10);
/// How often: a device that sends on and on gets its fault all the same.
const MAX_DEFERRALS: u32 = 100;

/// A fault that a message has requested.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// Of the connection, or of a part that has nothing to do with the identity.
    Break(Breakage),
    /// Of the link of this kind, if the identity has one.
    Link(LinkKind),
    /// The identity's links are detached, and it is refused for the duration.
    Refuse(ErrorCode, Duration),
}

impl Fault {
    /// The fault of a message that came on `link`, and when it happens; `None` for telemetry, and for faults of another protocol.
    pub(super) fn of(message: &TelemetryMessage<'_>, link: LinkId) -> Option<(Duration, Self)> {
        let requested = RequestedFault::of(message)?;
        let fault = match (&*requested.kind, requested.refusal()) {
            ("KillTcp", _) => Self::Break(Breakage::Reset),
            ("ShutDownAmqp", _) => Self::Break(Breakage::ShutDown),
            ("KillAmqpConnection", _) => Self::Break(Breakage::Close),
            ("KillAmqpSession", _) => Self::Break(Breakage::Session(link.session())),
            ("KillAmqpCBSLinkReq", _) => Self::Break(Breakage::TokenRequests),
            ("KillAmqpCBSLinkResp", _) => Self::Break(Breakage::TokenResponses),
            ("KillAmqpD2CLink", _) => Self::Link(LinkKind::Telemetry),
            ("KillAmqpC2DLink", _) => Self::Link(LinkKind::Messages),
            ("KillAmqpMethodReqLink", _) => Self::Link(LinkKind::Calls),
            ("KillAmqpMethodRespLink", _) => Self::Link(LinkKind::Answers),
            ("KillAmqpTwinLinkReq", _) => Self::Link(LinkKind::TwinRequests),
            ("KillAmqpTwinLinkResp", _) => Self::Link(LinkKind::TwinAnswers),
            (_, Some(code)) => Self::Refuse(code, requested.duration),
            _ => {
                requested.is_telemetry("AMQP");
                return None;
            }
        };
        Some((requested.delay, fault))
    }
}

impl Devices {
    /// Plans the fault of the device at `place`.
    pub(super) fn plan_fault(&mut self, place: Place, (delay, fault): (Duration, Fault)) {
        self.fault_after(delay, place, fault, MAX_DEFERRALS);
    }

    fn fault_after(&mut self, delay: Duration, place: Place, fault: Fault, deferrals: u32) {
        self.tasks.push(Box::pin(async move {
            tokio::time::sleep(delay).await;
            Done::Fault(place, fault, deferrals)
        }));
    }

    /// Lets a fault happen, if the device is still there; its message is accepted first.
    pub(super) fn inject(&mut self, links: &mut Links, place: Place, fault: Fault, deferrals: u32) {
        let Some(device) = self.at(place) else { return };
        if !device.sent.is_empty() && deferrals > 0 {
            return self.fault_after(DEFERRAL, place, fault, deferrals - 1);
        }
        match fault {
            Fault::Break(breakage) => links.break_with(breakage),
            Fault::Link(kind) => {
                if let Some(link) = device.link(kind) {
                    links.break_with(Breakage::Link(link));
                }
            }
            Fault::Refuse(code, duration) => {
                if let Some(session) = device.session() {
                    let identity = session.identity().clone();
                    self.front.core.hub().refuse_for(&identity, code, duration);
                }
                let refused = Refused::new(code, "A fault-injection message requested this.");
                self.end_with(links, place.slot, &refused, "injected_fault", None);
            }
        }
    }
}
