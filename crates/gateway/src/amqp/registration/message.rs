//! Requests and replies of devices that register, as AMQP messages (Spec provisioning §5.3).

use std::borrow::Cow;
use std::time::Duration;

use holdfast_amqp::message::{Body, Message, Properties, begin_application_properties, put_data, put_properties};
use holdfast_amqp::types::{Raw, put_int};
use holdfast_amqp::{Fault, InfoValue, Outcome};
use holdfast_model::{ErrorCode, UnixMillis};
use holdfast_provisioning::{Answer, MAX_BODY_BYTES, ProvisioningError, RegisterBody, error_body};

/// The condition of a request that is wrong in itself.
pub(super) const ARGUMENT_ERROR: &str = "com.microsoft:argument-error";

/// What clients wait before they ask for the state of an operation, in seconds.
const POLL_SECONDS: i32 = 3;

/// The two spellings of clients.
const RETRY_AFTER: [&str; 2] = ["retry-after", "Retry-After"];

const OPERATION_TYPE: &str = "iotdps-operation-type";
const OPERATION_ID: &str = "iotdps-operation-id";

/// What a device requests.
#[derive(Debug)]
pub(super) enum Operation {
    /// To register.
    Register(RegisterBody),
    /// The state of this operation.
    Status(String),
    /// The state of the registration.
    LookUp(RegisterBody),
}

/// A request, read from its message.
#[derive(Debug)]
pub(super) struct Work {
    /// Its correlation id, encoded; to be repeated.
    pub(super) correlation_id: Option<Box<[u8]>>,
    /// What it requests, or what is wrong with it.
    pub(super) operation: Result<Operation, ProvisioningError>,
}

impl Work {
    /// Reads the message of the device `registration_id`, whose links have named the API's `version`.
    pub(super) fn read(payload: &[u8], registration_id: &str, version: Option<&str>) -> Self {
        let Ok(message) = Message::scan(payload) else {
            let text = "the message cannot be decoded";
            return Self {
                correlation_id: None,
                operation: Err(ProvisioningError::new(ErrorCode::IotHubFormatError, text)),
            };
        };
        let id = message
            .properties()
            .ok()
            .and_then(|properties| properties.correlation_id);
        Self {
            correlation_id: id.map(|id| id.bytes().into()),
            operation: operation(&message, registration_id, version),
        }
    }
}

fn operation(
    message: &Message<'_>,
    registration_id: &str,
    version: Option<&str>,
) -> Result<Operation, ProvisioningError> {
    let text = |key| {
        let value = message.application_properties.get(key).ok().flatten();
        value.and_then(|value| value.text())
    };
    let body = || RegisterBody::parse(&body(message), registration_id);
    match text(OPERATION_TYPE) {
        Some("iotdps-register") => Ok(Operation::Register(body()?.at_version(version))),
        Some("iotdps-get-operationstatus") => Ok(Operation::Status(text(OPERATION_ID).unwrap_or_default().to_owned())),
        Some("iotdps-get-registration") => Ok(Operation::LookUp(body()?)),
        _ => {
            let text =
                "iotdps-operation-type must be iotdps-register, iotdps-get-operationstatus or iotdps-get-registration";
            Err(ProvisioningError::new(ErrorCode::ArgumentInvalid, text))
        }
    }
}

/// The body's bytes: of its data sections, or of a value of text. Never much more than a body may have.
fn body<'a>(message: &Message<'a>) -> Cow<'a, [u8]> {
    match message.body {
        Body::Data(bytes, 1) => Cow::Borrowed(bytes),
        Body::Data(..) => {
            let mut all = Vec::new();
            for part in message.data() {
                all.extend_from_slice(part);
                if all.len() > MAX_BODY_BYTES {
                    break;
                }
            }
            Cow::Owned(all)
        }
        Body::Value(raw) => {
            let text = raw.value().ok().and_then(|value| value.text());
            Cow::Borrowed(text.unwrap_or_default().as_bytes())
        }
        _ => Cow::Borrowed(&[]),
    }
}

/// The message with an answer.
pub(super) fn reply(answer: &Answer, correlation_id: Option<&[u8]>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let correlation_id = correlation_id.and_then(|id| Raw::new(id).ok());
    put_properties(
        &mut bytes,
        &Properties {
            correlation_id,
            content_type: Some("application/json"),
            ..Properties::default()
        },
    );
    let pause = answer.retry_after.map_or(POLL_SECONDS, seconds);
    let mut map = begin_application_properties(&mut bytes);
    for key in RETRY_AFTER {
        put_int(map.string_key(key), pause);
    }
    map.finish();
    put_data(&mut bytes, answer.body.to_string().as_bytes());
    bytes
}

fn seconds(pause: Duration) -> i32 {
    i32::try_from(pause.as_secs()).unwrap_or(POLL_SECONDS)
}

/// The refusal of a request, ready to be sent.
pub(super) struct Reply {
    condition: &'static str,
    description: String,
    retry_after: Option<i32>,
}

impl Reply {
    /// The refusal with this error.
    pub(super) fn of_error(error: &ProvisioningError, now: UnixMillis) -> Self {
        let tracking_id = format!("{:032x}", rand::random::<u128>());
        Self {
            condition: condition(error.code),
            description: error_body(error.code, &error.text, &tracking_id, now).to_string(),
            retry_after: error.retry_after.map(seconds),
        }
    }

    /// Passes the outcome of the delivery to `use_it`.
    pub(super) fn with_outcome<R>(&self, use_it: impl FnOnce(&Outcome<'_>) -> R) -> R {
        let fault = Fault::new(self.condition, &self.description);
        let Some(seconds) = self.retry_after else {
            return use_it(&Outcome::Rejected(Some(fault)));
        };
        let info = RETRY_AFTER.map(|key| (key, InfoValue::Int(seconds)));
        use_it(&Outcome::Rejected(Some(fault.with_info(&info))))
    }
}

/// The condition by which clients tell errors apart; Node retries only the last two.
pub(super) fn condition(code: ErrorCode) -> &'static str {
    match code.http_status() {
        401 | 403 => "amqp:unauthorized-access",
        404 => "amqp:not-found",
        409 | 412 => "com.microsoft:precondition-failed",
        429 => "com.microsoft:device-container-throttled",
        500.. => "amqp:internal-error",
        _ => ARGUMENT_ERROR,
    }
}

#[cfg(test)]
mod tests {
    use holdfast_amqp::message::put_value;
    use holdfast_amqp::types::put_str;

    use super::*;

    fn message(properties: &[(&str, &str)], body: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut map = begin_application_properties(&mut bytes);
        for (key, value) in properties {
            put_str(map.string_key(key), value);
        }
        map.finish();
        body(&mut bytes);
        bytes
    }

    #[test]
    fn requests_of_the_sdks_are_read() {
        let register = [(OPERATION_TYPE, "iotdps-register")];
        let json = br#"{"registrationId":"dev-1","payload":null}"#;
        for payload in [
            message(&register, |buf| put_data(buf, json)),
            // In two sections, as a text, and not at all.
            message(&register, |buf| {
                put_data(buf, &json[..5]);
                put_data(buf, &json[5..]);
            }),
            message(&register, |buf| put_value(buf, |buf| put_str(buf, "{}"))),
            message(&register, |buf| put_data(buf, b"")),
            message(&register, |_| {}),
        ] {
            let work = Work::read(&payload, "dev-1", None);
            assert!(matches!(work.operation, Ok(Operation::Register(_))), "{work:?}");
        }
        let status = [(OPERATION_TYPE, "iotdps-get-operationstatus"), (OPERATION_ID, "4.ab.c")];
        let payload = message(&status, |buf| put_value(buf, |buf| put_str(buf, "")));
        let work = Work::read(&payload, "dev-1", None);
        assert!(
            matches!(&work.operation, Ok(Operation::Status(id)) if id == "4.ab.c"),
            "{work:?}"
        );
    }

    #[test]
    fn hostile_requests_are_refused_by_number() {
        let register = [(OPERATION_TYPE, "iotdps-register")];
        let large = vec![b' '; MAX_BODY_BYTES + 1];
        for (payload, number) in [
            (b"\xff\xff".to_vec(), 400_006),
            (message(&[], |buf| put_data(buf, b"{}")), 400_004),
            (message(&[(OPERATION_TYPE, "iotdps-delete")], |_| {}), 400_004),
            (message(&register, |buf| put_data(buf, b"[]")), 400_006),
            (message(&register, |buf| put_data(buf, &large)), 413_001),
            (
                message(&register, |buf| (0..3).for_each(|_| put_data(buf, &large[..65_536]))),
                413_001,
            ),
            (
                message(&register, |buf| put_data(buf, br#"{"registrationId":"x"}"#)),
                400_004,
            ),
        ] {
            let error = Work::read(&payload, "dev-1", None).operation.unwrap_err();
            assert_eq!(error.code.number(), number, "{error:?}");
        }
    }

    #[test]
    fn an_error_has_the_condition_of_its_number_and_both_spellings_of_its_pause() {
        let error = ProvisioningError::new(ErrorCode::ThrottlingException, "later");
        Reply::of_error(&error, UnixMillis(0)).with_outcome(|outcome| {
            let Outcome::Rejected(Some(fault)) = outcome else {
                panic!("{outcome:?}")
            };
            assert_eq!(fault.condition, "com.microsoft:device-container-throttled");
            let body: serde_json::Value = serde_json::from_str(fault.description.unwrap()).unwrap();
            assert_eq!(body["errorCode"], 429_001);
            assert_eq!(fault.info.iter().map(|(key, _)| *key).collect::<Vec<_>>(), RETRY_AFTER);
        });
        for (code, wanted) in [
            (ErrorCode::ArgumentInvalid, ARGUMENT_ERROR),
            (ErrorCode::GenericUnauthorized, "amqp:unauthorized-access"),
            (ErrorCode::IdScopeNotFound, "amqp:not-found"),
            (ErrorCode::RegistrationConflict, "com.microsoft:precondition-failed"),
            (ErrorCode::ServiceUnavailable, "amqp:internal-error"),
        ] {
            assert_eq!(condition(code), wanted, "{code}");
        }
    }
}
