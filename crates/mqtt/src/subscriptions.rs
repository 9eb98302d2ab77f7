//! The channels from the hub to a device, and the set of them that a client has opened.
//!
//! Why a bitmask: whatever filter a client uses, it means one of six channels; the set survives the connection
//! (Python and Node never re-subscribe, Spec §3.1), so it is stored per identity and must be small and comparable.
//! Not here: which filter means which channel ([`crate::topic::channels`]).

use crate::codec::QoS;

/// A kind of message from the hub to a device (Spec §4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Channel {
    /// Cloud-to-device messages.
    C2d = 0,
    /// Replies to twin requests.
    TwinRes = 1,
    /// Changes of desired properties.
    Desired = 2,
    /// Method calls.
    Methods = 3,
    /// Inputs of an Edge module.
    Inputs = 4,
    /// Replies to requests for certificates.
    Credentials = 5,
}

impl Channel {
    /// All channels.
    pub const ALL: [Self; 6] = [
        Self::C2d,
        Self::TwinRes,
        Self::Desired,
        Self::Methods,
        Self::Inputs,
        Self::Credentials,
    ];
}

/// A set of channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct ChannelSet(u8);

impl ChannelSet {
    /// No channel: an accepted filter that never delivers.
    pub const EMPTY: Self = Self(0);

    /// One channel.
    #[must_use]
    pub const fn only(channel: Channel) -> Self {
        Self(1 << channel as u8)
    }

    /// With one more.
    #[must_use]
    pub const fn with(self, channel: Channel) -> Self {
        Self(self.0 | 1 << channel as u8)
    }

    /// With one less.
    #[must_use]
    pub const fn without(self, channel: Channel) -> Self {
        Self(self.0 & !(1 << channel as u8))
    }

    /// Whether the channel is in the set.
    #[must_use]
    pub const fn contains(self, channel: Channel) -> bool {
        self.0 & 1 << channel as u8 != 0
    }

    /// Whether no channel is in the set.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl FromIterator<Channel> for ChannelSet {
    fn from_iter<I: IntoIterator<Item = Channel>>(channels: I) -> Self {
        channels.into_iter().fold(Self::EMPTY, Self::with)
    }
}

/// The open channels of an identity, each with its granted QoS.
///
/// As stored: bit *n* of the low byte = channel *n* is open, bit *n* of the high byte = at QoS 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct SubscriptionSet(u16);

impl SubscriptionSet {
    /// Nothing is open.
    pub const EMPTY: Self = Self(0);

    const KNOWN: u16 = (1 << Channel::ALL.len()) - 1;

    /// The number under which the set is stored.
    #[must_use]
    pub const fn bits(self) -> u16 {
        self.0
    }

    /// The inverse of [`Self::bits`]; channels of a later version are dropped, a QoS of a closed channel too.
    #[must_use]
    pub const fn from_bits(bits: u16) -> Self {
        let open = bits & Self::KNOWN;
        Self(open | bits & open << 8)
    }

    /// Opens channels, or changes their QoS; 2 becomes 1.
    #[must_use]
    pub const fn opened(self, channels: ChannelSet, qos: QoS) -> Self {
        let open = channels.0 as u16;
        match qos.granted() {
            QoS::AtMostOnce => Self((self.0 | open) & !(open << 8)),
            QoS::AtLeastOnce | QoS::ExactlyOnce => Self(self.0 | open | open << 8),
        }
    }

    /// Closes channels.
    #[must_use]
    pub const fn closed(self, channels: ChannelSet) -> Self {
        let closed = channels.0 as u16;
        Self(self.0 & !(closed | closed << 8))
    }

    /// The granted QoS; `None` = not open.
    #[must_use]
    pub const fn qos(self, channel: Channel) -> Option<QoS> {
        match (self.0 >> channel as u8 & 1, self.0 >> (8 + channel as u8) & 1) {
            (0, _) => None,
            (_, 0) => Some(QoS::AtMostOnce),
            _ => Some(QoS::AtLeastOnce),
        }
    }

    /// Whether the channel is open.
    #[must_use]
    pub const fn is_open(self, channel: Channel) -> bool {
        self.qos(channel).is_some()
    }

    /// Whether nothing is open.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_channel_is_granted_at_most_qos_1() {
        let set = SubscriptionSet::EMPTY.opened(ChannelSet::only(Channel::C2d), QoS::ExactlyOnce);
        assert_eq!(set.qos(Channel::C2d), Some(QoS::AtLeastOnce));
        assert_eq!(set.qos(Channel::Methods), None);
    }

    #[test]
    fn subscribing_again_replaces_the_qos() {
        let channels = ChannelSet::only(Channel::Methods).with(Channel::Desired);
        let set = SubscriptionSet::EMPTY.opened(channels, QoS::AtLeastOnce);
        let set = set.opened(ChannelSet::only(Channel::Methods), QoS::AtMostOnce);
        assert_eq!(set.qos(Channel::Methods), Some(QoS::AtMostOnce));
        assert_eq!(set.qos(Channel::Desired), Some(QoS::AtLeastOnce));
        assert_eq!(set.closed(channels), SubscriptionSet::EMPTY);
    }

    #[test]
    fn the_stored_number_never_changes() {
        let set = SubscriptionSet::EMPTY
            .opened(ChannelSet::only(Channel::C2d), QoS::AtLeastOnce)
            .opened(ChannelSet::only(Channel::Methods), QoS::AtMostOnce);
        assert_eq!(set.bits(), 0b0000_0001_0000_1001);
    }

    proptest! {
        #[test]
        fn any_stored_number_gives_a_set_that_is_stored_as_itself(bits: u16) {
            let set = SubscriptionSet::from_bits(bits);
            prop_assert_eq!(SubscriptionSet::from_bits(set.bits()), set);
            for channel in Channel::ALL {
                prop_assert_eq!(set.is_open(channel), bits >> channel as u8 & 1 == 1);
            }
        }
    }
}
