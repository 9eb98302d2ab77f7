//! The queue of cloud-to-device messages of a device or module: purge (Spec rest §2.2), and our own calls to send, list and requeue
//! (§10). SDKs send over AMQP.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use holdfast_device_hub::{CloudMessage, CloudQueueError, FeedbackRequest, ListedMessage};
use holdfast_model::limits::{MAX_MESSAGE_ID_CHARS, MAX_PROPERTIES};
use holdfast_model::{ErrorCode, GenerationId, IdentityId, ModuleId, UnixMillis};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::super::error::ApiError;
use super::super::json::{Fields, object, quoted};
use super::super::timestamps;
use super::{Request, identities};
use crate::messages::{error_code, too_large};
use holdfast_net::http_api::Reply;

/// The fields of a message that is sent.
const MESSAGE_FIELDS: [&str; 11] = [
    "messageId",
    "correlationId",
    "userId",
    "to",
    "contentType",
    "contentEncoding",
    "expiryTimeUtc",
    "ack",
    "properties",
    "payload",
    "payloadBase64",
];

/// `DELETE /devices/{id}[/modules/{id}]/commands`.
pub(super) async fn purge(id: &IdentityId, request: &Request<'_>) -> Result<Reply, ApiError> {
    let generation = generation(id, request).await?;
    let purged = request.shared.hub.purge_cloud_messages(id, &generation).await;
    let purged = audited("purgeMessages", id, request, purged)?;
    Ok(Reply::ok(json!({
        "totalMessagesPurged": purged,
        "deviceId": id.device.as_str(),
        "moduleId": module(id),
    })))
}

/// `GET /holdfast/v1/devices/{id}[/modules/{id}]/c2d`.
pub(super) async fn list(id: &IdentityId, request: &Request<'_>) -> Result<Reply, ApiError> {
    let generation = generation(id, request).await?;
    let listed = request.shared.hub.list_cloud_messages(id, &generation).await;
    let listed = listed.map_err(|error| refused(id, error))?;
    let (queued, dead): (Vec<_>, Vec<_>) = listed.iter().partition(|one| one.dead.is_none());
    Ok(Reply::ok(json!({
        "deviceId": id.device.as_str(),
        "moduleId": module(id),
        "messages": queued.into_iter().map(show).collect::<Vec<_>>(),
        "deadLetters": dead.into_iter().map(show).collect::<Vec<_>>(),
    })))
}

/// `POST /holdfast/v1/devices/{id}[/modules/{id}]/c2d`.
pub(super) async fn send(id: &IdentityId, mut request: Request<'_>) -> Result<Reply, ApiError> {
    let body = request.body.json().await?;
    let mut message = read(&object(&body)?, request.shared.now())?;
    message.trace = request.trace_context();
    let identity = request.within(request.shared.registry().get(id)).await?;
    let identity = identity.ok_or_else(|| identities::not_found(id))?;
    if !identity.is_enabled() {
        return Err(ApiError::new(ErrorCode::DeviceDisabled, format!("'{id}' is disabled")));
    }
    let hub = &request.shared.hub;
    let sent = hub.send_cloud_message(id, &identity.generation, &message).await;
    let sent = audited("sendMessage", id, &request, sent)?;
    Ok(Reply::json(
        201,
        json!({
            "deviceId": id.device.as_str(),
            "moduleId": module(id),
            "sequenceNumber": sent.sequence,
            "expiryTimeUtc": timestamps::iso(Some(sent.expires)),
        }),
    ))
}

/// `POST /holdfast/v1/devices/{id}[/modules/{id}]/c2d/requeue`.
pub(super) async fn requeue(id: &IdentityId, mut request: Request<'_>) -> Result<Reply, ApiError> {
    let which = match request.body.optional_json().await? {
        None => None,
        Some(body) => sequence_numbers(&object(&body)?)?,
    };
    let generation = generation(id, &request).await?;
    let hub = &request.shared.hub;
    let requeued = hub.requeue_dead_letters(id, &generation, which.as_deref()).await;
    let requeued = audited("requeueMessages", id, &request, requeued)?;
    Ok(Reply::ok(json!({
        "deviceId": id.device.as_str(),
        "moduleId": module(id),
        "requeued": requeued,
    })))
}

/// `None`, null in answers: the queue is the device's own.
fn module(id: &IdentityId) -> Option<&str> {
    id.module.as_ref().map(ModuleId::as_str)
}

async fn generation(id: &IdentityId, request: &Request<'_>) -> Result<GenerationId, ApiError> {
    let identity = request.within(request.shared.registry().get(id)).await?;
    Ok(identity.ok_or_else(|| identities::not_found(id))?.generation.clone())
}

fn audited<T>(
    operation: &'static str,
    id: &IdentityId,
    request: &Request<'_>,
    outcome: Result<T, CloudQueueError>,
) -> Result<T, ApiError> {
    let code = outcome.as_ref().err().map(error_code);
    request.audit(operation, &id.to_string(), code);
    outcome.map_err(|error| refused(id, error))
}

fn refused(id: &IdentityId, error: CloudQueueError) -> ApiError {
    ApiError::new(error_code(&error), format!("'{id}': {error}"))
}

fn show(listed: &ListedMessage) -> Value {
    let message = &listed.message;
    let properties: serde_json::Map<String, Value> = message
        .properties
        .iter()
        .map(|(name, value)| (name.clone(), json!(value)))
        .collect();
    let mut shown = json!({
        "sequenceNumber": listed.sequence,
        "messageId": message.message_id,
        "correlationId": message.correlation_id,
        "userId": message.user_id.as_deref().map(String::from_utf8_lossy),
        "to": message.to,
        "contentType": message.content_type,
        "contentEncoding": message.content_encoding,
        "ack": message.feedback.map(FeedbackRequest::as_str),
        "properties": properties,
        "sizeInBytes": listed.bytes,
        "enqueuedTimeUtc": timestamps::iso(Some(listed.enqueued)),
        "expiryTimeUtc": timestamps::iso(Some(listed.expires)),
        "deliveryCount": listed.deliveries,
    });
    match listed.dead {
        None => shown["state"] = json!(if listed.is_locked { "locked" } else { "enqueued" }),
        Some((reason, at)) => {
            shown["state"] = json!("deadLettered");
            shown["reason"] = json!(reason.as_str());
            shown["deadLetteredTimeUtc"] = json!(timestamps::iso(Some(at)));
        }
    }
    shown
}

fn read(fields: &Fields<'_>, now: UnixMillis) -> Result<CloudMessage, ApiError> {
    check_known(fields, &MESSAGE_FIELDS)?;
    let text = |name: &str| Ok::<_, ApiError>(fields.text(name)?.map(str::to_owned));
    let id = |name: &str| match text(name)? {
        Some(id) if id.chars().count() > MAX_MESSAGE_ID_CHARS => Err(ApiError::invalid(format!(
            "{name} has more than {MAX_MESSAGE_ID_CHARS} characters"
        ))),
        id => Ok(id),
    };
    let message = CloudMessage {
        message_id: id("messageId")?,
        correlation_id: id("correlationId")?,
        user_id: text("userId")?.map(String::into_bytes),
        to: text("to")?,
        content_type: text("contentType")?,
        content_encoding: text("contentEncoding")?,
        expiry: fields
            .text("expiryTimeUtc")?
            .map(|text| expiry(text, now))
            .transpose()?,
        feedback: fields.text("ack")?.map(feedback).transpose()?,
        properties: properties(fields)?,
        body: payload(fields)?.into(),
        trace: None,
    };
    match too_large(&message) {
        Some(text) => Err(ApiError::new(ErrorCode::MessageTooLarge, text)),
        None => Ok(message),
    }
}

fn check_known(fields: &Fields<'_>, known: &[&str]) -> Result<(), ApiError> {
    match fields.unknown(known) {
        Some(unknown) => Err(ApiError::invalid(format!("field {} is unknown", quoted(unknown)))),
        None => Ok(()),
    }
}

fn expiry(text: &str, now: UnixMillis) -> Result<UnixMillis, ApiError> {
    let time = OffsetDateTime::parse(text, &Rfc3339)
        .map_err(|error| ApiError::invalid(format!("expiryTimeUtc is no time: {error}")))?;
    let millis = u64::try_from(time.unix_timestamp_nanos() / 1_000_000).map(UnixMillis);
    millis.ok().filter(|expiry| *expiry > now).ok_or_else(|| {
        let text = "expiryTimeUtc is over";
        ApiError::new(ErrorCode::InvalidMessageExpiryTime, text)
    })
}

fn feedback(word: &str) -> Result<FeedbackRequest, ApiError> {
    let unknown = || ApiError::invalid("ack must be none, positive, negative or full");
    FeedbackRequest::parse(word).ok_or_else(unknown)
}

fn payload(fields: &Fields<'_>) -> Result<Vec<u8>, ApiError> {
    match (fields.text("payload")?, fields.text("payloadBase64")?) {
        (Some(_), Some(_)) => Err(ApiError::invalid("give payload or payloadBase64, not both")),
        (Some(text), None) => Ok(text.as_bytes().to_vec()),
        (None, Some(text)) => STANDARD
            .decode(text)
            .map_err(|error| ApiError::invalid(format!("payloadBase64: {error}"))),
        (None, None) => Ok(Vec::new()),
    }
}

fn properties(fields: &Fields<'_>) -> Result<Vec<(String, Option<String>)>, ApiError> {
    let given = match fields.get("properties") {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Object(given)) => given,
        Some(_) => return Err(ApiError::invalid("properties must be an object")),
    };
    if given.len() > MAX_PROPERTIES {
        return Err(ApiError::invalid(format!(
            "a message has at most {MAX_PROPERTIES} properties"
        )));
    }
    let read = given.iter().map(|(name, value)| match value {
        Value::Null => Ok((name.clone(), None)),
        Value::String(text) => Ok((name.clone(), Some(text.clone()))),
        _ => Err(ApiError::invalid(format!(
            "property {} must be text or null",
            quoted(name)
        ))),
    });
    read.collect()
}

/// `None`: all.
fn sequence_numbers(fields: &Fields<'_>) -> Result<Option<Vec<u64>>, ApiError> {
    check_known(fields, &["sequenceNumbers"])?;
    let Some(numbers) = fields.array("sequenceNumbers")? else {
        return Ok(None);
    };
    let numbers: Option<Vec<u64>> = numbers.iter().map(Value::as_u64).collect();
    let invalid = || ApiError::invalid("sequenceNumbers must be whole numbers");
    numbers.map(Some).ok_or_else(invalid)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixMillis = UnixMillis(1_000_000_000_000);

    fn parse(body: &Value) -> Result<CloudMessage, ErrorCode> {
        read(&object(body).unwrap(), NOW).map_err(|error| error.code)
    }

    #[test]
    fn a_message_is_read_with_all_its_fields() {
        let message = parse(&json!({
            "messageId": "m",
            "ack": "Full",
            "expiryTimeUtc": "2030-07-19T23:06:40.0000000Z",
            "properties": {"a": "b", "n": null},
            "payloadBase64": "AAE=",
        }))
        .unwrap();
        assert_eq!(message.feedback, Some(FeedbackRequest::Full));
        assert_eq!(message.expiry, Some(UnixMillis(1_910_732_800_000)));
        assert_eq!(message.properties, [("a".into(), Some("b".into())), ("n".into(), None)]);
        assert_eq!(&message.body[..], [0, 1]);
        assert_eq!(parse(&json!({})), Ok(CloudMessage::default()));
    }

    #[test]
    fn what_is_wrong_has_its_number() {
        for (body, code) in [
            (json!({"what": 1}), ErrorCode::ArgumentInvalid),
            (json!({"ack": "all"}), ErrorCode::ArgumentInvalid),
            (json!({"expiryTimeUtc": "soon"}), ErrorCode::ArgumentInvalid),
            (
                json!({"expiryTimeUtc": "2001-01-01T00:00:00Z"}),
                ErrorCode::InvalidMessageExpiryTime,
            ),
            (json!({"properties": {"a": 1}}), ErrorCode::ArgumentInvalid),
            (json!({"payload": "a", "payloadBase64": ""}), ErrorCode::ArgumentInvalid),
            (json!({"payloadBase64": "?"}), ErrorCode::ArgumentInvalid),
            (json!({"messageId": "m".repeat(129)}), ErrorCode::ArgumentInvalid),
            (json!({"payload": "x".repeat(65_537)}), ErrorCode::MessageTooLarge),
        ] {
            assert_eq!(parse(&body), Err(code), "{code:?}");
        }
        assert!(parse(&json!({"payload": "x".repeat(65_536)})).is_ok());
    }
}
