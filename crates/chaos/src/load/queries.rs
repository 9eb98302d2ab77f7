//! Back ends that query: all pages of a query, each from another node, and counts.
//!
//! Identities of the writers come and go, and the revoked devices too; all others exist from before the load to its end.

use std::collections::BTreeSet;
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use http::{HeaderName, Method, StatusCode};
use rand::Rng as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use serde_json::{Value, json};

use super::Shared;
use super::service::{Caller, VERSION};
use crate::history::queries::{Counted, Walk};

const PAGE_SIZE: HeaderName = HeaderName::from_static("x-ms-max-item-count");
const CONTINUATION: HeaderName = HeaderName::from_static("x-ms-continuation");
/// From the end of one query to the next, in milliseconds.
const INTERVAL_MS: Range<u64> = 200..1_000;
/// How long a caller waits for a page, which may take 5 s when an owner is away, and longer when a majority is.
const PAGE_TIMEOUT: Duration = Duration::from_secs(15);
/// How often a page is requested before the query is given up.
const ATTEMPTS: usize = 5;
/// Before a page is requested again.
const RETRY_INTERVAL: Duration = Duration::from_millis(500);

/// Queries for devices and counts them until the load stops. `steady`: devices that keep their rights.
pub(super) async fn run(shared: Rc<Shared>, steady: BTreeSet<String>, mut rng: StdRng) {
    let Ok(mut caller) = Caller::waiting(&shared.targets, PAGE_TIMEOUT) else {
        return;
    };
    let prefix = shared.targets.names().prefix().to_owned();
    let walks = [
        "SELECT deviceId FROM devices".to_owned(),
        format!("SELECT deviceId FROM devices WHERE STARTSWITH(deviceId, '{prefix}')"),
    ];
    let quoted: Vec<String> = steady.iter().map(|name| format!("'{name}'")).collect();
    let ids = quoted.join(", ");
    let counts = [
        format!("SELECT COUNT() AS n FROM devices WHERE deviceId IN [{ids}]"),
        format!("SELECT COUNT() AS n FROM devices WHERE CONCAT(deviceId, '') IN [{ids}]"),
    ];
    while !shared.is_stopping() {
        tokio::time::sleep(Duration::from_millis(rng.random_range(INTERVAL_MS))).await;
        let is_walk = rng.random_bool(0.5);
        let of = if is_walk { &walks } else { &counts };
        let Some(query) = of.choose(&mut rng) else { return };
        let asked = shared.recorder.now();
        let Some(results) = all(&shared, &mut caller, query, &mut rng).await else {
            continue;
        };
        let answered = shared.recorder.now();
        let query = query.clone();
        let queries = &mut shared.recorder.history().queries;
        if is_walk {
            let devices = results.iter().filter_map(|result| result["deviceId"].as_str());
            queries.walks.push(Walk {
                query,
                asked,
                answered,
                devices: devices.map(str::to_owned).collect(),
                steady: steady.clone(),
            });
        } else {
            let found = results.iter().filter_map(|result| result["n"].as_u64());
            queries.counts.push(Counted {
                query,
                asked,
                answered,
                found: found.sum(),
                expected: steady.len() as u64,
            });
        }
    }
}

/// The results of all pages; `None`: a page was not answered.
async fn all(shared: &Shared, caller: &mut Caller, query: &str, rng: &mut StdRng) -> Option<Vec<Value>> {
    let size = rng.random_range(3..100).to_string();
    let mut results = Vec::new();
    let mut token: Option<String> = None;
    loop {
        let (found, next) = page(shared, caller, query, &size, token.as_deref(), rng).await?;
        results.extend(found);
        match next {
            Some(next) => token = Some(next),
            None => return Some(results),
        }
    }
}

async fn page(
    shared: &Shared,
    caller: &mut Caller,
    query: &str,
    size: &str,
    token: Option<&str>,
    rng: &mut StdRng,
) -> Option<(Vec<Value>, Option<String>)> {
    let body = json!({"query": query});
    let mut headers = vec![(PAGE_SIZE, size)];
    headers.extend(token.map(|token| (CONTINUATION, token)));
    for _ in 0..ATTEMPTS {
        if shared.is_stopping() {
            return None;
        }
        if let Some(endpoint) = shared.targets.any(rng) {
            let path = format!("/devices/query?{VERSION}");
            let answer = caller
                .exchange(endpoint, Method::POST, &path, &headers, Some(&body))
                .await;
            match answer {
                Ok(answer) if answer.status == StatusCode::OK => {
                    let next = answer.headers.get(&CONTINUATION).and_then(|next| next.to_str().ok());
                    let Ok(Value::Array(results)) = serde_json::from_slice(&answer.body) else {
                        let text = format!("node {} answers a query without an array", endpoint.node);
                        shared.recorder.anomaly(text);
                        return None;
                    };
                    return Some((results, next.map(str::to_owned)));
                }
                Ok(answer) => refused(shared, endpoint.node, query, answer.status, &answer.body),
                Err(error) => shared.recorder.failure(format!("query: {error}")),
            }
        }
        tokio::time::sleep(RETRY_INTERVAL).await;
    }
    None
}

/// Busy, out of time, or an owner is away: allowed while something is broken. Anything else is not.
fn refused(shared: &Shared, node: u32, query: &str, status: StatusCode, body: &[u8]) {
    let document = serde_json::from_slice::<Value>(body).unwrap_or_default();
    let error = document["errorCode"].as_u64();
    let error = error.unwrap_or(u64::from(status.as_u16()) * 1_000);
    match error / 1_000 {
        429 | 500..=599 => shared.recorder.failure(format!("query: answered with {error}")),
        _ => {
            let text: String = String::from_utf8_lossy(body).chars().take(300).collect();
            let text = format!("node {node} answers {error} to the query {query}: {text}");
            shared.recorder.anomaly(text);
        }
    }
}
