//! The bodies of control calls: one version byte, then a message of `control.proto`.

use bytes::Bytes;
use holdfast_proto::cluster::v1::control_answer::Answer;
use holdfast_proto::cluster::v1::control_refusal::Kind;
use holdfast_proto::cluster::v1::control_request::Request;
use holdfast_proto::cluster::v1::{ControlAnswer, ControlRefusal, ControlRequest};
use prost::Message;

/// The version of the bodies.
const VERSION: u8 = 1;

/// The most bytes of a request: names, an address and a secret.
const MAX_REQUEST_BYTES: usize = 16 << 10;

pub(crate) fn request(request: Request) -> Bytes {
    encoded(&ControlRequest { request: Some(request) })
}

/// What a caller wants; the text of an error is for it.
pub(super) fn parse_request(body: Bytes) -> Result<Request, String> {
    if body.len() > MAX_REQUEST_BYTES {
        return Err(format!(
            "a control request of {} bytes exceeds {MAX_REQUEST_BYTES}",
            body.len()
        ));
    }
    let request = ControlRequest::decode(versioned(body)?).map_err(|error| error.to_string())?;
    request
        .request
        .ok_or_else(|| "a control request that this version does not know".to_owned())
}

pub(crate) fn encode_answer(answer: Answer) -> Bytes {
    encoded(&ControlAnswer { answer: Some(answer) })
}

pub(crate) fn answer(body: Bytes) -> Result<Answer, String> {
    let answer = ControlAnswer::decode(versioned(body)?).map_err(|error| error.to_string())?;
    answer
        .answer
        .ok_or_else(|| "a control answer that this version does not know".to_owned())
}

pub(crate) fn refusal(kind: Kind, text: impl Into<String>) -> Answer {
    Answer::Refusal(ControlRefusal {
        kind: kind.into(),
        text: text.into(),
    })
}

fn encoded(message: &impl Message) -> Bytes {
    let mut body = Vec::with_capacity(1 + message.encoded_len());
    body.push(VERSION);
    // A vector grows as needed.
    let _ = message.encode(&mut body);
    body.into()
}

fn versioned(mut body: Bytes) -> Result<Bytes, String> {
    match body.first() {
        Some(&VERSION) => Ok(body.split_off(1)),
        Some(version) => Err(format!(
            "version {version} of control calls; this node speaks {VERSION}"
        )),
        None => Err("an empty body".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use holdfast_proto::cluster::v1::ReadyRequest;

    use super::*;

    #[test]
    fn what_is_written_is_read_and_anything_else_is_an_error() {
        let ready = Request::Ready(ReadyRequest { group: 7 });
        let body = request(ready.clone());
        assert_eq!(parse_request(body.clone()), Ok(ready));
        for bad in [&b""[..], &[0], &[2, 8, 1], &[1], &[1, 0xff, 0xff], &[1; 20_000]] {
            assert!(parse_request(Bytes::copy_from_slice(bad)).is_err(), "{bad:?}");
        }
        for end in 0..body.len() {
            assert!(parse_request(body.slice(..end)).is_err(), "cut at {end}");
        }
    }
}
