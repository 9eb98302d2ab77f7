//! Calls between gateways and owners as bytes, checked as they come in: a peer may send anything.

use std::sync::Arc;

use bytes::Bytes;
use holdfast_auth::KeyFingerprint;
use holdfast_cluster::transport::CallError;
use holdfast_model::{DeviceId, GenerationId, IdentityId, ModuleId, UnixMillis};
use holdfast_proto::cluster::v1 as proto;
use prost::Message;

use crate::Protocol;
use crate::sessions::{Facts, NotHere, SessionNumber};

/// The form of bodies and answers.
const VERSION: u8 = 1;

/// The most sessions of one call; a session is at most some 700 bytes.
pub(crate) const MAX_ITEMS: usize = 1000;

/// The longest generation id, policy name and refused identity that are taken.
const MAX_TEXT: usize = 260;

/// A message with its version.
pub(crate) fn encode(message: &impl Message) -> Bytes {
    let mut bytes = Vec::with_capacity(1 + message.encoded_len());
    bytes.push(VERSION);
    // A vector grows: there is always room.
    message.encode_raw(&mut bytes);
    bytes.into()
}

/// What `bytes` say.
pub(crate) fn decode<M: Message + Default>(bytes: &Bytes) -> Result<M, CallError> {
    let (&version, rest) = bytes.split_first().ok_or_else(|| refused("an empty message"))?;
    if version != VERSION {
        return Err(refused(&format!(
            "version {version} of session messages is not known here; update this node"
        )));
    }
    M::decode(rest).map_err(|error| refused(&format!("a session message cannot be read: {error}")))
}

pub(crate) fn refused(reason: &str) -> CallError {
    CallError::Refused(reason.into())
}

pub(crate) fn check_count(count: usize) -> Result<(), CallError> {
    if count > MAX_ITEMS {
        return Err(refused(&format!("{count} sessions in one call; at most {MAX_ITEMS}")));
    }
    Ok(())
}

pub(crate) fn identity(device: &str, module: &str) -> Result<IdentityId, CallError> {
    let device = DeviceId::parse(device).map_err(|error| refused(&format!("a device id: {error}")))?;
    if module.is_empty() {
        return Ok(IdentityId::device(device));
    }
    let module = ModuleId::parse(module).map_err(|error| refused(&format!("a module id: {error}")))?;
    Ok(IdentityId::module(device, module))
}

pub(crate) fn module_text(identity: &IdentityId) -> String {
    identity
        .module
        .as_ref()
        .map(|module| module.as_str().to_owned())
        .unwrap_or_default()
}

pub(crate) fn text(text: &str) -> Result<&str, CallError> {
    if text.len() > MAX_TEXT {
        return Err(refused("a text is too long"));
    }
    Ok(text)
}

/// A session as it is told to an owner.
pub(crate) fn item(facts: &Facts, key: u64, number: Option<SessionNumber>) -> proto::SessionItem {
    proto::SessionItem {
        key,
        device: facts.identity.device.as_str().to_owned(),
        module: module_text(&facts.identity),
        generation: facts.generation.to_string(),
        key_fingerprint: Bytes::copy_from_slice(&facts.key.0),
        policy: facts.policy.as_deref().unwrap_or_default().to_owned(),
        protocol: facts.protocol.number(),
        since_ms: facts.since.0,
        expires_ms: facts.expires.map_or(0, |time| time.0),
        number_term: number.map_or(0, |number| number.term),
        number_node: number.map_or(0, |number| number.node),
        number_counter: number.map_or(0, |number| number.counter),
    }
}

/// What a gateway tells of a session.
pub(crate) fn facts(item: &proto::SessionItem) -> Result<Arc<Facts>, CallError> {
    let key = <[u8; 8]>::try_from(&item.key_fingerprint[..]).map_err(|_| refused("a fingerprint has 8 bytes"))?;
    let protocol = Protocol::from_number(item.protocol).ok_or_else(|| refused("an unknown protocol"))?;
    let policy = text(&item.policy)?;
    Ok(Arc::new(Facts {
        identity: identity(&item.device, &item.module)?,
        generation: GenerationId(Arc::from(text(&item.generation)?)),
        key: KeyFingerprint(key),
        policy: (!policy.is_empty()).then(|| Arc::from(policy)),
        protocol,
        since: UnixMillis(item.since_ms),
        expires: (item.expires_ms > 0).then_some(UnixMillis(item.expires_ms)),
    }))
}

pub(crate) fn number(item: &proto::SessionItem) -> SessionNumber {
    SessionNumber {
        term: item.number_term,
        node: item.number_node,
        counter: item.number_counter,
    }
}

pub(crate) fn ended(identity: &IdentityId, key: u64) -> proto::SessionEnded {
    proto::SessionEnded {
        key,
        device: identity.device.as_str().to_owned(),
        module: module_text(identity),
    }
}

pub(crate) fn not_here(cause: NotHere) -> proto::session_answer::Answer {
    use proto::session_not_here::Cause;
    let cause = match cause {
        NotHere::NotOwner => Cause::NotOwner,
        NotHere::LinkLost => Cause::LinkLost,
        NotHere::StaleLife => Cause::StaleLife,
        NotHere::Busy => Cause::Busy,
    };
    proto::session_answer::Answer::NotHere(proto::SessionNotHere { cause: cause.into() })
}

pub(crate) fn cause(not_here: &proto::SessionNotHere) -> NotHere {
    use proto::session_not_here::Cause;
    match not_here.cause() {
        Cause::NotOwner => NotHere::NotOwner,
        Cause::StaleLife => NotHere::StaleLife,
        Cause::Busy => NotHere::Busy,
        // A cause of a later version: whatever it is, handing in everything again is safe.
        Cause::LinkLost | Cause::Unspecified => NotHere::LinkLost,
    }
}

#[cfg(test)]
mod tests {
    use holdfast_model::IdentityId;

    use super::*;

    fn some_facts() -> Facts {
        Facts {
            identity: IdentityId::module(DeviceId::parse("d").unwrap(), ModuleId::parse("m").unwrap()),
            generation: GenerationId(Arc::from("638400000000000001")),
            key: KeyFingerprint([1, 2, 3, 4, 5, 6, 7, 8]),
            policy: Some(Arc::from("device")),
            protocol: Protocol::AmqpWs,
            since: UnixMillis(7),
            expires: None,
        }
    }

    #[test]
    fn a_session_survives_the_wire() {
        let sent = some_facts();
        let item = item(
            &sent,
            9,
            Some(SessionNumber {
                term: 3,
                node: 7,
                counter: 4,
            }),
        );
        let request = proto::SessionSync {
            items: vec![item],
            ..proto::SessionSync::default()
        };
        let got: proto::SessionSync = decode(&encode(&request)).unwrap();
        assert_eq!(*facts(&got.items[0]).unwrap(), sent);
        assert_eq!(
            number(&got.items[0]),
            SessionNumber {
                term: 3,
                node: 7,
                counter: 4
            }
        );
    }

    #[test]
    fn garbage_is_refused() {
        for bytes in [&b""[..], b"\x00", b"\x02rest", b"\x01\xff\xff\xff", b"\x01\x0a\x05ab"] {
            let got = decode::<proto::SessionRequest>(&Bytes::copy_from_slice(bytes));
            assert!(matches!(got, Err(CallError::Refused(_))), "{bytes:?}");
        }
        let good = item(&some_facts(), 1, None);
        let broken: [fn(&mut proto::SessionItem); 6] = [
            |item| item.device = String::new(),
            |item| item.device = "a/b".to_owned(),
            |item| item.module = "x".repeat(500),
            |item| item.key_fingerprint = Bytes::from_static(b"short"),
            |item| item.protocol = 77,
            |item| item.policy = "x".repeat(10_000),
        ];
        for break_it in broken {
            let mut item = good.clone();
            break_it(&mut item);
            assert!(matches!(facts(&item), Err(CallError::Refused(_))), "{item:?}");
        }
        assert!(check_count(MAX_ITEMS).is_ok() && check_count(MAX_ITEMS + 1).is_err());
    }
}
