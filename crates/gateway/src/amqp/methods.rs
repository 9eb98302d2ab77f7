//! Methods as AMQP messages: requests on one link, answers on another, correlated by a uuid (Spec amqp §6.3).

use std::rc::Rc;

use holdfast_amqp::Incoming;
use holdfast_amqp::message::{Message, Properties, begin_application_properties, id_text, put_data, put_properties};
use holdfast_amqp::types::{Raw, put_str, put_uuid};
use holdfast_amqp_server::{Links, Refused};
use holdfast_device_hub::{MethodAnswer, MethodResult, ReceivedDelivery, Settlement};
use holdfast_model::ErrorCode;
use uuid::Uuid;

use super::downlink::{Sendable, Settled, has_room};
use super::handler::Devices;
use super::message::{body, malformed};
use crate::methods_in_flight::head;

/// The application property with a method's name; SDKs compare its case.
const NAME: &str = "IoThub-methodname";

/// The application property with the status of an answer.
const STATUS: &str = "IoThub-status";

/// An answer of a device.
struct Answer {
    correlation_id: String,
    status: i32,
    payload: Vec<u8>,
}

fn encode(buf: &mut Vec<u8>, name: &str, id: Uuid, payload: &[u8]) {
    let mut correlation = Vec::with_capacity(17);
    put_uuid(&mut correlation, id.as_bytes());
    put_properties(
        buf,
        &Properties {
            correlation_id: Raw::new(&correlation).ok(),
            ..Properties::default()
        },
    );
    let mut map = begin_application_properties(buf);
    put_str(map.string_key(NAME), name);
    map.finish();
    put_data(buf, if payload.is_empty() { b"null" } else { payload });
}

fn read(payload: &[u8]) -> Result<Answer, Refused> {
    let invalid = |text: &str| Refused::new(ErrorCode::ArgumentInvalid, text);
    let message = Message::scan(payload).map_err(malformed)?;
    let correlation_id = message.properties().map_err(malformed)?.correlation_id;
    let correlation_id = correlation_id
        .and_then(id_text)
        .ok_or_else(|| invalid("The answer to a method has no correlation id."))?;
    let status = message.application_properties.get(STATUS).map_err(malformed)?;
    let status = status.and_then(|value| {
        let number = value.integer().and_then(|number| i32::try_from(number).ok());
        number.or_else(|| value.text()?.parse().ok())
    });
    Ok(Answer {
        correlation_id: correlation_id.to_ascii_lowercase(),
        status: status.ok_or_else(|| invalid("The answer to a method has no IoThub-status."))?,
        payload: body(&message)?.into_owned(),
    })
}

impl Devices {
    /// The hub calls a method.
    pub(super) fn call_delivered(&mut self, slot: u32, delivery: ReceivedDelivery) {
        let front = Rc::clone(&self.front);
        let Some((device, session)) = self.open(slot) else {
            return;
        };
        if device.calls_link.is_none() || head(&delivery.head).is_none() {
            return Settled::of(&delivery, Settlement::Released).report(&front, session);
        }
        device.downlink.get_or_insert_default().calls.push_back(delivery);
    }

    /// Sends the oldest call that waits.
    pub(super) fn send_call(&mut self, links: &mut Links, slot: u32) -> Sendable {
        let now_ms = self.now_ms();
        let front = Rc::clone(&self.front);
        let Some((device, session)) = self.open(slot) else {
            return Sendable::Nothing;
        };
        let (Some(link), Some(downlink)) = (device.calls_link, device.downlink) else {
            return Sendable::Nothing;
        };
        if !downlink.calls.is_empty() && !has_room(links, link) {
            return Sendable::Later;
        }
        let Some(delivery) = downlink.calls.pop_front() else {
            return Sendable::Nothing;
        };
        let mut settlement = Settlement::Accepted;
        if let Some((name, rid, timeout_ms)) = head(&delivery.head) {
            let id = Uuid::new_v4();
            if downlink
                .methods
                .add(&id.hyphenated().to_string(), rid, now_ms, timeout_ms)
            {
                let mut payload = Vec::with_capacity(delivery.body.len() + 96);
                encode(&mut payload, name, id, &delivery.body);
                if !downlink.transfer(links, link, &payload) {
                    downlink.methods.remove(&id.hyphenated().to_string());
                    settlement = Settlement::Released;
                }
            } else {
                front.core.report_method_result(session, rid, MethodResult::TooMany);
            }
        }
        Settled::of(&delivery, settlement).report(&front, session);
        Sendable::Sent
    }

    /// The device has answered a method. A late, unknown or repeated answer is accepted and ignored.
    pub(super) fn call_answered(&mut self, slot: u32, incoming: &Incoming<'_>) -> Result<(), Refused> {
        let answer = read(&incoming.payload)?;
        let front = Rc::clone(&self.front);
        let Some((device, session)) = self.open(slot) else {
            return Ok(());
        };
        let methods = device.downlink.as_mut().map(|downlink| &mut downlink.methods);
        if let Some(rid) = methods.and_then(|methods| methods.remove(&answer.correlation_id)) {
            let result = MethodAnswer {
                status: answer.status,
                payload: answer.payload.into(),
            };
            front
                .core
                .report_method_result(session, &rid, MethodResult::Answered(result));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use holdfast_amqp::types::{Value, put_int};

    use super::*;

    #[test]
    fn a_call_has_a_uuid_and_its_answer_is_found_by_it() {
        let id = Uuid::from_u128(7);
        let mut call = Vec::new();
        encode(&mut call, "reboot", id, b"");
        let message = Message::scan(&call).unwrap();
        let correlation = message.properties().unwrap().correlation_id.unwrap();
        assert_eq!(correlation.value().unwrap(), Value::Uuid(*id.as_bytes()));
        assert_eq!(
            message.application_properties.get(NAME).unwrap(),
            Some(Value::String("reboot"))
        );
        assert_eq!(message.data().collect::<Vec<_>>(), [b"null"]);
        for as_text in [false, true] {
            let (mut correlation, mut answer) = (Vec::new(), Vec::new());
            match as_text {
                true => put_str(&mut correlation, &id.hyphenated().to_string().to_uppercase()),
                false => put_uuid(&mut correlation, id.as_bytes()),
            }
            let properties = Properties {
                correlation_id: Raw::new(&correlation).ok(),
                ..Properties::default()
            };
            put_properties(&mut answer, &properties);
            let mut map = begin_application_properties(&mut answer);
            match as_text {
                true => put_str(map.string_key(STATUS), "200"),
                false => put_int(map.string_key(STATUS), 200),
            }
            map.finish();
            put_data(&mut answer, b"{}");
            let read = read(&answer).unwrap();
            assert_eq!((read.status, read.payload.as_slice()), (200, b"{}".as_slice()));
            assert_eq!(read.correlation_id, id.hyphenated().to_string());
        }
        assert!(read(b"garbage").is_err() && read(b"").is_err());
    }
}
