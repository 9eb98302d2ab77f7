//! PUBLISH, the hot one.

use super::reader::Reader;
use super::{PacketId, QoS};
use crate::violation::Violation;

/// A message on its way, either direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Publish<'a> {
    /// Sent before, perhaps. Never set at QoS 0.
    pub dup: bool,
    /// Delivery guarantee.
    pub qos: QoS,
    /// Asks the server to keep the message for later subscribers; the hub only records the wish (Spec §5.3).
    pub retain: bool,
    /// UTF-8 without NUL; may contain wildcards (see the header of [`super`]). Not empty.
    pub topic: &'a str,
    /// `Some` and not 0 exactly at QoS 1 and 2.
    pub packet_id: Option<PacketId>,
    /// May be empty.
    pub payload: &'a [u8],
}

#[inline]
pub(super) fn decode<'a>(flags: u8, reader: &mut Reader<'a>) -> Result<Publish<'a>, Violation> {
    let qos = QoS::from_bits((flags >> 1) & 0b11).ok_or(Violation::PublishQos)?;
    let topic = reader.text()?;
    let packet_id = match qos {
        QoS::AtMostOnce => None,
        QoS::AtLeastOnce | QoS::ExactlyOnce => Some(reader.packet_id()?),
    };
    if topic.is_empty() {
        return Err(Violation::EmptyTopic);
    }
    Ok(Publish {
        dup: flags & 0b1000 != 0,
        qos,
        retain: flags & 1 != 0,
        topic,
        packet_id,
        payload: reader.take_rest(),
    })
}
