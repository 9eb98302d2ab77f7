//! A device takes messages of its queue, and settles them (Spec rest §5).

use std::borrow::Cow;
use std::time::Duration;

use holdfast_device_hub::{FeedbackRequest, Settlement, TakenMessage, ThrottleClass};
use holdfast_model::{IdentityId, round_trip};
use holdfast_net::http_api::Reply;

use super::answer::HttpsError;
use super::call::Request;
use crate::own_address::own_address;

/// For how long the device may have a message, in seconds.
const LOCK_TIMEOUT: &str = "iothub-messagelocktimeout";
const DEFAULT_LOCK: u64 = 60;
const LOCK_RANGE: std::ops::RangeInclusive<u64> = 5..=300;

pub(super) async fn receive(mut request: Request<'_>) -> Result<Reply, HttpsError> {
    let lock = lock_of(&request)?;
    request.turn_of(ThrottleClass::CloudReceives).await?;
    let hub = request.front.core.hub();
    match hub.take_cloud_message(&request.requester, lock).await? {
        Some(taken) => Ok(reply(&taken, request.requester.identity())),
        None => Ok(Reply::no_content()),
    }
}

pub(super) async fn settle(request: Request<'_>, token: &str, settlement: Settlement) -> Result<Reply, HttpsError> {
    let hub = request.front.core.hub();
    hub.settle_cloud_message(&request.requester, token, settlement).await?;
    Ok(Reply::no_content())
}

fn lock_of(request: &Request<'_>) -> Result<Duration, HttpsError> {
    let Some(value) = request.headers.get(LOCK_TIMEOUT) else {
        return Ok(Duration::from_secs(DEFAULT_LOCK));
    };
    let seconds = value.to_str().ok().and_then(|text| text.trim().parse().ok());
    let seconds = seconds.filter(|seconds| LOCK_RANGE.contains(seconds));
    seconds.map(Duration::from_secs).ok_or_else(|| {
        let (least, most) = (LOCK_RANGE.start(), LOCK_RANGE.end());
        HttpsError::invalid(format!("{LOCK_TIMEOUT} is a number of seconds from {least} to {most}"))
    })
}

fn reply(taken: &TakenMessage, identity: &IdentityId) -> Reply {
    let message = &taken.message;
    let own = || Cow::Owned(own_address(identity, "deviceBound"));
    let to = message.to.as_deref().map_or_else(own, Cow::Borrowed);
    let time = |ms| i64::try_from(ms).ok().and_then(round_trip);
    let expiry = message.expiry.and_then(|expiry| time(expiry.0));
    let enqueued = time(taken.enqueued.0);
    let named = [
        ("iothub-messageid", message.message_id.as_deref()),
        ("iothub-correlationid", message.correlation_id.as_deref()),
        ("iothub-to", Some(&*to)),
        ("iothub-expiry", expiry.as_deref()),
        ("iothub-ack", message.feedback.map(FeedbackRequest::as_str)),
        ("iothub-contenttype", message.content_type.as_deref()),
        ("iothub-contentencoding", message.content_encoding.as_deref()),
        ("iothub-enqueuedtime", enqueued.as_deref()),
    ];
    let mut reply = Reply::bytes("application/octet-stream", message.body.clone())
        .etag(&taken.token)
        .header("iothub-sequencenumber", &taken.sequence.to_string())
        .header("iothub-deliverycount", &taken.deliveries.to_string());
    for (name, value) in named {
        if let Some(value) = value {
            reply = reply.named_header(name, value.as_bytes());
        }
    }
    if let Some(user) = &message.user_id {
        reply = reply.named_header("iothub-userid", user);
    }
    for (name, value) in &message.properties {
        let value = value.as_deref().unwrap_or_default();
        reply = reply.named_header(&format!("iothub-app-{name}"), value.as_bytes());
    }
    reply
}
