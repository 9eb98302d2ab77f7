//! A PUBLISH encoded once and sent many times: the load generator changes only the packet id and its payload.

use super::encode::{EncodeError, publish};
use super::{PacketId, Publish, QoS};

/// The bytes of a PUBLISH whose packet id and payload can be changed in place.
#[derive(Debug, Clone)]
pub struct PublishTemplate {
    bytes: Vec<u8>,
    /// Where the packet id stands; `None` at QoS 0.
    packet_id_at: Option<usize>,
    payload_at: usize,
}

impl PublishTemplate {
    /// Encodes a PUBLISH with this payload; at QoS 1 the packet id is 1 until it is set.
    ///
    /// # Errors
    /// The topic or the packet is too long.
    pub fn new(topic: &str, qos: QoS, payload: &[u8]) -> Result<Self, EncodeError> {
        let packet_id = (qos != QoS::AtMostOnce).then_some(1);
        let packet = Publish {
            qos,
            topic,
            packet_id,
            payload,
            ..Publish::default()
        };
        let mut bytes = Vec::with_capacity(topic.len() + payload.len() + 9);
        publish(&mut bytes, &packet)?;
        let payload_at = bytes.len() - payload.len();
        Ok(Self {
            bytes,
            packet_id_at: packet_id.map(|_| payload_at - 2),
            payload_at,
        })
    }

    /// Sets the packet id (nothing happens at QoS 0) and gives the packet's bytes.
    #[inline]
    pub fn packet(&mut self, packet_id: PacketId) -> &[u8] {
        if let Some(place) = self.packet_id_at.and_then(|at| self.bytes.get_mut(at..at + 2)) {
            place.copy_from_slice(&packet_id.to_be_bytes());
        }
        &self.bytes
    }

    /// The payload, to be changed in place; its length is fixed.
    #[inline]
    pub fn payload_mut(&mut self) -> &mut [u8] {
        self.bytes.get_mut(self.payload_at..).unwrap_or_default()
    }
}
