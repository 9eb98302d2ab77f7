//! PUBLISH packet templates per thread, patched in place: consecutive messages of a device become one contiguous slice
//! without an allocation and without copying a payload.
//!
//! All devices of a fleet have names of one length, so one set of templates serves all connections of a thread.

use anyhow::{Result, ensure};

use crate::marker::{FILLER, MARKER_BYTES, MessageMarker};
use crate::target::DeviceNames;
use crate::wire::{self, PublishLayout};

/// The most bytes that go to a socket in one write.
const MAX_BATCH_BYTES: usize = 256 * 1024;

/// The message of a run, before the device's name is filled in.
#[derive(Debug, Clone)]
pub struct Shape {
    /// The topic, with `{device}` in place of the device's name.
    pub topic: String,
    /// Payload bytes; below [`MARKER_BYTES`] messages carry no marker.
    pub payload_bytes: usize,
    /// The run's number in every marker.
    pub run: u64,
}

/// Packets of one shape, ready to be patched.
#[derive(Debug)]
pub struct Batch {
    packets: Vec<u8>,
    packet_bytes: usize,
    layout: PublishLayout,
    /// Offsets of the device's number in the packet, one for each `{device}` in the topic.
    digits: Vec<usize>,
    names: DeviceNames,
    marked: bool,
}

/// Consecutive messages of one device.
#[derive(Debug, Clone, Copy)]
pub struct Messages {
    /// The device's number in the fleet.
    pub device: u32,
    /// The device's connection within the run.
    pub epoch: u32,
    /// The first message.
    pub first: u64,
    /// How many.
    pub count: usize,
    /// Whether they may have been sent before: the DUP flag.
    pub is_resend: bool,
    /// Microseconds since 1970.
    pub now_us: u64,
}

impl Batch {
    /// Templates for up to `window` packets of `shape`.
    ///
    /// # Errors
    /// When the topic or the payload is too long for MQTT.
    pub fn new(shape: &Shape, names: &DeviceNames, window: usize) -> Result<Self> {
        let topic = shape.topic.replace("{device}", &names.name(0));
        let mut payload = vec![FILLER; shape.payload_bytes];
        let marked = shape.payload_bytes >= MARKER_BYTES;
        if marked {
            MessageMarker {
                run: shape.run,
                device: 0,
                epoch: 0,
                number: 0,
                sent_us: 0,
            }
            .write(&mut payload);
        }
        let mut packet = Vec::new();
        let layout = wire::encode_publish(&mut packet, &topic, &payload)?;
        ensure!(
            !shape.topic.contains(['#', '+']),
            "a topic to publish on has no wildcards"
        );
        let mut digits = Vec::new();
        let mut at = layout.topic;
        for (index, part) in shape.topic.split("{device}").enumerate() {
            if index > 0 {
                digits.push(at + names.digits_at());
                at += names.length();
            }
            at += part.len();
        }
        let rows = (MAX_BATCH_BYTES / packet.len()).clamp(1, window.max(1));
        Ok(Self {
            packet_bytes: packet.len(),
            packets: packet.repeat(rows),
            layout,
            digits,
            names: names.clone(),
            marked,
        })
    }

    /// How many messages one call of [`Batch::fill`] can hold.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.packets.len() / self.packet_bytes
    }

    /// The bytes of `messages`, in order. At most [`Batch::rows`] of them.
    pub fn fill(&mut self, messages: Messages) -> &[u8] {
        let Messages {
            device,
            epoch,
            first,
            count,
            is_resend,
            now_us,
        } = messages;
        let count = count.min(self.rows());
        let digits = self.names.digits(device);
        let first_byte = wire::PUBLISH_QOS1 | if is_resend { wire::DUP } else { 0 };
        let used = count * self.packet_bytes;
        for (number, packet) in (first..).zip(self.packets[..used].chunks_exact_mut(self.packet_bytes)) {
            packet[0] = first_byte;
            for at in &self.digits {
                packet[*at..*at + digits.len()].copy_from_slice(&digits);
            }
            let id = self.layout.packet_id;
            packet[id..id + 2].copy_from_slice(&packet_id(number).to_be_bytes());
            if self.marked {
                MessageMarker {
                    run: 0,
                    device,
                    epoch,
                    number,
                    sent_us: now_us,
                }
                .patch(&mut packet[self.layout.payload..]);
            }
        }
        &self.packets[..used]
    }

    /// Bytes of one packet.
    #[must_use]
    pub fn packet_bytes(&self) -> usize {
        self.packet_bytes
    }
}

/// The packet id of a device's message: 1 to 65,535, over and over.
#[must_use]
pub fn packet_id(number: u64) -> u16 {
    // A remainder below 65,535 plus one fits.
    (number % 65_535) as u16 + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patched_templates_equal_packets_encoded_one_by_one() {
        let names = DeviceNames::new("dev-").unwrap();
        let shape = Shape {
            topic: "a/{device}/b/{device}/".into(),
            payload_bytes: 100,
            run: 5,
        };
        let mut batch = Batch::new(&shape, &names, 4).unwrap();
        let messages = Messages {
            device: 1234,
            epoch: 2,
            first: 65_534,
            count: 3,
            is_resend: true,
            now_us: 77,
        };
        let filled = batch.fill(messages).to_vec();
        let mut expected = Vec::new();
        for number in 65_534..65_537 {
            let mut payload = vec![FILLER; 100];
            MessageMarker {
                run: 5,
                device: 1234,
                epoch: 2,
                number,
                sent_us: 77,
            }
            .write(&mut payload);
            let start = expected.len();
            let topic = shape.topic.replace("{device}", &names.name(1234));
            let layout = wire::encode_publish(&mut expected, &topic, &payload).unwrap();
            expected[start] |= wire::DUP;
            let id = start + layout.packet_id;
            expected[id..id + 2].copy_from_slice(&packet_id(number).to_be_bytes());
        }
        assert_eq!(filled, expected);
        assert_eq!([packet_id(65_534), packet_id(65_535)], [65_535, 1]);
    }

    #[test]
    fn a_payload_too_short_for_a_marker_is_sent_without_one() {
        let names = DeviceNames::new("d").unwrap();
        let shape = Shape {
            topic: "{device}".into(),
            payload_bytes: 0,
            run: 1,
        };
        let mut batch = Batch::new(&shape, &names, 1).unwrap();
        let bytes = batch.fill(Messages {
            device: 3,
            epoch: 0,
            first: 0,
            count: 9,
            is_resend: false,
            now_us: 0,
        });
        assert_eq!(bytes, b"\x32\x0c\0\x08d0000003\0\x01");
    }
}
