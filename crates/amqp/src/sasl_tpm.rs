//! The SASL mechanism `TPM` of a server: its messages and their segments (Spec provisioning §5.2).
//!
//! The client sends who it is and its endorsement key, then its storage root key, then reads a challenge in two segments, and
//! sends a token.
//! Invariants: no input panics; a message is bounded by [`MAX_MESSAGE_BYTES`], whatever its segments claim; messages come in this order
//! alone.
//! Not here: keys, challenges and tokens themselves (`provisioning`).

use thiserror::Error;

/// Longest message of a client, in bytes, over all its segments.
pub const MAX_MESSAGE_BYTES: usize = 2048;

/// Longest part of a challenge, in bytes: what C's client reads.
const MAX_SEGMENT_BYTES: usize = 470;

/// Of a message in one piece, and of the answer to a segment.
const WHOLE: u8 = 0x00;
/// Of a segment.
const SEGMENT: u8 = 0x80;
/// Of the last segment.
const LAST: u8 = 0x40;
/// The number of a segment, from 0.
const NUMBER: u8 = 0x03;

/// The challenge after which the client sends its next message.
pub const CONTINUE: [u8; 1] = [WHOLE];

/// Why a client's bytes are refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum TpmViolation {
    /// There is no control byte, or an unknown one.
    #[error("a message of SASL TPM has no valid control byte")]
    Control,
    /// A segment is missing, or comes twice.
    #[error("a segment of SASL TPM is out of its turn")]
    Segment,
    /// The message is too long.
    #[error("a message of SASL TPM is longer than {MAX_MESSAGE_BYTES} bytes")]
    TooLong,
    /// The message is not of the form that its turn has.
    #[error("a message of SASL TPM does not have its form")]
    Form,
    /// The client had nothing more to send.
    #[error("a message of SASL TPM comes after the last one")]
    Over,
}

/// What a client has sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TpmMessage {
    /// A segment that is not the last: answered with [`CONTINUE`].
    Segment,
    /// Who it is: answered with [`CONTINUE`].
    Identity {
        /// The id scope.
        id_scope: String,
        /// The registration id.
        registration_id: String,
        /// The public endorsement key.
        endorsement_key: Vec<u8>,
    },
    /// The public storage root key: answered with the first part of the challenge.
    StorageRootKey(Vec<u8>),
    /// Answered with the second part of the challenge.
    Continue,
    /// A token: answered with the outcome.
    Token(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    Identity,
    StorageRootKey,
    Continue,
    Token,
    Over,
}

/// One exchange.
#[derive(Debug)]
pub struct TpmExchange {
    turn: Turn,
    segments: u8,
    received: Vec<u8>,
}

impl Default for TpmExchange {
    fn default() -> Self {
        Self {
            turn: Turn::Identity,
            segments: 0,
            received: Vec::new(),
        }
    }
}

impl TpmExchange {
    /// Takes the initial response, or the answer to a challenge.
    ///
    /// # Errors
    /// [`TpmViolation`]; the exchange is over then.
    pub fn receive(&mut self, bytes: &[u8]) -> Result<TpmMessage, TpmViolation> {
        let read = self.read(bytes);
        if read.is_err() {
            self.turn = Turn::Over;
            self.received = Vec::new();
        }
        read
    }

    fn read(&mut self, bytes: &[u8]) -> Result<TpmMessage, TpmViolation> {
        let (control, rest) = bytes.split_first().ok_or(TpmViolation::Control)?;
        if self.received.len() + rest.len() > MAX_MESSAGE_BYTES {
            return Err(TpmViolation::TooLong);
        }
        let is_last = if *control == WHOLE && self.segments == 0 {
            true
        } else if control & SEGMENT != 0 {
            if control & NUMBER != self.segments || control & !(SEGMENT | LAST | NUMBER) != 0 {
                return Err(TpmViolation::Segment);
            }
            control & LAST != 0
        } else {
            return Err(TpmViolation::Control);
        };
        self.received.extend_from_slice(rest);
        if !is_last {
            // Numbers do not begin anew.
            if self.segments == NUMBER {
                return Err(TpmViolation::Segment);
            }
            self.segments += 1;
            return Ok(TpmMessage::Segment);
        }
        self.segments = 0;
        let message = std::mem::take(&mut self.received);
        self.message(&message)
    }

    fn message(&mut self, bytes: &[u8]) -> Result<TpmMessage, TpmViolation> {
        let text = |bytes: &[u8]| {
            let text = std::str::from_utf8(bytes).map_err(|_| TpmViolation::Form)?;
            Ok(text.to_owned())
        };
        let (message, next) = match self.turn {
            Turn::Identity => {
                let mut parts = bytes.splitn(3, |byte| *byte == 0);
                let mut part = || parts.next().filter(|part| !part.is_empty()).ok_or(TpmViolation::Form);
                let message = TpmMessage::Identity {
                    id_scope: text(part()?)?,
                    registration_id: text(part()?)?,
                    endorsement_key: part()?.to_vec(),
                };
                (message, Turn::StorageRootKey)
            }
            Turn::StorageRootKey if bytes.is_empty() => return Err(TpmViolation::Form),
            Turn::StorageRootKey => (TpmMessage::StorageRootKey(bytes.to_vec()), Turn::Continue),
            Turn::Continue if bytes.is_empty() => (TpmMessage::Continue, Turn::Token),
            Turn::Continue => return Err(TpmViolation::Form),
            Turn::Token => (TpmMessage::Token(text(bytes)?), Turn::Over),
            Turn::Over => return Err(TpmViolation::Over),
        };
        self.turn = next;
        Ok(message)
    }
}

/// The two parts of a challenge: Java reads no other number of them. `None`: it does not fit into two.
#[must_use]
pub fn challenge_parts(challenge: &[u8]) -> Option<[Vec<u8>; 2]> {
    let (first, rest) = challenge.split_at_checked(MAX_SEGMENT_BYTES)?;
    if rest.is_empty() || rest.len() > MAX_SEGMENT_BYTES {
        return None;
    }
    let part = |control: u8, bytes: &[u8]| [&[control], bytes].concat();
    Some([part(SEGMENT, first), part(SEGMENT | LAST | 1, rest)])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> TpmMessage {
        TpmMessage::Identity {
            id_scope: "0ne1".to_owned(),
            registration_id: "dev-1".to_owned(),
            // Keys contain zeros.
            endorsement_key: vec![1, 0, 2],
        }
    }

    #[test]
    fn the_exchange_of_the_node_client_is_read() {
        let mut exchange = TpmExchange::default();
        assert_eq!(exchange.receive(b"\x000ne1\x00dev-1\x00\x01\x00\x02"), Ok(identity()));
        assert_eq!(
            exchange.receive(b"\x00\x07\x00"),
            Ok(TpmMessage::StorageRootKey(vec![7, 0]))
        );
        assert_eq!(exchange.receive(&CONTINUE), Ok(TpmMessage::Continue));
        assert_eq!(
            exchange.receive(b"\x00SharedAccessSignature sr=x"),
            Ok(TpmMessage::Token("SharedAccessSignature sr=x".to_owned()))
        );
        assert_eq!(exchange.receive(&CONTINUE), Err(TpmViolation::Over));
    }

    #[test]
    fn segments_of_the_c_client_are_put_together() {
        let mut exchange = TpmExchange::default();
        assert_eq!(exchange.receive(b"\x800ne1\x00dev-1\x00\x01"), Ok(TpmMessage::Segment));
        assert_eq!(exchange.receive(b"\x81\x00"), Ok(TpmMessage::Segment));
        assert_eq!(exchange.receive(b"\xc2\x02"), Ok(identity()));
        assert_eq!(exchange.receive(b"\xc0\x09"), Ok(TpmMessage::StorageRootKey(vec![9])));
    }

    #[test]
    fn hostile_messages_end_the_exchange() {
        let long = [&[0x80][..], &[1; 1500]].concat();
        let longer = [&[0xc1][..], &[1; 1500]].concat();
        for (messages, violation) in [
            (vec![&b""[..]], TpmViolation::Control),
            (vec![b"\x01x"], TpmViolation::Control),
            (vec![b"\x40x"], TpmViolation::Control),
            (vec![b"\x81x"], TpmViolation::Segment),
            (vec![b"\xa0x"], TpmViolation::Segment),
            (vec![b"\x80x", b"\x80x"], TpmViolation::Segment),
            (vec![b"\x80x", b"\x00x"], TpmViolation::Control),
            (vec![b"\x80", b"\x81", b"\x82", b"\x83"], TpmViolation::Segment),
            (vec![&long, &longer], TpmViolation::TooLong),
            (vec![b"\x000ne1\x00dev-1\x00"], TpmViolation::Form),
            (vec![b"\x000ne1"], TpmViolation::Form),
            (vec![b"\x00\xff\x00d\x00k"], TpmViolation::Form),
            (vec![b"\x00s\x00d\x00k", b"\x00"], TpmViolation::Form),
            (vec![b"\x00s\x00d\x00k", b"\x00r", b"\x00x"], TpmViolation::Form),
        ] {
            let mut exchange = TpmExchange::default();
            let (last, first) = messages.split_last().unwrap();
            for message in first {
                exchange.receive(message).unwrap();
            }
            assert_eq!(exchange.receive(last), Err(violation), "{messages:?}");
            assert!(exchange.receive(b"\x00s\x00d\x00k").is_err());
        }
    }

    #[test]
    fn a_challenge_has_two_parts_that_fit_into_frames_of_sasl() {
        let challenge: Vec<u8> = (0..800_u32).map(|number| number.to_be_bytes()[3]).collect();
        let [first, second] = challenge_parts(&challenge).unwrap();
        assert_eq!((first[0], second[0]), (0x80, 0xc1));
        assert_eq!([&first[1..], &second[1..]].concat(), challenge);
        assert!(first.len() <= 471 && second.len() <= 471);
        assert_eq!(challenge_parts(&challenge[..470]), None);
        assert_eq!(challenge_parts(&[0; 941]), None);
    }
}
