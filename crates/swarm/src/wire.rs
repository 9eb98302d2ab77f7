//! The part of MQTT 3.1.1 that a sending device needs, written independently of the hub's codec.
//!
//! Invariants: [`Scanner`] keeps at most [`LARGEST_REPLY`] bytes of an incomplete packet; any packet from the server
//! but CONNACK, PUBACK, SUBACK and PINGRESP is an error, since this client requests no others.

use anyhow::{Result, bail};

/// PINGREQ, whole.
pub const PINGREQ: [u8; 2] = [0xc0, 0];
/// DISCONNECT, whole.
pub const DISCONNECT: [u8; 2] = [0xe0, 0];
/// First byte of a PUBLISH at QoS 1.
pub const PUBLISH_QOS1: u8 = 0x32;
/// The bit of the first byte that marks a resend.
pub const DUP: u8 = 0x08;

/// The longest packet a server may send to this client: SUBACK for one filter.
const LARGEST_REPLY: usize = 5;

/// A packet from the server to a client that only publishes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply {
    /// The return code, 0 = accepted.
    ConnAck {
        /// The server kept a session of this client.
        session_present: bool,
        /// 0 = accepted.
        code: u8,
    },
    /// The packet id of the acknowledged PUBLISH.
    PubAck(u16),
    /// The granted QoS, or 0x80.
    SubAck(u8),
    /// The answer to a PINGREQ.
    PingResp,
}

/// Splits a byte stream that arrives in arbitrary pieces into replies.
#[derive(Debug, Default)]
pub struct Scanner {
    kept: [u8; LARGEST_REPLY],
    length: u8,
}

impl Scanner {
    /// Calls `each` for every whole reply in what is left of earlier input and `input`.
    ///
    /// # Errors
    /// When the server sends another packet, or `each` fails.
    pub fn scan(&mut self, mut input: &[u8], mut each: impl FnMut(Reply) -> Result<()>) -> Result<()> {
        while self.length > 0 {
            let Some((first, rest)) = input.split_first() else {
                return Ok(());
            };
            self.kept[usize::from(self.length)] = *first;
            self.length += 1;
            input = rest;
            if let Some((reply, _)) = decode(&self.kept[..usize::from(self.length)])? {
                self.length = 0;
                each(reply)?;
            }
        }
        while let Some((reply, used)) = decode(input)? {
            each(reply)?;
            input = &input[used..];
        }
        // `decode` refuses packets longer than a reply, so the rest fits.
        self.kept[..input.len()].copy_from_slice(input);
        self.length = u8::try_from(input.len())?;
        Ok(())
    }
}

fn decode(input: &[u8]) -> Result<Option<(Reply, usize)>> {
    // PUBACK first: nearly all packets of a run.
    if let [0x40, 2, high, low, ..] = *input {
        return Ok(Some((Reply::PubAck(u16::from_be_bytes([high, low])), 4)));
    }
    Ok(match *input {
        [] => None,
        [0x20 | 0x40 | 0x90 | 0xd0] => None,
        [0x20, 2, flags, code, ..] => Some((
            Reply::ConnAck {
                session_present: flags & 1 == 1,
                code,
            },
            4,
        )),
        [0x90, 3, _, _, code, ..] => Some((Reply::SubAck(code), 5)),
        [0xd0, 0, ..] => Some((Reply::PingResp, 2)),
        [0x20 | 0x40, 2, ..] | [0x90, 3, ..] => None,
        [first, ..] => bail!("the server sent a packet of type {} that was not requested", first >> 4),
    })
}

/// The fields of a CONNECT.
#[derive(Debug, Clone)]
pub struct Connect<'a> {
    /// The client id.
    pub client_id: &'a str,
    /// Left out when `None`.
    pub username: Option<&'a str>,
    /// Left out when `None`.
    pub password: Option<&'a str>,
    /// Seconds.
    pub keep_alive: u16,
    /// Whether the server forgets the session when the connection ends.
    pub clean_session: bool,
}

impl Connect<'_> {
    /// Appends the packet to `out`.
    ///
    /// # Errors
    /// When a field is longer than MQTT's 65,535 bytes.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<()> {
        let fields = [Some(self.client_id), self.username, self.password];
        let length = 10 + fields.iter().flatten().map(|field| 2 + field.len()).sum::<usize>();
        out.push(0x10);
        put_length(out, length)?;
        put_text(out, "MQTT")?;
        let flags = u8::from(self.clean_session) << 1
            | u8::from(self.username.is_some()) << 7
            | u8::from(self.password.is_some()) << 6;
        out.extend_from_slice(&[4, flags]);
        out.extend_from_slice(&self.keep_alive.to_be_bytes());
        fields.iter().flatten().try_for_each(|field| put_text(out, field))
    }
}

/// Appends a SUBSCRIBE for one filter.
///
/// # Errors
/// As [`Connect::encode`].
pub fn encode_subscribe(out: &mut Vec<u8>, packet_id: u16, filter: &str, qos: u8) -> Result<()> {
    out.push(0x82);
    put_length(out, 2 + 2 + filter.len() + 1)?;
    out.extend_from_slice(&packet_id.to_be_bytes());
    put_text(out, filter)?;
    out.push(qos);
    Ok(())
}

/// Where the changing parts of an encoded PUBLISH are, counted from its first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublishLayout {
    /// First byte of the topic.
    pub topic: usize,
    /// First byte of the packet id.
    pub packet_id: usize,
    /// First byte of the payload, which extends to the end.
    pub payload: usize,
}

/// Appends a PUBLISH at QoS 1 with packet id 0 (to be patched) and says where its parts are.
///
/// # Errors
/// As [`Connect::encode`].
pub fn encode_publish(out: &mut Vec<u8>, topic: &str, payload: &[u8]) -> Result<PublishLayout> {
    let start = out.len();
    out.push(PUBLISH_QOS1);
    put_length(out, 2 + topic.len() + 2 + payload.len())?;
    put_text(out, topic)?;
    let packet_id = out.len() - start;
    out.extend_from_slice(&[0, 0]);
    out.extend_from_slice(payload);
    Ok(PublishLayout {
        topic: packet_id - topic.len(),
        packet_id,
        payload: packet_id + 2,
    })
}

pub(crate) fn put_text(out: &mut Vec<u8>, text: &str) -> Result<()> {
    out.extend_from_slice(&u16::try_from(text.len())?.to_be_bytes());
    out.extend_from_slice(text.as_bytes());
    Ok(())
}

pub(crate) fn put_length(out: &mut Vec<u8>, mut length: usize) -> Result<()> {
    if length >= 1 << 28 {
        bail!("a packet of {length} bytes is longer than MQTT allows");
    }
    loop {
        let low = u8::try_from(length & 0x7f)?;
        length >>= 7;
        out.push(low | if length > 0 { 0x80 } else { 0 });
        if length == 0 {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan_in_pieces(input: &[u8], size: usize) -> Vec<Reply> {
        let mut scanner = Scanner::default();
        let mut seen = Vec::new();
        for piece in input.chunks(size) {
            scanner
                .scan(piece, |reply| {
                    seen.push(reply);
                    Ok(())
                })
                .unwrap();
        }
        seen
    }

    #[test]
    fn replies_are_found_however_the_stream_is_cut() {
        let input = [
            0x20, 2, 1, 0, 0x40, 2, 1, 2, 0x40, 2, 0xff, 0xff, 0xd0, 0, 0x90, 3, 0, 1, 1, 0x40, 2, 0, 9,
        ];
        let whole = scan_in_pieces(&input, input.len());
        assert_eq!(whole.len(), 6);
        assert_eq!(
            whole[0],
            Reply::ConnAck {
                session_present: true,
                code: 0
            }
        );
        assert_eq!(whole[5], Reply::PubAck(9));
        for size in 1..input.len() {
            assert_eq!(scan_in_pieces(&input, size), whole, "in pieces of {size}");
        }
    }

    #[test]
    fn a_publish_from_the_server_is_an_error() {
        assert!(Scanner::default().scan(&[0x30, 5, 0, 1], |_| Ok(())).is_err());
    }

    #[test]
    fn connect_and_publish_have_the_bytes_of_the_standard() {
        let mut out = Vec::new();
        let connect = Connect {
            client_id: "d",
            username: Some("u"),
            password: Some("pw"),
            keep_alive: 60,
            clean_session: true,
        };
        connect.encode(&mut out).unwrap();
        assert_eq!(out, b"\x10\x14\0\x04MQTT\x04\xc2\0\x3c\0\x01d\0\x01u\0\x02pw");
        out.clear();
        let layout = encode_publish(&mut out, "a/b", &[7; 200]).unwrap();
        assert_eq!(&out[..8], b"\x32\xcf\x01\0\x03a/b");
        assert_eq!(
            layout,
            PublishLayout {
                topic: 5,
                packet_id: 8,
                payload: 10
            }
        );
        assert_eq!(out.len(), 210);
    }
}
