//! Notifications about uploaded files as records of a receiver: one in each message.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use holdfast_amqp::message::put_data;
use holdfast_auth::bearer::Action;
use holdfast_device_hub::{DeviceHub, FeedbackVerdict, UploadNotification, UploadReader, UploadSource};
use holdfast_model::{UnixMillis, round_trip};
use serde_json::{Value, json};

use super::receiver::{Records, begin_message};

const CONTENT_TYPE: &str = "application/vnd.microsoft.iothub.filenotification.json";

/// The body of a notification, for AMQP and for the webhook (Spec amqp §7). `correlationId` is ours.
#[must_use]
pub fn notification_body(notification: &UploadNotification) -> Value {
    // As Azure writes it, whole seconds and the zone as an offset: the parser of Java's SDK takes nothing else.
    let time = |at: UnixMillis| {
        let text = round_trip(at.0.cast_signed()).unwrap_or_default();
        text.get(..19)
            .map(|seconds| format!("{seconds}+00:00"))
            .unwrap_or_default()
    };
    json!({
        "deviceId": notification.identity.device.as_str(),
        "blobUri": notification.blob_uri,
        "blobName": notification.blob_name,
        "lastUpdatedTime": time(notification.modified),
        "blobSizeInBytes": notification.size,
        "enqueuedTimeUtc": round_trip(notification.at.0.cast_signed()),
        "correlationId": notification.correlation_id,
    })
}

impl Records for UploadSource {
    type Record = UploadNotification;

    const MOST: usize = 1;
    const GATHER_TIME: Duration = Duration::ZERO;
    const REJECTED: FeedbackVerdict = FeedbackVerdict::Released;
    const ACTION: Action = Action::FILE_NOTIFICATIONS;

    fn new(hub: Arc<DeviceHub>) -> Self {
        Self::new(hub, UploadReader::BackEnd)
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Vec<UploadNotification>> {
        Self::poll_next(self, cx)
    }

    fn poll_unwanted(&mut self, cx: &mut Context<'_>) {
        Self::poll_unwanted(self, cx);
    }

    async fn settle(hub: Arc<DeviceHub>, records: Vec<UploadNotification>, verdict: FeedbackVerdict) {
        hub.settle_uploads(UploadReader::BackEnd, records, verdict).await;
    }

    fn encode(buf: &mut Vec<u8>, hub_name: &str, now: UnixMillis, records: &[UploadNotification]) {
        begin_message(buf, hub_name, now, CONTENT_TYPE);
        let body = records.first().map(notification_body).unwrap_or_default();
        put_data(buf, body.to_string().as_bytes());
    }
}
