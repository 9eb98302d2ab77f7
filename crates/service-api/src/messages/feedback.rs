//! Feedback as records of a receiver.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use holdfast_amqp::message::put_data;
use holdfast_auth::bearer::Action;
use holdfast_device_hub::{DeviceHub, Feedback, FeedbackSource, FeedbackVerdict};
use holdfast_model::limits::MAX_FEEDBACK_BATCH;
use holdfast_model::{UnixMillis, round_trip};
use serde_json::json;

use super::receiver::{Records, begin_message};

const CONTENT_TYPE: &str = "application/vnd.microsoft.iothub.feedback.json";

impl Records for FeedbackSource {
    type Record = Feedback;

    const MOST: usize = MAX_FEEDBACK_BATCH;
    /// Azure waits up to 15 s (Spec amqp §7).
    const GATHER_TIME: Duration = Duration::from_millis(500);
    const REJECTED: FeedbackVerdict = FeedbackVerdict::Done;
    const ACTION: Action = Action::MESSAGES_FEEDBACK;

    fn new(hub: Arc<DeviceHub>) -> Self {
        Self::new(hub)
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Vec<Feedback>> {
        Self::poll_next(self, cx)
    }

    fn poll_unwanted(&mut self, cx: &mut Context<'_>) {
        Self::poll_unwanted(self, cx);
    }

    async fn settle(hub: Arc<DeviceHub>, records: Vec<Feedback>, verdict: FeedbackVerdict) {
        hub.settle_feedback(records, verdict).await;
    }

    fn encode(buf: &mut Vec<u8>, hub_name: &str, now: UnixMillis, records: &[Feedback]) {
        begin_message(buf, hub_name, now, CONTENT_TYPE);
        let records = records.iter().map(|record| {
            let status = record.status.as_str();
            let mut shown = json!({
                "originalMessageId": record.message_id,
                "description": status,
                "deviceGenerationId": record.generation.to_string(),
                "deviceId": record.identity.device.as_str(),
                "enqueuedTimeUtc": round_trip(record.at.0.cast_signed()),
                "statusCode": status,
            });
            // Of the original, which has no such record, this is a field more.
            if let Some(module) = &record.identity.module {
                shown["moduleId"] = json!(module.as_str());
            }
            shown
        });
        let body = serde_json::Value::Array(records.collect());
        put_data(buf, body.to_string().as_bytes());
    }
}
