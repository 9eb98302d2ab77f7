//! Receivers that wait for their partition: it can be on another node, or briefly without an owner.
//!
//! A partition owned by this node answers at once, so the attach is answered before further input is read. Otherwise
//! the connection and its other receivers continue meanwhile.

use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use holdfast_amqp::types::Raw;
use holdfast_amqp::{Accept, LinkId};
use holdfast_amqp_server::{AuthorizationChange, LINK_STOLEN, LinkHandler as _, Links, Refused};
use holdfast_cluster::route::{OpenError, Partitions, ReaderLeaseError};
use holdfast_model::{ErrorCode, PartitionId};
use holdfast_partition::epoch::{self, Receiver as Candidate};
use holdfast_partition::{StartError, StartPosition};

use super::readers::Readers;
use super::receiver::{Receiver, too_many};

/// The parameters of a receiver's attach.
pub(super) struct ReceiverRequest {
    pub(super) partition: PartitionId,
    pub(super) from: StartPosition,
    /// The source filters that `from` applies, encoded: the answer to the attach repeats them.
    pub(super) filter: Option<Vec<u8>>,
    pub(super) group: String,
    pub(super) candidate: Candidate,
    pub(super) with_metric: bool,
    /// The address of the attach.
    pub(super) address: String,
}

/// A receiver that its partition has not admitted yet.
pub(super) struct Opening {
    pub(super) link: LinkId,
    /// The drain flag of the client's last flow.
    pub(super) drain: bool,
    address: String,
    receiver: Pin<Box<dyn Future<Output = Result<Receiver, Refused>>>>,
}

impl Opening {
    pub(super) fn new(link: LinkId, partitions: Partitions, request: ReceiverRequest) -> Self {
        Self {
            link,
            drain: false,
            address: request.address.clone(),
            receiver: Box::pin(open(link, partitions, request)),
        }
    }
}

async fn open(link: LinkId, partitions: Partitions, request: ReceiverRequest) -> Result<Receiver, Refused> {
    let reader = partitions.reader(request.partition, request.from).await;
    let reader = reader.map_err(|error| match error {
        // `com.microsoft:argument-error`, as Event Hubs answers (Spec amqp §8.3).
        OpenError::Start(error @ StartError::BeyondEnd { .. }) => {
            Refused::new(ErrorCode::ArgumentInvalid, error.to_string())
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
            Refused::new(ErrorCode::LinkCreationConflict, refusal.to_string()).with_condition(LINK_STOLEN)
        }
        ReaderLeaseError::Refused(refusal @ epoch::Refusal::TooMany) => too_many(&refusal),
        ReaderLeaseError::Unavailable(_) => Refused::busy(error.to_string()),
    })?;
    Ok(Receiver {
        link,
        group: request.group,
        filter: request.filter,
        reader,
        lease,
        chunk: None,
        with_metric: request.with_metric,
        drain: false,
    })
}

impl Readers {
    /// Opens a receiver, at once if this node owns its partition.
    pub(super) fn open(&mut self, links: &mut Links, mut opening: Opening) {
        match opening.receiver.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(opened) => self.opened(links, &opening, opened),
            // `pump` polls it again with a waker in this same turn.
            Poll::Pending => self.openings.push(opening),
        }
    }

    /// Polls the waiting receivers.
    pub(super) fn poll_openings(&mut self, links: &mut Links, cx: &mut Context<'_>) {
        if self.openings.is_empty() {
            return;
        }
        let mut opened = Vec::new();
        let mut at = 0;
        while at < self.openings.len() {
            match self.openings[at].receiver.as_mut().poll(cx) {
                Poll::Ready(receiver) => opened.push((self.openings.remove(at), receiver)),
                Poll::Pending => at += 1,
            }
        }
        let any = !opened.is_empty();
        for (opening, receiver) in opened {
            self.opened(links, &opening, receiver);
        }
        if any {
            // Tokens or settings may have changed during the wait.
            self.recheck(links, AuthorizationChange::Other);
        }
    }

    fn opened(&mut self, links: &mut Links, opening: &Opening, receiver: Result<Receiver, Refused>) {
        let (link, drain) = (opening.link, opening.drain);
        match receiver {
            Ok(receiver) => {
                let accept = Accept {
                    filter: receiver.filter.as_deref().and_then(|filter| Raw::new(filter).ok()),
                    ..Accept::default()
                };
                links.accept(link, &accept);
                self.metrics.receivers.increment(1.0);
                self.receivers.push(Receiver { drain, ..receiver });
            }
            Err(refused) => links.refuse_attach(link, &opening.address, refused),
        }
    }
}
