//! Back ends that write and read identities, for the check of linearizability.
//!
//! All writers contend for a few identities at a time, through all nodes; each identity is retired after a number of
//! calls, since the checker's work grows with the length of one identity's history.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};
use rand::Rng as _;
use rand::rngs::StdRng;
use serde_json::{Value, json};

use super::Shared;
use super::service::{Caller, identity};
use crate::history::{Answer, Call, Operation};

/// Identities at a time.
const LIVE: usize = 4;
/// Calls about one identity.
const CALLS: u32 = 120;
/// From one call of a writer to the next, in milliseconds.
const INTERVAL_MS: std::ops::Range<u64> = 50..250;

/// The identities in use.
#[derive(Clone)]
pub(super) struct Keys(Rc<RefCell<Inner>>);

struct Inner {
    rng: StdRng,
    live: Vec<(String, u32)>,
    made: u32,
    tag: u64,
}

impl Keys {
    pub(super) fn new(rng: StdRng) -> Self {
        Self(Rc::new(RefCell::new(Inner {
            rng,
            live: Vec::new(),
            made: 0,
            tag: 0,
        })))
    }

    /// One of them.
    fn pick(&self) -> String {
        let mut inner = self.0.borrow_mut();
        while inner.live.len() < LIVE {
            inner.made += 1;
            let name = format!("identity-{:05}", inner.made);
            inner.live.push((name, 0));
        }
        let place = inner.rng.random_range(0..LIVE);
        let (name, calls) = &mut inner.live[place];
        *calls += 1;
        let (name, used_up) = (name.clone(), *calls >= CALLS);
        if used_up {
            inner.live.remove(place);
        }
        name
    }

    /// A unique number for a write.
    fn tag(&self) -> u64 {
        let mut inner = self.0.borrow_mut();
        inner.tag += 1;
        inner.tag
    }
}

pub(super) async fn run(shared: Rc<Shared>, keys: Keys, mut rng: StdRng) {
    let Ok(mut caller) = Caller::new(&shared.targets) else {
        return;
    };
    let mut seen: HashMap<String, String> = HashMap::new();
    while !shared.is_stopping() {
        tokio::time::sleep(Duration::from_millis(rng.random_range(INTERVAL_MS))).await;
        let Some(endpoint) = shared.targets.any(&mut rng) else {
            continue;
        };
        let key = keys.pick();
        let etag = seen.get(&key).cloned();
        let call = match rng.random_range(0..10) {
            0..=2 => Call::Get,
            3 | 4 => Call::Create { tag: keys.tag() },
            5..=7 => Call::Update {
                tag: keys.tag(),
                if_match: etag,
            },
            8 => Call::Update {
                tag: keys.tag(),
                if_match: None,
            },
            _ => Call::Delete {
                if_match: etag.filter(|_| rng.random()),
            },
        };
        let (method, if_match, body) = request(&key, &call);
        let asked = shared.recorder.now();
        let answer = caller
            .call(endpoint, method, &identity(&key), if_match.as_deref(), body.as_ref())
            .await;
        let answered = shared.recorder.now();
        let answer = match answer {
            Ok((status, body)) => understand(&shared, endpoint.node, &call, status, &body),
            Err(error) => {
                shared.recorder.failure(format!("call: {error}"));
                if error.perhaps_done {
                    Meaning::Unknown
                } else {
                    Meaning::Nothing
                }
            }
        };
        let answer = match answer {
            Meaning::Nothing => continue,
            // An unanswered read gives no information.
            Meaning::Unknown if call == Call::Get => continue,
            Meaning::Unknown => None,
            Meaning::Answer(answer) => Some(answer),
        };
        if let Some(Answer::Written { etag } | Answer::Found { etag, .. }) = &answer {
            seen.insert(key.clone(), etag.clone());
        }
        shared.recorder.operation(Operation {
            key,
            node: endpoint.node,
            call,
            asked,
            answered,
            answer,
        });
    }
}

fn request(key: &str, call: &Call) -> (Method, Option<String>, Option<Value>) {
    let document = |tag: u64| Some(json!({"deviceId": key, "status": "enabled", "statusReason": tag.to_string()}));
    match call {
        Call::Get => (Method::GET, None, None),
        Call::Create { tag } => (Method::PUT, None, document(*tag)),
        Call::Update { tag, if_match } => (
            Method::PUT,
            Some(if_match.clone().unwrap_or("*".into())),
            document(*tag),
        ),
        Call::Delete { if_match } => (Method::DELETE, if_match.clone(), None),
    }
}

/// The meaning of an answer.
#[derive(Debug, PartialEq, Eq)]
enum Meaning {
    Answer(Answer),
    /// The call may have taken effect.
    Unknown,
    /// The call has had no effect, and the answer gives no information about the identity.
    Nothing,
}

fn understand(shared: &Shared, node: u32, call: &Call, status: StatusCode, body: &Bytes) -> Meaning {
    if status.is_server_error() {
        let text: String = String::from_utf8_lossy(body).chars().take(120).collect();
        shared.recorder.failure(format!("call answered with {status}: {text}"));
    }
    match (meaning(call, status, body), status) {
        (Some(meaning), _) => meaning,
        (None, status) => {
            let text: String = String::from_utf8_lossy(body).chars().take(300).collect();
            shared
                .recorder
                .anomaly(format!("node {node} answers {status} to {call:?}: {text}"));
            Meaning::Unknown
        }
    }
}

/// `None` for an answer that the call cannot have.
fn meaning(call: &Call, status: StatusCode, body: &Bytes) -> Option<Meaning> {
    let document = || serde_json::from_slice::<Value>(body).ok();
    let text = |document: &Value, field: &str| document.get(field)?.as_str().map(str::to_owned);
    Some(match status.as_u16() {
        200 => {
            let document = document()?;
            let etag = text(&document, "etag")?;
            match call {
                Call::Get => Meaning::Answer(Answer::Found {
                    etag,
                    tag: text(&document, "statusReason")?.parse().ok()?,
                }),
                Call::Create { .. } | Call::Update { .. } => Meaning::Answer(Answer::Written { etag }),
                Call::Delete { .. } => return None,
            }
        }
        204 if matches!(call, Call::Delete { .. }) => Meaning::Answer(Answer::Deleted),
        404 if !matches!(call, Call::Create { .. }) => Meaning::Answer(Answer::Absent),
        409 if matches!(call, Call::Create { .. }) => Meaning::Answer(Answer::Exists),
        412 if !matches!(call, Call::Create { .. } | Call::Get) => Meaning::Answer(Answer::Mismatch),
        429 => Meaning::Nothing,
        500..=599 => Meaning::Unknown,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_understood_and_impossible_ones_are_reported() {
        let body = Bytes::from_static(br#"{"etag":"a","statusReason":"7"}"#);
        let found = Answer::Found {
            etag: "a".into(),
            tag: 7,
        };
        assert_eq!(meaning(&Call::Get, StatusCode::OK, &body), Some(Meaning::Answer(found)));
        let delete = Call::Delete { if_match: None };
        assert_eq!(
            meaning(&delete, StatusCode::NO_CONTENT, &Bytes::new()),
            Some(Meaning::Answer(Answer::Deleted))
        );
        assert_eq!(
            meaning(&delete, StatusCode::SERVICE_UNAVAILABLE, &Bytes::new()),
            Some(Meaning::Unknown)
        );
        assert_eq!(meaning(&delete, StatusCode::UNAUTHORIZED, &Bytes::new()), None);
        assert_eq!(
            meaning(&Call::Create { tag: 1 }, StatusCode::NOT_FOUND, &Bytes::new()),
            None
        );
    }
}
