//! MQTT packets as a device that also receives sees them, written independently of the hub's codec.
//!
//! Invariant: at most [`MAX_PACKET`] bytes of an incomplete packet are kept.
//! Not here: CONNECT and SUBSCRIBE ([`crate::wire`]).

use anyhow::{Context, Result, bail, ensure};

use crate::wire::{put_length, put_text};

/// Far more than a method call or a notification of desired properties has (Spec device-mqtt §7, §8).
const MAX_PACKET: usize = 512 * 1024;
/// First byte of a PUBLISH at QoS 0.
const PUBLISH_QOS0: u8 = 0x30;

/// A packet from the server, as far as this device uses it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Packet {
    /// At QoS 0, the only one that this device subscribes with.
    Publish {
        topic: String,
        payload: Vec<u8>,
    },
    /// The granted QoS, or 0x80.
    SubAck(u8),
    PingResp,
}

/// Splits a byte stream that arrives in arbitrary pieces into packets.
#[derive(Debug, Default)]
pub(super) struct Packets {
    buffer: Vec<u8>,
    parsed: usize,
}

impl Packets {
    /// The place for the next bytes.
    pub(super) fn space(&mut self) -> &mut Vec<u8> {
        self.buffer.drain(..self.parsed);
        self.parsed = 0;
        self.buffer.reserve(4096);
        &mut self.buffer
    }

    /// The next whole packet.
    ///
    /// # Errors
    /// When it is malformed, too long, or of a kind that was not requested.
    pub(super) fn next(&mut self) -> Result<Option<Packet>> {
        let input = &self.buffer[self.parsed..];
        let Some((length, head)) = remaining_length(input)? else {
            return Ok(None);
        };
        ensure!(length <= MAX_PACKET, "the server sent a packet of {length} bytes");
        let Some(body) = input.get(head..head + length) else {
            return Ok(None);
        };
        let packet = decode(input[0], body)?;
        self.parsed += head + length;
        Ok(Some(packet))
    }
}

/// The remaining length, and the bytes of the fixed header.
fn remaining_length(input: &[u8]) -> Result<Option<(usize, usize)>> {
    let mut length = 0;
    for (index, byte) in input.iter().skip(1).take(4).enumerate() {
        length |= usize::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Ok(Some((length, index + 2)));
        }
    }
    ensure!(input.len() < 5, "a remaining length of more than four bytes");
    Ok(None)
}

fn decode(first: u8, body: &[u8]) -> Result<Packet> {
    match first & 0xf0 {
        0x30 => {
            ensure!(first & 0x06 == 0, "a PUBLISH above the granted QoS 0");
            let (length, rest) = body.split_first_chunk::<2>().context("a PUBLISH without topic")?;
            let (topic, payload) = rest
                .split_at_checked(usize::from(u16::from_be_bytes(*length)))
                .context("a topic beyond its PUBLISH")?;
            Ok(Packet::Publish {
                topic: std::str::from_utf8(topic).context("a topic")?.to_owned(),
                payload: payload.to_vec(),
            })
        }
        0x90 => match body {
            [_, _, code] => Ok(Packet::SubAck(*code)),
            _ => bail!("a SUBACK of {} bytes", body.len()),
        },
        0xd0 => Ok(Packet::PingResp),
        kind => bail!("the server sent a packet of type {} that was not requested", kind >> 4),
    }
}

/// Appends a PUBLISH at QoS 0.
///
/// # Errors
/// When a part is longer than MQTT allows.
pub(super) fn encode_publish(out: &mut Vec<u8>, topic: &str, payload: &[u8]) -> Result<()> {
    out.push(PUBLISH_QOS0);
    put_length(out, 2 + topic.len() + payload.len())?;
    put_text(out, topic)?;
    out.extend_from_slice(payload);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_pieces(input: &[u8], size: usize) -> Vec<Packet> {
        let mut packets = Packets::default();
        let mut seen = Vec::new();
        for piece in input.chunks(size) {
            packets.space().extend_from_slice(piece);
            while let Some(packet) = packets.next().unwrap() {
                seen.push(packet);
            }
        }
        seen
    }

    #[test]
    fn packets_are_found_however_the_stream_is_cut() {
        let mut input = vec![0x90, 3, 0, 1, 0];
        encode_publish(&mut input, "a/b", &[7; 300]).unwrap();
        input.extend([0xd0, 0]);
        encode_publish(&mut input, "c", b"").unwrap();
        let publish = |topic: &str, payload: &[u8]| Packet::Publish {
            topic: topic.to_owned(),
            payload: payload.to_vec(),
        };
        let expected = [
            Packet::SubAck(0),
            publish("a/b", &[7; 300]),
            Packet::PingResp,
            publish("c", b""),
        ];
        for size in 1..=input.len() {
            assert_eq!(in_pieces(&input, size), expected, "in pieces of {size}");
        }
    }

    #[test]
    fn malformed_and_unrequested_packets_are_errors() {
        for bad in [
            &[0x32, 5, 0, 1, b'a', 0, 1][..],
            &[0x30, 1, 0],
            &[0x30, 3, 0, 9, b'a'],
            &[0x90, 2, 0, 1],
            &[0x50, 2, 0, 1],
            &[0x30, 0xff, 0xff, 0xff, 0xff, 1],
            &[0x30, 0xff, 0xff, 0xff, 0x7f],
        ] {
            let mut packets = Packets::default();
            packets.space().extend_from_slice(bad);
            assert!(packets.next().is_err(), "{bad:02x?}");
        }
    }
}
