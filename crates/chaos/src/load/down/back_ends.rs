//! The back ends: twins, messages and methods over REST, through random nodes.

use std::rc::Rc;
use std::time::Duration;

use http::Method;
use rand::Rng as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use serde_json::{Value, json};

use super::super::service::{Caller, VERSION};
use super::Down;
use crate::check::methods::RESPONSE_TIMEOUT;
use crate::history::SECOND;
use crate::history::down::{ListedQueue, MethodCall, MethodOutcome, Section, SendOutcome, SentMessage, TwinAnswer};
use crate::targets::Endpoint;

/// From one call of a back end to the next, in milliseconds.
const INTERVAL_MS: std::ops::Range<u64> = 100..400;
/// Poll interval at the end.
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// How long a caller waits for a method's answer: much longer than the hub may take, so that a late one is seen.
const METHOD_TIMEOUT: Duration = Duration::from_secs(30);
/// Quota: the queue of the device is full.
const QUEUE_FULL: u64 = 403_004;
/// The device is not connected.
const NOT_ONLINE: u64 = 404_103;
/// The device has too many methods in flight.
const TOO_MANY_METHODS: u64 = 403_800;

/// The answer to a REST call.
enum Answer {
    Done(Value),
    /// An error of the hub, with its number.
    Failed(u64),
    /// It was never sent.
    NotSent,
    /// It may have taken effect.
    Unknown,
}

/// The certainty that a call without success leaves.
#[derive(Debug, PartialEq, Eq)]
enum Effect {
    None,
    Unknown,
}

/// `None` for an error that the call cannot have.
fn effect_of(error: u64) -> Option<Effect> {
    match error / 1_000 {
        _ if error == QUEUE_FULL => Some(Effect::None),
        429 => Some(Effect::None),
        500..=599 => Some(Effect::Unknown),
        _ => None,
    }
}

impl Down {
    async fn ask(
        &self,
        caller: &mut Caller,
        endpoint: Endpoint,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Answer {
        let recorder = &self.shared.recorder;
        match caller.call(endpoint, method, path, None, body).await {
            Ok((status, body)) => {
                let document = serde_json::from_slice::<Value>(&body).unwrap_or_default();
                if status.is_success() {
                    return Answer::Done(document);
                }
                let error = document.get("errorCode").and_then(Value::as_u64);
                let error = error.unwrap_or(u64::from(status.as_u16()) * 1_000);
                recorder.failure(format!("way down: answered with {error}"));
                Answer::Failed(error)
            }
            Err(error) => {
                recorder.failure(format!("way down: {error}"));
                if error.perhaps_done {
                    Answer::Unknown
                } else {
                    Answer::NotSent
                }
            }
        }
    }

    fn impossible(&self, node: u32, what: &str) {
        self.shared.recorder.anomaly(format!("node {node} answers {what}"));
    }

    /// What a write that did not succeed has done.
    fn effect(&self, node: u32, what: &str, answer: &Answer) -> Effect {
        match answer {
            Answer::NotSent => Effect::None,
            Answer::Failed(error) => effect_of(*error).unwrap_or_else(|| {
                self.impossible(node, &format!("{what} with {error}"));
                Effect::Unknown
            }),
            Answer::Done(_) | Answer::Unknown => Effect::Unknown,
        }
    }

    async fn write_twin(&self, caller: &mut Caller, endpoint: Endpoint, device: &str) {
        let tag = self.number();
        let place = self.begin_write(device, Section::Desired, endpoint.node, tag);
        let body = json!({"properties": {"desired": {"tag": tag}}});
        let answer = self
            .ask(caller, endpoint, Method::PATCH, &twin(device), Some(&body))
            .await;
        if let Answer::Done(twin) = &answer {
            match super::found(&twin["properties"]["desired"]) {
                Some(TwinAnswer::Found { version, tag: written }) if written == tag => {
                    self.end_write(place, TwinAnswer::Written { version });
                }
                other => self.impossible(endpoint.node, &format!("the write of {tag} with {other:?}")),
            }
        } else if self.effect(endpoint.node, "a write of a twin", &answer) == Effect::None {
            self.end_write(place, TwinAnswer::Refused);
        }
    }

    /// Whether it was read.
    async fn read_twin(&self, caller: &mut Caller, endpoint: Endpoint, device: &str) -> bool {
        let asked = self.shared.recorder.now();
        let answer = self.ask(caller, endpoint, Method::GET, &twin(device), None).await;
        if let Answer::Done(twin) = &answer {
            let read = self.record_read(device, endpoint.node, asked, &twin["properties"]);
            if read.is_none() {
                self.impossible(endpoint.node, &format!("a twin that is none: {twin}"));
            }
            return read.is_some();
        }
        self.effect(endpoint.node, "the read of a twin", &answer);
        false
    }

    async fn send_message(&self, caller: &mut Caller, endpoint: Endpoint, device: &str) {
        let number = self.number();
        let asked = self.shared.recorder.now();
        let place = {
            let sent = &mut self.shared.recorder.history().down.sent;
            sent.push(SentMessage {
                device: device.to_owned(),
                number,
                asked,
                outcome: SendOutcome::Unknown,
            });
            sent.len() - 1
        };
        let body = json!({"messageId": number.to_string(), "payload": number.to_string()});
        let path = queue(device);
        let answer = self.ask(caller, endpoint, Method::POST, &path, Some(&body)).await;
        let outcome = match &answer {
            Answer::Done(document) => match document["sequenceNumber"].as_u64() {
                Some(sequence) => {
                    let answered = self.shared.recorder.now();
                    SendOutcome::Queued { answered, sequence }
                }
                None => {
                    self.impossible(endpoint.node, &format!("a sent message with {document}"));
                    SendOutcome::Unknown
                }
            },
            _ => match self.effect(endpoint.node, "a sent message", &answer) {
                Effect::None => SendOutcome::Refused,
                Effect::Unknown => SendOutcome::Unknown,
            },
        };
        if let Some(sent) = self.shared.recorder.history().down.sent.get_mut(place) {
            sent.outcome = outcome;
        }
    }

    /// Whether the queue was listed, and is empty.
    async fn list_queue(&self, caller: &mut Caller, endpoint: Endpoint, device: &str) -> bool {
        let asked = self.shared.recorder.now();
        let answer = self.ask(caller, endpoint, Method::GET, &queue(device), None).await;
        let Answer::Done(document) = &answer else {
            self.effect(endpoint.node, "the list of a queue", &answer);
            return false;
        };
        let (Some(queued), Some(dead)) = (numbers(&document["messages"]), numbers(&document["deadLetters"])) else {
            self.impossible(endpoint.node, &format!("a queue that is none: {document}"));
            return false;
        };
        let is_empty = queued.is_empty();
        let answered = self.shared.recorder.now();
        self.shared.recorder.history().down.listed.push(ListedQueue {
            device: device.to_owned(),
            asked,
            answered,
            queued,
            dead,
        });
        is_empty
    }

    /// Whether the device has answered.
    async fn call_method(&self, caller: &mut Caller, endpoint: Endpoint, device: &str) -> bool {
        let number = self.number();
        let asked = self.shared.recorder.now();
        let place = {
            let methods = &mut self.shared.recorder.history().down.methods;
            methods.push(MethodCall {
                device: device.to_owned(),
                number,
                node: endpoint.node,
                asked,
                answered: asked,
                outcome: MethodOutcome::Unanswered,
            });
            methods.len() - 1
        };
        let body = json!({
            "methodName": "echo",
            "payload": number,
            "responseTimeoutInSeconds": RESPONSE_TIMEOUT / SECOND,
        });
        let path = format!("/twins/{device}/methods?{VERSION}");
        let outcome = match self.ask(caller, endpoint, Method::POST, &path, Some(&body)).await {
            Answer::Done(document) => MethodOutcome::Answered {
                echo: document["payload"].as_u64(),
            },
            Answer::Failed(error) => {
                if ![NOT_ONLINE, TOO_MANY_METHODS].contains(&error) && effect_of(error).is_none() {
                    self.impossible(endpoint.node, &format!("a method with {error}"));
                }
                MethodOutcome::Failed(error)
            }
            Answer::NotSent | Answer::Unknown => MethodOutcome::Unanswered,
        };
        let answered = self.shared.recorder.now();
        if let Some(call) = self.shared.recorder.history().down.methods.get_mut(place) {
            call.answered = answered;
            call.outcome = outcome;
        }
        matches!(outcome, MethodOutcome::Answered { .. })
    }

    /// The next node and device, after a pause; `None`: there is no node.
    async fn next(&self, rng: &mut StdRng) -> Option<(Endpoint, &str)> {
        tokio::time::sleep(Duration::from_millis(rng.random_range(INTERVAL_MS))).await;
        let endpoint = self.shared.targets.any(rng)?;
        Some((endpoint, self.devices.choose(rng)?))
    }
}

/// Writes and reads twins; at the end reads each once more.
pub(super) async fn write_twins(down: Rc<Down>, mut rng: StdRng) {
    let Ok(mut caller) = Caller::new(&down.shared.targets) else {
        return;
    };
    while !down.shared.is_stopping() {
        let Some((endpoint, device)) = down.next(&mut rng).await else {
            continue;
        };
        if rng.random_bool(0.4) {
            down.read_twin(&mut caller, endpoint, device).await;
        } else {
            down.write_twin(&mut caller, endpoint, device).await;
        }
    }
    for device in &down.devices {
        while !down.shared.is_ended() {
            tokio::time::sleep(POLL_INTERVAL).await;
            let Some(endpoint) = down.shared.targets.any(&mut rng) else {
                continue;
            };
            if down.read_twin(&mut caller, endpoint, device).await {
                break;
            }
        }
    }
}

/// Sends messages, one after the other, and lists queues; at the end waits until each is empty.
pub(super) async fn send_messages(down: Rc<Down>, mut rng: StdRng) {
    let Ok(mut caller) = Caller::new(&down.shared.targets) else {
        return;
    };
    while !down.shared.is_stopping() {
        let Some((endpoint, device)) = down.next(&mut rng).await else {
            continue;
        };
        if rng.random_bool(0.2) {
            down.list_queue(&mut caller, endpoint, device).await;
        } else {
            down.send_message(&mut caller, endpoint, device).await;
        }
    }
    for device in &down.devices {
        while !down.shared.is_ended() {
            tokio::time::sleep(POLL_INTERVAL).await;
            let Some(endpoint) = down.shared.targets.any(&mut rng) else {
                continue;
            };
            if down.list_queue(&mut caller, endpoint, device).await {
                break;
            }
        }
    }
}

/// Calls methods; at the end until each device has answered one.
pub(super) async fn call_methods(down: Rc<Down>, mut rng: StdRng) {
    let Ok(mut caller) = Caller::waiting(&down.shared.targets, METHOD_TIMEOUT) else {
        return;
    };
    while !down.shared.is_stopping() {
        let Some((endpoint, device)) = down.next(&mut rng).await else {
            continue;
        };
        down.call_method(&mut caller, endpoint, device).await;
    }
    for device in &down.devices {
        while !down.shared.is_ended() {
            tokio::time::sleep(POLL_INTERVAL).await;
            let Some(endpoint) = down.shared.targets.any(&mut rng) else {
                continue;
            };
            if down.call_method(&mut caller, endpoint, device).await {
                break;
            }
        }
    }
}

fn twin(device: &str) -> String {
    format!("/twins/{device}?{VERSION}")
}

fn queue(device: &str) -> String {
    format!("/holdfast/v1/devices/{device}/c2d")
}

/// The numbers of listed messages, which are their ids.
fn numbers(list: &Value) -> Option<Vec<u64>> {
    let ids = list.as_array()?.iter();
    ids.map(|message| message.get("messageId")?.as_str()?.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_say_whether_a_call_may_have_had_an_effect() {
        assert_eq!(effect_of(QUEUE_FULL), Some(Effect::None));
        assert_eq!(effect_of(429_001), Some(Effect::None));
        assert_eq!(effect_of(503_003), Some(Effect::Unknown));
        assert_eq!(effect_of(404_001), None);
    }

    #[test]
    fn listed_messages_have_numbers() {
        assert_eq!(
            numbers(&json!([{"messageId": "3"}, {"messageId": "4"}])),
            Some(vec![3, 4])
        );
        assert_eq!(numbers(&json!([{"messageId": null}])), None);
        assert_eq!(numbers(&Value::Null), None);
    }
}
