//! The bodies of control calls: a version byte and a message of `control.proto`.

use bytes::Bytes;
use holdfast_proto::cluster::v1::control_answer::Answer;
use holdfast_proto::cluster::v1::control_refusal::Kind;
use holdfast_proto::cluster::v1::control_request::Request;
use holdfast_proto::cluster::v1::{ControlAnswer, ControlRefusal, ControlRequest};
use prost::Message;
use thiserror::Error;

/// The version of the bodies.
const VERSION: u8 = 1;

/// Limit of a request in bytes: names, an address and a secret.
const MAX_REQUEST_BYTES: usize = 16 << 10;

/// Encodes a request.
pub(crate) fn encode_request(request: Request) -> Bytes {
    encoded(&ControlRequest { request: Some(request) })
}

/// A body cannot be decoded by this version.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum DecodeError {
    #[error("the body is empty")]
    Empty,
    #[error("a control request of {0} bytes exceeds {MAX_REQUEST_BYTES}")]
    TooLong(usize),
    #[error("control calls have version {0}; this node speaks {VERSION}")]
    Version(u8),
    #[error("the message cannot be decoded")]
    Message(#[from] prost::DecodeError),
    #[error("this version does not know the control request")]
    UnknownRequest,
    #[error("this version does not know the control answer")]
    UnknownAnswer,
}

/// Decodes a request.
pub(super) fn decode_request(body: Bytes) -> Result<Request, DecodeError> {
    if body.len() > MAX_REQUEST_BYTES {
        return Err(DecodeError::TooLong(body.len()));
    }
    let request = ControlRequest::decode(versioned(body)?)?;
    request.request.ok_or(DecodeError::UnknownRequest)
}

/// Encodes an answer.
pub(crate) fn encode_answer(answer: Answer) -> Bytes {
    encoded(&ControlAnswer { answer: Some(answer) })
}

/// Decodes an answer.
pub(crate) fn decode_answer(body: Bytes) -> Result<Answer, DecodeError> {
    let answer = ControlAnswer::decode(versioned(body)?)?;
    answer.answer.ok_or(DecodeError::UnknownAnswer)
}

/// A refusal as an answer.
pub(crate) fn refusal(kind: Kind, text: impl Into<String>) -> Answer {
    Answer::Refusal(ControlRefusal {
        kind: kind.into(),
        text: text.into(),
    })
}

fn encoded(message: &impl Message) -> Bytes {
    let mut body = Vec::with_capacity(1 + message.encoded_len());
    body.push(VERSION);
    // Cannot fail, since the vector grows.
    let _ = message.encode(&mut body);
    body.into()
}

fn versioned(mut body: Bytes) -> Result<Bytes, DecodeError> {
    match body.first() {
        Some(&VERSION) => Ok(body.split_off(1)),
        Some(version) => Err(DecodeError::Version(*version)),
        None => Err(DecodeError::Empty),
    }
}

#[cfg(test)]
mod tests {
    use holdfast_proto::cluster::v1::ReadyRequest;

    use super::*;

    #[test]
    fn requests_are_decoded_as_encoded_and_garbage_is_an_error() {
        let ready = Request::Ready(ReadyRequest { group: 7 });
        let body = encode_request(ready.clone());
        assert_eq!(decode_request(body.clone()), Ok(ready));
        for bad in [&b""[..], &[0], &[2, 8, 1], &[1], &[1, 0xff, 0xff], &[1; 20_000]] {
            assert!(decode_request(Bytes::copy_from_slice(bad)).is_err(), "{bad:?}");
        }
        for end in 0..body.len() {
            assert!(decode_request(body.slice(..end)).is_err(), "cut at {end}");
        }
    }
}
