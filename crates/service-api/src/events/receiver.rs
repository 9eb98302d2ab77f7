//! One receiver of one partition: chunks in, transfers out, within credit, window and output.

use std::task::{Context, Poll};

use holdfast_amqp::{Connection, Delivery, LinkId, SendError};
use holdfast_amqp_server::Refused;
use holdfast_cluster::route::{PartitionReader, Preempted, ReaderLease};
use holdfast_model::{ErrorCode, UnixMillis};
use holdfast_partition::epoch::{Refusal, Stolen};
use holdfast_partition::{Chunk, ReadError};

use super::encode::{self, RuntimeMetric};

/// An admitted receiver; dropping it releases its lease.
pub(super) struct Receiver {
    pub(super) link: LinkId,
    /// The consumer group as the settings spell it.
    pub(super) group: String,
    /// The source filters that apply, encoded.
    pub(super) filter: Option<Vec<u8>>,
    pub(super) reader: PartitionReader,
    pub(super) lease: ReaderLease,
    /// Events that were read and not sent.
    pub(super) chunk: Option<Chunk>,
    /// Whether each event carries the state of the partition.
    pub(super) with_metric: bool,
    /// The client has asked to use up its credit when there is nothing to send.
    pub(super) drain: bool,
}

/// Why a receiver is detached.
pub(super) enum ReceiverError {
    /// Another receiver has preempted it.
    Stolen(Stolen),
    /// Something failed.
    Failed(Refused),
}

impl Receiver {
    /// Sends events until credit, window or `output_bytes` are used up or nothing is left to read; `cx` is woken when
    /// there is more. Returns how many were sent.
    pub(super) fn pump(
        &mut self,
        engine: &mut Connection,
        output_bytes: usize,
        now: UnixMillis,
        cx: &mut Context<'_>,
    ) -> Result<u64, ReceiverError> {
        match self.lease.poll_preempted(cx) {
            Poll::Ready(Preempted::Stolen(stolen)) => return Err(ReceiverError::Stolen(stolen)),
            Poll::Ready(Preempted::TooManyReaders) => return Err(ReceiverError::Failed(too_many(&Refusal::TooMany))),
            Poll::Pending => {}
        }
        let mut sent = 0;
        while engine.sendable(self.link) > 0 && engine.output().len() < output_bytes {
            match &mut self.chunk {
                Some(chunk) if !chunk.is_empty() => {
                    let status = self.with_metric.then(|| self.reader.status());
                    let metric = status.map(|status| RuntimeMetric { status, now });
                    sent += send(engine, self.link, chunk, metric.as_ref(), output_bytes)?;
                }
                _ => match self.reader.poll_chunk(cx) {
                    Poll::Ready(Ok(chunk)) => self.chunk = Some(chunk),
                    Poll::Ready(Err(error)) => return Err(ReceiverError::Failed(failed(&error))),
                    Poll::Pending => {
                        // An idle receiver holds no entry's memory.
                        self.chunk = None;
                        if std::mem::take(&mut self.drain) {
                            engine.finish_drain(self.link);
                        }
                        break;
                    }
                },
            }
        }
        Ok(sent)
    }
}

/// Sends events of one chunk.
fn send(
    engine: &mut Connection,
    link: LinkId,
    chunk: &mut Chunk,
    metric: Option<&RuntimeMetric>,
    output_bytes: usize,
) -> Result<u64, ReceiverError> {
    let mut sent = 0;
    while engine.sendable(link) > 0 && engine.output().len() < output_bytes {
        let event = match chunk.next_event() {
            None => break,
            Some(Ok(event)) => event,
            Some(Err(error)) => {
                tracing::error!(%error, "a stored event cannot be read; the receiver is detached");
                let text = "A stored event cannot be read.";
                return Err(ReceiverError::Failed(Refused::new(ErrorCode::ServerError, text)));
            }
        };
        let tag = event.sequence.0.to_be_bytes();
        let delivery = Delivery {
            tag: &tag,
            settled: true,
            message_format: 0,
        };
        match engine.send_with(link, &delivery, |buf| encode::event(buf, &event, metric)) {
            Ok(_) => sent += 1,
            Err(SendError::TooLarge) => {
                let text = "An event is larger than the receiver's max-message-size.";
                return Err(ReceiverError::Failed(Refused::new(ErrorCode::MessageTooLarge, text)));
            }
            // `sendable` was positive just now.
            Err(error) => {
                tracing::error!(%error, "an event could not be sent; the receiver is detached");
                return Err(ReceiverError::Failed(Refused::new(
                    ErrorCode::ServerError,
                    "An event could not be sent.",
                )));
            }
        }
    }
    Ok(sent)
}

/// The consumer group has its maximum of receivers.
pub(super) fn too_many(refusal: &Refusal) -> Refused {
    Refused::new(ErrorCode::ReceiveLinkOpensThrottled, refusal.to_string())
        .with_condition("amqp:resource-limit-exceeded")
}

fn failed(error: &ReadError) -> Refused {
    match error {
        ReadError::Stopped => Refused::busy("The partition is moving to another node, or the node is stopping.")
            .with_condition("amqp:link:detach-forced"),
        ReadError::Storage(_) | ReadError::Entry { .. } | ReadError::Miscounted { .. } => {
            tracing::error!(%error, "the log of a partition cannot be read; the receiver is detached");
            Refused::new(ErrorCode::ServerError, "The log of the partition cannot be read.")
        }
    }
}
