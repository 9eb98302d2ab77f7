//! One identity of a connection: its session and its links.

use std::collections::VecDeque;
use std::rc::Rc;

use holdfast_amqp::address::DeviceChannel;
use holdfast_amqp::{LinkId, Role};
use holdfast_amqp_server::Refused;
use holdfast_device_hub::{SendRates, Session};
use holdfast_model::ErrorCode;

use super::credentials::Name;
use super::downlink::Downlink;
use super::inbox::Target;
use super::telemetry::Sent;
use super::twins::DeviceTwin;

/// The use of a link (Spec amqp §6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LinkKind {
    /// The client sends messages.
    Telemetry,
    /// A module listens for inputs from its Edge device: nothing is delivered.
    Inputs,
    /// The client receives cloud-to-device messages.
    Messages,
    /// The client receives calls of methods.
    Calls,
    /// The client answers them.
    Answers,
    /// The client asks about its twin.
    TwinRequests,
    /// The client receives the answers, and changes of its desired properties.
    TwinAnswers,
}

impl LinkKind {
    /// The kind of a link with this client's role.
    ///
    /// # Errors
    /// The refusal of an address that is not used in this direction.
    pub(super) fn of(role: Role, channel: DeviceChannel, is_module: bool) -> Result<Self, Refused> {
        match (channel, role) {
            (DeviceChannel::Events, Role::Sender) => Ok(Self::Telemetry),
            (DeviceChannel::Events, Role::Receiver) if is_module => Ok(Self::Inputs),
            (DeviceChannel::Events, Role::Receiver) => {
                let text = "Messages of a device are sent here, not received.";
                Err(Refused::new(ErrorCode::InvalidOperation, text))
            }
            (DeviceChannel::Devicebound, Role::Receiver) => Ok(Self::Messages),
            (DeviceChannel::Devicebound, Role::Sender) => {
                let text = "Messages to a device are received here, not sent.";
                Err(Refused::new(ErrorCode::InvalidOperation, text))
            }
            (DeviceChannel::Methods, Role::Receiver) => Ok(Self::Calls),
            (DeviceChannel::Methods, Role::Sender) => Ok(Self::Answers),
            (DeviceChannel::Twin, Role::Sender) => Ok(Self::TwinRequests),
            (DeviceChannel::Twin, Role::Receiver) => Ok(Self::TwinAnswers),
            (DeviceChannel::Feedback, _) => {
                let text = "Feedback for devices does not exist.";
                Err(Refused::new(ErrorCode::FeatureNotSupported, text))
            }
        }
    }

    /// Whether the client sends on it.
    pub(super) fn client_sends(self) -> bool {
        match self {
            Self::Telemetry | Self::Answers | Self::TwinRequests => true,
            Self::Inputs | Self::Messages | Self::Calls | Self::TwinAnswers => false,
        }
    }
}

/// A link that the client attaches.
#[derive(Debug)]
pub(super) struct Offer {
    pub(super) link: LinkId,
    pub(super) kind: LinkKind,
    /// `com.microsoft:channel-correlation-id`: the two links of a pair carry the same one.
    pub(super) correlation: Option<Box<str>>,
    /// The client wants its unused credit back.
    pub(super) drains: bool,
}

/// The session of an identity.
pub(super) enum SessionState {
    /// It is being opened.
    Connecting,
    /// It is open.
    Open(Session),
}

/// One identity.
pub(super) struct Device {
    pub(super) name: Name,
    pub(super) target: Rc<Target>,
    pub(super) session: SessionState,
    /// Its accepted links; while it connects, those that wait.
    pub(super) links: Vec<Offer>,
    /// Its messages that are not decided, oldest first.
    pub(super) sent: VecDeque<Sent>,
    /// Only of one that has sent something to a hub with rates.
    pub(super) rates: Option<Box<SendRates>>,
    /// `to` of its messages.
    pub(super) own_address: Option<Box<str>>,
    /// It wants credit for further messages.
    pub(super) is_thirsty: bool,
    /// A turn of a message is waited for.
    pub(super) waits_for_turn: bool,
    /// Deliveries on their way to it, once it has a link for them.
    pub(super) downlink: Option<Box<Downlink>>,
    /// Only of one that has to do with its twin.
    pub(super) twin: Option<Box<DeviceTwin>>,
    /// It has subscribed to changes of its desired properties.
    pub(super) wants_changes: bool,
    /// What waits for it is looked at in this turn.
    pub(super) is_pending: bool,
    /// The links are detached once everything that it has sent is decided.
    pub(super) is_stopping: bool,
}

impl Device {
    pub(super) fn new(name: Name, target: Rc<Target>) -> Self {
        Self {
            name,
            target,
            session: SessionState::Connecting,
            links: Vec::new(),
            sent: VecDeque::new(),
            rates: None,
            own_address: None,
            is_thirsty: false,
            waits_for_turn: false,
            downlink: None,
            twin: None,
            wants_changes: false,
            is_pending: false,
            is_stopping: false,
        }
    }

    pub(super) fn session(&self) -> Option<&Session> {
        match &self.session {
            SessionState::Open(session) => Some(session),
            SessionState::Connecting => None,
        }
    }

    /// Its link of a kind.
    pub(super) fn link(&self, kind: LinkKind) -> Option<LinkId> {
        self.links
            .iter()
            .find(|offer| offer.kind == kind)
            .map(|offer| offer.link)
    }
}
