//! The driver's next step after a packet.

use smallvec::SmallVec;

use crate::codec::Publish;
use crate::login::Claim;
use crate::subscriptions::SubscriptionSet;
use crate::topic::DeviceTopic;

/// The step that a packet requires of the driver.
#[derive(Debug, Clone, PartialEq)]
pub enum Action<'a> {
    /// Check the claim, then call `accept` or `refuse`. Boxed: it is large, and comes once in a connection's life.
    Authenticate(Box<Claim<'a>>),
    /// Carry out the request of the topic; at QoS 1 write a PUBACK when that is durable, in the order of arrival.
    Publish {
        /// The topic, understood.
        topic: DeviceTopic<'a>,
        /// The packet.
        packet: Publish<'a>,
    },
    /// Store the set if it changed and the session is not clean, then write the SUBACK, then `activate` the set.
    Subscribe {
        /// For the SUBACK.
        packet_id: u16,
        /// The granted QoS of each filter, in order.
        codes: SmallVec<[u8; 8]>,
        /// All open channels after this packet.
        set: SubscriptionSet,
        /// Whether the packet changed the set.
        changed: bool,
    },
    /// As [`Action::Subscribe`], with an UNSUBACK.
    Unsubscribe {
        /// For the UNSUBACK.
        packet_id: u16,
        /// All open channels after this packet.
        set: SubscriptionSet,
        /// Whether the packet changed the set.
        changed: bool,
    },
    /// The client has this delivery; unknown ids are to be ignored.
    Acked {
        /// The id of the PUBLISH that we sent.
        packet_id: u16,
    },
    /// Write a PINGRESP at once.
    Ping,
    /// Close; the will is void.
    Disconnect,
    /// The CONNECT is still being checked: keep the packet and offer it again after `accept`.
    Wait,
    /// The connection is over: drop the packet.
    Ignore,
}
