//! `POST /holdfast/v1/trace/{deviceId}[/modules/{moduleId}]`: a live trace, taken by repeated calls.
//!
//! The first call begins the trace on all nodes and answers its number; each further call names it and answers with the events
//! since the last one, as soon as there are some, within [`WAIT`]. A reader that no longer calls ends the trace.

use std::time::Duration;

use data_encoding::BASE64;
use holdfast_device_hub::{MAX_TRACE_TIME, TraceRequest};
use holdfast_model::{ErrorCode, IdentityId};
use serde_json::json;

use super::super::error::ApiError;
use super::super::json::{object, quoted};
use super::super::timestamps;
use super::Request;
use holdfast_net::http_api::Reply;

/// How long a call waits for events.
const WAIT: Duration = Duration::from_secs(2);
/// How often it asks the nodes meanwhile.
const INTERVAL: Duration = Duration::from_millis(250);

pub(super) async fn trace(id: &IdentityId, mut request: Request<'_>) -> Result<Reply, ApiError> {
    let body = request.body.json().await?;
    let fields = object(&body)?;
    if let Some(unknown) = fields.unknown(&["trace", "seconds", "payload"]) {
        return Err(ApiError::invalid(format!("field {} is unknown", quoted(unknown))));
    }
    let seconds = body["seconds"].as_u64();
    let seconds = seconds.filter(|seconds| *seconds <= MAX_TRACE_TIME.as_secs());
    let seconds = seconds.ok_or_else(|| {
        ApiError::invalid(format!(
            "seconds must be 0 to {}, how much longer it runs",
            MAX_TRACE_TIME.as_secs()
        ))
    })?;
    let payloads = body["payload"].as_bool().unwrap_or(false);
    let number = match fields.text("trace")? {
        Some(text) => u64::from_str_radix(text, 16)
            .map_err(|_| ApiError::invalid("trace must be the number that the first call has answered"))?,
        None => {
            request.audit(
                if payloads { "traceWithPayloads" } else { "trace" },
                &id.to_string(),
                None,
            );
            rand::random()
        }
    };
    let is_first = body["trace"].is_null();
    let asked = TraceRequest {
        identity: id,
        number,
        left: Duration::from_secs(seconds),
        payloads,
    };
    let deadline = tokio::time::Instant::now() + WAIT;
    let taken = loop {
        let taken = request.shared.hub.take_trace(&asked).await;
        let taken = taken.map_err(|error| ApiError::new(ErrorCode::ThrottlingException, error.to_string()))?;
        let is_late = tokio::time::Instant::now() + INTERVAL >= deadline;
        if is_first || is_late || seconds == 0 || taken.dropped > 0 || !taken.events.is_empty() {
            break taken;
        }
        tokio::time::sleep(INTERVAL).await;
    };
    let name = |node| {
        let found = taken.nodes.iter().find(|queried| queried.node == node);
        found.map_or_else(|| node.to_string(), |queried| queried.name.clone())
    };
    let events = taken.events.iter().map(|event| {
        json!({
            "time": timestamps::iso(Some(event.time)),
            "node": event.node.map(name),
            "kind": event.kind.as_str(),
            "event": event.text,
            "payload": event.payload.as_ref().map(|payload| match std::str::from_utf8(payload) {
                Ok(text) => json!(text),
                Err(_) => json!({"base64": BASE64.encode(payload)}),
            }),
        })
    });
    let silent = taken.nodes.iter().filter(|queried| queried.fault.is_some());
    Ok(Reply::ok(json!({
        "trace": format!("{number:016x}"),
        "events": events.collect::<Vec<_>>(),
        "dropped": taken.dropped,
        "notAsked": silent.map(|queried| queried.name.clone()).collect::<Vec<_>>(),
    })))
}
