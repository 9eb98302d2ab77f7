//! One receiver of records that owners keep for back ends: they are gathered into a message, and settled with it.
//!
//! Feedback and notifications about files differ in what a message holds ([`Records`]), and in nothing else.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use holdfast_amqp::message::{Properties, begin_message_annotations, put_properties};
use holdfast_amqp::types::put_timestamp;
use holdfast_amqp::{Connection, Delivery, LinkId, Outcome};
use holdfast_auth::bearer::Action;
use holdfast_device_hub::{DeviceHub, FeedbackVerdict};
use holdfast_model::UnixMillis;
use holdfast_model::property::annotation;
use tokio::time::{Sleep, sleep};

/// A kind of records.
pub(super) trait Records: Sized {
    type Record: Send + 'static;

    /// Most records of a message.
    const MOST: usize;
    /// How long records are gathered for one message after the first.
    const GATHER_TIME: Duration;
    /// What a client's rejection means (Spec amqp §7).
    const REJECTED: FeedbackVerdict;
    /// The action that a token must open, and the address.
    const ACTION: Action;

    fn new(hub: Arc<DeviceHub>) -> Self;

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Vec<Self::Record>>;

    /// Gives back what was called for, as it comes: there is no credit.
    fn poll_unwanted(&mut self, cx: &mut Context<'_>);

    fn settle(
        hub: Arc<DeviceHub>,
        records: Vec<Self::Record>,
        verdict: FeedbackVerdict,
    ) -> impl Future<Output = ()> + Send + 'static;

    /// Appends the sections of a message with records, of which there is one at least.
    fn encode(buf: &mut Vec<u8>, hub_name: &str, now: UnixMillis, records: &[Self::Record]);
}

/// A receiver of any kind of records.
pub(super) trait AnyReceiver {
    fn link(&self) -> LinkId;

    /// The action that a token must open.
    fn action(&self) -> Action;

    /// Takes records and sends them as far as credit and `output_bytes` allow; `cx` is woken when there are more.
    fn pump(
        &mut self,
        engine: &mut Connection,
        hub_name: &str,
        output_bytes: usize,
        now: UnixMillis,
        cx: &mut Context<'_>,
    );

    /// The client has settled the delivery with this tag.
    fn settled(&mut self, tag: &[u8], outcome: &Outcome<'_>);

    /// The client wants its credit to be used up when there is nothing to send.
    fn set_drain(&mut self, drain: bool);
}

/// See the module.
pub(super) struct RecordReceiver<R: Records> {
    hub: Arc<DeviceHub>,
    link: LinkId,
    source: R,
    gathered: Vec<R::Record>,
    /// Runs while records are gathered.
    timer: Option<Pin<Box<Sleep>>>,
    /// Sent and not settled, by delivery tag.
    sent: HashMap<[u8; 16], Vec<R::Record>>,
    /// The client wants messages settled.
    is_settled: bool,
    /// The client has asked to use up its credit when there is nothing to send.
    drain: bool,
}

impl<R: Records> RecordReceiver<R> {
    pub(super) fn new(hub: Arc<DeviceHub>, link: LinkId, is_settled: bool) -> Self {
        Self {
            source: R::new(Arc::clone(&hub)),
            hub,
            link,
            gathered: Vec::new(),
            timer: None,
            sent: HashMap::new(),
            is_settled,
            drain: false,
        }
    }

    fn send(&mut self, engine: &mut Connection, hub_name: &str, now: UnixMillis, batch: Vec<R::Record>) {
        let tag: [u8; 16] = rand::random();
        let delivery = Delivery {
            tag: &tag,
            settled: self.is_settled,
            message_format: 0,
        };
        let sent = engine.send_with(self.link, &delivery, |buf| R::encode(buf, hub_name, now, &batch));
        match sent {
            Ok(_) if self.is_settled => self.settle(batch, FeedbackVerdict::Done),
            Ok(_) => {
                self.sent.insert(tag, batch);
            }
            Err(error) => {
                tracing::warn!(%error, "records could not be sent to a receiver; they go back");
                self.settle(batch, FeedbackVerdict::Untouched);
            }
        }
    }

    fn settle(&self, batch: Vec<R::Record>, verdict: FeedbackVerdict) {
        let settled = R::settle(Arc::clone(&self.hub), batch, verdict);
        holdfast_tasks::spawn("record-settle", settled);
    }
}

impl<R: Records> AnyReceiver for RecordReceiver<R> {
    fn link(&self) -> LinkId {
        self.link
    }

    fn action(&self) -> Action {
        R::ACTION
    }

    fn pump(
        &mut self,
        engine: &mut Connection,
        hub_name: &str,
        output_bytes: usize,
        now: UnixMillis,
        cx: &mut Context<'_>,
    ) {
        // Without credit nothing is taken: another receiver may have some.
        while engine.sendable(self.link) > 0 && engine.output().len() < output_bytes {
            while self.gathered.len() < R::MOST {
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
            let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(R::GATHER_TIME)));
            if self.gathered.len() < R::MOST && !self.drain && timer.as_mut().poll(cx).is_pending() {
                return;
            }
            self.timer = None;
            let left = self.gathered.split_off(self.gathered.len().min(R::MOST));
            let batch = std::mem::replace(&mut self.gathered, left);
            self.send(engine, hub_name, now, batch);
        }
        if engine.sendable(self.link) == 0 {
            self.source.poll_unwanted(cx);
            if !self.gathered.is_empty() {
                let gathered = std::mem::take(&mut self.gathered);
                self.settle(gathered, FeedbackVerdict::Untouched);
            }
        }
    }

    fn settled(&mut self, tag: &[u8], outcome: &Outcome<'_>) {
        let verdict = match outcome {
            Outcome::Accepted => FeedbackVerdict::Done,
            Outcome::Rejected(_) => R::REJECTED,
            Outcome::Released | Outcome::Modified { .. } => FeedbackVerdict::Released,
        };
        let tag = <[u8; 16]>::try_from(tag);
        if let Some(batch) = tag.ok().and_then(|tag| self.sent.remove(&tag)) {
            self.settle(batch, verdict);
        }
    }

    fn set_drain(&mut self, drain: bool) {
        self.drain = drain;
    }
}

impl<R: Records> Drop for RecordReceiver<R> {
    /// The link has ended: what it has and did not settle goes to another receiver at once.
    fn drop(&mut self) {
        let sent = self.sent.drain().flat_map(|(_, batch)| batch).collect();
        let gathered = std::mem::take(&mut self.gathered);
        for (left, verdict) in [
            (sent, FeedbackVerdict::Released),
            (gathered, FeedbackVerdict::Untouched),
        ] {
            let left: Vec<R::Record> = left;
            // Without a runtime the process ends, and the owners' locks with it.
            if !left.is_empty() && tokio::runtime::Handle::try_current().is_ok() {
                self.settle(left, verdict);
            }
        }
    }
}

/// Appends the sections before the body that both kinds have (Spec amqp §7).
pub(super) fn begin_message(buf: &mut Vec<u8>, hub_name: &str, now: UnixMillis, content_type: &str) {
    let mut annotations = begin_message_annotations(buf);
    put_timestamp(annotations.key(annotation::HUB_ENQUEUED_TIME), now.0.cast_signed());
    annotations.finish();
    put_properties(
        buf,
        &Properties {
            // C# reads it.
            user_id: Some(hub_name.as_bytes()),
            content_type: Some(content_type),
            ..Properties::default()
        },
    );
}
