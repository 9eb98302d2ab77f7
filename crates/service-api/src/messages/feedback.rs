//! One receiver of feedback: records are gathered into a message, and settled with it.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use holdfast_amqp::message::{Properties, begin_message_annotations, put_data, put_properties};
use holdfast_amqp::types::put_timestamp;
use holdfast_amqp::{Connection, Delivery, LinkId, Outcome};
use holdfast_device_hub::{DeviceHub, Feedback, FeedbackSource, FeedbackVerdict};
use holdfast_model::limits::MAX_FEEDBACK_BATCH;
use holdfast_model::property::annotation;
use holdfast_model::{UnixMillis, round_trip};
use serde_json::json;
use tokio::time::{Sleep, sleep};

/// How long records are gathered for one message after the first; Azure waits up to 15 s (Spec amqp §7).
const GATHER_TIME: Duration = Duration::from_millis(500);

const CONTENT_TYPE: &str = "application/vnd.microsoft.iothub.feedback.json";

/// See the module.
pub(super) struct FeedbackReceiver {
    hub: Arc<DeviceHub>,
    pub(super) link: LinkId,
    source: FeedbackSource,
    gathered: Vec<Feedback>,
    /// Runs while records are gathered.
    timer: Option<Pin<Box<Sleep>>>,
    /// Sent and not settled, by delivery tag.
    sent: HashMap<[u8; 16], Vec<Feedback>>,
    /// The client wants messages settled.
    is_settled: bool,
    /// The client has asked to use up its credit when there is nothing to send.
    pub(super) drain: bool,
}

impl FeedbackReceiver {
    pub(super) fn new(hub: Arc<DeviceHub>, link: LinkId, is_settled: bool) -> Self {
        Self {
            source: FeedbackSource::new(Arc::clone(&hub)),
            hub,
            link,
            gathered: Vec::new(),
            timer: None,
            sent: HashMap::new(),
            is_settled,
            drain: false,
        }
    }

    /// Takes feedback and sends it as far as credit and `output_bytes` allow; `cx` is woken when there is more.
    pub(super) fn pump(
        &mut self,
        engine: &mut Connection,
        hub_name: &str,
        output_bytes: usize,
        now: UnixMillis,
        cx: &mut Context<'_>,
    ) {
        // Without credit nothing is taken: another receiver may have some.
        while engine.sendable(self.link) > 0 && engine.output().len() < output_bytes {
            while self.gathered.len() < MAX_FEEDBACK_BATCH {
                match self.source.poll_next(cx) {
                    Poll::Ready(records) => self.gathered.extend(records),
                    Poll::Pending => break,
                }
            }
            if self.gathered.is_empty() {
                if std::mem::take(&mut self.drain) {
                    engine.finish_drain(self.link);
                }
                return;
            }
            let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(GATHER_TIME)));
            if self.gathered.len() < MAX_FEEDBACK_BATCH && !self.drain && timer.as_mut().poll(cx).is_pending() {
                return;
            }
            self.timer = None;
            let left = self.gathered.split_off(self.gathered.len().min(MAX_FEEDBACK_BATCH));
            let batch = std::mem::replace(&mut self.gathered, left);
            self.send(engine, hub_name, now, batch);
        }
    }

    fn send(&mut self, engine: &mut Connection, hub_name: &str, now: UnixMillis, batch: Vec<Feedback>) {
        let tag: [u8; 16] = rand::random();
        let delivery = Delivery {
            tag: &tag,
            settled: self.is_settled,
            message_format: 0,
        };
        let sent = engine.send_with(self.link, &delivery, |buf| encode(buf, hub_name, now, &batch));
        match sent {
            Ok(_) if self.is_settled => self.settle(batch, FeedbackVerdict::Done),
            Ok(_) => {
                self.sent.insert(tag, batch);
            }
            Err(error) => {
                tracing::warn!(%error, "feedback could not be sent to a receiver; it goes back");
                self.settle(batch, FeedbackVerdict::Released);
            }
        }
    }

    /// The client has settled the delivery with this tag. What it rejects is done with (Spec amqp §7).
    pub(super) fn settled(&mut self, tag: &[u8], outcome: &Outcome<'_>) {
        let verdict = match outcome {
            Outcome::Accepted | Outcome::Rejected(_) => FeedbackVerdict::Done,
            Outcome::Released | Outcome::Modified { .. } => FeedbackVerdict::Released,
        };
        let tag = <[u8; 16]>::try_from(tag);
        if let Some(batch) = tag.ok().and_then(|tag| self.sent.remove(&tag)) {
            self.settle(batch, verdict);
        }
    }

    fn settle(&self, batch: Vec<Feedback>, verdict: FeedbackVerdict) {
        let hub = Arc::clone(&self.hub);
        holdfast_tasks::spawn(
            "feedback-settle",
            async move { hub.settle_feedback(batch, verdict).await },
        );
    }
}

impl Drop for FeedbackReceiver {
    /// The link has ended: what it has and did not settle goes to another receiver at once.
    fn drop(&mut self) {
        let mut left = std::mem::take(&mut self.gathered);
        left.extend(self.sent.drain().flat_map(|(_, batch)| batch));
        // Without a runtime the process ends, and the owners' locks with it.
        if !left.is_empty() && tokio::runtime::Handle::try_current().is_ok() {
            self.settle(left, FeedbackVerdict::Released);
        }
    }
}

/// Appends the sections of a feedback message.
fn encode(buf: &mut Vec<u8>, hub_name: &str, now: UnixMillis, batch: &[Feedback]) {
    let mut annotations = begin_message_annotations(buf);
    put_timestamp(annotations.key(annotation::HUB_ENQUEUED_TIME), now.0.cast_signed());
    annotations.finish();
    put_properties(
        buf,
        &Properties {
            // C# reads it.
            user_id: Some(hub_name.as_bytes()),
            content_type: Some(CONTENT_TYPE),
            ..Properties::default()
        },
    );
    let records = batch.iter().map(|record| {
        let status = record.status.as_str();
        json!({
            "originalMessageId": record.message_id,
            "description": status,
            "deviceGenerationId": record.generation.to_string(),
            "deviceId": record.identity.device.as_str(),
            "enqueuedTimeUtc": round_trip(record.at.0.cast_signed()),
            "statusCode": status,
        })
    });
    let body = serde_json::Value::Array(records.collect());
    put_data(buf, body.to_string().as_bytes());
}
