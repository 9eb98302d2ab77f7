//! Receivers that wait for their partition: it can be on another node, or briefly without an owner.
//!
//! A partition owned by this node answers at once, so the attach is answered before further input is read. Otherwise
//! the connection and its other receivers continue meanwhile.

use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use holdfast_amqp::{Accept, LinkId};
use holdfast_cluster::route::{OpenError, Partitions, ReaderLeaseError};
use holdfast_model::{ErrorCode, PartitionId};
use holdfast_partition::epoch::{self, Receiver as Candidate};
use holdfast_partition::{StartError, StartPosition};

use super::driver::Driver;
use super::receiver::{Receiver, too_many};
use super::refusal::Refused;

/// The parameters of a receiver's attach.
pub(super) struct ReceiverRequest {
    pub(super) partition: PartitionId,
    pub(super) from: StartPosition,
    pub(super) group: String,
    pub(super) candidate: Candidate,
    pub(super) with_metric: bool,
}

/// A receiver that its partition has not admitted yet.
pub(super) struct Opening {
    pub(super) link: LinkId,
    /// The drain flag of the client's last flow.
    pub(super) drain: bool,
    receiver: Pin<Box<dyn Future<Output = Result<Receiver, Refused>>>>,
}

impl Opening {
    pub(super) fn new(link: LinkId, partitions: Partitions, request: ReceiverRequest) -> Self {
        Self {
            link,
            drain: false,
            receiver: Box::pin(open(link, partitions, request)),
        }
    }
}

async fn open(link: LinkId, partitions: Partitions, request: ReceiverRequest) -> Result<Receiver, Refused> {
    let reader = partitions.reader(request.partition, request.from).await;
    let reader = reader.map_err(|error| match error {
        OpenError::Start(error @ StartError::BeyondEnd { .. }) => {
            Refused::new(ErrorCode::ArgumentInvalid, error.to_string())
                .with_condition("com.microsoft:argument-out-of-range")
        }
        OpenError::Start(error @ StartError::TooManyReaders) => {
            Refused::new(ErrorCode::ServerBusy, error.to_string()).with_condition("amqp:resource-limit-exceeded")
        }
        OpenError::Start(StartError::Stopped) | OpenError::Unavailable(_) => Refused::busy(error.to_string()),
    })?;
    let lease = partitions
        .acquire_reader_lease(request.partition, &request.group, request.candidate)
        .await;
    let lease = lease.map_err(|error| match error {
        ReaderLeaseError::Refused(refusal @ epoch::Refusal::EpochTooLow { .. }) => {
            Refused::new(ErrorCode::LinkCreationConflict, refusal.to_string()).with_condition("amqp:link:stolen")
        }
        ReaderLeaseError::Refused(refusal @ epoch::Refusal::TooMany) => too_many(&refusal),
        ReaderLeaseError::Unavailable(_) => Refused::busy(error.to_string()),
    })?;
    Ok(Receiver {
        link,
        group: request.group,
        reader,
        lease,
        chunk: None,
        with_metric: request.with_metric,
        drain: false,
    })
}

impl Driver {
    /// Opens a receiver, at once if this node owns its partition.
    pub(super) fn open(&mut self, mut opening: Opening) {
        match opening.receiver.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(opened) => self.opened(opening.link, opening.drain, opened),
            // `pump` polls it again with a waker in this same turn.
            Poll::Pending => self.openings.push(opening),
        }
    }

    /// Polls the waiting receivers.
    pub(super) fn poll_openings(&mut self, cx: &mut Context<'_>) {
        if self.openings.is_empty() {
            return;
        }
        let mut waiting = std::mem::take(&mut self.openings);
        let mut opened = Vec::new();
        waiting.retain_mut(|opening| match opening.receiver.as_mut().poll(cx) {
            Poll::Ready(receiver) => {
                opened.push((opening.link, opening.drain, receiver));
                false
            }
            Poll::Pending => true,
        });
        self.openings = waiting;
        let any = !opened.is_empty();
        for (link, drain, receiver) in opened {
            self.opened(link, drain, receiver);
        }
        if any {
            // Tokens or settings may have changed during the wait.
            self.recheck_authorization();
        }
    }

    fn opened(&mut self, link: LinkId, drain: bool, receiver: Result<Receiver, Refused>) {
        match receiver {
            Ok(receiver) => {
                self.engine.accept(link, &Accept::default());
                self.endpoint.metrics().receivers.increment(1.0);
                self.receivers.push(Receiver { drain, ..receiver });
            }
            Err(refused) => self.refuse_attach(link, &refused),
        }
    }
}
