//! `POST /twins/{id}[/modules/{id}]/methods`: calls a method of a device and waits for its answer (Spec rest §4).

use std::time::Duration;

use holdfast_device_hub::{MethodAnswer, MethodCall, MethodError, ThrottleClass};
use holdfast_model::limits::{
    MAX_METHOD_NAME_CHARS, MAX_METHOD_PAYLOAD_BYTES, MAX_METHOD_TIMEOUT, MIN_METHOD_RESPONSE_TIMEOUT,
};
use holdfast_model::{ErrorCode, IdentityId};
use serde_json::{Value, json};

use super::super::error::ApiError;
use super::super::json::{Fields, object, quoted};
use super::{Request, identities};
use holdfast_net::http_api::Reply;

/// Without `responseTimeoutInSeconds`.
const DEFAULT_RESPONSE_TIMEOUT: Duration = Duration::from_secs(30);

pub(super) async fn invoke(id: &IdentityId, mut request: Request<'_>) -> Result<Reply, ApiError> {
    let body = request.body.json().await?;
    let mut call = read(&object(&body)?)?;
    call.trace = request.trace_context();
    let blocks = ThrottleClass::method_blocks(call.payload.len());
    request.turn(ThrottleClass::Methods, blocks).await?;
    let identity = request.within(request.shared.registry().get(id)).await?;
    let identity = identity.ok_or_else(|| identities::not_found(id))?;
    if !identity.is_enabled() {
        return Err(failed(ErrorCode::DeviceNotOnline, format!("'{id}' is disabled"), &call));
    }
    // Its wait does not count among the calls that this node works on.
    request.permit = None;
    let outcome = request.shared.hub.invoke_method(id, &call).await;
    let outcome = outcome.map_err(|error| refused(error, id, &call));
    let outcome = outcome.and_then(|answer| show(&answer, &call));
    let code = outcome.as_ref().err().map(|error| error.code);
    request.audit("invokeMethod", &id.to_string(), code);
    outcome
}

fn read(fields: &Fields<'_>) -> Result<MethodCall, ApiError> {
    let name = fields
        .text("methodName")?
        .ok_or_else(|| ApiError::invalid("methodName is missing"))?;
    check_name(name)?;
    let payload = match fields.get("payload") {
        None => String::new(),
        Some(payload) => payload.to_string(),
    };
    if payload.len() > MAX_METHOD_PAYLOAD_BYTES {
        let text = format!(
            "payload has {} bytes, at most {MAX_METHOD_PAYLOAD_BYTES} are allowed",
            payload.len()
        );
        return Err(ApiError::new(ErrorCode::MessageTooLarge, text));
    }
    Ok(MethodCall {
        name: name.into(),
        payload: payload.into(),
        connect_timeout: seconds(fields, "connectTimeoutInSeconds", Duration::ZERO, Duration::ZERO)?,
        response_timeout: seconds(
            fields,
            "responseTimeoutInSeconds",
            MIN_METHOD_RESPONSE_TIMEOUT,
            DEFAULT_RESPONSE_TIMEOUT,
        )?,
        trace: None,
    })
}

/// A name goes into a topic as it is.
fn check_name(name: &str) -> Result<(), ApiError> {
    if name.is_empty() || name.len() > MAX_METHOD_NAME_CHARS {
        return Err(ApiError::invalid(format!(
            "methodName must have 1 to {MAX_METHOD_NAME_CHARS} characters"
        )));
    }
    let is_allowed = |c: char| c.is_ascii_graphic() && !"$()<>@,;:\\\"/[]?={}#+".contains(c);
    match name.chars().find(|c| !is_allowed(*c)) {
        None => Ok(()),
        Some(c) => Err(ApiError::invalid(format!(
            "methodName {} has the character '{}', which is not allowed",
            quoted(name),
            c.escape_debug()
        ))),
    }
}

fn seconds(fields: &Fields<'_>, name: &str, least: Duration, default: Duration) -> Result<Duration, ApiError> {
    let value = match fields.get(name) {
        None | Some(Value::Null) => return Ok(default),
        Some(value) => value,
    };
    let range = least..=MAX_METHOD_TIMEOUT;
    let seconds = value.as_u64().map(Duration::from_secs);
    seconds.filter(|seconds| range.contains(seconds)).ok_or_else(|| {
        ApiError::invalid(format!(
            "{name} must be a whole number from {} to {}",
            least.as_secs(),
            MAX_METHOD_TIMEOUT.as_secs()
        ))
    })
}

fn show(answer: &MethodAnswer, call: &MethodCall) -> Result<Reply, ApiError> {
    if answer.payload.len() > MAX_METHOD_PAYLOAD_BYTES {
        let text = format!(
            "the device answered with {} bytes, at most {MAX_METHOD_PAYLOAD_BYTES} are allowed",
            answer.payload.len()
        );
        return Err(failed(ErrorCode::MessageTooLarge, text, call));
    }
    let payload = match answer.payload.trim_ascii() {
        [] => Value::Null,
        text => serde_json::from_slice(text).map_err(|error| {
            let text = format!("the device's answer is not valid JSON: {error}");
            failed(ErrorCode::GenericBadGateway, text, call)
        })?,
    };
    Ok(Reply::ok(json!({"status": answer.status, "payload": payload})))
}

fn refused(error: MethodError, id: &IdentityId, call: &MethodCall) -> ApiError {
    let code = match error {
        MethodError::NotConnected | MethodError::NotSubscribed | MethodError::Disconnected => {
            ErrorCode::DeviceNotOnline
        }
        MethodError::NoAnswer => ErrorCode::GatewayTimeout,
        MethodError::TooManyInFlight => ErrorCode::DeviceMaximumInflightMethodExceeded,
        MethodError::Busy => ErrorCode::ServerBusy,
        MethodError::NoOwner => ErrorCode::PartitionNotFound,
    };
    failed(code, format!("method of '{id}': {error}"), call)
}

/// An error with the time-outs that were used: a caller that gets 404103 after no time wants to know why.
fn failed(code: ErrorCode, text: String, call: &MethodCall) -> ApiError {
    let (connect, response) = (call.connect_timeout.as_secs(), call.response_timeout.as_secs());
    ApiError::new(
        code,
        format!("{text} (connect time-out {connect} s, response time-out {response} s)"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(body: &Value) -> Result<MethodCall, ApiError> {
        read(&object(body).unwrap())
    }

    #[test]
    fn a_call_is_read_with_its_defaults_and_limits() {
        let call = parse(&json!({"methodName": "reboot"})).unwrap();
        assert_eq!((&*call.name, call.payload.len()), ("reboot", 0));
        assert_eq!(call.connect_timeout, Duration::ZERO);
        assert_eq!(call.response_timeout, Duration::from_secs(30));
        let call = parse(&json!({
            "methodName": "a.b-c_d!",
            "payload": null,
            "responseTimeoutInSeconds": 300,
            "connectTimeoutInSeconds": 300,
        }));
        let call = call.unwrap();
        assert_eq!(&call.payload[..], b"null", "a payload that is given is sent");
        assert_eq!(call.connect_timeout, Duration::from_secs(300));
        for payload in [json!(0), json!("text"), json!([1, {"a": 2}]), json!(false)] {
            let call = parse(&json!({"methodName": "m", "payload": payload})).unwrap();
            assert_eq!(call.payload, payload.to_string());
        }
    }

    #[test]
    fn what_is_outside_the_limits_is_refused_by_name() {
        let long = "m".repeat(MAX_METHOD_NAME_CHARS + 1);
        for (field, value) in [
            ("methodName", json!("")),
            ("methodName", json!(long)),
            ("methodName", json!("a/b")),
            ("methodName", json!("a b")),
            ("methodName", json!("a#")),
            ("methodName", json!("\u{e4}")),
            ("responseTimeoutInSeconds", json!(4)),
            ("responseTimeoutInSeconds", json!(301)),
            ("responseTimeoutInSeconds", json!("30")),
            ("connectTimeoutInSeconds", json!(-1)),
            ("connectTimeoutInSeconds", json!(1.5)),
            ("connectTimeoutInSeconds", json!(301)),
        ] {
            let mut body = json!({"methodName": "m"});
            body[field] = value.clone();
            let error = parse(&body).unwrap_err();
            assert_eq!(error.code, ErrorCode::ArgumentInvalid, "{field} {value}");
            assert!(error.text.contains(field), "{}", error.text);
        }
        let large = json!({"methodName": "m", "payload": "x".repeat(MAX_METHOD_PAYLOAD_BYTES)});
        assert_eq!(parse(&large).unwrap_err().code, ErrorCode::MessageTooLarge);
    }

    #[test]
    fn an_answer_is_shown_as_json_and_rubbish_is_an_error() {
        let call = parse(&json!({"methodName": "m"})).unwrap();
        let answer = |payload: &'static str| MethodAnswer {
            status: -7,
            payload: payload.into(),
        };
        assert!(show(&answer(""), &call).is_ok() && show(&answer(" 1 "), &call).is_ok());
        let error = show(&answer("{"), &call).unwrap_err();
        assert_eq!(error.code, ErrorCode::GenericBadGateway);
        assert!(
            error.text.contains("connect time-out 0 s, response time-out 30 s"),
            "{}",
            error.text
        );
    }
}
