//! Requests about the twin as AMQP messages, in the dialects of the SDKs (Spec amqp §6.4). The order of requests, answers and
//! changes is that of [`crate::twin_requests`].
//!
//! Invariants: the answer to a request repeats its correlation id, value and type; a change has none; changes are sent only
//! after the client has subscribed on this pair of links.

use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use holdfast_amqp::Incoming;
use holdfast_amqp::message::{Message, Properties, begin_message_annotations, put_data, put_properties};
use holdfast_amqp::types::{Raw, Value, put_int, put_long};
use holdfast_amqp_server::{Links, Refused};
use holdfast_device_hub::{Protocol, ReceivedDelivery, Settlement, TwinError};
use holdfast_model::ErrorCode;

use super::device::{Device, SessionState};
use super::downlink::{Sendable, Settled, has_room};
use super::handler::Devices;
use super::message::{body, malformed};
use super::protocol;
use crate::twin_requests::{Change, TwinAnswer, TwinRequest, TwinRequests, Version, Waiting};

/// Answers and changes of one device that may wait for credit; further requests are refused.
const MAX_OUTPUT: usize = 128;

/// The encoded correlation id of a request; `None`: of the hub's own.
pub(super) type Correlation = Option<Box<[u8]>>;

/// The twin of one session.
pub(super) type DeviceTwin = TwinRequests<Correlation>;

/// A request of a client.
#[derive(Debug, PartialEq, Eq)]
enum Asked {
    Get,
    Patch(Vec<u8>, Option<Version>),
    Subscribe(bool),
}

/// A message of a client: its request, or the text of its refusal.
#[derive(Debug, PartialEq, Eq)]
struct Request {
    correlation: Correlation,
    asked: Result<Asked, String>,
}

fn read(payload: &[u8]) -> Result<Request, Refused> {
    let message = Message::scan(payload).map_err(malformed)?;
    let correlation = message.properties().map_err(malformed)?.correlation_id;
    let annotation = |key| message.message_annotations.get(key).map_err(malformed);
    let text = |value: Option<Value<'_>>| value.and_then(|value| value.text().map(str::to_owned));
    let operation = text(annotation("operation")?).unwrap_or_default().to_ascii_uppercase();
    let resource = text(annotation("resource")?).unwrap_or_default().to_ascii_lowercase();
    let version = annotation("version")?.and_then(|value| match value {
        Value::Null => None,
        value => Some(value.unsigned().or_else(|| value.text()?.parse().ok())),
    });
    let asked = match (operation.as_str(), resource.trim_matches('/')) {
        ("GET", "") => Ok(Asked::Get),
        ("PATCH", "properties/reported") => match version {
            Some(None) => Err("The annotation version of the request is no number.".to_owned()),
            version => Ok(Asked::Patch(body(&message)?.into_owned(), version.flatten())),
        },
        ("PUT", "notifications/twin/properties/desired") => Ok(Asked::Subscribe(true)),
        ("DELETE", "notifications/twin/properties/desired") => Ok(Asked::Subscribe(false)),
        _ => Err("The annotations operation and resource name no request about a twin.".to_owned()),
    };
    Ok(Request {
        correlation: correlation.map(|raw| raw.bytes().into()),
        asked,
    })
}

fn encode(correlation: Option<&[u8]>, status: Option<u16>, version: Option<Version>, payload: &[u8]) -> Vec<u8> {
    let mut buf = Vec::with_capacity(payload.len() + 128);
    if status.is_some() || version.is_some() {
        let mut annotations = begin_message_annotations(&mut buf);
        if let Some(status) = status {
            put_int(annotations.key("status"), status.into());
        }
        if let Some(version) = version {
            put_long(annotations.key("version"), version.cast_signed());
        }
        annotations.finish();
    }
    if let Some(correlation) = correlation.and_then(|bytes| Raw::new(bytes).ok()) {
        put_properties(
            &mut buf,
            &Properties {
                correlation_id: Some(correlation),
                ..Properties::default()
            },
        );
    }
    put_data(&mut buf, payload);
    buf
}

impl Device {
    fn answer_twin(&mut self, correlation: &Correlation, status: u16, version: Option<Version>, payload: &[u8]) {
        let encoded = encode(correlation.as_deref(), Some(status), version, payload);
        let downlink = self.downlink.get_or_insert_default();
        downlink.twin_output.push_back((encoded, None));
    }
}

impl Devices {
    /// The client asks about its twin.
    pub(super) fn twin_asked(&mut self, links: &mut Links, slot: u32, incoming: &Incoming<'_>) -> Result<(), Refused> {
        let request = read(&incoming.payload)?;
        let resends = self.front.core.hub().twins_config().resend_desired_on_subscribe;
        let Some(device) = self.devices.get_mut(slot as usize).and_then(Option::as_mut) else {
            return Ok(());
        };
        let waits = device
            .downlink
            .as_ref()
            .map_or(0, |downlink| downlink.twin_output.len());
        let twin = device.twin.get_or_insert_default();
        if twin.is_full() || waits >= MAX_OUTPUT {
            let text = "Too many requests about the twin wait, or their answers do.";
            return Err(Refused::new(ErrorCode::ThrottlingException, text));
        }
        match request.asked {
            Ok(Asked::Get) => twin.push(TwinRequest::Get, request.correlation),
            Ok(Asked::Patch(patch, if_version)) => {
                let patch = Bytes::from(patch);
                twin.push(TwinRequest::Patch { patch, if_version }, request.correlation);
            }
            Ok(Asked::Subscribe(wants)) => {
                let wanted = std::mem::replace(&mut device.wants_changes, wants);
                if wants && !wanted && resends {
                    twin.push(TwinRequest::Resend, None);
                }
                device.answer_twin(&request.correlation, 200, None, b"");
            }
            Err(text) => {
                let SessionState::Open(session) = &device.session else {
                    return Ok(());
                };
                let code = ErrorCode::ArgumentInvalid;
                let refused = TwinError::Refused { code, text };
                let body = twin.error_body(&self.front.core, session, &refused).to_string();
                device.answer_twin(&request.correlation, code.http_status(), None, body.as_bytes());
            }
        }
        self.twin_soon(slot);
        self.pump(links, slot);
        Ok(())
    }

    /// Has the requests of a device looked at in this turn.
    fn twin_soon(&mut self, slot: u32) {
        if !self.asking.contains(&slot) {
            self.asking.push(slot);
        }
    }

    /// Carries out requests about twins; `cx` is woken when one is decided.
    pub(super) fn poll_twins(&mut self, links: &mut Links, cx: &mut Context<'_>) {
        let protocol = protocol(links.carrier());
        for slot in std::mem::take(&mut self.asking) {
            if self.poll_twin(links, slot, protocol, cx).is_pending() {
                self.twin_soon(slot);
            }
        }
    }

    fn poll_twin(&mut self, links: &mut Links, slot: u32, protocol: Protocol, cx: &mut Context<'_>) -> Poll<()> {
        let front = Rc::clone(&self.front);
        loop {
            let Some(device) = self.devices.get_mut(slot as usize).and_then(Option::as_mut) else {
                return Poll::Ready(());
            };
            let Device {
                session: SessionState::Open(session),
                twin: Some(twin),
                ..
            } = &mut **device
            else {
                return Poll::Ready(());
            };
            match twin.poll(&front.core, session, protocol, cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(None) => return Poll::Ready(()),
                Poll::Ready(Some((waiting, result))) => self.twin_answered(links, slot, waiting, result),
            }
        }
    }

    fn twin_answered(
        &mut self,
        links: &mut Links,
        slot: u32,
        waiting: Waiting<Correlation>,
        result: Result<TwinAnswer, TwinError>,
    ) {
        let front = Rc::clone(&self.front);
        let Some(device) = self.devices.get_mut(slot as usize).and_then(Option::as_mut) else {
            return;
        };
        let (SessionState::Open(session), Some(twin)) = (&device.session, &mut device.twin) else {
            return;
        };
        let Waiting { request, answer } = waiting;
        match (&request, result) {
            (TwinRequest::Resend, Ok(TwinAnswer::Read(read))) => {
                if device.wants_changes && twin.resend(&read).is_some() {
                    let encoded = encode(None, None, None, read.desired_view().to_string().as_bytes());
                    let downlink = device.downlink.get_or_insert_default();
                    downlink.twin_output.push_back((encoded, None));
                }
            }
            (TwinRequest::Resend, _) => {}
            (_, Ok(TwinAnswer::Read(read))) => {
                twin.read(&read);
                let body = read.device_view().to_string();
                device.answer_twin(&answer, 200, None, body.as_bytes());
            }
            (_, Ok(TwinAnswer::Reported(version))) => device.answer_twin(&answer, 204, Some(version), b""),
            (_, Err(error)) => {
                let body = twin.error_body(&front.core, session, &error).to_string();
                device.answer_twin(&answer, error.code().http_status(), None, body.as_bytes());
            }
        }
        if request.is_read() {
            while let Some(change) = self.next_held(slot) {
                self.send_change(slot, change);
            }
        }
        self.pump(links, slot);
    }

    fn next_held(&mut self, slot: u32) -> Option<Change> {
        let device = self.devices.get_mut(slot as usize)?.as_mut()?;
        device.twin.as_mut()?.next_held()
    }

    /// A change of the desired properties has come.
    pub(super) fn twin_changed(&mut self, slot: u32, delivery: ReceivedDelivery) {
        let version = delivery.head.parse::<Version>();
        let front = Rc::clone(&self.front);
        let Some(device) = self.devices.get_mut(slot as usize).and_then(Option::as_mut) else {
            return;
        };
        let SessionState::Open(session) = &device.session else {
            return;
        };
        let Ok(version) = version else {
            return Settled::of(&delivery, Settlement::Rejected).report(&front, session);
        };
        if !device.wants_changes {
            return Settled::of(&delivery, Settlement::Released).report(&front, session);
        }
        let twin = device.twin.get_or_insert_default();
        let change = twin.change(delivery, version, || None);
        if !twin.is_idle() {
            self.twin_soon(slot);
        }
        self.send_change(slot, change);
    }

    fn send_change(&mut self, slot: u32, change: Change) {
        let front = Rc::clone(&self.front);
        let Some((device, session)) = self.open(slot) else {
            return;
        };
        match change {
            Change::Send(delivery) => {
                let encoded = encode(None, None, None, &delivery.body);
                let settled = Settled::of(&delivery, Settlement::Accepted);
                let downlink = device.downlink.get_or_insert_default();
                downlink.twin_output.push_back((encoded, Some(settled)));
            }
            Change::Accept(delivery) => Settled::of(&delivery, Settlement::Accepted).report(&front, session),
            Change::Held => {}
        }
    }

    /// Sends the oldest answer or change that waits.
    pub(super) fn send_twin_output(&mut self, links: &mut Links, slot: u32) -> Sendable {
        let front = Rc::clone(&self.front);
        let Some((device, session)) = self.open(slot) else {
            return Sendable::Nothing;
        };
        // Without a link the output waits for one: SDKs attach the sender first.
        let (Some(link), Some(downlink)) = (device.twin_link, device.downlink) else {
            return Sendable::Nothing;
        };
        if !downlink.twin_output.is_empty() && !has_room(links, link) {
            return Sendable::Later;
        }
        let Some((payload, settled)) = downlink.twin_output.pop_front() else {
            return Sendable::Nothing;
        };
        if !downlink.transfer(links, link, &payload) {
            tracing::debug!(identity = %session.identity(), "the client takes no message of this size; it is dropped");
        }
        if let Some(settled) = settled {
            settled.report(&front, session);
        }
        Sendable::Sent
    }
}

#[cfg(test)]
mod tests {
    use holdfast_amqp::types::{put_null, put_str, put_uuid};

    use super::*;

    fn request(operation: &str, resource: Option<&str>, version: Option<&str>, body: Option<&[u8]>) -> Vec<u8> {
        let (mut buf, mut id) = (Vec::new(), Vec::new());
        put_uuid(&mut id, &[7; 16]);
        let mut annotations = begin_message_annotations(&mut buf);
        put_str(annotations.key("operation"), operation);
        if let Some(resource) = resource {
            put_str(annotations.key("resource"), resource);
        }
        match version {
            Some(version) => put_str(annotations.key("version"), version),
            None => put_null(annotations.key("version")),
        }
        annotations.finish();
        let properties = Properties {
            correlation_id: Raw::new(&id).ok(),
            ..Properties::default()
        };
        put_properties(&mut buf, &properties);
        if let Some(body) = body {
            put_data(&mut buf, body);
        }
        buf
    }

    #[test]
    fn the_requests_of_all_dialects_are_understood() {
        let desired = Some("/notifications/twin/properties/desired");
        let reported = Some("/properties/reported");
        let asked = |bytes: &[u8]| read(bytes).unwrap().asked;
        assert_eq!(asked(&request("GET", None, None, Some(b" "))), Ok(Asked::Get));
        assert_eq!(asked(&request("GET", None, None, None)), Ok(Asked::Get));
        assert_eq!(
            asked(&request("PATCH", reported, None, Some(b"{}"))),
            Ok(Asked::Patch(b"{}".to_vec(), None))
        );
        assert_eq!(
            asked(&request("patch", reported, Some("3"), Some(b"{}"))),
            Ok(Asked::Patch(b"{}".to_vec(), Some(3)))
        );
        assert_eq!(
            asked(&request("PUT", desired, None, Some(b" "))),
            Ok(Asked::Subscribe(true))
        );
        assert_eq!(
            asked(&request("DELETE", desired, None, None)),
            Ok(Asked::Subscribe(false))
        );
        assert!(asked(&request("POST", desired, None, None)).is_err());
        assert!(asked(&request("PATCH", reported, Some("x"), None)).is_err());
        assert!(read(b"garbage").is_err());
    }

    #[test]
    fn an_answer_has_the_types_that_sdks_check() {
        let request = read(&request("GET", None, None, None)).unwrap();
        let answer = encode(request.correlation.as_deref(), Some(204), Some(7), b"");
        let message = Message::scan(&answer).unwrap();
        let annotation = |key| message.message_annotations.get(key).unwrap();
        assert_eq!(annotation("status"), Some(Value::Int(204)));
        assert_eq!(annotation("version"), Some(Value::Long(7)));
        let id = message.properties().unwrap().correlation_id.unwrap();
        assert_eq!(id.value().unwrap(), Value::Uuid([7; 16]));
        let change = encode(None, None, None, b"{\"$version\":2}");
        let message = Message::scan(&change).unwrap();
        assert_eq!(message.properties().unwrap().correlation_id, None);
        assert_eq!(annotation("status").map(|_| ()), Some(()));
        assert_eq!(message.message_annotations.get("status").unwrap(), None);
    }
}
